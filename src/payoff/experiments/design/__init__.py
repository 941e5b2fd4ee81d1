"""Better designs from a table: reward-directed conditional diffusion, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from payoff.experiments.design.config import PRESETS, DesignConfig

if TYPE_CHECKING:
    from payoff.experiments.design.run import design

__all__ = ["PRESETS", "DesignConfig", "design"]


def __getattr__(name: str) -> Any:
    # the options alone must not cost the seconds that torch takes to import: --help needs them
    if name != "design":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from payoff.experiments.design.run import design

    return design
