"""Designs drawn towards a reward while the model stays as it is, from a table, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from payoff.experiments.steer.config import PRESETS, SteerConfig

if TYPE_CHECKING:
    from payoff.experiments.steer.run import steer

__all__ = ["PRESETS", "SteerConfig", "steer"]


def __getattr__(name: str) -> Any:
    # the options alone must not cost the seconds that torch takes to import: --help needs them
    if name != "steer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from payoff.experiments.steer.run import steer

    return steer
