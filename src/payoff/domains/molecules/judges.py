r"""Rewards of molecules as judges, and the keys under which their answers are kept.

Elements and positions, in Å to four decimals, are what a reward sees and what the ledger remembers,

.. math:: f\big(\mathrm{round}_{10^{-4}}\,m\big) ,

so an answer belongs to the molecule and not to the coordinates of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from payoff.domains.base import Judge
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.rewards import REWARDS, NamedReward, own_reward
from payoff.rewards.remembered import design_keys

PREFIX = "molecules:"
PRECISION = 1e-4
"""Å: positions are rounded to this before they are judged."""
ROOM = 32
"""Rows of a molecule's table come in multiples of this, so that its key is its own."""


def cells_of(molecule: Molecule) -> Tensor:
    """A molecule as whole numbers (rows, 4): atomic number and position in units of 0.1 mÅ.

    Rows of zeros fill up to the next multiple of :data:`ROOM`.
    """
    n = len(molecule)
    cells = torch.zeros(-(-n // ROOM) * ROOM, 4, dtype=torch.int64)
    cells[:n, 0] = molecule.numbers
    cells[:n, 1:] = (molecule.positions.double() / PRECISION).round().long()
    return cells


def molecule_of(cells: Tensor) -> Molecule:
    """The inverse of :func:`cells_of`, positions rounded."""
    kept = cells[cells[:, 0] > 0]
    return Molecule(kept[:, 0].clone(), (kept[:, 1:].double() * PRECISION).float())


def rounded(molecule: Molecule) -> Molecule:
    """The molecule with its positions rounded to :data:`PRECISION`, as rewards see it."""
    return molecule_of(cells_of(molecule))


def key_of(molecule: Molecule) -> str:
    """The key of a molecule in the ledger; 64 hexadecimal digits."""
    return design_keys(cells_of(molecule).unsqueeze(0))[0]


class OnMolecules:
    """A reward as a function of a sequence of molecules, with the reason of the first failure.

    Attributes:
        failure: reason why the first molecule without a value has none; None: there was no such.
    """

    def __init__(self, named: NamedReward) -> None:
        self.named = named
        self.failure: str | None = None

    def __call__(self, molecules: Sequence[Molecule]) -> list[float]:
        values, reasons = self.named.answers([rounded(m) for m in molecules])
        self.failure = self.failure or next((why for why in reasons if why), None)
        return [float(value) for value in values]

    def answers(self, molecules: Sequence[Molecule]) -> list[tuple[float, str | None, bool]]:
        """Values, each with the reason why it is NaN and whether the function raised."""
        found = [self.named.answer(rounded(molecule)) for molecule in molecules]
        self.failure = self.failure or next((why for _, why, _ in found if why), None)
        return found


def named_judge(name: str) -> Judge[Molecule] | None:
    """The reward of that name that comes with molecules; None: there is none.

    Raises:
        UserError: its package is not installed.
    """
    if name not in REWARDS:
        return None
    REWARDS[name].ready()
    return _judge(REWARDS[name], PREFIX + name)


def users_judge(function: Callable[..., Any], name: str) -> Judge[Molecule]:
    """A user's function of one molecule as a judge; see :func:`own_reward`.

    Raises:
        UserError: it is no function, or its first parameter has another name.
    """
    named = own_reward(function, name)
    named.ready()
    return _judge(named, name)


def _judge(named: NamedReward, name: str) -> Judge[Molecule]:
    held_out = None if named.held_out is None else PREFIX + named.held_out
    return Judge(
        name,
        OnMolecules(named),
        unit=named.unit,
        help=named.help,
        version=named.version,
        held_out=held_out,
        chunk=1,
    )
