r"""The training of a guide: a network of the kind reads a score off noised samples.

It gives mean and variance of the standardised score at every noise level; see
:class:`~payoff.values.LabelLikelihood`. Levels are drawn as a sampler visits them, uniformly in its
time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from payoff.denoisers import Denoiser
from payoff.domains.base import Domain
from payoff.errors import UserError
from payoff.guidance.base import gaussian_process
from payoff.jobs.records import STATE, RunFolder
from payoff.training.labels import Scales
from payoff.training.loop import CHECKPOINT, Loop
from payoff.values import LabelLikelihood

COMPILED = 1000  # steps from which compiling a network takes less time than it saves
BETA = 0.5  # between maximum likelihood (0) and least squares for the means (1)


@dataclass
class GuideSettings:
    """Settings of the loop, see :class:`payoff.training.loop.LoopOptions`."""

    batch_size: int = 128
    seed: int = 0
    steps: int = 4000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    hold: int = 10_000
    warmup: int = 300
    optimizer: str = "muon"
    gradient_clip: float = 2.0
    minutes: float = 0.0
    log_every: int = 50
    checkpoint_minutes: float = 5.0
    evaluate_minutes: float = 0.0

    def __post_init__(self) -> None:
        self.warmup = min(self.warmup, self.steps)
        self.log_every = min(self.log_every, self.steps)


class GuideTraining(Loop):
    """The training of one guide.

    Args:
        settings: of the loop.
        domain: of the objects; it changes batches as the kind allows.
        value: log p(score | x_t), untrained.
        x: encoded objects (n, ...).
        cond: their conditions, n rows each.
        targets: standardised scores (n, 1).
        state: folder of the checkpoint.
    """

    shaping = ("optimizer", "batch_size")

    def __init__(
        self,
        settings: GuideSettings,
        domain: Domain,
        value: LabelLikelihood,
        x: Tensor,
        cond: Mapping[str, Tensor],
        targets: Tensor,
        state: Path,
    ) -> None:
        self.domain, self.value, self.peak = domain, value, settings.learning_rate
        self.x, self.cond, self.targets = x, dict(cond), targets
        mask = cond.get("mask")
        sizes = torch.ones(len(x), dtype=torch.long) if mask is None else mask.sum(1)
        super().__init__(settings, value, sizes, int(sizes.max()), state)

    def trained(self) -> nn.Module:
        return self.value

    def evaluate(self) -> None:
        """Measure nothing: the run judges what the guide leads to."""

    def loss(self) -> Tensor:
        rows, most = self.batches.next()
        x, cond = self.x[rows], {name: value[rows] for name, value in self.cond.items()}
        if "mask" in cond:  # no more rows than the largest set of the batch has
            x, cond["mask"] = x[:, :most], cond["mask"][:, :most]
        x, cond = self.domain.augment(x, cond, self.generator)
        u = torch.randperm(len(rows), generator=self.generator)
        times = (u + torch.rand(len(rows), generator=self.generator)) / len(rows)  # stratified
        # every process draws what one alone would draw, so that the batch is the same
        space, mine = self.value.process.space, self.processes.local_rows
        noise = mine(space.noise(tuple(x.shape), cond, like=x, generator=self.generator))
        cond = {name: mine(value) for name, value in cond.items()}
        targets = mine(self.targets[rows])
        with torch.autocast("cpu", torch.bfloat16):
            return self.value.loss(mine(x), targets, mine(times), cond, noise=noise)

    def _learning_rate(self) -> float:
        steps, warm = self.settings.steps, min(1.0, (self.step + 1) / self.settings.warmup)
        return self.peak * warm * (1 - self.step / steps)


def train_guide(
    domain: Domain,
    base: Denoiser,
    objects: Any,
    scores: Tensor,
    folder: RunFolder,
    advance: Callable[[int], None],
    *,
    size: Mapping[str, Any],
    batch_size: int,
    **settings: Any,
) -> tuple[LabelLikelihood, dict[str, float]]:
    """Train a guide on objects with scores (n,), continued from the run's state.

    Args:
        domain: of the objects.
        base: the denoiser that the guide is for; its noise process is the guide's.
        objects: to learn from.
        scores: theirs.
        folder: of the run.
        advance: called with the steps done.
        size: of the network, for :meth:`Domain.reader`.
        batch_size: objects a step.
        settings: further ones of :class:`GuideSettings`.

    Returns:
        the guide, and location and spread of the scores.

    Raises:
        UserError: the network's own rules do not allow its size, or the training diverged.
        KeyboardInterrupt: it was stopped; a checkpoint is kept.
    """
    x, cond = domain.encode(objects)
    options = GuideSettings(batch_size=min(batch_size, len(x)), **settings)
    scales = Scales.fitting(("score",), scores.unsqueeze(1))
    targets = scales.standardised(scores.unsqueeze(1).double()).to(x)
    net = _reader(domain, options.seed, size)
    value = LabelLikelihood(net, gaussian_process(base, "a guide"), 1, beta=BETA)
    state = folder.path / STATE
    state.mkdir(exist_ok=True)
    training = GuideTraining(options, domain, value, x, cond, targets, state)
    if options.steps >= COMPILED and any(shutil.which(name) for name in ("g++", "clang++")):
        net.compile()
    if (state / CHECKPOINT).exists():
        training.load()
    training.heard = lambda line: advance(int(line["step"]))
    try:
        training.until_stopped()
    except RuntimeError as error:
        if "the loss became" not in str(error):
            raise
        raise UserError(f"the training failed: {error}") from error
    if training.interrupted:
        raise KeyboardInterrupt
    found = training.frozen()
    assert isinstance(found, LabelLikelihood)
    return found, {"location": float(scales.location), "spread": float(scales.spread)}


def _reader(domain: Domain, seed: int, size: Mapping[str, Any]) -> nn.Module:
    """An untrained network that reads mean and variance; its weights depend on the seed only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            net = domain.reader(2, **size)
        except ValueError as error:
            raise UserError(str(error)) from error
    assert net is not None
    return net
