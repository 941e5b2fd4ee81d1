"""Options of the design job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from payoff.configs import option
from payoff.errors import UserError

REWARDS, NETWORKS, PRECISIONS = ("auto", "ridge", "ensemble"), ("mlp", "subspace"), (32, 64)


@dataclass
class DesignConfig:
    """What to design, from what, and how; every field is an option of ``payoff design``."""

    source: Any = option("airfoils", "a CSV, TSV or Parquet table, or a built-in data set")
    score: str | None = option(
        None, "the column with the measured score; empty cells are unlabelled"
    )
    minimize: bool = option(False, "a lower score is better")
    count: int = option(100, "number of designs to propose")
    aim: float | None = option(None, "the score to aim at; by default it is chosen automatically")
    fixed: list[str] = option([], "hold a column at a value: material=steel")
    bounds: list[str] = option([], "keep a column in a range: width=0:40, width=:40")
    identifiers: list[str] = option([], "columns to ignore, such as names")
    categorical: list[str] = option([], "columns whose numbers are categories")
    oracle: str | None = option(None, "MODULE:FUNCTION that scores a table of designs, to verify")
    oracle_sweep: bool = option(False, "score the designs of every aim with the oracle as well")
    seed: int = option(0, "seed of everything random; the same seed gives the same designs")
    device: str = option("cpu", "where to train and sample: cpu, cuda, cuda:1, mps")
    precision: int = option(32, "bits of the numbers in the network: 32 or 64")

    labelled: float = option(0.1, "airfoils: share of the rows that get a label")
    noise: float = option(0.1, "airfoils: noise of the labels, as a share of the scores' sd")
    alpha: float = option(5.0, "airfoils: angle of attack, degrees")
    reynolds: float = option(1e6, "airfoils: Reynolds number")

    reward: str = option("auto", "the learned score: auto (cross-validated), ridge or ensemble")
    pessimism: float = option(1.5, "standard deviations taken off a prediction to judge a design")
    label_noise: float = option(0.2, "noise ν on the pseudo-labels, in their standard deviations")

    network: str = option("mlp", "mlp, or subspace: linear encoder and decoder around it")
    latent_dim: int = option(0, "dimension of the subspace; 0: enough for 99 % of the variance")
    width: int = option(256, "width of the network")
    depth: int = option(3, "residual blocks of the network")
    dropout: float = option(0.0, "share of hidden units dropped in training")
    steps: int = option(4000, "training steps")
    batch_size: int = option(128, "rows a training step")
    learning_rate: float = option(2e-3, "peak learning rate")
    weight_decay: float = option(1e-3, "decoupled weight decay")
    label_dropout: float = option(0.2, "share of rows trained without their label")

    guidance: float = option(
        0.0, "classifier-free guidance weight; 0: the conditional model itself"
    )
    sampler: str = option("ancestral", "ancestral, ddim, heun or multistep")
    sampler_steps: int = option(25, "steps of the sampler")
    oversample: int = option(8, "samples drawn for every design that is kept")
    aims: int = option(15, "number of aims tried when the aim is chosen automatically")
    support: float = option(1.0, "largest support distance; 1 is the data's own 95 % quantile")
    diversity: float = option(0.25, "least distance of two designs, in the rows' median spacing")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        positive = ("count", "width", "depth", "steps", "batch_size", "sampler_steps", "aims")
        for name in (*positive, "oversample"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("label_noise", "guidance", "pessimism", "diversity", "latent_dim"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{_flag(name)} must not be negative, got {getattr(self, name)}")
        _one_of("reward", self.reward, REWARDS)
        _one_of("network", self.network, NETWORKS)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("sampler", self.sampler, ("ancestral", "ddim", "heun", "multistep"))
        if self.aim is not None and self.aim != self.aim:
            raise UserError("--aim is not a number")


TOY = {"width": 32, "depth": 2, "steps": 150, "sampler_steps": 8, "aims": 4, "oversample": 4}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": TOY}
"""``toy`` is for trying things out: seconds instead of minutes, and designs to match."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise UserError(f"{_flag(name)} {value}: choose one of {', '.join(map(str, known))}")
