"""Options of the steering job; those of a method itself are given with ``--set``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from payoff.configs import option
from payoff.errors import UserError
from payoff.experiments.finetune.config import TOY, TuneConfig, flag, same_option
from payoff.finetuning.config import FinetuneConfig

_JOB, _TABLE, _BASE, _MACHINE = (
    *("What to steer for", "The table", "The base model"),
    "Speed, seed and machine",
)
PILOT_BUDGET = 400  # reward calls of which the pilot of the temperature takes a quarter


@dataclass
class SteerConfig:
    """What to steer, for which reward; every field is an option of ``payoff steer``."""

    source: Any = option("airfoils", "a CSV, TSV or Parquet table, or a built-in data set")
    reward: str | None = same_option("reward", _JOB)
    method: str = option("smc", "the method; an unknown name lists them", group=_JOB)
    settings: list[str] = option(
        [], "an option of the method: particles=64", group=_JOB, metavar="NAME=VALUE"
    )
    particles: int | None = option(
        None,
        "particles, candidates or steps of search for one design: the size of the method, whatever "
        "it calls it",
        group=_JOB,
    )
    calls: int | None = option(
        None,
        "reward calls for all designs together: the method is as large as they allow; default: the "
        "method's own size",
        group=_JOB,
    )
    network: int | None = option(
        None,
        "network evaluations for all designs together, as a limit beside the calls or in their "
        "place; default: none",
        group=_JOB,
    )
    count: int = option(100, "number of designs to draw", group=_JOB)
    minimize: bool = same_option("minimize", _JOB)
    temperature: float | None = same_option("temperature", _JOB)
    held_out: str | None = option(
        None, "a second reward, never steered by, that judges the designs; none: do without",
        group=_JOB,
    )  # fmt: skip
    ledger: str | None = same_option("ledger", _JOB)
    sampler_steps: int = option(25, "steps of the sampler", group=_JOB)

    fixed: list[str] = same_option("fixed", _TABLE)
    bounds: list[str] = same_option("bounds", _TABLE)
    identifiers: list[str] = same_option("identifiers", _TABLE)
    categorical: list[str] = same_option("categorical", _TABLE)

    base: str | None = same_option("base", _BASE)
    base_width: int = same_option("base_width", _BASE)
    base_depth: int = same_option("base_depth", _BASE)
    base_steps: int = same_option("base_steps", _BASE)
    base_batch_size: int = same_option("base_batch_size", _BASE)
    base_learning_rate: float = same_option("base_learning_rate", _BASE)
    base_weight_decay: float = same_option("base_weight_decay", _BASE)

    seed: int = option(0, "seed of everything random", group=_MACHINE)
    workers: int = option(
        0,
        "processes that evaluate the reward while the network works on other designs; 0: none; "
        "the designs are the same",
        group=_MACHINE,
    )
    time_limit: float = option(
        0.0, "seconds that a worker may take for a few designs, or they have failed; 0: no limit",
        group=_MACHINE,
    )  # fmt: skip
    batch: int = option(
        0, "designs drawn at a time, and lost if the run is killed; 0: a quarter, if they fit",
        group=_MACHINE,
    )  # fmt: skip
    device: str = same_option("device", _MACHINE)
    precision: int = same_option("precision", _MACHINE)
    threads: int = same_option("threads", _MACHINE)

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag(field.name)} must be a finite number, got {value}")
        for name in ("calls", "network", "particles", "sampler_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{flag(name)} must be at least 1, got {value}")
        for name in ("workers", "batch", "seed", "time_limit"):
            if getattr(self, name) < 0:
                raise UserError(f"{flag(name)} must not be negative, got {getattr(self, name)}")
        if self.time_limit and not self.workers:
            raise UserError(
                "--time-limit ends a worker that takes too long: it needs --workers 1 or more"
            )
        self.tuning()

    def tuning(self) -> TuneConfig:
        """The same table, base model and rewards as the fine-tuning job has them."""
        shared = {f.name for f in fields(TuneConfig)} - {"method", "settings"}
        return TuneConfig(**{name: getattr(self, name) for name in shared})

    def loop(self) -> FinetuneConfig:
        """Budget, sampler and seed in the same way."""
        calls = PILOT_BUDGET if self.calls is None else self.calls
        return FinetuneConfig(calls=calls, sampler_steps=self.sampler_steps, seed=self.seed)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "toy": {**TOY, "calls": 600, "sampler_steps": 8},
}
"""``toy`` is for trying things out: seconds instead of minutes, and designs to match."""
