"""Molecules in three dimensions: data, codecs, metrics, training.

>>> molecules = load_qm9().molecules(split("valid")[:100])  # doctest: +SKIP
>>> x, cond = UnitedAtoms().encode(molecules)               # doctest: +SKIP
>>> summary(UnitedAtoms().decode(x, cond))                  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.domains.molecules.codecs import CODECS, AllAtoms, Codec, UnitedAtoms
    from payoff.domains.molecules.files import Read, read_molecules, write_molecules
    from payoff.domains.molecules.metrics import stability, summary, to_rdkit, uniqueness
    from payoff.domains.molecules.molecule import Molecule
    from payoff.domains.molecules.qm9 import PROPERTIES, QM9, load_qm9, split
    from payoff.domains.molecules.quality import (
        diversity,
        known_smiles,
        novelty,
        pose_checks,
        property_distances,
    )
    from payoff.domains.molecules.rewards import REWARDS, MoleculeReward, NamedReward

_WHERE = {
    **dict.fromkeys(("CODECS", "AllAtoms", "Codec", "UnitedAtoms"), "codecs"),
    **dict.fromkeys(("Read", "read_molecules", "write_molecules"), "files"),
    **dict.fromkeys(
        ("diversity", "known_smiles", "novelty", "pose_checks", "property_distances"), "quality"
    ),
    **dict.fromkeys(("stability", "summary", "to_rdkit", "uniqueness"), "metrics"),
    **dict.fromkeys(("PROPERTIES", "QM9", "load_qm9", "split"), "qm9"),
    **dict.fromkeys(("REWARDS", "MoleculeReward", "NamedReward"), "rewards"),
    "Molecule": "molecule",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads the options of a training without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


__all__ = [
    "CODECS",
    "PROPERTIES",
    "QM9",
    "REWARDS",
    "AllAtoms",
    "Codec",
    "Molecule",
    "MoleculeReward",
    "NamedReward",
    "Read",
    "UnitedAtoms",
    "diversity",
    "known_smiles",
    "load_qm9",
    "novelty",
    "pose_checks",
    "property_distances",
    "read_molecules",
    "split",
    "stability",
    "summary",
    "to_rdkit",
    "uniqueness",
    "write_molecules",
]
