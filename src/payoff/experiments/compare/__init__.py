"""Fine-tuning methods, the conditional model and best-of-n at equal numbers of reward calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from payoff.experiments.compare.config import PRESETS, CompareConfig

if TYPE_CHECKING:
    from payoff.experiments.compare.run import compare

__all__ = ["PRESETS", "CompareConfig", "compare"]


def __getattr__(name: str) -> Any:
    # the options alone must not cost the seconds that torch takes to import: --help needs them
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from payoff.experiments.compare.run import compare

    return compare
