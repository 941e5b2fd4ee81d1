"""Rewards of molecules by name, and a user's own function of a molecule as one.

======================  =====================================================  ========
``qed``                 drug likeness                                          [0, 1]
``sa``                  synthetic accessibility; lower is easier               1 … 10
``logp``                octanol-water partition coefficient by Crippen         log10
``stability``           share of atoms with the right valence, EDM's table     [0, 1]
``molecule_stability``  whether all atoms have it                              0 or 1
``xtb_gap``             LUMO − HOMO by GFN1-xTB                                eV
``xtb_homo``            energy of the HOMO by GFN1-xTB                         eV
``xtb_lumo``            energy of the LUMO by GFN1-xTB                         eV
``xtb_dipole``          dipole moment by GFN2-xTB                              D
``gfn2_gap``            LUMO − HOMO by GFN2-xTB: a judge to hold out           eV
``alpha``               static polarisability by D4                            bohr³
``learned_gap``         LUMO − HOMO by a network that learned B3LYP's          eV
``learned_alpha``       polarisability by a network that learned B3LYP's       bohr³
======================  =====================================================  ========

What cannot be scored is NaN with a reason: a row that is no molecule, bonds that explain nothing,
atoms that overlap, half-filled shells. A function of the user's own,
``module:function``, is given one molecule at a time. The name of its first parameter says in which
form: ``mol`` is an RDKit molecule with bonds, hydrogens and its conformer (molecules that are not
valid never get there), ``molecule`` is a :class:`~payoff.domains.molecules.molecule.Molecule`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from payoff.configs import suggest
from payoff.domains.molecules import chemistry, physics
from payoff.domains.molecules.chemistry import Unscored, valid_mol
from payoff.domains.molecules.codecs import CODECS, Codec, decoded
from payoff.domains.molecules.learned import learned
from payoff.domains.molecules.molecule import Molecule
from payoff.errors import UserError
from payoff.naming import load_named, plainly
from payoff.rewards.base import Cond, Reward
from payoff.rewards.pooled import Pooled

Array = npt.NDArray[np.float64]
SECONDS = 20.0
"""Time limit of one molecule in a pool: a thousand times what it takes."""


@dataclass(frozen=True)
class NamedReward:
    """A judge of molecules.

    Attributes:
        name: what the user writes.
        of: value of one molecule; raises where it has none.
        unit: of the value; empty for a pure number.
        help: what it is, in a line.
        needs: the package that computes it, None for this library alone.
        edition: changes when the values do by a change of this library.
        held_out: the name of the reward that judges runs on this one by default.
        expensive: takes several milliseconds a molecule: worth a ledger and worker processes.
    """

    name: str
    of: Callable[[Molecule], float]
    unit: str
    help: str
    needs: str | None = None
    edition: str = "1"
    held_out: str | None = None
    expensive: bool = False

    @property
    def version(self) -> str:
        """Changes when the values do: the edition, and the version of the package it needs."""
        if self.needs is None:
            return self.edition
        try:
            return f"{self.edition}, {self.needs} {metadata.version(self.needs)}"
        except metadata.PackageNotFoundError:
            return self.edition

    def ready(self) -> None:
        """Raise a UserError if the package it needs is not installed."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise UserError(
                f"the reward {self.name!r} needs the package {self.needs!r}, which is not "
                "installed. Install the extra with: pip install payoff[molecules]"
            )

    def score(self, molecules: Sequence[Molecule | None]) -> Array:
        """Values (n,), NaN = failed."""
        return self.answers(molecules)[0]

    def answers(self, molecules: Sequence[Molecule | None]) -> tuple[Array, list[str | None]]:
        """Values (n,), and for each the reason why it is NaN, None for a number.

        Raises:
            UserError: the package it needs is not installed.
        """
        self.ready()
        found = [self._answer(molecule) for molecule in molecules]
        return np.array([value for value, _ in found], dtype=np.float64), [why for _, why in found]

    def _answer(self, molecule: Molecule | None) -> tuple[float, str | None]:
        return self.answer(molecule)[:2]

    def answer(self, molecule: Molecule | None) -> tuple[float, str | None, bool]:
        """The value of one molecule, why it is NaN, and whether the function raised.

        Raises:
            UserError: the package it needs is not installed.
        """
        if molecule is None:
            return math.nan, "the row is no molecule", False
        try:
            value = float(self.of(molecule))
        except UserError:  # of the installation, not of this molecule
            raise
        except Unscored as why:
            return math.nan, str(why), False
        except (Exception, SystemExit) as error:  # anything may happen in somebody else's code
            return math.nan, plainly(error), True
        if not math.isfinite(value):
            return math.nan, f"{self.name} answered {value}", False
        return value, None, False


