r"""Training the molecule generator, for as long as one likes.

    python -m payoff.domains.molecules.train --out runs/qm9 --resume

The run folder holds ``checkpoint.pt`` (resumable to the step), ``log.jsonl`` (one line per reading
of the loss and per evaluation, with the CPU seconds trained so far) and ``model/`` (the averaged
denoiser, to be loaded with :func:`~payoff.pretrained.from_pretrained`). Ctrl-C and SIGTERM end the
run after a checkpoint. Rates and averages: see :mod:`payoff.training.loop`.

With a label the network learns :math:`p(x\mid y)`, y standardised, and for the share
``label_dropout`` of the molecules :math:`p(x)`, so that
:class:`~payoff.guidance.ClassifierFree` can be used. With several it learns :math:`p(x\mid y_S)`
for every subset S of them; see :func:`~payoff.training.conditional.drop_columns`. Labels come from
the data or, as in RCGDM, from a learned reward (``labels`` of :class:`Run`); noise ν on them, drawn
anew in every batch, gives :math:`p(x\mid y)` a density where y is a function of x.

Several processes share the work where ``torchrun`` or ``accelerate launch`` starts the command; see
:mod:`payoff.training.processes`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from payoff.configs import to_dict
from payoff.denoisers import Denoiser, NetDenoiser
from payoff.domains.molecules.codecs import CODECS, Codec
from payoff.domains.molecules.config import TrainConfig
from payoff.domains.molecules.evaluate import evaluate
from payoff.domains.molecules.program import command
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.nets.equivariant import EquivariantTransformer
from payoff.pretrained import describe, from_pretrained, save_pretrained
from payoff.processes import GaussianProcess
from payoff.schedules import Schedule, Sinh
from payoff.training.labels import Labels
from payoff.training.loop import (
    CHECKPOINT,
    GAMMA,
    LOG,
    MODEL,
    Loop,
    refuse_folder,
)

__all__ = ["CHECKPOINT", "GAMMA", "LOG", "MODEL", "Run", "TrainConfig", "build", "train"]

SHAPING = (
    *("codec", "part", "label", "width", "depth", "pair_width", "vectors"),
    *("optimizer", "batch_size"),
)
"""Options that a resumed run has to share with its checkpoint."""


SCHEDULE: Schedule = Sinh(-9.0, 10.0, centre=3.0, width=2.0)
"""Half of a sampler's steps lie between log-SNR -0.7 and 4.9, where atoms and bonds are decided."""


def build(config: TrainConfig, label_dim: int = 0, codec: Codec | None = None) -> NetDenoiser:
    """A new denoiser as configured, by default of QM9; its weights depend on the seed only."""
    codec = codec or CODECS[config.codec]()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        net = EquivariantTransformer(
            codec.features,
            width=config.width,
            depth=config.depth,
            pair_width=config.pair_width,
            vectors=config.vectors,
            label_dim=label_dim,
            label_flags="column" if label_dim > 1 else "row",
        )
    return NetDenoiser(net, GaussianProcess(codec.space, SCHEDULE))


