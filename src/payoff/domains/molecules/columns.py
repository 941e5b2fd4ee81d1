"""Which column of a table holds SMILES, and whether a file is one of molecules at all."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from payoff.domains.molecules.metrics import quiet
from payoff.domains.vectors.reading import RawTable, read_raw
from payoff.errors import UserError

STRUCTURES = (".sdf", ".sd", ".xyz")
TABLES = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq")
LOOKED_AT, ENOUGH = 100, 0.9  # cells of a column that are tried, and how many must be SMILES
LEAST_LEVELS = 10  # fewer different texts are categories, whatever they spell


def find_smiles(raw: RawTable) -> str | None:
    """The column of SMILES, None where there is none or more than one.

    It is the one called ``smiles``, else the one with that word in its name, else the only column
    of text whose cells RDKit reads as SMILES. Its texts must be as many and as different as those
    that no table design takes for categories, so that a column of C, N and O is none.
    """
    names = [name for name, cells in raw.columns.items() if _is_text(cells)]
    for fits in (lambda name: name == "smiles", lambda name: "smiles" in name):
        if found := [name for name in names if fits(name.lower())]:
            return found[0] if len(found) == 1 else None
    found = [name for name in names if _holds_smiles(raw.columns[name])]
    return found[0] if len(found) == 1 else None


def is_molecules(path: Path) -> bool:
    """Whether a file holds molecules: by its suffix, or as a table with a column of SMILES."""
    kind = path.suffix.lower()
    if kind in (*STRUCTURES, ".smi"):
        return True
    if kind not in TABLES or not path.is_file():
        return False
    try:
        return find_smiles(read_raw(path)) is not None
    except UserError:  # for those who read it to say
        return False


def _is_text(cells: pl.Series) -> bool:
    if cells.dtype != pl.String:
        return False
    numbers = cells.head(LOOKED_AT).cast(pl.Float64, strict=False)
    return bool(numbers.is_null().any())


def _holds_smiles(cells: pl.Series) -> bool:
    texts = cells.drop_nulls()
    levels = texts.n_unique()
    if levels <= LEAST_LEVELS or levels * 2 <= len(texts):
        return False
    tried = texts[:LOOKED_AT]
    try:
        from rdkit import Chem
    except ImportError:
        return False
    quiet()
    good = sum(Chem.MolFromSmiles(text, sanitize=False) is not None for text in tried)
    return good >= ENOUGH * len(tried)
