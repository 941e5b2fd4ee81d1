"""The training loop: any denoiser, any conditions, resumable to the step.

The loop only draws batches and times, asks the denoiser for its loss and steps an optimiser. What
is learned, and from what, is the denoiser's and the data's business.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from payoff.configs import option, to_dict
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.schedules import Schedule
from payoff.spaces import Condition
from payoff.training.checkpoints import check_same, load_checkpoint, save_checkpoint
from payoff.training.conditional import drop_labels
from payoff.training.processes import ProcessGroup


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass
class FitConfig:
    """Options of :func:`fit`."""

    steps: int = option(5000, "optimiser steps")
    batch_size: int = option(512, "rows a step, over all processes together")
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    weight_decay: float = option(0.0, "decoupled weight decay")
    warmup: int = option(100, "steps of linear warm-up before the cosine decay to zero")
    gradient_clip: float = option(1.0, "largest gradient norm; 0 for none")
    ema_decay: float = option(0.999, "decay of the weight average that is returned; 0 for none")
    log_snr_mean: float = option(1.0, "centre of the noise levels trained on, in log-SNR")
    log_snr_sd: float = option(0.0, "their standard deviation; 0: uniform in time instead")
    label_dropout: float = option(0.1, "share of rows trained without their label")
    seed: int = option(0, "seed of batches, times, noise and label drop-out")
    log_every: int = option(100, "steps between two readings of the loss")
    checkpoint_every: int = option(1000, "steps between two checkpoints, when there is a path")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.label_dropout < 1:
            raise UserError("ema_decay and label_dropout must lie in [0, 1)")


Augment = Callable[[Tensor, dict[str, Tensor], torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""Called as augment(x0, cond, generator) on every batch before its labels are dropped."""

Progress = Callable[[int, int, float], None]
"""Called as progress(step, steps, loss) every ``log_every`` steps."""


def fit(
    denoiser: Denoiser,
    x: Tensor,
    cond: Condition | None = None,
    config: FitConfig | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    weights: Tensor | None = None,
    augment: Augment | None = None,
) -> Denoiser:
    r"""Minimise :math:`E_{x,t,\varepsilon}[\mathrm{loss}]` and return the averaged denoiser.

    Times are stratified over the batch: uniform, or with a normal log-SNR, which spends less on the
    two ends where there is nothing to learn. Batches walk through random permutations of the
    rows. With several processes (``accelerate launch``) every process draws the same global batch
    and takes its slice, so the result does not depend on their number beyond rounding.

    Args:
        denoiser: trained in place; the returned denoiser is a copy with averaged weights.
        x: clean data (n, ...).
        config: how long and how; see :class:`FitConfig`.
        cond: conditions with n rows each. With a ``label`` in it, labels are dropped at
            ``config.label_dropout``.
        checkpoint: a file to write at intervals and on interruption.
        resume: continue from ``checkpoint`` where it exists; the result is the one an uninterrupted
            run gives.
        progress: called every ``log_every`` steps with (step, steps, mean loss since the last).
        augment: changes every batch, such as fresh label noise or a random rotation.
        weights: (n,) non-negative weights of the rows in the loss, normalised to mean 1.

    Raises:
        TrainingDiverged: the loss is no longer finite; the last checkpoint is kept.
    """
    config = config or FitConfig()
    _check_rows(x, cond, weights)
    run = _Run(denoiser, x, dict(cond or {}), config, checkpoint, weights, augment)
    # dropout layers know only the global generator: lend it to them, seeded, and put it back
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if resume and checkpoint is not None and checkpoint.exists():
            run.load()
        try:
            run.loop(progress)
        except KeyboardInterrupt:
            if run.whole:  # in the middle of a step the last checkpoint is the better one
                run.save()
            raise
    return run.result()


