"""Training: the loop, its checkpoints, and label drop-out for conditional models."""

from payoff.training.conditional import drop_columns, drop_labels
from payoff.training.fit import FitConfig, TrainingDiverged, fit

__all__ = ["FitConfig", "TrainingDiverged", "drop_columns", "drop_labels", "fit"]
