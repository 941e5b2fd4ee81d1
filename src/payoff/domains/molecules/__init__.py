"""Molecules in three dimensions: data, codecs, metrics, training.

>>> molecules = load_qm9().molecules(split("valid")[:100])  # doctest: +SKIP
>>> x, cond = UnitedAtoms().encode(molecules)               # doctest: +SKIP
>>> summary(UnitedAtoms().decode(x, cond))                  # doctest: +SKIP
"""

from payoff.domains.molecules.codecs import CODECS, AllAtoms, Codec, UnitedAtoms
from payoff.domains.molecules.metrics import stability, summary, to_rdkit, uniqueness
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import PROPERTIES, QM9, load_qm9, split

__all__ = [
    "CODECS",
    "PROPERTIES",
    "QM9",
    "AllAtoms",
    "Codec",
    "Molecule",
    "UnitedAtoms",
    "load_qm9",
    "split",
    "stability",
    "summary",
    "to_rdkit",
    "uniqueness",
]
