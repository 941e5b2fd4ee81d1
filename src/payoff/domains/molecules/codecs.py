r"""Molecules as tensors: two codecs behind one interface.

A molecule becomes a set of nodes, each with its position and its features in one row, padded to the
largest set and centred. :class:`AllAtoms` has a node per atom. :class:`UnitedAtoms` has a node per
heavy atom, whose features include its number of hydrogens; the hydrogens are placed afterwards by
:func:`~payoff.domains.molecules.hydrogens.place`. Half the nodes mean a quarter of the pairs.

A row is :math:`[\text{position}/L,\ f\cdot\text{one-hot}]`. The length L makes a coordinate's
standard deviation about one, the scale f says at which noise level the features are decided: at
small f late, when the geometry is known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from payoff.domains.molecules.hydrogens import place
from payoff.domains.molecules.molecule import SYMBOLS, Molecule
from payoff.errors import UserError
from payoff.rewards.base import Cond
from payoff.spaces import Centered

MOST_HYDROGENS = 4


@dataclass(frozen=True)
class Codec(ABC):
    """Molecules to rows and back.

    Attributes:
        elements: atomic numbers that have a feature, in the order of the features; any there are.
        length: L, Å per unit of the tensors' positions.
        scale: f, the height of a one-hot feature.
        lightest: the smallest atomic number that has a node.
    """

    elements: tuple[int, ...]
    length: float
    scale: float
    lightest: ClassVar[int] = 1
    space = Centered()

    def __post_init__(self) -> None:
        known = tuple(int(number) for number in self.elements)
        if not known or len(set(known)) < len(known) or not set(known) <= set(SYMBOLS):
            raise UserError(
                f"elements must be different atomic numbers in 1 … {max(SYMBOLS)}, "
                f"got {list(self.elements)}"
            )
        object.__setattr__(self, "elements", known)  # lists come out of JSON

    @classmethod
    def fitting(cls, molecules: Sequence[Molecule], **given: Any) -> Self:
        """The codec for these molecules: their elements, L the deviation of their coordinates.

        Raises:
            UserError: there is no molecule, or none with an atom that has a node.
        """
        nodes = [m.positions[m.numbers >= cls.lightest] for m in molecules]
        numbers = {int(n) for m in molecules for n in m.numbers if n >= cls.lightest}
        if not numbers:
            raise UserError(f"no atom has a node among these {len(molecules)} molecules")
        centred = torch.cat([r - r.mean(0) for r in nodes if len(r)]).double()
        length = round(float(centred.square().mean().sqrt()), 3) or 1.0  # single atoms
        return cls(**{"elements": tuple(sorted(numbers)), "length": length, **given})

    @property
    @abstractmethod
    def features(self) -> int:
        """Number of feature columns after the three of the position."""

    @abstractmethod
    def encode(self, molecules: Sequence[Molecule]) -> tuple[Tensor, Cond]:
        """Rows x (n, N, 3 + features) and ``{"mask": (n, N)}``, N the largest number of nodes.

        Raises:
            UserError: a molecule has an element, or a valence, that has no feature.
        """

    @abstractmethod
    def decode(self, x: Tensor, cond: Cond) -> list[Molecule | None]:
        """One molecule a row; None where a row is not finite."""

    def rows(self, positions: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, Cond]:
        """Pad, scale and centre nodes given as one pair of tensors a molecule."""
        pad = torch.nn.utils.rnn.pad_sequence
        nodes = [
            torch.cat([r / self.length, self.scale * f], dim=-1)
            for r, f in zip(positions, features, strict=True)
        ]
        sizes = torch.tensor([len(node) for node in nodes])
        x = pad(nodes, batch_first=True)
        cond = {"mask": torch.arange(x.shape[1]) < sizes.unsqueeze(1)}
        return self.space.project(x, cond), cond

    def _element_of(self, numbers: Tensor) -> Tensor:
        """Place of each atomic number among the elements."""
        known = torch.tensor(self.elements)
        match = numbers.unsqueeze(-1) == known
        if not bool(match.any(-1).all()):
            alien = sorted({SYMBOLS.get(n, f"#{n}") for n in numbers[~match.any(-1)].tolist()})
            raise UserError(
                f"no feature for {', '.join(alien)}: this codec knows "
                f"{', '.join(SYMBOLS[n] for n in self.elements)}"
            )
        return match.long().argmax(-1)


@dataclass(frozen=True)
class AllAtoms(Codec):
    """A node per atom, its element as the feature.

    Reference: E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras,
    Vignac, Welling, 2022).
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    length: float = 1.4
    scale: float = 0.3

    @property
    def features(self):
        return len(self.elements)

    def encode(self, molecules):
        features = [
            F.one_hot(self._element_of(m.numbers), len(self.elements)).to(m.positions)
            for m in molecules
        ]
        return self.rows([m.positions for m in molecules], features)

    def decode(self, x, cond):
        numbers = torch.tensor(self.elements)[x[..., 3:].argmax(-1).cpu()]
        positions, mask = x[..., :3].cpu() * self.length, cond["mask"].cpu()
        return [
            Molecule(kind[m], where[m]) if bool(where[m].isfinite().all()) else None
            for kind, where, m in zip(numbers, positions, mask, strict=True)
        ]


