r"""How well a generator gives molecules of a property that is asked for: EDM's protocol.

Sizes and values :math:`(N_i, c_i)` are drawn together from the data that the generator learned
from, it draws a molecule :math:`m_i \sim p(m\mid N_i, c_i)` for each, and an evaluator f that
learned from other data reads it:

.. math:: \mathrm{MAE} = \frac1n\sum_i |f(m_i) - c_i| .

Every molecule counts that can be read, valid or not; those that cannot are counted apart. EDM draws
from histograms with 1,000 bins, here a row of the data is drawn, which is the empirical law itself.

What a *source* of molecules is decides what is measured. A generator gives its error. The real
molecules of the rows give the evaluator's own error (EDM's L-bound), and encoded and decoded on the
way what a codec costs.

Reference: E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras, Vignac,
Welling, 2022), section 5.2 and appendix E.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.codecs import Codec
from payoff.domains.molecules.config import STEPS
from payoff.domains.molecules.evaluate import noisy, products
from payoff.domains.molecules.metrics import stability, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.property import PropertyNet
from payoff.domains.molecules.qm9 import QM9
from payoff.errors import UserError
from payoff.guidance import ClassifierFree
from payoff.metrics import Estimate
from payoff.training.labels import Scales

TABLE_UNITS = {
    "alpha": (1.0, "bohr³"),
    "gap": (1000.0, "meV"),
    "homo": (1000.0, "meV"),
    "lumo": (1000.0, "meV"),
    "mu": (1.0, "D"),
    "cv": (1.0, "cal/(mol K)"),
}
"""Factor from the data's units, and the name, of the units of published tables."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a source, smallest molecules first.

    Attributes:
        names: of k properties.
        rows: (n,) places in the data that the pairs were taken from.
        nodes: (n,) how many nodes each molecule is to have.
        values: (n, k) what the properties are to be, in the data's units.
    """

    names: tuple[str, ...]
    rows: Tensor
    nodes: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, name: str) -> Asked:
        """The same molecules, asked for one property."""
        column = self.names.index(name)
        return replace(self, names=(name,), values=self.values[:, column : column + 1])

    def shuffled(self, *, generator: torch.Generator) -> Asked:
        """The same, with the values dealt out anew: what a source cannot know (EDM's U-bound)."""
        order = torch.randperm(len(self), generator=generator)
        return replace(self, values=self.values[order])


Source = Callable[[Asked], Iterator[list[Molecule | None]]]
"""The molecules that are asked for, in order, batch by batch; None where there is none."""
Reader = Callable[[Sequence[Molecule | None], Sequence[str]], Tensor]
"""(molecules, k names) -> (n, k) in the data's units, NaN where a molecule cannot be read."""


def ask(
    data: QM9, part: Tensor, names: Sequence[str], codec: Codec, n: int, generator: torch.Generator
) -> Asked:
    """``n`` rows of a part of the data (m,), drawn with replacement, as :class:`Asked`."""
    rows = part[torch.randint(len(part), (n,), generator=generator)]
    nodes = node_counts(data, codec)[rows]
    order = nodes.argsort(stable=True)
    rows, nodes = rows[order], nodes[order]
    values = torch.stack([data.column(name)[rows] for name in names], dim=1)
    return Asked(tuple(names), rows, nodes, values)


def node_counts(data: QM9, codec: Codec) -> Tensor:
    """How many nodes each molecule of the data has in a codec, (M,)."""
    nodes = torch.cat(
        [torch.zeros(1, dtype=torch.long), (data.numbers >= codec.lightest).cumsum(0)]
    )
    return nodes[data.first].diff()


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        errors: by property, the mean absolute error in the unit of published tables.
        asked, failed: how many molecules were asked for, and could not be decoded or read.
        valid, stable: shares of those asked for.
    """

    errors: dict[str, Estimate]
    asked: int
    failed: int
    valid: Estimate
    stable: Estimate


def answer(source: Source, read: Reader, asked: Asked) -> Answer:
    """Ask a source, and read its molecules; only one batch of them is kept at a time.

    Raises:
        ValueError: the source gave another number of molecules.
    """
    errors: list[Tensor] = []
    valid: list[float] = []
    stable: list[float] = []
    done = 0
    for molecules in source(asked):
        wanted = asked.values[done : done + len(molecules)]
        done += len(molecules)
        if done > len(asked):
            break
        errors.append((read(molecules, asked.names) - wanted).double().abs())
        valid += [float(to_rdkit(m) is not None) for m in molecules]
        stable += [stability([m])[1] for m in molecules]
    if done != len(asked):
        raise ValueError(f"{len(asked)} molecules were asked for and {done} came")
    found = torch.cat(errors)
    factors = [TABLE_UNITS[name][0] if name in TABLE_UNITS else 1.0 for name in asked.names]
    return Answer(
        {
            name: Estimate.of(factor * column)
            for name, factor, column in zip(asked.names, factors, found.unbind(1), strict=True)
        },
        len(asked),
        int(found.isnan().any(1).sum()),
        Estimate.of(torch.tensor(valid)),
        Estimate.of(torch.tensor(stable)),
    )


class Evaluators:
    """Property networks as one :data:`Reader`.

    Args:
        folders: of property networks, each of other properties.

    Raises:
        UserError: a folder holds none, or two read the same property.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self.nets: dict[str, PropertyNet] = {}
        for folder in folders:
            net = PropertyNet.from_pretrained(folder)
            twice = sorted(set(net.names) & set(self.nets))
            if twice:
                raise UserError(
                    f"two evaluators read {', '.join(twice)}, the second in {folder}: give one "
                    "for each property"
                )
            self.nets |= dict.fromkeys(net.names, net)

    def check(self, names: Sequence[str]) -> None:
        """Raise a UserError unless all of these can be read."""
        missing = [name for name in names if name not in self.nets]
        if missing:
            raise UserError(
                f"no evaluator reads {', '.join(missing)} (known: {', '.join(self.nets)}): train "
                "one with python -m payoff.domains.molecules.property --properties "
                f"{','.join(missing)}"
            )

    def __call__(self, molecules: Sequence[Molecule | None], names: Sequence[str]) -> Tensor:
        self.check(names)
        read = {id(net): net(molecules) for net in {id(n): n for n in self._of(names)}.values()}
        columns = [
            read[id(net)][:, net.names.index(name)]
            for name, net in zip(names, self._of(names), strict=True)
        ]
        return torch.stack(columns, dim=1)

    def _of(self, names: Sequence[str]) -> list[PropertyNet]:
        return [self.nets[name] for name in names]


class Real:
    """The source that gives the data's own molecules of the rows asked for.

    Args:
        data: that the rows are of.
        codec: encode and decode them on the way; None = as they are.
        batch_size: molecules at once.
    """

    def __init__(self, data: QM9, codec: Codec | None = None, batch_size: int = 1000) -> None:
        self.data, self.codec, self.batch_size = data, codec, batch_size

    def __call__(self, asked: Asked) -> Iterator[list[Molecule | None]]:
        for rows in asked.rows.split(self.batch_size):
            molecules = self.data.molecules(rows)
            yield (
                list(molecules)
                if self.codec is None
                else self.codec.decode(*self.codec.encode(molecules))
            )


class Drawn(ABC):
    """A source that draws from a denoiser; a subclass says what it is told.

    Args:
        model: of molecules: their codec and its network.
        denoiser: what is sampled, of the same codec.
        steps: of the sampler of :mod:`payoff.domains.molecules.evaluate`.
        batch_size: molecules at once.
        precision: of the matrix products: auto, bf16 or fp32.
        seed: of the noise; it depends on nothing else, so that sources of one codec share it.
    """

    def __init__(
        self,
        model: MoleculeModel,
        denoiser: Denoiser,
        *,
        steps: int = STEPS,
        batch_size: int = 250,
        precision: str = "auto",
        seed: int = 0,
    ) -> None:
        self.model, self.denoiser, self.steps = model, denoiser, steps
        self.batch_size, self.precision, self.seed = batch_size, precision, seed

    @abstractmethod
    def label(self, asked: Asked) -> dict[str, Tensor]:
        """Conditions beside the mask, with a row for each molecule that is asked for."""

    def __call__(self, asked: Asked) -> Iterator[list[Molecule | None]]:
        told, codec = self.label(asked), self.model.codec
        generator = torch.Generator().manual_seed(self.seed)
        for rows in torch.arange(len(asked)).split(self.batch_size):
            nodes = asked.nodes[rows]
            largest = int(nodes.max())  # of this batch: sizes come sorted
            cond = {"mask": torch.arange(largest) < nodes.unsqueeze(1)}
            cond |= {key: value[rows] for key, value in told.items()}
            sampler = noisy(self.denoiser, (largest, 3 + codec.features), self.steps)
            with products(self.precision):
                x = sampler.sample(len(rows), cond, generator=generator, batch_size=len(rows))
            yield codec.decode(x, cond)


class Conditional(Drawn):
    """The source that draws from a generator that learned labels.

    Molecules are asked for one property; the generator's other labels are unknown to it.

    Args:
        model: of molecules; its metadata say which labels it has learned.
        name: what messages call it.
        guidance: weight of :class:`~payoff.guidance.ClassifierFree`; 0 = none.
        sampling: see :class:`Drawn`.

    Raises:
        UserError: the generator has learned no label, or several that it cannot tell apart.
    """

    def __init__(
        self,
        model: MoleculeModel,
        name: str = "the model",
        *,
        guidance: float = 0.0,
        **sampling: Any,
    ) -> None:
        self.scales, self.name = Scales.read(model.metadata, name), name
        net = getattr(model.denoiser, "net", None)
        if len(self.scales.names) > 1 and getattr(net, "label_flags", "row") != "column":
            raise UserError(f"{name} reads its labels together only: it cannot be asked for one")
        base = model.denoiser
        super().__init__(model, ClassifierFree(base, guidance) if guidance else base, **sampling)

    def check(self, names: Sequence[str]) -> None:
        """Raise a UserError unless the generator has learned all of these."""
        self.scales.check(names, self.name)

    def label(self, asked: Asked) -> dict[str, Tensor]:
        """Standardised labels (n, k) and the flags (n, k) of the one that is asked for."""
        if len(asked.names) != 1:
            raise ValueError(f"one property at a time can be asked for, got {asked.names}")
        self.check(asked.names)
        values, known = self.scales.columns(asked.names, asked.values)
        return {"label": values, "label_known": known}
