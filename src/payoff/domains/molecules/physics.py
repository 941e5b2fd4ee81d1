r"""Scores that need electrons: orbital energies, dipole moment, polarisability.

The orbitals of a tight-binding model are filled in pairs from below; with N valence electrons

.. math::
    \text{HOMO} = \varepsilon_{N/2}, \quad \text{LUMO} = \varepsilon_{N/2+1}, \quad
    \text{gap} = \text{LUMO} - \text{HOMO}, \quad \mu = \Big|\sum_A q_A r_A + \mu_A\Big| .

The static polarisability is the sum over atoms of D4's, which interpolates reference compounds by
coordination number and partial charge. No geometry is relaxed: a score belongs to the atoms as they
stand.

Only one neutral molecule with a closed shell has a score. Other sets of atoms get an answer from
the programs, too, but one that means nothing: half-filled orbitals have no gap, and the dipole of
two fragments is that of their distance.

References: A Robust and Accurate Tight-Binding Quantum Chemical Method (GFN1-xTB; Grimme,
Bannwarth, Shushkov, 2017). GFN2-xTB – An Accurate and Broadly Parametrized Self-Consistent
Tight-Binding Quantum Chemical Method (Bannwarth, Ehlert, Grimme, 2019). A generally applicable
atomic-charge dependent London dispersion correction (D4; Caldeweyher et al., 2019).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from payoff.domains.molecules.bonds import RADIUS
from payoff.domains.molecules.chemistry import Unscored, check_atoms
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import HARTREE

BOHR = 0.529177210903
"""Å in a bohr (CODATA 2018)."""
DEBYE = 2.541746473
"""Debye in e·bohr."""

REACH = 1.65
"""Pieces are two molecules if no two of their atoms are within this many sums of covalent radii of
each other; for two carbons that is 2.5 Å."""
ITERATIONS = 100
"""Most self-consistency cycles. Real molecules take a tenth, and on spoiled ones the time of a
cycle grows with their number: 250 cycles that lead nowhere cost six times as much as 100."""
HALF_FILLED = 0.1
"""Electrons in the LUMO at 300 K above which the shell is not closed: a gap of about 0.15 eV."""

_THREADS = threading.Lock()


@dataclass(frozen=True)
class Electrons:
    """What a tight-binding calculation tells.

    Attributes:
        homo: energy of the highest occupied orbital, eV.
        lumo: energy of the lowest empty orbital, eV.
        dipole: length of the dipole moment, D.
    """

    homo: float
    lumo: float
    dipole: float

    @property
    def gap(self) -> float:
        """LUMO − HOMO, eV."""
        return self.lumo - self.homo


def one_molecule(molecule: Molecule) -> None:
    """Refuse what is not one neutral molecule with paired electrons.

    Raises:
        Unscored: no atoms, overlapping atoms, pieces far apart or an odd number of electrons.
    """
    check_atoms(molecule)
    distance = torch.cdist(molecule.positions.double(), molecule.positions.double())
    radius = torch.tensor([RADIUS.get(int(n), 1.5) for n in molecule.numbers])
    if not _connected(distance < REACH * (radius.unsqueeze(0) + radius.unsqueeze(1))):
        raise Unscored("it is in pieces far apart")
    if int(molecule.numbers.sum()) % 2:
        raise Unscored("it has an odd number of electrons")


def tight_binding(molecule: Molecule, method: str) -> Electrons:
    """A single point of ``method``: ``GFN1-xTB`` or ``GFN2-xTB``.

    Raises:
        Unscored: it is no closed-shell molecule, or the charges did not converge.
    """
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    one_molecule(molecule)
    with one_thread():
        try:
            calculator = Calculator(method, *_in_bohr(molecule))
            calculator.set("verbosity", 0)
            calculator.set("max-iter", ITERATIONS)
            result = calculator.singlepoint()
        except TBLiteRuntimeError as error:
            raise Unscored(f"{method}: {error}") from None
        energies, filled = result.get("orbital-energies"), result.get("orbital-occupations")
        dipole = result.get("dipole")
    pairs = round(float(filled.sum())) // 2
    if not 0 < pairs < len(energies):
        raise Unscored("every orbital of the model is filled")
    if filled[pairs] > HALF_FILLED:
        raise Unscored(f"{method}: its shell is not closed")
    homo, lumo = (HARTREE * float(energies[i]) for i in (pairs - 1, pairs))
    return Electrons(homo, lumo, DEBYE * float(np.linalg.norm(dipole)))


def gap(molecule: Molecule) -> float:
    """Gap by GFN1-xTB, eV."""
    return tight_binding(molecule, "GFN1-xTB").gap


def homo(molecule: Molecule) -> float:
    """Energy of the HOMO by GFN1-xTB, eV."""
    return tight_binding(molecule, "GFN1-xTB").homo


def lumo(molecule: Molecule) -> float:
    """Energy of the LUMO by GFN1-xTB, eV."""
    return tight_binding(molecule, "GFN1-xTB").lumo


def dipole(molecule: Molecule) -> float:
    """Dipole moment by GFN2-xTB, D."""
    return tight_binding(molecule, "GFN2-xTB").dipole


def gap_gfn2(molecule: Molecule) -> float:
    """Gap by GFN2-xTB, eV."""
    return tight_binding(molecule, "GFN2-xTB").gap


def polarisability(molecule: Molecule) -> float:
    """Static polarisability by D4, bohr³.

    Raises:
        Unscored: it is no closed-shell molecule.
    """
    from dftd4.interface import DispersionModel

    one_molecule(molecule)
    with one_thread():
        found = DispersionModel(*_in_bohr(molecule)).get_properties()["polarizabilities"]
    if not (found > 0).all():  # that is how it says so
        raise Unscored("D4 does not know all of its elements")
    return float(found.sum())


def _in_bohr(molecule: Molecule) -> tuple[np.ndarray, np.ndarray]:
    positions = molecule.positions.detach().cpu().double().numpy()
    return molecule.numbers.cpu().numpy(), positions / BOHR


def _connected(near: Tensor) -> bool:
    """Whether every atom is reached from the first, ``near`` (n, n) saying who is close to whom."""
    reached = near[0]
    while not torch.equal(wider := near[reached].any(0), reached):
        reached = wider
    return bool(reached.all())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the programs, which share torch's OpenMP.

    Their matrices are so small that threads only wait for each other: on two busy cores a molecule
    takes forty times as long with two threads as with one. One caller at a time, as otherwise
    the number that the last one puts back may be that of another.
    """
    with _THREADS:
        before = torch.get_num_threads()
        if before == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
