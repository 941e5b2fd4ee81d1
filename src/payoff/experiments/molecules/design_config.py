"""Options of ``payoff design`` for molecules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from payoff.configs import option
from payoff.domains.molecules.config import STEPS
from payoff.errors import UserError
from payoff.experiments.design.config import REWARDS, flag

MOLECULES = "Molecules"


@dataclass
class OfDesignedMolecules:
    """Options of ``payoff design`` that only molecules have."""

    base: str | None = option(
        None,
        "weights that the model begins with: a folder, or a shipped name; none: from scratch. "
        "Default: the shipped ones, if there are any",
        group=MOLECULES,
    )
    part: str = option("train", "part of QM9 that is designed from", group=MOLECULES)


@dataclass
class MoleculeDesignConfig(OfDesignedMolecules):
    """What molecules to design, from how many labels, and how."""

    source: Any = option("qm9", "a built-in data set of molecules")
    score: str | None = option(None, "the property that is aimed at")
    labelled: float = option(0.05, "share of the molecules that get a label")
    noise: float = option(0.0, "noise of the labels, as a share of the scores' sd")
    aim: float | None = option(None, "the value to aim at, in the property's unit")
    count: int = option(100, "number of molecules to propose")
    reward: str = option("auto", "the learned score: auto (cross-validated), ridge or ensemble")
    label_noise: float = option(0.2, "noise ν on the pseudo-labels, in their deviations")
    label_dropout: float = option(0.2, "share of molecules trained without their label")
    guidance: float = option(0.0, "classifier-free guidance weight; 0: the conditional model")
    width: int = option(192, "width of a network that begins from scratch")
    depth: int = option(8, "its number of blocks")
    steps: int = option(4000, "training steps")
    batch_size: int = option(128, "molecules a training step")
    learning_rate: float = option(5e-4, "peak learning rate")
    sampler_steps: int = option(STEPS, "steps of the sampler")
    seed: int = option(0, "seed of everything random")
    threads: int = option(0, "processor threads; 0: by the size of the network")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for name in ("count", "steps", "batch_size", "sampler_steps", "width", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("noise", "label_noise", "guidance", "seed", "threads"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{flag(name)} must not be negative, got {getattr(self, name)}")
        if not 0 < self.labelled <= 1:
            raise UserError(f"--labelled is a share in (0, 1], got {self.labelled}")
        if not self.learning_rate > 0:
            raise UserError(f"--learning-rate must be above 0, got {self.learning_rate}")
        if self.reward not in REWARDS:
            raise UserError(f"--reward {self.reward}: choose one of {', '.join(REWARDS)}")
        if self.aim is not None and not math.isfinite(self.aim):
            raise UserError(f"--aim must be a finite number, got {self.aim}")


TOY = {"width": 32, "depth": 1, "steps": 150, "sampler_steps": 10, "part": "test", "count": 20}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": TOY}
