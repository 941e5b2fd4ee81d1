"""Airfoils as a kind: the built-in data set and its options."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from payoff.configs import option
from payoff.domains.kind import NO, OWN, Kind
from payoff.domains.vectors.kind import LimitOptions, NetworkOptions
from payoff.errors import UserError

GROUP = "Airfoils"
NAME = "airfoils"
REWARD = {"reward": "airfoils:lift_to_drag", "score_invalid": True}


@dataclass
class AirfoilOptions(NetworkOptions, LimitOptions):
    """Options of the built-in airfoils."""

    labelled: float = option(0.1, "share of the rows that get a label", group=GROUP)
    noise: float = option(0.1, "noise of the labels, as a share of the scores' sd", group=GROUP)
    alpha: float = option(5.0, "angle of attack, degrees", group=GROUP)
    reynolds: float = option(1e6, "Reynolds number", group=GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("labelled", "noise", "alpha", "reynolds"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"--{name} must be a finite number, got {getattr(self, name)}")
        if not 0 < self.labelled <= 1:
            raise UserError(f"--labelled is a share in (0, 1], got {self.labelled}")
        if self.noise < 0:
            raise UserError(f"--noise must not be negative, got {self.noise}")
        if self.reynolds <= 0:
            raise UserError(f"--reynolds must be above 0, got {self.reynolds}")


def reads(source: Any, given: Collection[str]) -> int:
    """Claim the name of the built-in data set."""
    return OWN if isinstance(source, str) and source == NAME else NO


KIND = Kind(
    name=NAME,
    help="airfoils, the built-in data set",
    reads=reads,
    domain="payoff.domains.airfoils.domain:Airfoils",
    options=AirfoilOptions,
    sources=(NAME,),
    defaults={
        **dict.fromkeys(("finetune", "steer", "compare"), REWARD),
        "design": {"oracle_sweep": True, "oracle_data": True},  # the oracle is cheap
    },
    packages=("aerosandbox", "neuralfoil"),
    plural="airfoils",
)
