"""Small tables and files of molecules with a score that can be learned in seconds."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split

STEMS = ("C", "CC", "CCC", "C1CC1", "CC(C)", "C1CCC1", "OCC", "NCC")
QM9_LIKE = ("O", "N", "C#N", "F", "OC")
OTHERS = ("S", "Cl", "Br", "SC", "Cl")


def table(ends: tuple[str, ...] = QM9_LIKE, labelled_every: int = 1) -> pl.DataFrame:
    """Forty molecules whose score is nearly their number of letters; some have none."""
    smiles = [stem + end for stem in STEMS for end in ends]
    score = [
        round(len(text) + 0.1 * (i % 3), 2) if i % labelled_every == 0 else None
        for i, text in enumerate(smiles)
    ]
    ids = [f"M{i}" for i in range(len(smiles))]
    return pl.DataFrame({"id": ids, "smiles": smiles, "logS": score})


def structures(path: Path, n: int = 40) -> list[Molecule]:
    """Molecules of QM9 in a file, their polarisability beside all but every fourth."""
    data = load_qm9()
    rows = split("valid", len(data))[:n]
    found = data.molecules(rows)
    alpha = data.column("alpha")[rows].tolist()
    write_molecules(
        path, found, {"alpha": [None if i % 4 == 3 else a for i, a in enumerate(alpha)]}
    )
    return found
