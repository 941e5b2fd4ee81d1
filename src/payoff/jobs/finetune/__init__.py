"""``payoff finetune``: a model moved towards a reward."""
