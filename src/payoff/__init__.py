"""Reward-guided diffusion: designs that score higher and are still realistic."""

__version__ = "0.1.0"
