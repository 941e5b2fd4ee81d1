r"""Feynman-Kac steering: particles of the base itself, selected by a black-box reward.

The engine with a few, widely spaced checks and the published way to resample. Its potentials are in
:mod:`payoff.steering.potentials`. The published strength λ (2, in some tasks 10) multiplies the
reward; here that is 1/τ of the target.

Unlike the released code of the paper at the time of writing, weights that were not resampled away
are carried on: without that, adaptive resampling does not steer at all.

Reference: A General Framework for Inference-time Scaling and Steering of Diffusion Models (Singhal
et al., 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from payoff.configs import option
from payoff.steering.particles import Particles


@dataclass(eq=False)
class FeynmanKac(Particles):
    """``fk``: see the module. Published: 4 particles, a check every 20 steps of 100, ESS 0.5."""

    name: ClassVar[str] = "fk"

    every: int = option(10, "steps between checks: values are asked and particles resampled there")
    resampling: str = option("multinomial", "systematic, stratified, residual or multinomial")
