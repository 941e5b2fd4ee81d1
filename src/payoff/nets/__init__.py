"""Architectures and nothing else.

Every network here maps ``net(x, noise_level, cond)`` to a tensor shaped like ``x``. It knows
nothing of schedules, parametrisations or losses: those belong to the denoiser that wraps it.
"""

from __future__ import annotations

from payoff.nets.features import FourierFeatures, label_columns, label_inputs
from payoff.nets.mlp import ResidualMLP

__all__ = ["FourierFeatures", "ResidualMLP", "label_columns", "label_inputs"]
