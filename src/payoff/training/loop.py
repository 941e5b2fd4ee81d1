r"""The loop of long trainings: steps, readings, checkpoints, an average of weights.

No length has to be fixed in advance. The learning rate falls as
:math:`\eta/\sqrt{\max(k/k_0, 1)}` and the weights are averaged over a window that grows with the
run: step k counts with weight :math:`k^\gamma`, so the window is a fixed share of the steps so far.

Reference: Analyzing and Improving the Training Dynamics of Diffusion Models (Karras, Aittala,
Lehtinen, Hellsten, Aila, Laine, 2024), equation 123 and section 3.1. Optimiser: Muon: An optimizer
for hidden layers in neural networks (Jordan et al., 2024).
"""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from payoff.configs import to_dict
from payoff.errors import UserError
from payoff.training.batches import Batches
from payoff.training.checkpoints import check_same, load_checkpoint, save_checkpoint
from payoff.training.processes import ProcessGroup

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model"
GAMMA = 6.94  # the averaging window's standard deviation is a tenth of the run


class LoopOptions(Protocol):
    """Options that the loop reads, whatever else a training has."""

    batch_size: int
    learning_rate: float
    hold: int
    warmup: int
    optimizer: str
    weight_decay: float
    gradient_clip: float
    seed: int
    steps: int
    minutes: float
    log_every: int
    checkpoint_minutes: float
    evaluate_minutes: float


