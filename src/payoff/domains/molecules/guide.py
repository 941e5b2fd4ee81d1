r"""Guides: networks that read properties off noised molecules, to condition a generator on them.

A guide gives mean and variance of the properties y of a molecule that is seen through noise, in the
atoms (codec) and the noise (process) of a generator. Its
:class:`~payoff.values.LabelLikelihood` turns any generator of that kind into one of
:math:`p(x\mid y)`, see :mod:`payoff.domains.molecules.guided`.

    python -m payoff.domains.molecules.guide --steps 10000 --out runs/guide

Levels of noise are drawn as a sampler visits them, uniformly in its time.

Reference: Diffusion Models Beat GANs on Image Synthesis (Dhariwal, Nichol, 2021), section 4.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from payoff.domains.molecules.codecs import CODECS, Codec
from payoff.domains.molecules.config import GuideConfig
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.program import command
from payoff.domains.molecules.qm9 import labelled, load_qm9
from payoff.errors import UserError
from payoff.guidance.base import gaussian_process
from payoff.nets.invariant import InvariantTransformer
from payoff.pretrained import CONFIG, build, describe, find_beside, read_weights, write_module
from payoff.training.labels import Scales
from payoff.training.loop import MODEL, Loop, refuse_folder
from payoff.values import LabelLikelihood
from payoff.values.label import log_normal

GUIDE = "guide"  # the folder beside shipped weights
CHUNK = 500  # molecules evaluated at once
LEVELS = (-2.0, 0.0, 2.0, 4.0, 6.0, 10.0)
"""The log-SNRs at which a guide in training is measured."""


@dataclass(frozen=True)
class LabelGuide:
    """A trained guide.

    Attributes:
        value: log p(y | x_t) of standardised properties.
        codec: molecules <-> tensors.
        scales: names of the properties, and what standardises them.
        metadata: what else was saved beside the weights.
    """

    value: LabelLikelihood
    codec: Codec
    scales: Scales
    metadata: dict[str, Any]

    def save_pretrained(self, folder: str | Path, half: str | None = None) -> Path:
        """Write ``model.safetensors`` and ``config.json``; the weights first, each whole.

        ``half``: see :func:`~payoff.pretrained.save_pretrained`.
        """
        name = next(key for key, cls in CODECS.items() if type(self.codec) is cls)
        config = {
            "guide": describe(self.value),
            "codec": {"name": name, **dataclasses.asdict(self.codec)},
            "label": self.scales.facts(),
            "metadata": self.metadata,
        }
        return write_module(self.value, folder, config, half)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LabelGuide:
        """The inverse of :meth:`save_pretrained`; a run folder means its ``model/``.

        The name of shipped weights means the guide that comes with them.

        Raises:
            UserError: there is no guide, or its files are damaged.
        """
        here = find_beside(folder, GUIDE)
        here = here if (here / CONFIG).exists() else here / MODEL
        try:
            config = json.loads((here / CONFIG).read_text())
            value = build(config["guide"])
            codec = dict(config["codec"])
            kind = CODECS[codec.pop("name")]
            codec["elements"] = tuple(codec["elements"])
            value.load_state_dict(read_weights(here, config))
            scales = Scales.read(config, str(here))
            if not isinstance(value, LabelLikelihood) or value.labels != len(scales.names):
                raise ValueError("it describes something else")
            made = cls(value.eval().requires_grad_(False), kind(**codec), scales, {})
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} holds no guide ({Path(str(error.filename)).name} is missing): train one "
                "with python -m payoff.domains.molecules.guide"
            ) from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{here} holds no guide that loads: {error}") from error
        made.metadata.update(config.get("metadata") or {})
        return made

    @torch.no_grad()
    def errors(
        self, molecules: Sequence[Molecule], values: Tensor, log_snr: float, *, seed: int = 0
    ) -> tuple[Tensor, float]:
        """At one level of noise, on molecules whose properties are (n, k) in their units.

        Returns:
            the mean absolute error of each (k,), in its unit; the mean negative log-likelihood of
            a standardised property, in nats.
        """
        generator, process = torch.Generator().manual_seed(seed), self.value.process
        t = process.schedule.time(torch.tensor(log_snr)).clamp(0, 1)
        gaps, logs = [], []
        for rows in torch.arange(len(molecules)).split(CHUNK):
            x, cond = self.codec.encode([molecules[i] for i in rows.tolist()])
            y = self.scales.standardised(values[rows]).to(x)
            mean, variance = self.value.moments(
                process.corrupt(x, t, cond, generator=generator), t, cond
            )
            gaps.append((mean - y).abs())
            logs.append(-log_normal(y, mean, variance))
        error = torch.cat(gaps).mean(0) * self.scales.spread.to(gaps[0])
        return error, float(torch.cat(logs).mean())


class GuideRun(Loop):
    """One training run of a guide.

    Args:
        config: see :class:`~payoff.domains.molecules.config.GuideConfig`.
        model: the generator that the guide is for: its codec and its process.
        x, mask: the molecules that are learned from, encoded (n, N, 3 + features), (n, N).
        values: their properties (n, k), in the properties' units.
        out: the run folder.
        held: molecules and values (m, k) that the errors are measured on, or None.
    """

    shaping = (
        *("model", "properties", "part", "beta", "width", "depth", "pair_width", "vectors"),
        *("optimizer", "batch_size"),
    )

    def __init__(
        self,
        config: GuideConfig,
        model: MoleculeModel,
        x: Tensor,
        mask: Tensor,
        values: Tensor,
        out: Path,
        held: tuple[Sequence[Molecule], Tensor] | None = None,
    ) -> None:
        self.config, self.held, self.codec = config, held, model.codec
        self.x, self.mask = x, mask
        self.scales = Scales.fitting(config.names, values)
        self.targets = self.scales.standardised(values.double()).to(self.x)
        self.process = gaussian_process(model.denoiser, "a guide")
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            widths = {"pair_width": config.pair_width, "vectors": config.vectors}
            net = InvariantTransformer(
                self.codec.features, 2 * len(config.names), config.width, config.depth, **widths
            )
        self.value = LabelLikelihood(net, self.process, len(config.names), beta=config.beta)
        sizes = self.mask.sum(1)
        super().__init__(config, self.value, sizes, int(sizes.max()), out)
        if config.compile:
            self.value.net.compile()

    def trained(self) -> nn.Module:
        return self.value

    def loss(self) -> Tensor:
        rows, nodes = self.batches.next()
        x, cond = self.x[rows, :nodes], {"mask": self.mask[rows, :nodes]}
        times = self._times(len(rows))
        # every process draws what one alone would draw, so that the batch is the same
        shape = tuple(x.shape)
        noise = self.process.space.noise(shape, cond, like=x, generator=self.generator)
        mine = self.processes.local_rows
        x, targets, times, noise = mine(x), mine(self.targets[rows]), mine(times), mine(noise)
        cond = {"mask": mine(cond["mask"])}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.value.loss(x, targets, times, cond, noise=noise)

    def _times(self, n: int) -> Tensor:
        """Stratified times, uniform in [0, 1], (n,), in random order."""
        u = torch.randperm(n, generator=self.generator)
        return (u + torch.rand(n, generator=self.generator)) / n

    def _learning_rate(self) -> float:
        steps, peak = self.config.steps, self.config.learning_rate
        if not (steps and self.config.decay):
            return super()._learning_rate()
        return peak * min(1.0, (self.step + 1) / self.config.warmup) * (1 - self.step / steps)

    def averaged(self, metadata: dict[str, Any] | None = None) -> LabelGuide:
        """The guide of a frozen copy with averaged weights."""
        value = self.frozen()
        assert isinstance(value, LabelLikelihood)
        return LabelGuide(value, self.codec, self.scales, metadata or {})

    def errors(self) -> dict[str, float]:
        """Mean absolute errors by property and log-SNR, in its unit, and the likelihood."""
        found: dict[str, float] = {}
        if self.held is None:
            return found
        guide = self.averaged()
        for level in LEVELS:
            each, nats = guide.errors(*self.held, level)
            told = zip(self.scales.names, each.tolist(), strict=True)
            found |= {f"mae_{name}_{level:g}": error for name, error in told}
            found[f"nll_{level:g}"] = nats
        return found

    def evaluate(self) -> None:
        found = self.errors()
        self.log(**found)
        self.export(found)

    def export(self, found: dict[str, float]) -> None:
        """Write the averaged guide to ``model/`` with what was measured on it."""
        facts = self.facts(f"QM9, {self.config.part}", found)
        self.averaged(facts).save_pretrained(self.out / MODEL)


def train(
    config: GuideConfig,
    out: Path,
    *,
    resume: bool = False,
    heard: Callable[[dict[str, Any]], None] | None = None,
) -> GuideRun:
    """Train on QM9 in ``out`` until the configured end, Ctrl-C or SIGTERM, and export.

    Raises:
        UserError: the folder holds another run and ``resume`` is false, or an option cannot work.
    """
    refuse_folder(out, resume=resume)
    model, data = MoleculeModel.load(config.model), load_qm9()
    molecules, values = labelled(data, config.names, config.part)
    if config.batch_size > len(molecules):
        raise UserError(
            f"batch_size {config.batch_size} is more than the {len(molecules)} molecules"
        )
    held = labelled(data, config.names, "valid", config.samples)
    x, cond = model.codec.encode(molecules)
    try:
        run = GuideRun(config, model, x, cond["mask"], values, out, held)
    except ValueError as error:  # the network's own rules, such as widths by the heads
        raise UserError(str(error)) from error
    run.to_the_end(heard)
    if run.processes.first:
        run.evaluate()
    return run


def main(arguments: list[str] | None = None) -> None:
    """The command; every option of :class:`GuideConfig` is a flag."""
    command("payoff.domains.molecules.guide", GuideConfig, train, arguments)


if __name__ == "__main__":
    main()
