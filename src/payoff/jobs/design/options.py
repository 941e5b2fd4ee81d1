"""Options of ``payoff design``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option
from payoff.errors import UserError
from payoff.jobs.options import (
    BASE,
    DRAWING,
    GOAL,
    LARGEST_SEED,
    LEARNING,
    MACHINE,
    MachineOptions,
    with_values,
)

REGRESSORS = ("auto", "ridge", "ensemble")
CONDITIONINGS = ("auto", "guide", "labels")
SAMPLER_NAMES = ("ancestral", "ddim", "heun", "multistep")
ORDERS, NOVELTIES = ("best", "nearest"), ("distance", "identity")
SWEEP = 100  # designs that an aim is judged by, at most
LABEL_NOISE, LABEL_DROPOUT = 0.2, 0.2


@dataclass
class DesignOptions(MachineOptions):
    """What to design, from which labels, and how."""

    name: ClassVar[str] = "design"
    help: ClassVar[str] = "Propose designs with a better score, learned from few labels."
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "toy": {
            **{"width": 32, "depth": 2, "steps": 150},
            **{"sampler_steps": 8, "aims": 4, "oversample": 4},
        }
    }
    free: ClassVar[tuple[str, ...]] = ("threads",)

    score: str | None = option(
        None,
        "the column or property with the measured score; designs without one are unlabelled",
        group=GOAL,
    )
    minimize: bool = option(False, "a lower score is better", group=GOAL)
    count: int = option(100, "number of designs to propose", group=GOAL)
    aim: float | None = option(
        None, "the score to aim at; default: chosen by trying several", group=GOAL
    )
    oracle: Any = option(
        None,
        "the true score, asked for finished designs only: a reward that comes with the kind of "
        "object or MODULE:FUNCTION; none: do without",
        group=GOAL,
        metavar="TEXT",
    )
    oracle_sweep: bool = option(
        False, "score the designs of every aim with the oracle as well", group=GOAL
    )
    oracle_data: bool = option(
        False, "score the data with the oracle as well, to compare with their best", group=GOAL
    )

    regressor: str = option(
        "auto", "the learned score: auto (cross-validated), ridge or ensemble", group=LEARNING
    )
    pessimism: float = option(
        1.5, "standard deviations taken off a prediction to judge a design", group=LEARNING
    )
    conditioning: str = option(
        "auto",
        "how predicted scores are used: guide (a separate network steers the frozen base) or "
        "labels (the model is trained on them); auto: guide where there are a base and such a "
        "network",
        group=LEARNING,
    )
    base: str | None = option(
        None,
        "the model to begin with: a finished run, a model folder or shipped weights; none: begin "
        "from scratch; default: the shipped weights if they fit the data",
        group=BASE,
    )
    width: int | None = option(
        None, "width of the network that is trained; default: the kind's own", group=LEARNING
    )
    depth: int | None = option(
        None, "blocks of the network that is trained; default: the kind's own", group=LEARNING
    )
    steps: int = option(4000, "training steps", group=LEARNING)
    batch_size: int = option(128, "objects a training step", group=LEARNING)
    learning_rate: float | None = option(
        None, "peak learning rate; default: the kind's own", group=LEARNING
    )
    weight_decay: float | None = option(
        None, "decoupled weight decay; default: the kind's own", group=LEARNING
    )
    label_noise: float | None = option(
        None,
        "noise ν on the predicted scores in training, in their standard deviations; default: 0.2, "
        "with a guide 0",
        group=LEARNING,
    )
    label_dropout: float | None = option(
        None, "share of objects trained without their label; default: 0.2", group=LEARNING
    )

    guidance: float = option(
        0.0,
        "guidance weight w: samples follow p(x) p(score | x)^(1 + w); 0: the conditional law",
        group=DRAWING,
    )
    sampler: str | None = option(
        None,
        "ancestral, ddim, heun or multistep; default: ancestral or, with --sampler-noise, the "
        "noisy second-order sampler",
        group=DRAWING,
    )
    sampler_steps: int = option(25, "steps of the sampler", group=DRAWING)
    sampler_noise: float | None = option(
        None,
        "noise of the second-order sampler in units of DDPM's (larger corrects more model error); "
        "default: plain DDPM",
        group=DRAWING,
    )
    aims: int = option(15, "number of aims tried", group=DRAWING)
    sweep: int | None = option(
        None, "designs that each aim is judged by; default: --count, at most 100", group=DRAWING
    )
    enough: int | None = option(
        None,
        "of these, how many have to be accepted and different for an aim to be chosen; default: "
        "all",
        group=DRAWING,
    )
    sweep_anyway: bool = option(
        True, "try the aims for the report even where --aim is given", group=DRAWING
    )
    oversample: int = option(8, "samples drawn for every design that is kept", group=DRAWING)
    keep_refused: bool = option(
        False,
        "draw --count samples and list all of them, those that are refused last; otherwise draw "
        "until --count designs are accepted and different",
        group=DRAWING,
    )
    support: float = option(
        1.0, "largest support distance; 1 is the data's own 95 % quantile", group=DRAWING
    )
    diversity: float = option(
        0.25,
        "least distance of two designs, in the data's median spacing; 0: different is enough",
        group=DRAWING,
    )
    order: str = option(
        "best",
        "which designs come first: best (highest pessimistic score), or nearest (to a given --aim)",
        group=DRAWING,
    )
    novelty: str = option(
        "distance",
        "how new a design is: its distance to the nearest of the data, or whether its identity is "
        "among theirs",
        group=DRAWING,
    )
    seed: int = option(
        0, "seed of everything random; the same seed gives the same designs", group=MACHINE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "count", "width", "depth", "steps", "batch_size", "sampler_steps", "aims")
        self.at_least(1, "oversample", "sweep", "enough")
        self.at_least(0, "label_noise", "guidance", "pessimism", "diversity", "weight_decay")
        self.at_least(0, "seed")
        self.above_zero("learning_rate", "support", "sampler_noise")
        if self.label_dropout is not None and not 0 <= self.label_dropout < 1:
            raise UserError(
                f"--label-dropout is a share of at least 0 and below 1, got {self.label_dropout}"
            )
        if self.seed >= LARGEST_SEED:
            raise UserError(f"--seed must be below 2^53, got {self.seed}")
        self.one_of("regressor", REGRESSORS)
        self.one_of("conditioning", CONDITIONINGS)
        self.one_of("sampler", (None, *SAMPLER_NAMES))
        self.one_of("order", ORDERS)
        self.one_of("novelty", NOVELTIES)

    @property
    def sign(self) -> float:
        """+1 where a higher score is better, −1 where a lower one is."""
        return -1.0 if self.minimize else 1.0

    @property
    def per_aim(self) -> int:
        """Designs that an aim is judged by."""
        return self.sweep or min(self.count, SWEEP)

    @property
    def needed(self) -> int:
        """Accepted designs that an aim must give to be chosen."""
        return min(self.enough or self.per_aim, self.per_aim)

    def size(self) -> dict[str, Any]:
        """The network's size as the user set it."""
        return with_values({"width": self.width, "depth": self.depth})

    def training(self) -> dict[str, Any]:
        """The training's settings as the user set them."""
        return with_values(
            {
                "steps": self.steps,
                "batch_size": self.batch_size,
                "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay,
            }
        )

    def fill(self, conditioning: str, defaults: Mapping[str, Any]) -> None:
        """Set the options that depend on how labels are used, where the user set none.

        Args:
            conditioning: ``guide`` or ``labels``.
            defaults: of the kind, for this way.

        Raises:
            UserError: an option that this way does not have was set.
        """
        if conditioning == "guide" and self.label_dropout is not None:
            raise UserError(
                "--label-dropout is for a model that learns labels, and here a guide does: add "
                "--conditioning labels, or leave it out"
            )
        learns = conditioning == "labels"
        usual = {"label_noise": LABEL_NOISE, "label_dropout": LABEL_DROPOUT} if learns else {}
        self.conditioning = conditioning
        for name, value in ({"label_noise": 0.0} | usual | dict(defaults)).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