class _Run:
    """The state of one training run: everything a checkpoint has to hold."""

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        cond: dict[str, Tensor],
        config: FitConfig,
        checkpoint: Path | None,
        weights: Tensor | None,
        augment: Augment | None,
    ) -> None:
        self.config, self.checkpoint, self.step = config, checkpoint, 0
        self.whole = True  # not in the middle of a step
        self.like = parameter = next(denoiser.parameters())
        self.processes = ProcessGroup(parameter.device)
        self.processes.share_weights(denoiser)
        self.x, self.cond, self.augment = x, cond, augment
        self.weights = None if weights is None else weights / weights.mean()
        self.denoiser = denoiser.train()
        self.generator = torch.Generator().manual_seed(config.seed)
        self.order = torch.empty(0, dtype=torch.long)
        trainable = [p for p in denoiser.parameters() if p.requires_grad]
        if not trainable:
            raise UserError("the model has no trainable parameter: every one is frozen")
        self.trainable = trainable
        self.optimizer = torch.optim.AdamW(
            trainable, config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.average = (
            AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
            if config.ema_decay
            else None
        )

    def loop(self, progress: Progress | None) -> None:
        config, total, seen = self.config, torch.zeros(()), 0
        while self.step < config.steps:
            self.whole = False
            total, seen = total + self._update(), seen + 1
            self.step, self.whole = self.step + 1, True
            if self.step % config.log_every == 0 or self.step == config.steps:
                mean = float(total) / seen
                if not math.isfinite(mean):
                    raise TrainingDiverged(
                        f"the loss became {mean} before step {self.step}: lower learning_rate "
                        f"(now {config.learning_rate:g}) or check the data for extreme values"
                    )
                total, seen = torch.zeros(()), 0
                if progress is not None:
                    progress(self.step, config.steps, mean)
            if self.step % config.checkpoint_every == 0:
                self.save()

    def _update(self) -> Tensor:
        rows = self._next_rows()
        n = rows.numel()
        t = self._times(n)
        x0, cond = self.x[rows], {k: v[rows] for k, v in self.cond.items()}
        if self.augment is not None:
            x0, cond = self.augment(x0, cond, self.generator)
        if "label" in cond and self.config.label_dropout:
            cond = drop_labels(cond, self.config.label_dropout, generator=self.generator)
        rank, world = self.processes.rank, self.processes.world
        mine = slice(rank, None, world)
        noise_seed = int(torch.randint(2**62, (), generator=self.generator))
        noise = torch.Generator().manual_seed(noise_seed + rank)
        part = {k: v[mine] for k, v in cond.items()} or None
        times = t.to(self.like)[mine]  # data may be tokens: their dtype would make every time 0
        losses = self.denoiser.loss(x0[mine], times, part, generator=noise)
        if self.weights is not None:
            losses = losses * self.weights[rows][mine]
        loss = losses.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.average_gradients(self.trainable, loss.detach(), False)
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        if self.average is not None:
            self._average()
        return loss.detach().cpu()

    def _times(self, n: int) -> Tensor:
        # one level per stratum: less variance than n independent draws
        u = (torch.arange(n) + torch.rand(n, generator=self.generator)) / n
        schedule = getattr(self.denoiser.process, "schedule", None)
        if self.config.log_snr_sd == 0 or not isinstance(schedule, Schedule):
            return u
        levels = self.config.log_snr_mean + self.config.log_snr_sd * torch.special.ndtri(u)
        return schedule.time(levels).clamp(0, 1)

    def _average(self) -> None:
        # a short run would remember its random start: ramp the decay up as (1+n)/(10+n)
        assert self.average is not None
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self.average.update_parameters(self.denoiser)

    def _learning_rate(self) -> float:
        config = self.config
        if self.step < config.warmup:
            return config.learning_rate * (self.step + 1) / config.warmup
        done = (self.step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _next_rows(self) -> Tensor:
        size = self.config.batch_size
        while self.order.numel() < size:
            more = torch.randperm(self.x.shape[0], generator=self.generator)
            self.order = torch.cat([self.order, more])
        rows, self.order = self.order[:size], self.order[size:]
        return rows

    def result(self) -> Denoiser:
        source: nn.Module = self.denoiser if self.average is None else self.average.module
        trained = copy.deepcopy(source).eval()
        assert isinstance(trained, Denoiser)
        return trained.requires_grad_(False)

    def save(self) -> None:
        if self.checkpoint is None or not self.processes.first:
            return
        state: dict[str, Any] = {
            "config": to_dict(self.config),
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "order": self.order,
            "global_rng": torch.get_rng_state(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        save_checkpoint(self.checkpoint, state)

    def load(self) -> None:
        assert self.checkpoint is not None
        state = load_checkpoint(self.checkpoint)
        fixed = ("steps", "batch_size", "learning_rate", "ema_decay", "label_dropout", "seed")
        now = {name: getattr(self.config, name) for name in fixed}
        check_same(self.checkpoint, state["config"], now)
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.generator.set_state(state["generator"].cpu())
        self.order, self.step = state["order"].cpu(), state["step"]
        torch.set_rng_state(state["global_rng"].cpu())


def _check_rows(x: Tensor, cond: Condition | None, weights: Tensor | None) -> None:
    if x.shape[0] == 0:
        raise UserError("there is no data to train on: x has 0 rows")
    named = dict(cond or {})
    if weights is not None:
        named["weights"] = weights
    for name, value in named.items():
        if value.shape[0] != x.shape[0]:
            raise UserError(f"{name} has {value.shape[0]} rows, the data have {x.shape[0]}")
