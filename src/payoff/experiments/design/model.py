r"""Steps 1 to 3 of RCGDM on a table: the learned score, the pseudo-labels, the conditional model.

Rows carry the pseudo-label :math:`\hat y = (\hat f(x) - \mu)/s + \nu\xi`, :math:`\xi\sim N(0,1)`
drawn afresh in every batch, μ and s the mean and sd of :math:`\hat f` over all rows. Columns that
the user holds fixed are further labels, so that the model draws from
:math:`p(x\mid \hat y, \text{fixed})` rather than having them overwritten afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser, NetDenoiser, Subspace
from payoff.domains.vectors import Code
from payoff.errors import UserError
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job
from payoff.experiments.interrupts import held_back
from payoff.experiments.progress import Reporter
from payoff.experiments.records import STATE, RunFolder
from payoff.nets import ResidualMLP
from payoff.pretrained import CONFIG, from_pretrained, read_config, save_pretrained
from payoff.processes import GaussianProcess
from payoff.rewards import FittedReward, LearnedReward, fit_reward
from payoff.schedules import Cosine
from payoff.training import FitConfig, TrainingDiverged, fit
from payoff.whitening import Whitening

# Beyond these noise levels standardised rows are noise or data to within 2 %; a wider range would
# spend steps of the sampler where nothing happens.
PROCESS = GaussianProcess(schedule=Cosine(log_snr_min=-8.0, log_snr_max=10.0))
MODEL, REWARD = "model", "reward"
FOLDS = 5


@dataclass
class Model:
    """A trained conditional model with what is needed to speak to it.

    Attributes:
        denoiser: of samples in model coordinates (n, d).
        whitening: codec coordinates <-> model coordinates; None: they are the same.
        location, scale: score = location + scale * label, higher is better.
        held: slots of the codec that are further labels, and the values they are held at.
    """

    denoiser: Denoiser
    whitening: Whitening | None
    dim: int
    location: float
    scale: float
    held: list[int]
    values: list[float]

    def label(self, score: float) -> Tensor:
        """The condition (1, 1+h) that asks for a score."""
        return torch.tensor([[(score - self.location) / self.scale, *self.values]])

    def to_codec(self, z: Tensor) -> Tensor:
        """Model coordinates to codec coordinates, on the CPU in single precision."""
        z = z.cpu()
        return (z if self.whitening is None else self.whitening.decode(z)).float()

    def save(self, folder: RunFolder) -> None:
        """Write ``model/`` with everything that :meth:`load` needs."""
        metadata = {
            "whitening": None if self.whitening is None else self.whitening.config(),
            "dim": self.dim,
            "location": self.location,
            "scale": self.scale,
            "held": self.held,
            "values": self.values,
        }
        with folder.replacing_files(MODEL) as path:
            save_pretrained(self.denoiser, path, metadata)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Model:
        """The inverse of :meth:`save`, from the folder ``model/`` of a run."""
        kept = dict(read_config(folder)["metadata"])
        whitening = kept.pop("whitening")
        restored = None if whitening is None else Whitening.from_config(whitening)
        return cls(from_pretrained(folder, device), restored, **kept)


def learn_reward(
    job: Job, config: DesignConfig, folder: RunFolder, reporter: Reporter
) -> tuple[LearnedReward, dict[str, Any]]:
    """The learned score and the summary of its cross-validation, from the folder if it is there."""
    state = folder.path / STATE
    if (state / "reward.json").exists() and (state / "fitted.json").exists():
        return LearnedReward.load(state), folder.read_json(f"{STATE}/fitted.json")
    generator = torch.Generator().manual_seed(config.seed)
    names = ("ridge", "ensemble") if config.reward == "auto" else (config.reward,)
    known = job.known
    # fits of the ridge are over at once and would spoil the estimate of the time left
    instant = FOLDS if names[0] == "ridge" and len(names) > 1 else 0
    with reporter.bar("learning the score", FOLDS * len(names) + 1 - instant) as advance:
        advance(0)
        fitted: FittedReward = fit_reward(
            job.x[known],
            job.labels[known],
            generator=generator,
            folds=FOLDS,
            candidates=names,
            context=job.x,
            progress=lambda done, total: advance(max(0, done - instant)),
        )
    with folder.replacing_files(STATE) as path:
        fitted.reward.save(path)
    folder.write_json(f"{STATE}/fitted.json", fitted.summary())
    # what was saved, as a resumed run reads it: the two must not differ in the last digit
    return LearnedReward.load(state), folder.read_json(f"{STATE}/fitted.json")


def train_model(
    job: Job, reward: LearnedReward, config: DesignConfig, folder: RunFolder, reporter: Reporter
) -> Model:
    """The conditional model, from the folder if it is finished or half finished there."""
    if (folder.path / MODEL / CONFIG).exists():
        return Model.load(folder.path / MODEL, config.device)
    predicted = reward(job.x.double())
    location, scale = float(predicted.mean()), max(float(predicted.std()), 1e-12)
    whitening = Whitening(job.x) if config.network == "mlp" else None
    z = job.x if whitening is None else whitening.encode(job.x)
    held = held_slots(job)
    label = torch.cat([((predicted - location) / scale)[:, None].to(job.x), job.x[:, held]], dim=1)
    dtype = torch.float64 if config.precision == 64 else torch.float32
    denoiser = build_denoiser(z, label.shape[1], config).to(config.device, dtype)
    trained = fitted(
        denoiser,
        z.to(config.device, dtype),
        label.to(config.device, dtype),
        config,
        folder.path / STATE / "training.pt",
        reporter,
    )
    values = held_values(job, held)
    model = Model(trained, whitening, z.shape[1], location, scale, held, values)
    model.save(folder)
    return Model.load(folder.path / MODEL, config.device)


def fitted(
    denoiser: Denoiser,
    z: Tensor,
    label: Tensor | None,
    config: DesignConfig,
    checkpoint: Path,
    reporter: Reporter,
    title: str = "training the model",
) -> Denoiser:
    """The denoiser trained on rows z (n, d) and their labels, continued from the checkpoint.

    Without labels the model is unconditional; with them, ν is added to the first column.

    Raises:
        UserError: the training diverged.
    """
    with reporter.bar(title, config.steps) as advance, held_back() as ask:

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step)
            ask()  # stopped here, between two steps, fit saves a state that is whole

        try:
            return fit(
                denoiser,
                z,
                None if label is None else {"label": label},
                _fit_config(config),
                checkpoint=checkpoint,
                resume=True,
                progress=progress,
                augment=lambda x0, cond, draw: (x0, _noisy(cond, config.label_noise, draw)),
            )
        except TrainingDiverged as error:
            raise UserError(f"the training failed: {error}") from error


def build_denoiser(z: Tensor, label_dim: int, config: DesignConfig) -> Denoiser:
    """An untrained denoiser for rows z (n, d), seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.network == "mlp":
            return NetDenoiser(_net(z.shape[1], label_dim, config), PROCESS)
        latent = min(config.latent_dim or _dimension_of(z), z.shape[1])
        inner = NetDenoiser(_net(latent, label_dim, config), PROCESS)
        return Subspace(inner, z.shape[1], latent)


