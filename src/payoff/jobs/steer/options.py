"""Options of ``payoff steer``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option
from payoff.errors import UserError
from payoff.jobs.options import (
    GOAL,
    MACHINE,
    BaseOptions,
    MachineOptions,
    RewardOptions,
    WorkerOptions,
)

PILOT_BUDGET = 400  # reward calls of which the pilot of the temperature takes a quarter


@dataclass
class SteerOptions(RewardOptions, BaseOptions, WorkerOptions, MachineOptions):
    """What to steer towards, by which method, and how much of the budgets it may take."""

    name: ClassVar[str] = "steer"
    help: ClassVar[str] = "Draw designs towards a reward from a model that stays as it is."
    takes_model: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "toy": {
            "base_width": 32,
            "base_depth": 2,
            "base_steps": 150,
            "count": 20,
            "calls": 600,
            "sampler_steps": 8,
        }
    }

    method: str = option("smc", "the method; an unknown name lists them", group=GOAL)
    settings: list[str] = option(
        [], "an option of the method: particles=64", group=GOAL, metavar="NAME=VALUE"
    )
    particles: int | None = option(
        None,
        "particles, candidates or steps of search for one design: the size of the method, whatever "
        "it calls it",
        group=GOAL,
    )
    calls: int | None = option(
        None,
        "reward calls for all designs together: the method is as large as they allow; default: the "
        "method's own size",
        group=GOAL,
    )
    network: int | None = option(
        None,
        "network evaluations for all designs together, as a limit beside the calls or in their "
        "place; default: none",
        group=GOAL,
    )
    count: int = option(100, "number of designs to draw", group=GOAL)
    sampler_steps: int = option(25, "steps of the sampler", group=GOAL)
    sampler_noise: float | None = option(
        None,
        "noise of the second-order sampler that draws the base's samples, in units of DDPM's; "
        "default: plain DDPM. Steered paths are always DDPM's",
        group=GOAL,
    )
    seed: int = option(0, "seed of everything random", group=MACHINE)
    batch: int = option(
        0,
        "designs drawn at a time, and lost if the run is killed; 0: a quarter, if they fit",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "calls", "network", "particles", "sampler_steps", "count")
        self.at_least(0, "batch", "seed")
        self.above_zero("sampler_noise")
        if self.time_limit and not self.workers:
            raise UserError(
                "--time-limit ends a worker that takes too long: it needs --workers 1 or more"
            )

    @property
    def pilot_budget(self) -> int:
        """Reward calls of which the pilot takes a quarter."""
        return PILOT_BUDGET if self.calls is None else self.calls
