"""A generative model tuned towards a reward, from a table or a built-in data set, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from payoff.experiments.finetune.config import PRESETS, TuneConfig

if TYPE_CHECKING:
    from payoff.experiments.finetune.run import finetune

__all__ = ["PRESETS", "TuneConfig", "finetune"]


def __getattr__(name: str) -> Any:
    # the options alone must not cost the seconds that torch takes to import: --help needs them
    if name != "finetune":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from payoff.experiments.finetune.run import finetune

    return finetune