class Run(Loop):
    """One training run of a generator; see :class:`~payoff.training.loop.Loop`.

    Args:
        config: see :class:`TrainConfig`.
        x: encoded molecules (n, N, C).
        mask: which nodes exist (n, N).
        out: the run folder.
        labels: (n,) or (n, k), what molecules are labelled with, in its own unit; None = nothing.
        codec: what x is encoded by, of the kind that the options name; by default QM9's.
    """

    shaping = SHAPING

    def __init__(
        self,
        config: TrainConfig,
        x: Tensor,
        mask: Tensor,
        out: Path,
        labels: Tensor | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.config, self.x, self.mask = config, x, mask
        self.codec = codec or CODECS[config.codec]()
        self.told = None if labels is None else Labels(config.label_names, labels, x)
        self.denoiser = build(config, 0 if self.told is None else self.told.count, self.codec)
        sizes = mask.sum(1)
        rounding = int(sizes.max()) if config.codec == "united" else 3
        super().__init__(config, self.denoiser, sizes, rounding, out)
        if config.compile:
            self.denoiser.net.compile()

    @property
    def labels(self) -> Tensor | None:
        """The standardised labels, (n,) or, of several, (n, k)."""
        return None if self.told is None else self.told.values

    @property
    def location(self) -> float:
        """The mean of the one label; 0 without. Those of several are in ``told.scales``."""
        return 0.0 if self.told is None else float(self.told.scales.location)

    @property
    def spread(self) -> float:
        """The standard deviation of the one label; 1 without."""
        return 1.0 if self.told is None else float(self.told.scales.spread)

    def trained(self) -> nn.Module:
        return self.denoiser

    def loss(self) -> Tensor:
        rows, nodes = self.batches.next()
        times, noise, mine = self._times(len(rows)), None, self.processes.local_rows
        told = self._labelled(rows)
        if self.processes.world > 1:  # what one process would draw, so that the batch is the same
            x, cond = self.x[rows, :nodes], {"mask": self.mask[rows, :nodes]}
            space = self.denoiser.process.space
            noise = mine(space.noise(tuple(x.shape), cond, like=x, generator=self.generator))
            rows, times = mine(rows), mine(times)
            told = {name: mine(value) for name, value in told.items()}
        x, cond = self.x[rows, :nodes], {"mask": self.mask[rows, :nodes], **told}
        drawn: dict[str, Any] = {"generator": self.generator, "noise": noise}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.denoiser.loss(x, times, cond, **drawn)

    def _labelled(self, rows: Tensor) -> dict[str, Tensor]:
        """Labels (n, k) with their noise, and which of them are told; nothing without labels."""
        if self.told is None:
            return {}
        config = self.config
        shares = config.label_noise, config.label_dropout, config.label_alone
        return self.told.draw(rows, *shares, generator=self.generator)

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
        model = self.frozen()
        assert isinstance(model, NetDenoiser)
        return model

    def metadata(self, found: dict[str, float]) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {
            "data": f"QM9, {self.config.part}",
            **({} if self.told is None else {"label": self.told.scales.facts()}),
            "codec": {"name": self.config.codec, **dataclasses.asdict(self.codec)},
            "sizes": torch.bincount(self.mask.sum(1)).tolist(),
            "steps": self.step,
            "cpu_hours": round(self.seconds / 3600, 3),
            "training": to_dict(self.config),
            "metrics": found,
        }

    def begin_from(self, name: str) -> None:
        """Take exported weights as the first ones, and as the average so far.

        Raises:
            UserError: there are none, or they are of another network.
        """
        self.begin_from_denoiser(from_pretrained(name), name)

    def begin_from_denoiser(self, found: Denoiser, name: str) -> None:
        """:meth:`begin_from` with weights that are loaded already, called ``name`` in messages."""
        mine, theirs = describe(self.denoiser), describe(found)
        state = dict(found.state_dict())
        if {"process", "net"} <= set(theirs):
            # the network reads the log-SNR, so that its weights serve any schedule
            theirs["process"]["schedule"] = mine["process"]["schedule"]
        if self.labels is not None and "net" in theirs and not theirs["net"].get("label_dim"):
            # labels are read through new columns, and as if they were not there at first
            theirs["net"] |= {k: mine["net"][k] for k in ("label_dim", "label_flags")}
            wide = self.denoiser.net.embed[0].weight  # type: ignore[union-attr, index]
            first = state["net.embed.0.weight"]
            missing = wide.shape[1] - first.shape[1]
            state["net.embed.0.weight"] = torch.nn.functional.pad(first, (0, missing))
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
        self.denoiser.load_state_dict(state)
        self.average.module.load_state_dict(state)

    def _times(self, n: int) -> Tensor:
        """Stratified times whose log-SNR is normal, (n,), in random order."""
        u = (torch.randperm(n, generator=self.generator) + 0.5 * torch.ones(n)) / n
        u = u + (torch.rand(n, generator=self.generator) - 0.5) / n
        levels = self.config.log_snr_mean + self.config.log_snr_sd * torch.special.ndtri(u)
        return self.denoiser.process.schedule.time(levels).clamp(0, 1)


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
    refuse_folder(out, resume=resume)
    data = load_qm9()
    rows = split(config.part, len(data))
    if config.batch_size > len(rows):
        raise UserError(f"batch_size {config.batch_size} is more than the {len(rows)} molecules")
    columns = [data.column(name)[rows] for name in config.label_names]
    labels = torch.stack(columns, dim=1) if columns else None
    x, cond = CODECS[config.codec]().encode(data.molecules(rows))
    try:
        run = Run(config, x, cond["mask"], out, labels)
    except ValueError as error:  # the network's own rules, such as widths by the heads
        raise UserError(str(error)) from error
    if config.start and not (out / CHECKPOINT).exists():
        run.begin_from(config.start)
    run.to_the_end(heard)
    return run


def main(arguments: list[str] | None = None) -> None:
    """The command; every option of :class:`TrainConfig` is a flag."""
    command("payoff.domains.molecules.train", TrainConfig, train, arguments)


if __name__ == "__main__":
    main()
