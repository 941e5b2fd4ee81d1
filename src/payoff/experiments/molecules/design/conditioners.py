r"""What was taught the pseudo-labels, and the denoiser of :math:`p(m\mid y)` that it gives.

Two ways to the same law. A generator learns its labels, some of them hidden, and is classifier-free
guided with weight w. Or it stays as it is and a guide reads the labels off noised molecules,

.. math:: p(m\mid y) \propto p(m)\,p(y\mid m)^{1+w},

which is what classifier-free guidance of weight w stands for as well. The guide learns what a
molecule says of its label from the label itself, the generator from how much better it removes
noise once it is told: inside the data's range the guide comes nearer to an aim, in less time.
Beyond it the guide's Gaussian, fitted where there are data, is the poorer guess.

References: Classifier-Free Diffusion Guidance (Ho, Salimans, 2022); Diffusion Models Beat GANs on
Image Synthesis (Dhariwal, Nichol, 2021), section 4.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.codecs import Codec
from payoff.domains.molecules.config import DATA_SET, GuideConfig, TrainConfig
from payoff.domains.molecules.guide import GUIDE, GuideRun, LabelGuide
from payoff.domains.molecules.guided import KEY, guided
from payoff.domains.molecules.labels import Scales
from payoff.domains.molecules.loop import CHECKPOINT, MODEL, Loop
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.train import Run
from payoff.errors import UserError
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.data import Setting
from payoff.experiments.progress import Reporter
from payoff.experiments.records import STATE, RunFolder
from payoff.guidance import ClassifierFree
from payoff.pretrained import save_pretrained

LONG = 1000  # steps from which compiling a network takes less time than it saves


class Conditioner(ABC):
    """Denoisers given a label.

    Attributes:
        key: ``cond[key]`` (B, 1) is the label, standardised.
        codec: molecules <-> tensors.
        scales: what the label was standardised with.
    """

    key: ClassVar[str]
    codec: Codec
    scales: Scales

    @abstractmethod
    def denoiser(self, weight: float, noise: float) -> Denoiser:
        """The denoiser with guidance of weight w; ``noise`` ν is that of the pseudo-labels."""

    @abstractmethod
    def evaluations(self, weight: float) -> int:
        """Networks that are evaluated for a molecule and a step."""


class Taught(Conditioner):
    """A generator that learned the labels."""

    key = "label"

    def __init__(self, model: Denoiser, codec: Codec, scales: Scales) -> None:
        self.model, self.codec, self.scales = model, codec, scales

    def denoiser(self, weight: float, noise: float) -> Denoiser:
        return ClassifierFree(self.model, weight) if weight else self.model

    def evaluations(self, weight: float) -> int:
        return 2 if weight else 1


class Led(Conditioner):
    """A generator that a guide leads."""

    key = KEY

    def __init__(self, model: MoleculeModel, guide: LabelGuide) -> None:
        self.model, self.guide = model, guide
        self.codec, self.scales = model.codec, guide.scales

    def denoiser(self, weight: float, noise: float) -> Denoiser:
        return guided(self.model, self.guide, noise=noise, scale=1 + weight)

    def evaluations(self, weight: float) -> int:
        return 2


class Trained(ABC):
    """A training on pseudo-labels.

    Attributes:
        what: is trained.
        run: its loop.
    """

    what: ClassVar[str]
    run: Loop

    @abstractmethod
    def begin(self) -> None:
        """Before the first step, where there is no checkpoint."""

    @abstractmethod
    def conditioner(self) -> Conditioner:
        """What was learned so far, averaged over the steps."""

    @abstractmethod
    def save(self, folder: RunFolder, config: MoleculeDesignConfig) -> None:
        """Write what :func:`reopened` reads."""

    def facts(self, setting: Setting) -> dict[str, Any]:
        """For the record."""
        return {
            "codec": setting.kind,
            "steps": self.run.step,
            "parameters": sum(p.numel() for p in self.run.trained().parameters()),
        }


class TrainedGenerator(Trained):
    """The training of a conditional generator; from the base where there is one."""

    what = "model"
    run: Run

    def __init__(
        self, setting: Setting, pseudo: Tensor, config: MoleculeDesignConfig, state: Path
    ) -> None:
        net: Any = None if setting.base is None else setting.base.denoiser.net  # type: ignore[union-attr]
        own = _learning(config, setting, "width", "depth", "label_noise", "label_dropout")
        if net is not None:
            names = ("width", "depth", "pair_width", "vectors")
            own |= {name: getattr(net, name) for name in names}
        label = "" if config.own else config.score or ""
        options = TrainConfig(**own, codec=setting.kind, label=label)
        self.base, self.name = setting.base, str(config.base or DATA_SET)
        self.run = Run(options, setting.x, setting.mask, state, pseudo, setting.codec)

    def begin(self) -> None:
        if self.base is not None:
            self.run.begin_from_denoiser(self.base.denoiser, self.name)

    def conditioner(self) -> Taught:
        assert self.run.told is not None
        return Taught(self.run.averaged(), self.run.codec, self.run.told.scales)

    def save(self, folder: RunFolder, config: MoleculeDesignConfig) -> None:
        found = self.run.metadata({})
        found["label"] = {**found["label"], "name": config.score}
        if config.own:
            found["data"] = str(config.source)
        with folder.replacing_files(MODEL) as path:
            save_pretrained(self.run.averaged(), path, found)


class TrainedGuide(Trained):
    """The training of a guide, beside the base."""

    what = "guide"
    run: GuideRun

    def __init__(
        self, setting: Setting, pseudo: Tensor, config: MoleculeDesignConfig, state: Path
    ) -> None:
        assert setting.base is not None
        self.base = setting.base
        own = _learning(config, setting, "width", "depth")
        base = str(config.base or DATA_SET)
        options = GuideConfig(**own, model=base, properties="label")
        values = pseudo.unsqueeze(1)
        self.run = GuideRun(options, setting.base, setting.x, setting.mask, values, state)

    def begin(self) -> None:
        """A guide begins from nothing."""

    def conditioner(self) -> Led:
        return Led(self.base, self.run.averaged())

    def save(self, folder: RunFolder, config: MoleculeDesignConfig) -> None:
        found = self.run.averaged({"data": str(config.source), "steps": self.run.step})
        scales = replace(found.scales, names=(str(config.score),))
        with folder.replacing_files(MODEL) as path:
            save_pretrained(self.base.denoiser, path, self.base.metadata)
        with folder.replacing_files(GUIDE) as path:
            replace(found, scales=scales).save_pretrained(path)


def train(
    setting: Setting,
    pseudo: Tensor,
    config: MoleculeDesignConfig,
    folder: RunFolder,
    reporter: Reporter,
) -> Trained:
    """Teach pseudo-labels (n,), continued from the checkpoint if there is one.

    Every option of ``config`` has a value, see
    :meth:`~payoff.experiments.molecules.design.config.MoleculeDesignConfig.filled`.

    Raises:
        UserError: the network's own rules do not allow it.
    """
    state = folder.path / STATE
    kind = TrainedGuide if config.conditioning == "guide" else TrainedGenerator
    try:
        trained = kind(setting, pseudo, config, state)
    except ValueError as error:
        raise UserError(str(error)) from error
    run = trained.run
    if (state / CHECKPOINT).exists():
        run.load()
    else:
        trained.begin()
    state.mkdir(exist_ok=True)
    with reporter.bar(f"training the {trained.what}", config.steps) as advance:
        advance(run.step)
        run.heard = lambda line: advance(int(line["step"]))
        run.until_stopped()
    if run.interrupted:
        raise KeyboardInterrupt
    return trained


def reopened(run: Path, conditioning: str) -> Conditioner:
    """What a finished run's folder holds; runs older than guides learned the labels.

    Raises:
        UserError: it holds none, or a file is damaged.
    """
    model = MoleculeModel.load(run)
    if conditioning == "guide":
        return Led(model, LabelGuide.from_pretrained(run / GUIDE))
    return Taught(model.denoiser, model.codec, Scales.read(model.metadata, str(run)))


def _learning(config: MoleculeDesignConfig, setting: Setting, *names: str) -> dict[str, Any]:
    """The options of a loop that both trainings share, and those of these names."""
    return {name: getattr(config, name) for name in names} | {
        "part": config.part,
        "batch_size": min(config.batch_size, len(setting.molecules)),
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "steps": config.steps,
        "warmup": min(300, config.steps),
        "log_every": min(50, config.steps),
        "evaluate_minutes": 0.0,
        "compile": config.steps >= LONG and _compiler(),
    }


def _compiler() -> bool:
    """Whether there is a compiler for what torch writes."""
    return any(shutil.which(name) for name in ("g++", "clang++"))