REWARDS: dict[str, NamedReward] = {
    named.name: named
    for named in (
        NamedReward("qed", chemistry.qed, "", "drug likeness in [0, 1]", "rdkit"),
        NamedReward(
            "sa",
            chemistry.synthetic_accessibility,
            "",
            "synthetic accessibility, 1 easy … 10 hard: to be made small",
            "rdkit",
        ),
        NamedReward("logp", chemistry.log_p, "log10", "lipophilicity by Crippen", "rdkit"),
        NamedReward("stability", chemistry.stability, "", "share of atoms with the right valence"),
        NamedReward(
            "molecule_stability", chemistry.molecule_stability, "", "1 if all atoms are stable"
        ),
        NamedReward(
            "xtb_gap",
            physics.gap,
            "eV",
            "LUMO − HOMO by GFN1-xTB",
            "tblite",
            held_out="gfn2_gap",
            expensive=True,
        ),
        NamedReward("xtb_homo", physics.homo, "eV", "HOMO by GFN1-xTB", "tblite", expensive=True),
        NamedReward("xtb_lumo", physics.lumo, "eV", "LUMO by GFN1-xTB", "tblite", expensive=True),
        NamedReward(
            "xtb_dipole", physics.dipole, "D", "dipole by GFN2-xTB", "tblite", expensive=True
        ),
        NamedReward(
            "gfn2_gap",
            physics.gap_gfn2,
            "eV",
            "LUMO − HOMO by GFN2-xTB",
            "tblite",
            held_out="xtb_gap",
            expensive=True,
        ),
        NamedReward(
            "alpha",
            physics.polarisability,
            "bohr³",
            "static polarisability by D4",
            "dftd4",
            held_out="learned_alpha",
        ),
        NamedReward(
            "learned_gap",
            learned("gap"),
            "eV",
            "LUMO − HOMO by a network that learned B3LYP's",
            expensive=True,
        ),
        NamedReward(
            "learned_alpha",
            learned("alpha"),
            "bohr³",
            "polarisability by a network that learned B3LYP's",
            expensive=True,
        ),
    )
}


def find_reward(name: str) -> NamedReward:
    """The reward of that name, or the user's own ``module:function``.

    Raises:
        UserError: there is none, or its package is not installed.
    """
    if ":" in name:
        return own_reward(load_named(name, name, "MODULE:FUNCTION", "lab:strength", _hint), name)
    if name not in REWARDS:
        raise UserError(
            f"there is no reward {name!r} of molecules{suggest(name, REWARDS)} (there are: "
            f"{', '.join(REWARDS)}; or a function of your own, MODULE:FUNCTION)"
        )
    REWARDS[name].ready()
    return REWARDS[name]


def own_reward(function: Callable[[Any], Any], name: str | None = None) -> NamedReward:
    """A user's function of one molecule as a reward.

    Args:
        function: its first parameter is called ``mol`` (it gets an RDKit molecule with conformer
            and hydrogens) or ``molecule`` (it gets a :class:`Molecule`); it returns a number.
        name: how messages call it.

    Raises:
        UserError: it is no function, or its first parameter has another name.
    """
    name = name or str(getattr(function, "__qualname__", type(function).__name__))
    if not callable(function):
        raise UserError(f"{name} is a {type(function).__name__}, not a function of a molecule")
    try:
        first = next(iter(inspect.signature(function).parameters), None)
    except ValueError:  # some functions of C modules do not say what they take
        first = None
    if first not in ("mol", "molecule"):
        raise UserError(
            f"the first parameter of {name} is {'missing' if first is None else repr(first)}: call "
            "it 'mol' to be given an RDKit molecule, or 'molecule' for payoff's own with numbers "
            "and positions"
        )

    def of(molecule: Molecule) -> float:
        return function(valid_mol(molecule) if first == "mol" else molecule)

    needs = "rdkit" if first == "mol" else None
    return NamedReward(name, of, "", f"{name}, the user's own", needs, _text_key(function))


