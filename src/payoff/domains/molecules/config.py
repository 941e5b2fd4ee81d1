"""Options of training a molecule generator, apart from what is slow to import."""

from __future__ import annotations

from dataclasses import dataclass

from payoff.configs import option
from payoff.errors import UserError

DATA_SET = "qm9"
"""The name of the built-in data set, and of the weights that were trained on it."""
STEPS = 40
"""Steps of the sampler of molecules: where twice as many gain little."""
NOISE = 2.0
"""Noise of its steps, in units of DDPM's."""
PRODUCTS = ("auto", "bf16", "fp32")
"""What matrix products of the network can be taken in."""
PARTS = ("train", "valid", "test", "first_half", "second_half")


@dataclass
class LoopConfig:
    """Options of every training on molecules."""

    batch_size: int = option(256, "molecules a step")
    learning_rate: float = option(1e-3, "peak learning rate")
    hold: int = option(10_000, "steps at the peak rate, which then falls as 1/sqrt(step)")
    warmup: int = option(300, "steps of linear warm-up")
    optimizer: str = option("muon", "muon (matrices; AdamW for the rest) or adamw")
    weight_decay: float = option(0.01, "decoupled weight decay")
    gradient_clip: float = option(2.0, "largest gradient norm")
    seed: int = option(0, "seed of weights, batches and noise")
    precision: str = option("bf16", "of the matrix products in training: bf16 or fp32")
    compile: bool = option(True, "compile the network (a minute or two at the start)")
    steps: int = option(0, "end after this many steps; 0 = never")
    minutes: float = option(0.0, "end after this many minutes of this process; 0 = never")
    log_every: int = option(200, "steps between two readings of the loss")
    checkpoint_minutes: float = option(5.0, "minutes between two checkpoints")
    evaluate_minutes: float = option(20.0, "minutes between two evaluations; 0 = none")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        self.one_of("optimizer", ("muon", "adamw"))
        self.one_of("precision", ("bf16", "fp32"))
        self.at_least_one("batch_size", "hold", "warmup", "log_every")
        self.positive("learning_rate", "gradient_clip")
        for name in ("weight_decay", "steps", "minutes", "checkpoint_minutes", "evaluate_minutes"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")

    def one_of(self, name: str, known: tuple[str, ...]) -> None:
        """Raise a UserError unless the option is one of these."""
        if getattr(self, name) not in known:
            raise UserError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    def at_least_one(self, *names: str) -> None:
        """Raise a UserError unless these options are at least 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    def positive(self, *names: str) -> None:
        """Raise a UserError unless these options are above 0."""
        for name in names:
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass
class TrainConfig(LoopConfig):
    """Options of a training run. What shapes the result is kept with the checkpoint."""

    codec: str = option("united", "state space: united or all (atoms)")
    part: str = option("train", "part of QM9: train, first_half, second_half")
    start: str = option(
        "", "begin from exported weights: a folder, or a shipped name; the optimiser is new"
    )
    label: str = option(
        "",
        "learn molecules given properties: of alpha, gap, homo, lumo, mu, cv; commas; empty: none",
    )
    label_dropout: float = option(0.2, "share of molecules trained without their label")
    label_alone: float = option(
        0.5, "of several labels: share of the others told just one; the rest any number, as likely"
    )
    label_noise: float = option(0.0, "noise on the labels, drawn anew, in their deviations")
    width: int = option(192, "width of the network's scalars")
    depth: int = option(8, "number of blocks")
    pair_width: int = option(64, "width of a pair's feature")
    vectors: int = option(32, "vector channels of a node")
    log_snr_mean: float = option(2.0, "centre of the noise levels trained on, in log-SNR")
    log_snr_sd: float = option(3.0, "their standard deviation")
    samples: int = option(500, "molecules drawn at an evaluation")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        self.one_of("codec", ("united", "all"))
        self.one_of("part", PARTS)
        super().__post_init__()
        self.at_least_one("width", "depth", "pair_width", "vectors", "samples")
        self.positive("log_snr_sd")
        if not 0 <= self.label_dropout < 1:
            raise UserError(
                f"label_dropout must be at least 0 and below 1, got {self.label_dropout}"
            )
        if not 0 <= self.label_alone <= 1:
            raise UserError(f"label_alone must be between 0 and 1, got {self.label_alone}")
        if len(set(self.label_names)) < len(self.label_names):
            raise UserError(f"label names a property twice: {self.label!r}")
        if not self.label_noise >= 0:
            raise UserError(f"label_noise must not be negative, got {self.label_noise}")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The properties that are learned as labels, in order."""
        return _names(self.label)


@dataclass
class PropertyConfig(LoopConfig):
    """Options of training a property network."""

    properties: str = option("alpha", "what is learned: alpha, gap, homo, lumo, mu, cv; commas")
    part: str = option("first_half", "part of QM9 that is learned from")
    width: int = option(128, "width of the network's scalars")
    depth: int = option(5, "number of blocks")
    pair_width: int = option(48, "width of a pair's feature")
    vectors: int = option(32, "vector channels of a node")
    batch_size: int = option(96, "molecules a step")
    samples: int = option(2000, "molecules of the valid part that the error is measured on; 0: all")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        self.one_of("part", PARTS)
        super().__post_init__()
        self.at_least_one("width", "depth", "pair_width", "vectors")
        if not self.names or len(set(self.names)) < len(self.names):
            raise UserError(f"properties must be different names, got {self.properties!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The properties, in order."""
        return _names(self.properties)


@dataclass
class GuideConfig(PropertyConfig):
    """Options of training a guide: properties read off noised molecules."""

    model: str = option(
        DATA_SET, "generator whose kind of atoms and noise are used: a folder or a shipped name"
    )
    properties: str = option("alpha,gap,homo,lumo,mu,cv", "what is learned; commas")
    part: str = option("second_half", "part of QM9 that is learned from")
    batch_size: int = option(256, "molecules a step")
    beta: float = option(0.5, "0 = maximum likelihood … 1 = least squares for the means")
    decay: bool = option(True, "with --steps: let the rate fall to 0 in a line from the peak")
    samples: int = option(2000, "molecules of the valid part that the errors are measured on")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        super().__post_init__()
        self.at_least_one("samples")
        if not 0 <= self.beta <= 1:
            raise UserError(f"beta must be between 0 and 1, got {self.beta}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
