r"""Training the molecule generator, for as long as one likes.

    python -m payoff.domains.molecules.train --out runs/qm9 --resume

The run folder holds ``checkpoint.pt`` (resumable to the step), ``log.jsonl`` (one line per reading
of the loss and per evaluation, with the CPU seconds trained so far) and ``model/`` (the averaged
denoiser, to be loaded with :func:`~payoff.pretrained.from_pretrained`). Ctrl-C and SIGTERM end the
run after a checkpoint.

Several processes share the work where ``torchrun`` or ``accelerate launch`` starts the command; see
:mod:`payoff.domains.molecules.together`.

No length has to be fixed in advance. The learning rate falls as
:math:`\eta/\sqrt{\max(k/k_0, 1)}` and the weights are averaged over a window that grows with the
run: step k counts with weight :math:`k^\gamma`, so the window is a fixed share of the steps so far.

Reference: Analyzing and Improving the Training Dynamics of Diffusion Models (Karras, Aittala,
Lehtinen, Hellsten, Aila, Laine, 2024), equation 123 and section 3.1. Optimiser: Muon: An optimizer
for hidden layers in neural networks (Jordan et al., 2024).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from payoff.configs import from_dict, to_dict
from payoff.denoisers import NetDenoiser
from payoff.domains.molecules.batches import Batches
from payoff.domains.molecules.codecs import CODECS
from payoff.domains.molecules.config import TrainConfig
from payoff.domains.molecules.evaluate import evaluate
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.together import Together
from payoff.errors import UserError
from payoff.nets.equivariant import EquivariantTransformer
from payoff.pretrained import describe, from_pretrained, save_pretrained
from payoff.processes import GaussianProcess
from payoff.schedules import LogLinear
from payoff.training.checkpoints import check_same, load_checkpoint, save_checkpoint

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model"
GAMMA = 6.94  # the averaging window's standard deviation is a tenth of the run


SHAPING = ("codec", "part", "width", "depth", "pair_width", "vectors", "optimizer", "batch_size")
"""Options that a resumed run has to share with its checkpoint."""


def build(config: TrainConfig) -> NetDenoiser:
    """A new denoiser as configured; its weights depend on the seed only."""
    codec = CODECS[config.codec]()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        net = EquivariantTransformer(
            codec.features,
            width=config.width,
            depth=config.depth,
            pair_width=config.pair_width,
            vectors=config.vectors,
        )
    return NetDenoiser(net, GaussianProcess(codec.space, LogLinear(-9.0, 10.0)))


class Run:
    """One training run: its state, a step, and what is written about it.

    Args:
        config: see :class:`TrainConfig`.
        x: encoded molecules (n, N, C).
        mask: which nodes exist (n, N).
        out: the run folder.

    Attributes:
        stopped: whether the loop is to end; interrupted: whether Ctrl-C or SIGTERM said so.
        ended: whether any process of several wants it to.
        together: the processes that share the work.
        heard: called with every line of the log.
    """

    def __init__(self, config: TrainConfig, x: Tensor, mask: Tensor, out: Path) -> None:
        self.config, self.x, self.mask, self.out = config, x, mask, out
        self.step, self.seconds = 0, 0.0
        self.stopped = self.interrupted = self.ended = False
        self.heard: Callable[[dict[str, Any]], None] | None = None
        self.together = Together()
        self.together.check(config.batch_size)
        self.codec = CODECS[config.codec]()
        self.denoiser = build(config)
        self.average = AveragedModel(self.denoiser)
        self.optimizers = _optimizers(self.denoiser, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        sizes = mask.sum(1)
        rounding = int(sizes.max()) if config.codec == "united" else 3
        self.batches = Batches(sizes, config.batch_size, rounding, self.generator)
        if config.compile:
            self.denoiser.net.compile()

    def update(self) -> Tensor:
        """One step; returns its loss, ()."""
        rows, nodes = self.batches.next()
        times, noise, mine = self._times(len(rows)), None, self.together.mine
        if self.together.world > 1:  # what one process would draw, so that the batch is the same
            x, cond = self.x[rows, :nodes], {"mask": self.mask[rows, :nodes]}
            space = self.denoiser.process.space
            noise = mine(space.noise(tuple(x.shape), cond, like=x, generator=self.generator))
            rows, times = mine(rows), mine(times)
        x, cond = self.x[rows, :nodes], {"mask": self.mask[rows, :nodes]}
        drawn: dict[str, Any] = {"generator": self.generator, "noise": noise}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.denoiser.loss(x, times, cond, **drawn)
        loss = loss.mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        wish = self.stopped
        loss, self.ended = self.together.agree(self.denoiser.parameters(), loss.detach(), wish)
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.config.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate()
            optimizer.step()
        self.step += 1
        self.average.multi_avg_fn = get_ema_multi_avg_fn((1 - 1 / self.step) ** (GAMMA + 1))
        self.average.update_parameters(self.denoiser)
        return loss

    def loop(self) -> None:
        """Steps until told to stop, with readings, checkpoints and evaluations on the way."""
        config, began = self.config, time.monotonic()
        saved = evaluated = began
        # CPU time: what else the machine did meanwhile, or a pause, is no training
        total, seen, tick = torch.zeros(()), 0, time.process_time()
        # processes end together: a wish of one is known to all after the next step
        alone = self.together.world == 1
        while not (self.stopped if alone else self.ended) and not 0 < config.steps <= self.step:
            total, seen = total + self.update(), seen + 1
            now, spent = time.monotonic(), time.process_time()
            self.seconds, tick = self.seconds + self.together.world * (spent - tick), spent
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
            if due and self.together.first:
                self.evaluate()
                evaluated, tick = time.monotonic(), time.process_time()
            if now - saved > 60 * config.checkpoint_minutes:
                self.save()
                saved = now
            self.stopped |= 0 < 60 * config.minutes < now - began
        self.save()

    def evaluate(self) -> None:
        """Measure samples of the averaged weights, log the result and export the weights."""
        model = self.averaged()
        began = time.monotonic()
        sizes = self.mask.sum(1)
        found = evaluate(model, self.codec, sizes, self.config.samples)
        self.log(**found, sampling_seconds=time.monotonic() - began)
        self.export(found)

    def export(self, found: dict[str, float]) -> None:
        """Write the averaged weights to ``model/``, with what was measured on them."""
        save_pretrained(self.averaged(), self.out / MODEL, self.metadata(found))

    def averaged(self) -> NetDenoiser:
        """A frozen copy of the denoiser with averaged weights."""
        model = copy.deepcopy(self.average.module).eval().requires_grad_(False)
        assert isinstance(model, NetDenoiser)
        return model

    def metadata(self, found: dict[str, float]) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {
            "data": f"QM9, {self.config.part}",
            "codec": {"name": self.config.codec, **dataclasses.asdict(self.codec)},
            "sizes": torch.bincount(self.mask.sum(1)).tolist(),
            "steps": self.step,
            "cpu_hours": round(self.seconds / 3600, 3),
            "training": to_dict(self.config),
            "metrics": found,
        }

    def log(self, **reading: float) -> None:
        """Append a line to the log; the first process does."""
        if not self.together.first:
            return
        line = {"step": self.step, "seconds": round(self.seconds, 1), **reading}
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.heard is not None:
            self.heard(line)

    def begin_from(self, name: str) -> None:
        """Take exported weights as the first ones, and as the average so far.

        Raises:
            UserError: there are none, or they are of another network.
        """
        found = from_pretrained(name)
        mine, theirs = describe(self.denoiser), describe(found)
        if mine != theirs:
            nets = mine.get("net", {}), theirs.get("net", {})
            differs = sorted(k for k in nets[0] if nets[0][k] != nets[1].get(k))
            told = ", ".join(
                f"{k} = {nets[1].get(k)} where {nets[0][k]} is asked for" for k in differs
            )
            raise UserError(
                f"--start {name}: the weights are of another network ({told or 'another class'}): "
                "give the options that they were trained with"
            )
        self.denoiser.load_state_dict(found.state_dict())
        self.average.module.load_state_dict(found.state_dict())

    def save(self) -> None:
        """Write the checkpoint; the first process does."""
        if not self.together.first:
            return
        state = {
            "config": to_dict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "denoiser": self.denoiser.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "batches": self.batches.state(),
        }
        save_checkpoint(self.out / CHECKPOINT, state)

    def load(self) -> None:
        """Continue from the checkpoint, and drop log lines that came after it."""
        state = load_checkpoint(self.out / CHECKPOINT)
        now = {name: getattr(self.config, name) for name in SHAPING}
        check_same(self.out / CHECKPOINT, state["config"], now)
        self.denoiser.load_state_dict(state["denoiser"])
        self.average.load_state_dict(state["average"])
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.generator.set_state(state["generator"])
        self.batches.restore(state["batches"])
        self.step, self.seconds = state["step"], state["seconds"]
        if (self.out / LOG).exists() and self.together.first:
            lines = (self.out / LOG).read_text().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            (self.out / LOG).write_text("".join(kept))

    def _times(self, n: int) -> Tensor:
        """Stratified times whose log-SNR is normal, (n,), in random order."""
        u = (torch.randperm(n, generator=self.generator) + 0.5 * torch.ones(n)) / n
        u = u + (torch.rand(n, generator=self.generator) - 0.5) / n
        levels = self.config.log_snr_mean + self.config.log_snr_sd * torch.special.ndtri(u)
        return self.denoiser.process.schedule.time(levels).clamp(0, 1)

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return self.config.learning_rate * warm / math.sqrt(max(1, self.step / self.config.hold))


def _optimizers(denoiser: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
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


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    heard: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Train in ``out`` until the configured end, Ctrl-C or SIGTERM.

    Args:
        config: see :class:`TrainConfig`.
        out: the run folder.
        resume: continue from its checkpoint where there is one.
        heard: called with every line of the log.

    Raises:
        UserError: the folder holds another run and ``resume`` is false, an option cannot work, or
            QM9 is missing.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise UserError(f"{out} already holds a run: add --resume to continue it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder")
    data = load_qm9()
    rows = split(config.part, len(data))
    if config.batch_size > len(rows):
        raise UserError(f"batch_size {config.batch_size} is more than the {len(rows)} molecules")
    x, cond = CODECS[config.codec]().encode(data.molecules(rows))
    try:
        run = Run(config, x, cond["mask"], out)
    except ValueError as error:  # the network's own rules, such as widths by the heads
        raise UserError(str(error)) from error
    if (out / CHECKPOINT).exists():
        run.load()
    elif config.start:
        run.begin_from(config.start)
    run.heard = heard
    out.mkdir(parents=True, exist_ok=True)

    def stop(number: int, frame: Any) -> None:
        run.stopped = run.interrupted = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run.loop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return run


def main(arguments: list[str] | None = None) -> None:
    """The command; every option of :class:`TrainConfig` is a flag."""
    parser = argparse.ArgumentParser(prog="python -m payoff.domains.molecules.train")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    for field in dataclasses.fields(TrainConfig):
        kind: Any = type(field.default)
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, default=field.default, help=field.metadata["help"], **action)
    given = vars(parser.parse_args(arguments))
    out, resume = given.pop("out"), given.pop("resume")
    try:
        train(from_dict(TrainConfig, given), out, resume=resume)
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
