r"""A denoiser trained on the objects of a kind, with a bar, Ctrl-C and a checkpoint.

Labels carry fresh noise in every batch, :math:`y + \nu\xi`, :math:`\xi\sim N(0,1)`, on their first
column, which gives :math:`p(x\mid y)` a density where y is a function of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Data, Domain
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.interrupts import defer_interrupts
from payoff.jobs.model import Model, placed
from payoff.jobs.progress import Reporter
from payoff.training import FitConfig, TrainingDiverged, fit

CHECKPOINT_EVERY = 500  # steps


def with_labels(cond: Mapping[str, Tensor], label: Tensor | None) -> dict[str, Tensor]:
    """Conditions with label columns (n, k) in front of those that the kind has itself."""
    if label is None:
        return dict(cond)
    own = cond.get("label")
    label = label if own is None else torch.cat([label.to(own), own], dim=1)
    return {**cond, "label": label}


def new_denoiser(domain: Domain, seed: int, labels: int = 0, **size: Any) -> Denoiser:
    """An untrained denoiser of the kind; its weights depend on the seed only.

    Raises:
        UserError: the network's own rules do not allow the size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return domain.denoiser(labels, **size)
        except ValueError as error:
            raise UserError(str(error)) from error


def fit_config(domain: Domain, seed: int, **settings: Any) -> FitConfig:
    """The training's settings: the user's, and the kind's where these say nothing."""
    config = replace(domain.training, **settings, seed=seed)
    return replace(
        config,
        log_every=min(config.log_every, config.steps),
        checkpoint_every=CHECKPOINT_EVERY,
    )


def train_denoiser(
    denoiser: Denoiser,
    domain: Domain,
    x: Tensor,
    cond: Mapping[str, Tensor],
    config: FitConfig,
    checkpoint: Path,
    reporter: Reporter,
    *,
    label_noise: float = 0.0,
    title: str = "training the model",
) -> Denoiser:
    """Train on encoded objects x (n, ...) and their conditions, continued from the checkpoint.

    Raises:
        UserError: the training diverged.
    """
    like = next(denoiser.parameters())
    rows = x.to(like) if x.is_floating_point() else x.to(like.device)
    with reporter.bar(title, config.steps) as advance, defer_interrupts() as ask:

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step)
            ask()  # stopped here, between two steps, fit saves a state that is whole

        def augment(x0, cond, generator):
            x0, cond = domain.augment(x0, cond, generator)
            return x0, _noisy(cond, label_noise, generator)

        try:
            return fit(
                denoiser,
                rows,
                placed(cond, like) or None,
                config,
                checkpoint=checkpoint,
                resume=True,
                progress=progress,
                augment=augment,
            )
        except TrainingDiverged as error:
            raise UserError(f"the training failed: {error}") from error


def train_model(
    data: Data,
    kind: Kind,
    *,
    seed: int,
    size: Mapping[str, Any],
    training: Mapping[str, Any],
    device: str,
    precision: int,
    checkpoint: Path,
    reporter: Reporter,
    start: Denoiser | None = None,
    title: str = "training the base",
) -> Model:
    """An unconditional model of the data.

    ``start`` are weights to begin with; they decide the size of the network.
    """
    domain = data.domain
    x, cond = domain.encode(data.objects)
    dtype = torch.float64 if precision == 64 else torch.float32
    denoiser = new_denoiser(domain, seed, **size) if start is None else start.requires_grad_(True)
    denoiser = denoiser.to(device, dtype)
    config = fit_config(domain, seed, **training)
    trained = train_denoiser(denoiser, domain, x, cond, config, checkpoint, reporter, title=title)
    return Model(trained, domain, kind, {"data": data.name})


def _noisy(cond: dict[str, Tensor], nu: float, generator: torch.Generator) -> dict[str, Tensor]:
    if "label" not in cond:
        return cond
    label = cond["label"].clone()
    noise = torch.randn(label.shape[0], generator=generator).to(label)
    label[:, 0] += nu * noise
    return {**cond, "label": label}