@dataclass(frozen=True)
class UnitedAtoms(Codec):
    """A node per heavy atom, its element and its number of hydrogens as features.

    Encoding gives each hydrogen to the nearest heavy atom. What is lost is where exactly the
    hydrogens were.
    """

    elements: tuple[int, ...] = (6, 7, 8, 9)
    length: float = 1.15
    scale: float = 0.3
    lightest: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if 1 in self.elements:
            raise UserError("hydrogen has no united atom of its own: leave 1 out of the elements")

    @property
    def features(self):
        return len(self.elements) + MOST_HYDROGENS + 1

    def encode(self, molecules):
        positions, features = [], []
        for molecule in molecules:
            heavy = molecule.numbers != 1
            skeleton = molecule.positions[heavy]
            if not len(skeleton):
                raise UserError("a molecule without a heavy atom has no united atoms")
            owner = torch.cdist(molecule.positions[~heavy], skeleton).argmin(-1)
            count = torch.bincount(owner, minlength=len(skeleton))
            if int(count.max()) > MOST_HYDROGENS:
                raise UserError(
                    f"an atom has {int(count.max())} hydrogens next to it: at most "
                    f"{MOST_HYDROGENS} have a feature"
                )
            kind = self._element_of(molecule.numbers[heavy])
            hot = (F.one_hot(kind, len(self.elements)), F.one_hot(count, MOST_HYDROGENS + 1))
            positions.append(skeleton)
            features.append(torch.cat(hot, dim=-1).to(skeleton))
        return self.rows(positions, features)

    def decode(self, x, cond):
        skeletons = self.skeletons(x, cond)
        return [None if found is None else place(*found) for found in skeletons]

    def skeletons(self, x: Tensor, cond: Cond) -> list[tuple[Tensor, Tensor, Tensor] | None]:
        """Heavy atoms' numbers (n,), positions (n, 3) in Å and hydrogen counts (n,) of each row."""
        kinds = len(self.elements)
        numbers = torch.tensor(self.elements)[x[..., 3 : 3 + kinds].argmax(-1).cpu()]
        counts = x[..., 3 + kinds :].argmax(-1).cpu()
        positions, mask = x[..., :3].cpu() * self.length, cond["mask"].cpu()
        return [
            (kind[m], where[m], count[m]) if bool(where[m].isfinite().all()) else None
            for kind, where, count, m in zip(numbers, positions, counts, mask, strict=True)
        ]


CODECS: dict[str, type[UnitedAtoms] | type[AllAtoms]] = {"united": UnitedAtoms, "all": AllAtoms}


def decoded(codec: Codec, x: Tensor, cond: Cond) -> list[Molecule | None]:
    """Molecules of samples (n, N, 3 + F); None where any number of a row is not finite."""
    x, mask = x.detach(), cond["mask"]
    # a feature that is no number would be decoded as some element
    whole = (x.isfinite() | ~mask.unsqueeze(-1)).flatten(1).all(1)
    found = codec.decode(torch.where(whole[:, None, None], x, torch.zeros_like(x)), {"mask": mask})
    return [m if fine else None for m, fine in zip(found, whole.tolist(), strict=True)]