def _net(dim: int, label_dim: int, config: DesignConfig) -> ResidualMLP:
    return ResidualMLP(
        dim,
        width=config.width,
        depth=config.depth,
        label_dim=label_dim,
        dropout=config.dropout,
    )


def _fit_config(config: DesignConfig) -> FitConfig:
    return FitConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        label_dropout=config.label_dropout,
        log_snr_mean=1.5,
        log_snr_sd=3.0,
        seed=config.seed,
        log_every=min(10, config.steps),
        checkpoint_every=500,
    )


def _noisy(cond: dict[str, Tensor], nu: float, generator: torch.Generator) -> dict[str, Tensor]:
    if "label" not in cond:
        return cond
    label = cond["label"].clone()
    noise = torch.randn(label.shape[0], generator=generator).to(label)
    label[:, 0] += nu * noise
    return {**cond, "label": label}


def _slots(code: Code) -> range:
    return range(code.start, code.start + code.slots)


def held_slots(job: Job) -> list[int]:
    """The slots of the columns that the user holds fixed."""
    return [s for c in job.codec.codes if c.fixed is not None for s in _slots(c)]


def held_values(job: Job, held: list[int]) -> list[float]:
    """What those slots are held at."""
    if not held:
        return []
    # any row decodes to the fixed values, so its encoding has them
    row = job.codec.encode(job.codec.decode(job.x[:1]))
    return [float(v) for v in row[0, held]]


def _dimension_of(z: Tensor) -> int:
    values = torch.linalg.eigvalsh(torch.cov(z.double().T).reshape(z.shape[1], -1)).flip(0)
    share = values.cumsum(0) / values.sum()
    return int((share < 0.99).sum()) + 1
