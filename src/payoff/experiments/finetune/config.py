"""Options of the fine-tuning job; those of the learning itself are ``FinetuneConfig``'s."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any

from payoff.configs import option
from payoff.errors import UserError
from payoff.experiments.design.config import PRECISIONS, DesignConfig

_JOB, _TABLE, _MACHINE = "What to fine-tune for", "The table", "The machine"
_BASE = "The base model"


@dataclass
class TuneConfig:
    """What to fine-tune, for which reward; every field is an option of ``payoff finetune``."""

    source: Any = option("airfoils", "a CSV, TSV or Parquet table, or a built-in data set")
    reward: str | None = option(
        None,
        "what is to be made large: DOMAIN:NAME, or MODULE:FUNCTION of a table of designs",
        group=_JOB,
    )
    method: str = option("rgdm", "the method; an unknown name lists them", group=_JOB)
    settings: list[str] = option(
        [], "an option of the method: radius=0.5", group=_JOB, metavar="NAME=VALUE"
    )
    minimize: bool = option(False, "a lower reward is better", group=_JOB)
    temperature: float | None = option(
        None,
        "gain of reward worth a factor e in probability, in the reward's units; default: a "
        "tenth of the reward's sd over base samples (molecules: 0.3)",
        group=_JOB,
    )
    held_out: str | None = option(
        None,
        "a second reward, never learned from: it tells when to stop and which round to keep; "
        "none: do without",
        group=_JOB,
    )
    ledger: str | None = option(
        None,
        "where reward calls are remembered: a file or a database URL; default: in the run folder",
        group=_JOB,
    )
    count: int = option(100, "number of designs to draw from the tuned model", group=_JOB)

    fixed: list[str] = option(
        [], "hold a column at a value: material=steel", group=_TABLE, metavar="NAME=VALUE"
    )
    bounds: list[str] = option(
        [],
        "keep a column in a range: width=0:40, width=:40",
        group=_TABLE,
        metavar="NAME=LOW:HIGH",
    )
    identifiers: list[str] = option(
        [], "columns to ignore, such as names and scores", group=_TABLE, metavar="NAME"
    )
    categorical: list[str] = option(
        [], "columns whose numbers are categories", group=_TABLE, metavar="NAME"
    )

    base: str | None = option(
        None, "a finished run whose base model is used instead of training one", group=_BASE
    )
    base_width: int = option(256, "width of the base network", group=_BASE)
    base_depth: int = option(3, "residual blocks of the base network", group=_BASE)
    base_steps: int = option(4000, "training steps of the base model", group=_BASE)
    base_batch_size: int = option(128, "rows a training step of the base model", group=_BASE)
    base_learning_rate: float = option(
        2e-3, "peak learning rate of the base model's training", group=_BASE
    )
    base_weight_decay: float = option(
        1e-3, "decoupled weight decay of the base model's training", group=_BASE
    )

    device: str = option("cpu", "where to train and sample: cpu, cuda, cuda:1, mps", group=_MACHINE)
    precision: int = option(32, "bits of the numbers in the network: 32 or 64", group=_MACHINE)
    threads: int = option(
        0,
        "processor threads; 0: one for a small network, where more are slower, else all",
        group=_MACHINE,
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag(field.name)} must be a finite number, got {value}")
        sizes = ("base_width", "base_depth", "base_steps", "base_batch_size")
        for name in ("count", *sizes):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("threads", "base_weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"{flag(name)} must not be negative, got {getattr(self, name)}")
        if self.base_learning_rate <= 0:
            raise UserError(f"--base-learning-rate must be above 0, got {self.base_learning_rate}")
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f"--temperature must be above 0, got {self.temperature:g}")
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision {self.precision}: choose one of 32, 64")

    def as_design(self, seed: int) -> DesignConfig:
        """The same table and network as the design job has them."""
        return DesignConfig(
            source=self.source,
            bounds=self.bounds,
            fixed=self.fixed,
            seed=seed,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            width=self.base_width,
            depth=self.base_depth,
            steps=self.base_steps,
            batch_size=self.base_batch_size,
            learning_rate=self.base_learning_rate,
            weight_decay=self.base_weight_decay,
        )


TOY = {"base_width": 32, "base_depth": 2, "base_steps": 150, "count": 20}
TOY_LOOP = {"calls": 600, "per_round": 100, "sampler_steps": 8, "evaluate": 64}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": {**TOY, **TOY_LOOP}}
"""``toy`` is for trying things out: seconds instead of minutes, and designs to match."""


def same_option(name: str, group: str) -> Any:
    """The option of ``payoff finetune`` with that name for another job: default and help line."""
    field = next(f for f in fields(TuneConfig) if f.name == name)
    metadata = {k: v for k, v in field.metadata.items() if k != "help"} | {"group": group}
    default = [] if field.default is MISSING else field.default
    return option(default, field.metadata["help"], **metadata)


def without_password(url: str | None) -> str | None:
    """A ledger's address as it may be shown and written down."""
    return None if url is None else re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


def flag(name: str) -> str:
    """The option of the command line that sets a field."""
    special = {"identifiers": "--id", "settings": "--set"}
    return special.get(name, "--" + name.replace("_", "-"))
