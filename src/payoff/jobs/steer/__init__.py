"""``payoff steer``: objects drawn towards a reward from a model that stays as it is."""
