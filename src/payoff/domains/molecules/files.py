"""Molecules out of files and into them: SDF, XYZ, SMILES lists and tables with a SMILES column.

What is written comes back: numbers and positions (to the format's decimals) and the columns beside
them. What a file holds and the library cannot use (a charge, an unpaired electron, two molecules in
one entry, a broken entry) is listed with its row and the reason, and the rest is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from payoff.domains.molecules.columns import STRUCTURES, TABLES, find_smiles
from payoff.domains.molecules.entries import (
    Entry,
    sdf_entries,
    smiles_entries,
    written_entries,
    xyz_entries,
)
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.vectors.reading import RawTable, read_raw
from payoff.errors import UserError

LISTS = (".smi", ".csv")


@dataclass(frozen=True)
class Failure:
    """An entry that is no molecule.

    Attributes:
        row: its number in the file, counted from 1 (a table's header is not counted).
        reason: why, in a few words.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Read:
    """What a file held.

    Attributes:
        molecules: in the file's order.
        table: the columns beside them, one row a molecule.
        failed: the entries that are not among the molecules.
    """

    molecules: list[Molecule]
    table: pl.DataFrame
    failed: list[Failure]

    def __len__(self) -> int:
        return len(self.molecules)


def read_molecules(
    path: str | Path,
    smiles: str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Read:
    """The molecules of an SDF or XYZ file, or of a table (CSV, TSV, Parquet, .smi) of SMILES.

    - **SDF**: hydrogens that are not written out are added with coordinates. A flat drawing is
      given a geometry as SMILES are. The tags are the table, and titles its column ``name``.
    - **XYZ**: any number of frames. ``key=value`` pairs of the comment lines are the table, other
      comments its column ``comment``.
    - **SMILES**: a geometry by ETKDGv3, relaxed by MMFF94 where it has parameters for all atoms.

    An entry fails that has a total charge, an unpaired electron or more than one fragment.

    Args:
        path: the file; its suffix says what it is.
        smiles: the table's column of SMILES; by default the one that is called so, or the only one
            that holds them.
        seed: of the geometries made from SMILES and drawings, each from the same seed.
        progress: called with the number of entries done after each.

    Raises:
        UserError: no such file, not of a known kind, no column of SMILES, or no molecule in it.

    Reference: Better Informed Distance Geometry: Using What We Know To Improve Conformation
    Generation (Riniker, Landrum, 2015).
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (*STRUCTURES, ".smi", *TABLES):
        raise UserError(
            f"{path} is not of a kind that molecules are read from: .sdf, .xyz, .smi, or a table "
            "(.csv, .tsv, .parquet) with a column of SMILES"
        )
    _needs_rdkit(path)
    if not 0 <= seed < 2**31 - 1:  # RDKit has no others
        raise UserError(f"seed must lie in 0 … {2**31 - 2}, got {seed}")
    if smiles is not None and kind in (*STRUCTURES, ".smi"):
        raise UserError(f"{path} has no columns, so there is none called {smiles!r} to choose")
    if kind in (".sdf", ".sd"):
        entries = sdf_entries(_text(path), seed)
    elif kind == ".xyz":
        entries = xyz_entries(_text(path))
    elif kind == ".smi":
        lines = [line.split(maxsplit=1) for line in _text(path).splitlines() if line.strip()]
        names = [{"name": line[1].strip()} if len(line) > 1 else {} for line in lines]
        entries = smiles_entries([line[0] for line in lines], names, seed)
    else:
        entries = _table_entries(path, smiles, seed)
    return _collected(path, entries, progress)


def read_written(path: Path) -> list[tuple[Molecule, dict[str, Any]]]:
    """The entries of an SDF file that :func:`write_molecules` wrote, with their tags.

    Molecules come back as they were written, valid or not.

    Raises:
        UserError: the file is missing or damaged.
    """
    _needs_rdkit(path)
    found = []
    for number, (molecule, tags) in enumerate(written_entries(_text(path)), start=1):
        if molecule is None:
            raise UserError(f"{path} is damaged: entry {number} cannot be read")
        found.append((molecule, tags))
    return found


def write_molecules(
    path: str | Path,
    molecules: Sequence[Molecule | None],
    properties: Mapping[str, Sequence[Any]] | pl.DataFrame | None = None,
) -> int:
    """Write molecules as the suffix says and return how many were written.

    - ``.sdf``: with the bonds that :func:`~payoff.domains.molecules.metrics.to_rdkit` finds, and
      as atoms without bonds where it finds none; properties as tags.
    - ``.xyz``: one frame a molecule; properties as ``key=value`` in the comment line.
    - ``.csv``, ``.smi``: canonical SMILES of the molecules that are valid, the others left out;
      properties as columns, for which .smi has no room.

    None stands for no molecule and is left out, as are its properties. The file is whole or not
    there: a failure in the middle leaves what was there before.

    Args:
        path: the file.
        molecules: what is written, in order.
        properties: named columns with a value for every entry of ``molecules``. A null is left
            out, line breaks become spaces.

    Raises:
        UserError: another suffix, a column of another length or with a name that the format has
            no room for, or a file that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (*STRUCTURES, *LISTS):
        raise UserError(f"{path}: molecules are written as .sdf, .xyz, .csv or .smi")
    if kind != ".xyz":
        _needs_rdkit(path)
    frame = _columns(path, kind, properties, len(molecules))
    rows = [(m, row) for m, row in zip(molecules, _rows(frame, len(molecules)), strict=True) if m]
    writer = {".xyz": _xyz, ".csv": _csv, ".smi": _smi}.get(kind, _sdf)
    temporary = path.with_name(f".{path.name}.tmp")
    written = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for text in writer(rows, frame.columns):
                file.write(text)
                written += 1
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written - (kind == ".csv")  # its header


Row = dict[str, Any]
Rows = Sequence[tuple[Molecule, Row]]


def _sdf(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    from rdkit import Chem

    for molecule, row in rows:
        found = to_rdkit(molecule)
        if found is None:
            found = Chem.MolFromXYZBlock(molecule.xyz())
            for atom in found.GetAtoms():  # else a reader would add hydrogens
                atom.SetNoImplicit(True)
        tags = "".join(
            f">  <{name}>\n{_one_line(value)}\n\n"
            for name, value in row.items()
            if value is not None
        )
        yield f"{Chem.MolToMolBlock(found)}{tags}$$$$\n"


def _xyz(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    for molecule, row in rows:
        count, _, *atoms = molecule.xyz().split("\n")
        pairs = (f"{name}={_quoted(v)}" for name, v in row.items() if v is not None)
        yield "\n".join([count, " ".join(pairs), *atoms])


def _csv(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    frame = pl.DataFrame(schema=["smiles", *names])
    yield frame.write_csv()
    for molecule, row in rows:
        if (found := to_rdkit(molecule)) is not None:
            line = {"smiles": smiles_of(found), **row}
            yield pl.DataFrame([line]).write_csv(include_header=False)


def _smi(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    for molecule, _ in rows:
        if (found := to_rdkit(molecule)) is not None:
            yield f"{smiles_of(found)}\n"


def _columns(path: Path, kind: str, properties: Any, n: int) -> pl.DataFrame:
    """The properties as a table, checked against the molecules and the format."""
    if properties is None:
        return pl.DataFrame()
    if not isinstance(properties, pl.DataFrame):
        lists = {
            str(name): values.tolist() if hasattr(values, "tolist") else list(values)
            for name, values in properties.items()
        }
        lengths = {name: len(values) for name, values in lists.items()}
        if wrong := {name: length for name, length in lengths.items() if length != n}:
            name, length = next(iter(wrong.items()))
            raise UserError(f"property {name!r} has {length} values for {n} molecules")
        properties = pl.DataFrame(lists, strict=False)
    elif len(properties) != n and properties.columns:
        raise UserError(f"the properties have {len(properties)} rows for {n} molecules")
    if properties.columns and kind == ".smi":
        raise UserError(f"{path}: .smi has no room for properties: write .csv")
    forbidden = {".xyz": " \t\n=\"'", ".csv": ""}.get(kind, "<>\n")
    for name in properties.columns:
        if not name or set(name) & set(forbidden) or (kind == ".csv" and name == "smiles"):
            raise UserError(f"{path}: {kind} cannot have a property called {name!r}: rename it")
    return properties


def _rows(frame: pl.DataFrame, n: int) -> list[Row]:
    return frame.to_dicts() if frame.columns else [{} for _ in range(n)]


def _one_line(value: Any) -> str:
    return " ".join(str(value).split("\n"))


def _quoted(value: Any) -> str:
    text = _one_line(value)
    plain = text and not set(text) & set(" \t=\"'\\")
    return text if plain else json.dumps(text, ensure_ascii=False)


def _table_entries(path: Path, smiles: str | None, seed: int) -> Iterator[Entry]:
    raw = read_raw(path)
    column = _smiles_column(path, raw, smiles)
    cells = raw.columns[column].cast(pl.String).to_list()
    others = pl.DataFrame([cells for name, cells in raw.columns.items() if name != column])
    return smiles_entries(cells, _rows(others, len(cells)), seed)


def _smiles_column(path: Path, raw: RawTable, chosen: str | None) -> str:
    names = list(raw.columns)
    if chosen is not None:
        if chosen not in names:
            raise UserError(f"{path} has no column {chosen!r}: choose from {', '.join(names)}")
        return chosen
    if found := find_smiles(raw):
        return found
    several = sum("smiles" in name.lower() for name in names) > 1
    raise UserError(
        f"{path}: which column holds SMILES? {'Several are' if several else 'None is'} called so; "
        f"name one of {', '.join(names)}"
    )


def _collected(
    path: Path, entries: Iterator[Entry], progress: Callable[[int], None] | None
) -> Read:
    molecules: list[Molecule] = []
    rows: list[Row] = []
    failed: list[Failure] = []
    for number, (found, row) in enumerate(entries, start=1):
        if isinstance(found, Molecule):
            molecules.append(found)
            rows.append(row)
        else:
            failed.append(Failure(number, found))
        if progress is not None:
            progress(number)
    if not molecules:
        shown = "; ".join(f"{f.row}: {f.reason}" for f in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        what = f"none of its {len(failed)} entries can be used ({shown}{more})"
        raise UserError(f"{path} has no molecule: {what if failed else 'it is empty'}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_typed(name, [row.get(name) for row in rows]) for name in names]
    return Read(molecules, pl.DataFrame(columns), failed)


def _typed(name: str, cells: list[Any]) -> pl.Series:
    """Numbers where all of a column's texts are numbers."""
    series = pl.Series(name, cells, strict=False)
    if series.dtype == pl.String:
        for dtype in (pl.Int64, pl.Float64):
            cast = series.cast(dtype, strict=False)
            if cast.null_count() == series.null_count():
                return cast
    return series


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _needs_rdkit(path: Path) -> None:
    try:
        import rdkit  # noqa: F401
    except ImportError:
        raise UserError(
            f"{path}: molecules in files need the package 'rdkit', which is not installed. "
            "Install the extra with: pip install payoff[molecules]"
        ) from None
