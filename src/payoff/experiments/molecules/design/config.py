"""Options of ``payoff design`` for molecules."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from payoff.configs import option
from payoff.domains.molecules.config import DATA_SET, PARTS, STEPS
from payoff.errors import UserError
from payoff.experiments.design.config import REWARDS, flag

MOLECULES = "Molecules"
KINDS = ("united", "all")
CONDITIONINGS = ("auto", "guide", "labels")


@dataclass
class OfDesignedMolecules:
    """Options of ``payoff design`` that only molecules have."""

    smiles: str | None = option(
        None, "the column of SMILES of a table: its rows are molecules", group=MOLECULES
    )
    base: str | None = option(
        None,
        "weights that the model begins with: a folder, or a shipped name; none: from scratch. "
        "Default: the shipped ones, if the molecules fit them",
        group=MOLECULES,
    )
    codec: str | None = option(
        None,
        "what a node is: united (a heavy atom with its hydrogens) or all (any atom). Default: "
        "that of the base; from scratch united, if the molecules can be so",
        group=MOLECULES,
    )
    part: str = option("train", "part of QM9 that is designed from", group=MOLECULES)
    conditioning: str = option(
        "auto",
        "what learns the pseudo-labels: guide (a network that reads them off noised molecules and "
        "leads the base, which stays as it is) or labels (the model itself). Default: guide, if "
        "there is a base",
        group=MOLECULES,
    )


@dataclass
class MoleculeDesignConfig(OfDesignedMolecules):
    """What molecules to design, from how many labels, and how."""

    source: Any = option(DATA_SET, "qm9, or a file of molecules")
    score: str | None = option(None, "the property that is aimed at, or the file's column with it")
    minimize: bool = option(False, "a lower score is better")
    labelled: float = option(0.05, "QM9: share of the molecules that get a label")
    noise: float = option(0.0, "QM9: noise of the labels, as a share of the scores' sd")
    aim: float | None = option(None, "the score to aim at; by default it is chosen automatically")
    count: int = option(100, "number of molecules to propose")
    aims: int = option(15, "number of aims tried when the aim is chosen automatically")
    support: float = option(1.0, "largest support distance of a molecule that counts")
    pessimism: float = option(1.5, "standard deviations taken off a prediction to judge it")
    reward: str = option("auto", "the learned score: auto (cross-validated), ridge or ensemble")
    label_noise: float | None = option(
        None, "noise ν on the pseudo-labels, in their deviations; default: 0.2, with a guide 0"
    )
    label_dropout: float | None = option(
        None, "share of molecules that a model is trained on without their label; default: 0.2"
    )
    guidance: float = option(
        0.0, "guidance weight w: p(m) p(y | m)^(1 + w) is drawn from; 0: the conditional law"
    )
    width: int | None = option(
        None, "width of a network that begins from scratch; default: 192, of a guide 128"
    )
    depth: int | None = option(None, "its number of blocks; default: 8, of a guide 5")
    steps: int = option(4000, "training steps")
    batch_size: int = option(128, "molecules a training step")
    learning_rate: float | None = option(None, "peak learning rate; default: 5e-4, of a guide 1e-3")
    sampler_steps: int = option(STEPS, "steps of the sampler")
    seed: int = option(0, "seed of everything random")
    threads: int = option(0, "processor threads; 0: by the size of the network")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        self._applies()
        for name in ("count", "steps", "batch_size", "sampler_steps", "width", "depth", "aims"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{flag(name)} must be at least 1, got {value}")
        for name in ("noise", "label_noise", "guidance", "pessimism", "seed", "threads"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise UserError(f"{flag(name)} must not be negative, got {value}")
        if not 0 < self.labelled <= 1:
            raise UserError(f"--labelled is a share in (0, 1], got {self.labelled}")
        for name in ("learning_rate", "support"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UserError(f"{flag(name)} must be above 0, got {value}")
        if self.label_dropout is not None and not 0 <= self.label_dropout < 1:
            raise UserError(
                f"--label-dropout is a share of at least 0 and below 1, got {self.label_dropout}"
            )
        if self.conditioning not in CONDITIONINGS:
            raise UserError(
                f"--conditioning {self.conditioning}: choose one of {', '.join(CONDITIONINGS)}"
            )
        if self.codec not in (None, *KINDS):
            raise UserError(f"--codec {self.codec}: choose one of {', '.join(KINDS)}")
        if self.part not in PARTS:
            raise UserError(f"--part {self.part}: choose one of {', '.join(PARTS)}")
        if self.reward not in REWARDS:
            raise UserError(f"--reward {self.reward}: choose one of {', '.join(REWARDS)}")
        if self.aim is not None and not math.isfinite(self.aim):
            raise UserError(f"--aim must be a finite number, got {self.aim}")

    @property
    def own(self) -> bool:
        """Whether the molecules come from a file of the user's."""
        return str(self.source) != DATA_SET

    def _applies(self) -> None:
        """Refuse options that would be ignored."""
        of_qm9 = {"part": "train", "labelled": 0.05, "noise": 0.0}
        for name, default in of_qm9.items() if self.own else ():
            if getattr(self, name) != default:
                raise UserError(
                    f"{flag(name)} is for {DATA_SET} only: the molecules of {self.source} are all "
                    "taken, and those with a score are the labelled ones"
                )
        if self.smiles is not None and not self.own:
            raise UserError(f"--smiles is for a table of your own: {DATA_SET} has no columns")

    def filled(self, based: bool) -> MoleculeDesignConfig:
        """With the defaults that depend on what learns the labels.

        Args:
            based: whether there is a base for a guide to lead.

        Raises:
            UserError: a guide is asked for and there is none, or an option is not a guide's.
        """
        kind = self.conditioning
        if kind == "auto":
            kind = "guide" if based else "labels"
        if kind == "guide" and not based:
            raise UserError(
                "--conditioning guide leads a model that is there, and none fits these molecules: "
                "give a --base that does, or let a new model learn with --conditioning labels"
            )
        if kind == "guide" and self.label_dropout is not None:
            raise UserError(
                "--label-dropout is for a model that learns labels, and here a guide does: add "
                "--conditioning labels, or leave it out"
            )
        own = {k: v for k, v in OWN_DEFAULTS[kind].items() if getattr(self, k) is None}
        return replace(self, conditioning=kind, **own)


OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "labels": {
        **{"width": 192, "depth": 8, "learning_rate": 5e-4},
        **{"label_noise": 0.2, "label_dropout": 0.2},
    },
    "guide": {"width": 128, "depth": 5, "learning_rate": 1e-3, "label_noise": 0.0},
}
TOY = {"width": 32, "depth": 1, "steps": 150, "sampler_steps": 10, "count": 20, "aims": 4}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": {**TOY, "part": "test"}}
OWN_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": TOY}