class MoleculeReward(Reward):
    """A judge of molecules as a reward of tensors, by decoding them.

    Args:
        reward: a name in :data:`REWARDS`, ``module:function``, or a function itself.
        codec: what the rows stand for, or its name in ``CODECS``.

    Attributes:
        asked: rows that were asked for.
        failed: rows of these that are NaN.
        failure: why the first of them failed.

    Raises:
        UserError: there is no such reward or codec, or a package is missing.
        ValueError: x and its mask are not of the codec's shape.
    """

    differentiable = False

    def __init__(
        self, reward: str | NamedReward | Callable[[Any], Any], codec: Codec | str = "united"
    ) -> None:
        if isinstance(reward, str):
            reward = find_reward(reward)
        self.named = reward if isinstance(reward, NamedReward) else own_reward(reward)
        self.named.ready()
        if isinstance(codec, str) and codec not in CODECS:
            raise UserError(f"there is no codec {codec!r}: choose from {', '.join(CODECS)}")
        self.codec = CODECS[codec]() if isinstance(codec, str) else codec
        self.asked, self.failed = 0, 0
        self.failure: str | None = None

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        x = x.detach()
        mask = self._mask(x, cond)
        values, reasons = self.named.answers(decoded(self.codec, x, {"mask": mask}))
        self.asked += len(values)
        self.failed += sum(why is not None for why in reasons)
        self.failure = self.failure or next((why for why in reasons if why is not None), None)
        # a value in half precision would lose what it was computed for
        return torch.from_numpy(values).to(x.device, torch.promote_types(x.dtype, torch.float32))

    def _mask(self, x: Tensor, cond: Cond | None) -> Tensor:
        width = 3 + self.codec.features
        mask = None if cond is None else cond.get("mask")
        if x.ndim != 3 or x.shape[2] != width or mask is None or mask.shape != x.shape[:2]:
            seen = "no mask" if mask is None else f"a mask of shape {tuple(mask.shape)}"
            raise ValueError(
                f"x has shape {tuple(x.shape)} and cond {seen}; expected (B, N, {width}) and (B, N)"
            )
        return mask


def pooled(
    reward: str, codec: Codec | str = "united", *, workers: int = 2, timeout: float = SECONDS
) -> Pooled:
    """The same in processes of its own, each molecule with a time limit that always holds.

    A molecule at a time: one that hangs or kills its process is NaN, and no other is.

    Args:
        reward: a name in :data:`REWARDS` or ``module:function``.
        codec: as for :class:`MoleculeReward`.
        workers: number of processes.
        timeout: seconds a molecule.

    Raises:
        UserError: there is no such reward or codec, or a package is missing.
    """
    MoleculeReward(reward, codec)  # an error is told here, not at the first call
    source = f"{__name__}:in_worker"
    return Pooled(source, reward, codec, workers=workers, chunk=1, timeout=timeout)


def in_worker(reward: str, codec: Codec | str = "united") -> MoleculeReward:
    """A :class:`MoleculeReward` that has imported all it needs, so that it answers at once.

    What a worker of :func:`pooled` calls: a time limit is the molecule's, not the imports'.
    """
    made = MoleculeReward(reward, codec)
    if reward in REWARDS:
        made.named.score([_methane()])
    elif made.named.needs == "rdkit":  # the user's own function is not called without being asked
        valid_mol(_methane())
    return made


def _methane() -> Molecule:
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return Molecule(torch.tensor([6, 1, 1, 1, 1]), corners * 1.087 / math.sqrt(3))


def _text_key(function: Callable[..., Any]) -> str:
    """Changes with the function's text: answers of another version are not this one's."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        return "1"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _hint(owner: Any, missing: str) -> str:
    public = [n for n in dir(owner) if not n.startswith("_") and callable(getattr(owner, n))]
    return suggest(missing, public)
