"""``payoff design``: objects at an aim, from few labels (RCGDM)."""
