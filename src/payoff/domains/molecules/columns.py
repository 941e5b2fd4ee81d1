"""Which column of a table holds SMILES, and whether a file is one of molecules at all."""

from __future__ import annotations

import csv
import io
from itertools import islice
from pathlib import Path

import polars as pl

from payoff.domains.molecules.metrics import quiet
from payoff.domains.vectors.reading import SEPARATORS, RawTable

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
    """Whether a file holds molecules: by its suffix, or as a table with a column of SMILES.

    Of a table only the first :data:`LOOKED_AT` rows are read.
    """
    kind = path.suffix.lower()
    if kind in (*STRUCTURES, ".smi"):
        return True
    if kind not in TABLES or not path.is_file():
        return False
    try:
        return find_smiles(_head(path)) is not None
    except (OSError, csv.Error, pl.exceptions.PolarsError):  # for those who read it to say
        return False


def _head(path: Path) -> RawTable:
    """The first rows of a table as text, or in a Parquet file's own types."""
    with path.open("rb") as file:
        lines = list(islice(file, LOOKED_AT + 2))
    if not lines or lines[0][:4] == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"):
        frame = pl.scan_parquet(path).head(LOOKED_AT).collect() if lines else pl.DataFrame()
        return RawTable(str(path), {name: frame[name] for name in frame.columns})
    wide = lines[0][:2] in (b"\xff\xfe", b"\xfe\xff")
    text = b"".join(lines).decode("utf-16" if wide else "utf-8-sig", errors="replace")
    if text.startswith("sep="):  # spreadsheets may say the separator in a line of its own
        text = text.partition("\n")[2]
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    header, *rows = csv.reader(io.StringIO(text), delimiter=separator)
    rows = [row for row in rows[:LOOKED_AT] if len(row) == len(header)]
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    columns = {
        name.strip(): pl.Series(name, [cell.strip() or None for cell in column], dtype=pl.String)
        for name, column in zip(header, cells, strict=True)
    }
    return RawTable(str(path), columns)


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
