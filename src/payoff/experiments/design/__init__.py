"""Better designs from a table: reward-directed conditional diffusion, end to end."""

from payoff.experiments.design.config import PRESETS, DesignConfig
from payoff.experiments.design.run import design

__all__ = ["PRESETS", "DesignConfig", "design"]
