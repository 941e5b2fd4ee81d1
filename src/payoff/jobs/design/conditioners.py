r"""Networks that learned the predicted scores, and their denoisers of :math:`p(x\mid y)`.

Two ways to the same law. A model learns the labels, some of them hidden, and is classifier-free
guided with weight w. Or it stays as it is and a guide reads the labels off noised samples,

.. math:: p(x\mid y) \propto p(x)\,p(y\mid x)^{1+w},

which is what classifier-free guidance of weight w stands for as well. The guide learns what a
sample says of its label from the label itself, the model from how much better it removes noise
once it knows the label: inside the data's range the guide comes nearer to an aim, in less time.
Beyond it the guide's Gaussian, fitted where there are data, is the poorer guess.

Labels are standardised, :math:`\tilde y = (y - \bar y)/s`, y in the user's unit and direction.
Where a lower score is better the model's s is negative, so that a higher label is always better.

References: Classifier-Free Diffusion Guidance (Ho, Salimans, 2022); Diffusion Models Beat GANs on
Image Synthesis (Dhariwal, Nichol, 2021), section 4.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from payoff.denoisers import Denoiser
from payoff.domains.base import Data
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.guidance import ClassifierFree, Guided
from payoff.guidance.base import gaussian_process
from payoff.jobs.design.guides import train_guide
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.fitting import fit_config, new_denoiser, train_denoiser, with_labels
from payoff.jobs.model import LABEL, MODEL, Model
from payoff.jobs.progress import Reporter
from payoff.jobs.records import STATE, RunFolder
from payoff.pretrained import CONFIG, build, describe, read_weights, write_module
from payoff.values import LabelLikelihood

GUIDE = "guide"  # a guide's folder in a run, and the condition that holds its label
SMALLEST = 1e-12  # standard deviation of labels


class Conditioner(ABC):
    """A model whose samples can be asked for a score.

    Attributes:
        model: of the objects.
        location, spread: the label is (score − location) / spread, in the user's unit.
    """

    name: ClassVar[str]
    model: Model
    location: float
    spread: float

    @abstractmethod
    def denoiser(self, weight: float) -> Denoiser:
        """The denoiser with guidance of weight w."""

    @abstractmethod
    def evaluations(self, weight: float) -> int:
        """Networks that are evaluated for a sample and a step."""

    @abstractmethod
    def given(self, cond: dict[str, Tensor], aim: float, n: int) -> dict[str, Tensor]:
        """Conditions of n samples with the label of an aim (in the user's unit) among them."""

    def label(self, aim: float, n: int) -> Tensor:
        """The label column (n, 1) of an aim."""
        return torch.full((n, 1), (aim - self.location) / self.spread)

    @abstractmethod
    def trained(self) -> nn.Module:
        """The network that learned the labels."""

    def facts(self) -> dict[str, Any]:
        """Facts for the record."""
        return {"parameters": sum(p.numel() for p in self.trained().parameters())}


class LabelConditioner(Conditioner):
    """A model that learned the labels itself."""

    name = "labels"

    def __init__(self, model: Model) -> None:
        self.model = model
        try:
            scales = model.facts[LABEL]
            self.location, self.spread = float(scales["location"]), float(scales["spread"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the run folder is damaged: its model does not say how its label is scaled "
                f"({error})"
            ) from error

    def trained(self) -> nn.Module:
        return self.model.denoiser

    def denoiser(self, weight: float) -> Denoiser:
        return ClassifierFree(self.model.denoiser, weight) if weight else self.model.denoiser

    def evaluations(self, weight: float) -> int:
        return 2 if weight else 1

    def given(self, cond: dict[str, Tensor], aim: float, n: int) -> dict[str, Tensor]:
        return with_labels(cond, self.label(aim, n))

    @classmethod
    def train(
        cls,
        data: Data,
        kind: Kind,
        base: Model | None,
        predicted: Tensor,
        job: DesignOptions,
        folder: RunFolder,
        reporter: Reporter,
    ) -> LabelConditioner:
        """Train on predicted scores (n,), or read the model that the folder holds already.

        Raises:
            UserError: the training diverged, or the base cannot learn labels.
        """
        if not (folder.path / MODEL / CONFIG).exists():
            higher = job.sign * predicted
            location, spread = float(higher.mean()), max(float(higher.std()), SMALLEST)
            label = ((higher - location) / spread)[:, None].float()
            domain = data.domain
            x, cond = domain.encode(data.objects)
            dtype = torch.float64 if job.precision == 64 else torch.float32
            denoiser = (
                new_denoiser(domain, job.seed, 1, **job.size())
                if base is None
                else with_label(base.denoiser, job.seed, str(job.base))
            )
            trained = train_denoiser(
                denoiser.to(job.device, dtype),
                domain,
                x,
                with_labels(cond, label),
                fit_config(domain, job.seed, label_dropout=job.label_dropout, **job.training()),
                folder.path / STATE / "training.pt",
                reporter,
                label_noise=job.label_noise or 0.0,
            )
            scales = {
                "name": data.score,
                "location": job.sign * location,
                "spread": job.sign * spread,
            }
            made = Model(trained, domain, kind, {"data": data.name, LABEL: scales})
            made.save(folder, MODEL)
        # as a resumed run reads it: the two must not differ in the last digit
        return cls(Model.load(folder.path / MODEL, job.device))


def with_label(base: Denoiser, seed: int, name: str) -> Denoiser:
    """A denoiser of the same class that reads one label, with the base's weights.

    New input columns have the weight 0, so that it begins as the base.

    Raises:
        UserError: the base's network reads labels already, or none at all.
    """
    described = describe(base)
    net = described.get("net") if isinstance(described, dict) else None
    if not isinstance(net, dict) or net.get("label_dim") != 0:
        raise UserError(
            f"--base {name}: its network has labels of its own, or cannot read any: give another, "
            "or begin from scratch with --base none"
        )
    net["label_dim"] = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Denoiser = build(described)
    state = {}
    for key, own in made.state_dict().items():
        given = base.state_dict().get(key)
        if given is None or given.shape[:-1] != own.shape[:-1]:
            raise UserError(f"--base {name}: its weights do not fit a network with a label ({key})")
        missing = own.shape[-1] - given.shape[-1] if own.ndim else 0
        state[key] = torch.nn.functional.pad(given, (0, missing)) if missing else given
    made.load_state_dict(state)
    return made


class GuideConditioner(Conditioner):
    """A model that stays as it is, led by a guide that reads the label off noised samples.

    Args:
        model: of the objects.
        value: log p(label | x_t).
        scales: location and spread of the label.
        noise: ν of the labels that are asked for, in their standard deviations.
    """

    name = "guide"

    def __init__(
        self, model: Model, value: LabelLikelihood, scales: Mapping[str, Any], noise: float
    ) -> None:
        self.model, self.noise = model, noise
        process = gaussian_process(model.denoiser, "guidance")
        self.value = value.of(process, GUIDE, noise)
        self.location, self.spread = float(scales["location"]), float(scales["spread"])

    def trained(self) -> nn.Module:
        return self.value

    def denoiser(self, weight: float) -> Denoiser:
        settings = dict(self.model.domain.guiding)
        return Guided(self.model.denoiser, self.value, scale=1 + weight, **settings)

    def evaluations(self, weight: float) -> int:
        return 2

    def given(self, cond: dict[str, Tensor], aim: float, n: int) -> dict[str, Tensor]:
        return {**cond, GUIDE: self.label(aim, n)}

    @classmethod
    def train(
        cls,
        data: Data,
        base: Model,
        predicted: Tensor,
        job: DesignOptions,
        folder: RunFolder,
        reporter: Reporter,
    ) -> GuideConditioner:
        """Train a guide beside the base, or read the one that the folder holds already.

        Raises:
            UserError: the network's own rules do not allow its size, or the training diverged.
        """
        if not (folder.path / GUIDE / CONFIG).exists():
            with reporter.bar("training the guide", job.steps) as advance:
                advance(0)
                value, scales = train_guide(
                    data.domain,
                    base.denoiser,
                    data.objects,
                    predicted,
                    folder,
                    advance,
                    size=job.size(),
                    seed=job.seed,
                    **job.training(),
                )
            base.save(folder, MODEL)
            config = {
                "guide": describe(value),
                LABEL: {**scales, "name": data.score},
                "metadata": {"data": data.name, "steps": job.steps},
            }
            with folder.replacing_files(GUIDE) as path:
                write_module(value, path, config)
        return cls.load(folder.path / GUIDE, base, job.label_noise or 0.0)

    @classmethod
    def load(cls, folder: Path, model: Model, noise: float) -> GuideConditioner:
        """Read a guide from its folder.

        Raises:
            UserError: a file is missing or damaged.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            value = build(config["guide"])
            value.load_state_dict(read_weights(folder, config))
            value = value.to(model.like.device).eval().requires_grad_(False)
            return cls(model, value, config["label"], noise)
        except UserError:
            raise
        except Exception as error:  # the formats' own classes among them
            raise UserError(f"{folder} holds no guide that loads: {error}") from error


def train_conditioner(
    data: Data,
    kind: Kind,
    base: Model | None,
    predicted: Tensor,
    job: DesignOptions,
    folder: RunFolder,
    reporter: Reporter,
) -> Conditioner:
    """Train on predicted scores (n,) as the options say, or read what the folder holds already."""
    if job.conditioning == "guide":
        assert base is not None
        return GuideConditioner.train(data, base, predicted, job, folder, reporter)
    return LabelConditioner.train(data, kind, base, predicted, job, folder, reporter)


def reopened(run: Path, model: Model, job: DesignOptions) -> Conditioner:
    """The conditioner that a finished run's folder holds, with its model.

    Raises:
        UserError: it holds none, or a file is damaged.
    """
    if job.conditioning == "guide":
        return GuideConditioner.load(run / GUIDE, model, job.label_noise or 0.0)
    return LabelConditioner(model)
