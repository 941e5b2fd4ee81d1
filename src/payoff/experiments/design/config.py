"""Options of the design job."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from payoff.configs import option
from payoff.errors import UserError

REWARDS, NETWORKS, PRECISIONS = ("auto", "ridge", "ensemble"), ("mlp", "subspace"), (32, 64)
SAMPLER_NAMES = ("ancestral", "ddim", "heun", "multistep")

_JOB, _MACHINE = "What to design", "The machine"
_AIRFOILS, _SCORE = "The built-in airfoils", "The learned score"
_MODEL, _CHOICE = "The model", "Drawing and choosing"


@dataclass
class DesignConfig:
    """What to design, from what, and how; every field is an option of ``payoff design``."""

    source: Any = option("airfoils", "a CSV, TSV or Parquet table, or a built-in data set")
    score: str | None = option(
        None, "the column with the measured score; empty cells are unlabelled", group=_JOB
    )
    minimize: bool = option(False, "a lower score is better", group=_JOB)
    count: int = option(100, "number of designs to propose", group=_JOB)
    aim: float | None = option(
        None, "the score to aim at; by default it is chosen automatically", group=_JOB
    )
    fixed: list[str] = option(
        [], "hold a column at a value: material=steel", group=_JOB, metavar="NAME=VALUE"
    )
    bounds: list[str] = option(
        [],
        "keep a column in a range: width=0:40, width=:40",
        group=_JOB,
        metavar="NAME=LOW:HIGH",
    )
    identifiers: list[str] = option(
        [], "columns to ignore, such as names", group=_JOB, metavar="NAME"
    )
    categorical: list[str] = option(
        [], "columns whose numbers are categories", group=_JOB, metavar="NAME"
    )
    oracle: str | None = option(
        None,
        "MODULE:FUNCTION that scores a table of designs, to verify",
        group=_JOB,
    )
    oracle_sweep: bool = option(
        False, "score the designs of every aim with the oracle as well", group=_JOB
    )

    seed: int = option(
        0, "seed of everything random; the same seed gives the same designs", group=_MACHINE
    )
    device: str = option("cpu", "where to train and sample: cpu, cuda, cuda:1, mps", group=_MACHINE)
    precision: int = option(32, "bits of the numbers in the network: 32 or 64", group=_MACHINE)
    threads: int = option(
        0,
        "processor threads; 0: one for a small network, where more are slower, else all",
        group=_MACHINE,
    )

    labelled: float = option(0.1, "airfoils: share of the rows that get a label", group=_AIRFOILS)
    noise: float = option(
        0.1, "airfoils: noise of the labels, as a share of the scores' sd", group=_AIRFOILS
    )
    alpha: float = option(5.0, "airfoils: angle of attack, degrees", group=_AIRFOILS)
    reynolds: float = option(1e6, "airfoils: Reynolds number", group=_AIRFOILS)

    reward: str = option(
        "auto", "the learned score: auto (cross-validated), ridge or ensemble", group=_SCORE
    )
    pessimism: float = option(
        1.5, "standard deviations taken off a prediction to judge a design", group=_SCORE
    )
    label_noise: float = option(
        0.2, "noise ν on the pseudo-labels, in their standard deviations", group=_SCORE
    )

    network: str = option(
        "mlp", "mlp, or subspace: linear encoder and decoder around it", group=_MODEL
    )
    latent_dim: int = option(
        0, "dimension of the subspace; 0: enough for 99 % of the variance", group=_MODEL
    )
    width: int = option(256, "width of the network", group=_MODEL)
    depth: int = option(3, "residual blocks of the network", group=_MODEL)
    dropout: float = option(0.0, "share of hidden units dropped in training", group=_MODEL)
    steps: int = option(4000, "training steps", group=_MODEL)
    batch_size: int = option(128, "rows a training step", group=_MODEL)
    learning_rate: float = option(2e-3, "peak learning rate", group=_MODEL)
    weight_decay: float = option(1e-3, "decoupled weight decay", group=_MODEL)
    label_dropout: float = option(0.2, "share of rows trained without their label", group=_MODEL)

    guidance: float = option(
        0.0,
        "classifier-free guidance weight; 0: the conditional model itself",
        group=_CHOICE,
    )
    sampler: str = option("ancestral", "ancestral, ddim, heun or multistep", group=_CHOICE)
    sampler_steps: int = option(25, "steps of the sampler", group=_CHOICE)
    oversample: int = option(8, "samples drawn for every design that is kept", group=_CHOICE)
    aims: int = option(
        15, "number of aims tried when the aim is chosen automatically", group=_CHOICE
    )
    support: float = option(
        1.0, "largest support distance; 1 is the data's own 95 % quantile", group=_CHOICE
    )
    diversity: float = option(
        0.25, "least distance of two designs, in the rows' median spacing", group=_CHOICE
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag(field.name)} must be a finite number, got {value}")
        positive = ("count", "width", "depth", "steps", "batch_size", "sampler_steps", "aims")
        for name in (*positive, "oversample"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        least_zero = ("label_noise", "guidance", "pessimism", "diversity", "latent_dim", "threads")
        for name in (*least_zero, "noise", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{flag(name)} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "support", "reynolds", "labelled"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, got {getattr(self, name)}")
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"{flag(name)} must be at least 0 and below 1, got {value}")
        if self.labelled > 1:
            raise UserError(f"--labelled is a share and must be at most 1, got {self.labelled}")
        if self.seed >= 2**53:
            raise UserError(f"--seed must be below 2^53, got {self.seed}")
        _one_of("reward", self.reward, REWARDS)
        _one_of("network", self.network, NETWORKS)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("sampler", self.sampler, SAMPLER_NAMES)


TOY = {"width": 32, "depth": 2, "steps": 150, "sampler_steps": 8, "aims": 4, "oversample": 4}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": TOY}
"""``toy`` is for trying things out: seconds instead of minutes, and designs to match."""


def flag(name: str) -> str:
    """The option of the command line that sets a field."""
    return "--id" if name == "identifiers" else "--" + name.replace("_", "-")


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag(name)} {value}: choose one of {', '.join(map(str, known))}")