class Loop(ABC):
    """A network in training: its state, a step, and what is written about it.

    Args:
        config: a dataclass with the fields of :class:`LoopOptions`.
        denoiser: what is trained; a denoiser, or what shares its loop.
        sizes: nodes, such as atoms, of each object (n,).
        rounding: see :class:`~payoff.training.batches.Batches`.
        out: the run folder.

    Attributes:
        shaping: options that a resumed run has to share with its checkpoint.
        stopped: whether the loop is to end; interrupted: whether Ctrl-C or SIGTERM said so.
        ended: whether any process of several wants it to.
        processes: the processes that share the work.
        heard: called with every line of the log.
    """

    shaping: tuple[str, ...] = ()

    def __init__(
        self, config: LoopOptions, denoiser: nn.Module, sizes: Tensor, rounding: int, out: Path
    ) -> None:
        self.out = out
        self.settings = config
        self.step, self.seconds = 0, 0.0
        self.stopped = self.interrupted = self.ended = False
        self.heard: Callable[[dict[str, Any]], None] | None = None
        self.processes = ProcessGroup()
        self.processes.check(config.batch_size)
        self.average = AveragedModel(denoiser)
        self.optimizers = _optimizers(denoiser, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = Batches(sizes, config.batch_size, rounding, self.generator)

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of the next batch, (rows,)."""

    @abstractmethod
    def evaluate(self) -> None:
        """Measure the averaged weights, log the result and export them."""

    @abstractmethod
    def trained(self) -> nn.Module:
        """What is trained."""

    def update(self) -> Tensor:
        """One step; returns its loss, ()."""
        loss, trained = self.loss().mean(), self.trained()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        wish = self.stopped
        loss, self.ended = self.processes.average_gradients(
            trained.parameters(), loss.detach(), wish
        )
        nn.utils.clip_grad_norm_(trained.parameters(), self.settings.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate()
            optimizer.step()
        self.step += 1
        self.average.multi_avg_fn = get_ema_multi_avg_fn((1 - 1 / self.step) ** (GAMMA + 1))
        self.average.update_parameters(trained)
        return loss

    def to_the_end(self, heard: Callable[[dict[str, Any]], None] | None = None) -> None:
        """From the checkpoint, where there is one, until the configured end or a signal."""
        if (self.out / CHECKPOINT).exists():
            self.load()
        self.heard = heard
        self.out.mkdir(parents=True, exist_ok=True)
        self.until_stopped()

    def facts(self, data: str, found: dict[str, float]) -> dict[str, Any]:
        """What is kept beside the weights: the data's name, the effort, and what was measured."""
        return {
            "data": data,
            "steps": self.step,
            "cpu_hours": round(self.seconds / 3600, 3),
            "training": to_dict(self.settings),
            "metrics": found,
        }

    def loop(self) -> None:
        """Steps until told to stop, with readings, checkpoints and evaluations on the way."""
        config, began = self.settings, time.monotonic()
        saved = evaluated = began
        # CPU time: what else the machine did meanwhile, or a pause, is no training
        total, seen, tick = torch.zeros(()), 0, time.process_time()
        # processes end together: a wish of one is known to all after the next step
        alone = self.processes.world == 1
        while not (self.stopped if alone else self.ended) and not 0 < config.steps <= self.step:
            total, seen = total + self.update(), seen + 1
            now, spent = time.monotonic(), time.process_time()
            self.seconds, tick = self.seconds + self.processes.world * (spent - tick), spent
            if seen == config.log_every:
                loss = float(total) / seen
                if not math.isfinite(loss):
                    raise RuntimeError(
                        f"the loss became {loss} before step {self.step}: resume from "
                        f"{self.out / CHECKPOINT} with a lower learning rate"
                    )
                self.log(loss=loss, learning_rate=self._learning_rate())
                total, seen = torch.zeros(()), 0
            due = config.evaluate_minutes and now - evaluated > 60 * config.evaluate_minutes
            if due and self.processes.first:
                self.evaluate()
                evaluated, tick = time.monotonic(), time.process_time()
            if now - saved > 60 * config.checkpoint_minutes:
                self.save()
                saved = now
            self.stopped |= 0 < 60 * config.minutes < now - began
        self.save()

    def log(self, **reading: float) -> None:
        """Append a line to the log; the first process does."""
        if not self.processes.first:
            return
        line = {"step": self.step, "seconds": round(self.seconds, 1), **reading}
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.heard is not None:
            self.heard(line)

    def save(self) -> None:
        """Write the checkpoint; the first process does."""
        if not self.processes.first:
            return
        state = {
            "config": to_dict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "denoiser": self.trained().state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "batches": self.batches.state(),
        }
        save_checkpoint(self.out / CHECKPOINT, state)

    def load(self) -> None:
        """Continue from the checkpoint, and drop log lines that came after it."""
        state = load_checkpoint(self.out / CHECKPOINT)
        # an option that is younger than the checkpoint had its default
        made_with = {**to_dict(type(self.settings)()), **state["config"]}
        now = {name: getattr(self.settings, name) for name in self.shaping}
        check_same(self.out / CHECKPOINT, made_with, now)
        self.trained().load_state_dict(state["denoiser"])
        self.average.load_state_dict(state["average"])
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.generator.set_state(state["generator"])
        self.batches.restore(state["batches"])
        self.step, self.seconds = state["step"], state["seconds"]
        if (self.out / LOG).exists() and self.processes.first:
            lines = (self.out / LOG).read_text().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            (self.out / LOG).write_text("".join(kept))

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.settings.warmup)
        return (
            self.settings.learning_rate * warm / math.sqrt(max(1, self.step / self.settings.hold))
        )

    def frozen(self) -> nn.Module:
        """A frozen copy of what is trained, with averaged weights."""
        return copy.deepcopy(self.average.module).eval().requires_grad_(False)

    def until_stopped(self) -> None:
        """:meth:`loop`, ended by Ctrl-C and SIGTERM after a checkpoint."""

        def stop(number: int, frame: Any) -> None:
            self.stopped = self.interrupted = True

        ends = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in ends}
        try:
            self.loop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _optimizers(denoiser: nn.Module, config: LoopOptions) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices and AdamW for everything else, or AdamW alone."""
    rest: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    for name, parameter in denoiser.named_parameters():
        hidden = parameter.ndim == 2 and ".blocks." in name and config.optimizer == "muon"
        (matrices if hidden else rest).append(parameter)
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, betas=(0.9, 0.99), fused=True, **settings)
    ]
    if matrices:
        muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)
        found.append(muon)
    return found


def refuse_folder(out: Path, *, resume: bool) -> None:
    """Raise a UserError if a run cannot be made, or taken up with ``resume``, in a folder."""
    if (out / CHECKPOINT).exists() and not resume:
        raise UserError(f"{out} already holds a run: add --resume to continue it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder")
