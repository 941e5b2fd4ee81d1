"""Options of ``payoff finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option
from payoff.finetuning.config import FinetuneConfig
from payoff.jobs.options import (
    GOAL,
    BaseOptions,
    MachineOptions,
    RewardOptions,
    WorkerOptions,
    select_fields,
)

TOY_BASE = {"base_width": 32, "base_depth": 2, "base_steps": 150}
TOY_LOOP = {"calls": 600, "per_round": 100, "sampler_steps": 8, "evaluate": 64}


@dataclass
class FinetuneOptions(RewardOptions, BaseOptions, WorkerOptions, MachineOptions, FinetuneConfig):
    """What to tune, for which reward, and how many reward calls to spend."""

    name: ClassVar[str] = "finetune"
    help: ClassVar[str] = "Tune a generative model towards a reward, black box or not."
    takes_model: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "toy": {**TOY_BASE, **TOY_LOOP, "count": 20}
    }

    method: str = option("rgdm", "the method; an unknown name lists them", group=GOAL)
    settings: list[str] = option(
        [], "an option of the method: radius=0.5", group=GOAL, metavar="NAME=VALUE"
    )
    count: int = option(100, "number of designs to draw from the tuned model", group=GOAL)
    data: int = option(
        -1,
        "rows of the data that a method which starts from data scores first; -1: all; 0: none",
        group=GOAL,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "count")
        self.at_least(-1, "data")

    def loop(self) -> FinetuneConfig:
        """The options of the learning itself."""
        return select_fields(FinetuneConfig, self)
