r"""From a model's samples to a judge of molecules, and back as a reward.

A sample in model coordinates stands for atoms in space, hydrogens included. Their numbers and
their positions, in Å to four decimals, are what is judged and what the ledger remembers,

.. math:: r(z) = \pm f\big(\mathrm{round}_{10^{-4}}\,\mathrm{molecule}(z)\big) ,

so an answer belongs to the molecule and not to a model's coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from payoff.domains.molecules.chemistry import Unscored, valid_mol
from payoff.domains.molecules.codecs import Codec
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.rewards import NamedReward, find_reward
from payoff.errors import UserError
from payoff.experiments.finetune.rewards import Blocks
from payoff.rewards import Reward
from payoff.rewards.base import Cond
from payoff.rewards.ledger import Ledger
from payoff.rewards.pooled import Pooled
from payoff.rewards.remembered import Remembered

PREFIX = "molecules:"
DIGITS = 1e-4
"""Å: positions are rounded to this before they are judged."""
ROOM = 32
"""Rows of a molecule's table come in multiples of this, so that its key is its own."""


def judge_of(name: str, option: str = "--reward") -> NamedReward:
    """The judge called ``molecules:NAME`` or ``MODULE:FUNCTION``, under its full name.

    Raises:
        UserError: there is none of that name, or its package is missing.
    """
    try:
        found = find_reward(name.removeprefix(PREFIX))
    except UserError as error:
        raise UserError(f"{option} {name}: {error}") from None
    return found if ":" in found.name else replace(found, name=PREFIX + found.name)


def cells_of(molecule: Molecule) -> Tensor:
    """A molecule as whole numbers (rows, 4): atomic number and position in units of 0.1 mÅ.

    Rows of zeros fill up to the next multiple of :data:`ROOM`.
    """
    n = len(molecule)
    cells = torch.zeros(-(-n // ROOM) * ROOM, 4, dtype=torch.int64)
    cells[:n, 0] = molecule.numbers
    cells[:n, 1:] = (molecule.positions.double() / DIGITS).round().long()
    return cells


def molecule_of(cells: Tensor) -> Molecule:
    """The inverse of :func:`cells_of`, positions rounded."""
    kept = cells[cells[:, 0] > 0]
    return Molecule(kept[:, 0].clone(), (kept[:, 1:].double() * DIGITS).float())


class OnMolecules(Reward):
    """A judge as a reward of tables (n, rows, 4) of atoms, in the user's own direction."""

    differentiable = False

    def __init__(self, judge: NamedReward | str) -> None:
        self.judge = judge_of(judge) if isinstance(judge, str) else judge
        self.failure: str | None = None
        self.pool: Pooled | None = None

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if self.pool is not None:
            found = self.pool(x)
            self.failure = self.failure or self.pool.failure
            return found
        values, reasons = self.judge.answers([molecule_of(cells) for cells in x.cpu()])
        self.failure = self.failure or next((why for why in reasons if why), None)
        return torch.from_numpy(values)


class MoleculeBox(Reward):
    """A judge as a reward of samples in model coordinates, each molecule paid for once.

    Args:
        codec: what samples stand for.
        judge: the function of a molecule.
        ledger: where answers are kept.
        name: of the reward in the ledger.
        minimize: a lower value is better: the reward is its negative.
        scored: ``valid``: a molecule without bonds that explain every valence has failed and is not
            given to the judge; ``all``: whatever it looks like. A judge that reads no bonds has
            scores for wreckage as well, and good ones: a radical's gap is small.

    Attributes:
        differentiable: false; placing atoms and hydrogens has no useful gradient.
    """

    differentiable = False

    def __init__(
        self,
        codec: Codec,
        judge: NamedReward,
        ledger: Ledger,
        *,
        minimize: bool = False,
        scored: str = "valid",
    ) -> None:
        self.codec, self.judge, self.scored = codec, judge, scored
        self.refused: str | None = None
        self.sign = -1.0 if minimize else 1.0
        self.source = OnMolecules(judge)
        self.remembered = Remembered(self.source, ledger, judge.name, judge.version)
        self.blocks = Blocks(self.remembered)

    @property
    def failure(self) -> str | None:
        """What the first failed evaluation said."""
        return self.source.failure or self.refused

    def evaluated_in(self, pool: Pooled) -> None:
        """Ask these processes from now on; every block is large enough for all of them."""
        self.source.pool = pool
        self.blocks.least = pool.workers

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if cond is None or "mask" not in cond:
            raise ValueError('a reward of molecules needs cond["mask"], (B, N)')
        return self.sign * self.values(decoded(self.codec, x, cond)).to(x)

    def values(self, molecules: Sequence[Molecule | None]) -> Tensor:
        """Values (n,) in the user's direction, NaN = failed or no molecule."""
        values = torch.full((len(molecules),), float("nan"), dtype=torch.float64)
        there = [(i, m) for i, m in enumerate(molecules) if m is not None and len(m)]
        tables = {i: cells_of(m) for i, m in there if self.scored == "all" or self._valid(m)}
        for rows in sorted({len(cells) for cells in tables.values()}):
            places = [i for i, cells in tables.items() if len(cells) == rows]
            found = self.blocks(torch.stack([tables[i] for i in places]))
            values[torch.tensor(places)] = found.double()
        return values

    def _valid(self, molecule: Molecule) -> bool:
        """Whether it has bonds that fit; the first reason why not is kept."""
        try:
            valid_mol(molecule)
        except Unscored as why:
            self.refused = self.refused or f"{why}; --scored all asks for it all the same"
            return False
        return True


def decoded(codec: Codec, x: Tensor, cond: Cond) -> list[Molecule | None]:
    """Molecules of samples; None where any number of a row is not finite."""
    x, mask = x.detach(), cond["mask"]
    whole = (x.isfinite() | ~mask.unsqueeze(-1)).flatten(1).all(1)
    found = codec.decode(torch.where(whole[:, None, None], x, torch.zeros_like(x)), {"mask": mask})
    return [m if fine else None for m, fine in zip(found, whole.tolist(), strict=True)]


def pool_of(judge: NamedReward, workers: int, time_limit: float) -> Pooled:
    """Processes that evaluate the judge, a molecule at a time; they start at once."""
    place = f"{__name__}:{OnMolecules.__name__}"
    return Pooled(place, judge.name, workers=workers, chunk=1, timeout=time_limit or None)
