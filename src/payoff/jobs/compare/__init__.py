"""``payoff compare``: methods beside each other at equal numbers of reward calls."""
