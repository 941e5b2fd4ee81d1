"""Scores that read a molecule's bonds: drug likeness, ease of synthesis, lipophilicity, valences.

References: Quantifying the chemical beauty of drugs (Bickerton, Paolini, Besnard, Muresan, Hopkins,
2012). Estimation of synthetic accessibility score of drug-like molecules based on molecular
complexity and fragment contributions (Ertl, Schuffenhauer, 2009). Prediction of Physicochemical
Parameters by Atomic Contributions (Wildman, Crippen, 1999). Stability: see
:mod:`payoff.domains.molecules.bonds`.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

from payoff.domains.molecules.bonds import in_table, stable_atoms
from payoff.domains.molecules.metrics import to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.errors import UserError

NOTHING = "it has no atoms, or positions that are not finite"
CLOSEST = 0.5
"""Å: atoms that are closer overlap. No bond is shorter than 0.74."""


class Unscored(Exception):
    """Why a molecule has no value, in a few words."""


def check_atoms(molecule: Molecule) -> None:
    """Refuse what no program should be asked about.

    Raises:
        Unscored: no atoms, a position that is not finite, or atoms that overlap.
    """
    if not len(molecule) or not bool(molecule.positions.isfinite().all()):
        raise Unscored(NOTHING)
    distance = torch.pdist(molecule.positions.double())
    if len(distance) and float(distance.min()) < CLOSEST:
        raise Unscored(f"two atoms are {float(distance.min()):.2f} Å apart")


def valid_mol(molecule: Molecule) -> Any:
    """The RDKit molecule with its conformer and all hydrogens.

    Raises:
        Unscored: there are no bonds that explain every valence of one neutral molecule.
    """
    check_atoms(molecule)
    found = to_rdkit(molecule)
    if found is None:
        raise Unscored("it is not valid: no bonds explain every valence of one neutral molecule")
    return found


def qed(molecule: Molecule) -> float:
    """Quantitative estimate of drug likeness, in [0, 1]."""
    from rdkit.Chem import QED

    return float(QED.qed(valid_mol(molecule)))


def synthetic_accessibility(molecule: Molecule) -> float:
    """Ertl and Schuffenhauer's score: 1 is easy to make, 10 is hard."""
    return float(_sascorer().calculateScore(_without_hydrogens(molecule)))


def log_p(molecule: Molecule) -> float:
    """Crippen's logarithm of the octanol-water partition coefficient."""
    from rdkit.Chem import Crippen

    return float(Crippen.MolLogP(_without_hydrogens(molecule)))  # type: ignore[attr-defined]


def stability(molecule: Molecule) -> float:
    """Share of atoms with exactly the right valence by EDM's bond table."""
    if not len(molecule) or not bool(molecule.positions.isfinite().all()):
        raise Unscored(NOTHING)
    if not in_table(molecule.numbers):
        raise Unscored("EDM's table of bonds does not know all of its elements")
    return float(stable_atoms(molecule.numbers, molecule.positions).double().mean())


def molecule_stability(molecule: Molecule) -> float:
    """1 if every atom is stable, else 0."""
    return float(stability(molecule) == 1.0)


def _without_hydrogens(molecule: Molecule) -> Any:
    from rdkit import Chem

    return Chem.RemoveHs(valid_mol(molecule))


@cache
def _sascorer() -> Any:
    """RDKit's contributed module, which lies beside the package and not in it.

    It unpickles its table of fragments. The table comes in the same wheel as the code, so that
    reading it trusts nobody who was not trusted by importing rdkit.
    """
    from rdkit import RDConfig

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("payoff_sascorer", path)
    if not path.exists() or spec is None or spec.loader is None:
        raise UserError(
            f"the score 'sa' needs RDKit's contributed files, and {path} is not there: install "
            "rdkit from a wheel that has them"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
