"""From a file or an object in memory to named columns of cells, with every row's place known.

Nothing is guessed here about what a cell means; :mod:`payoff.domains.vectors.kinds` does that. What
is checked is the form: the file exists and is text (or Parquet), every line has the header's number
of cells, and every column has a name of its own.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MAGIC = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"\x1f\x8b": "compressed with gzip; decompress it first",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"%PDF": "a PDF document; payoff reads CSV, TSV and Parquet",
}
_ANNOUNCED = re.compile(r"sep=([,;|\t])\r?\n")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass
class RawTable:
    """Columns of cells as they were found.

    Attributes:
        origin: how messages call the table (the file's name, or "the table").
        columns: name -> cells; text for CSV, the column's own type otherwise. Null is empty.
        lines: the file's line of each row, or None where rows have no lines.
        decimal_comma: a comma may be the decimal mark (the cells are not separated by it).
        warnings: what was noticed and is not an error.
    """

    origin: str
    columns: dict[str, pl.Series]
    lines: npt.NDArray[np.int64] | None = None
    decimal_comma: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def height(self) -> int:
        """Number of data rows."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, index: int) -> str:
        """How the user finds a row: its number counted from 1, and its line in the file."""
        if self.lines is None:
            return f"row {index + 1}"
        return f"row {index + 1} (line {int(self.lines[index])})"

    def at(self, indices: npt.NDArray[Any], most: int = 3) -> str:
        """The first few of several rows, in words."""
        shown = ", ".join(self.where(int(i)) for i in indices[:most])
        rest = len(indices) - most
        return shown + (f" and {rest} more" if rest > 0 else "")


def read_raw(source: Any) -> RawTable:
    """Read a CSV, TSV or Parquet file, a polars or pandas DataFrame, or a dict of columns.

    Raises:
        UserError: the source is missing, is not a table or has a broken form; the message says
            what, where and what to do.
    """
    if isinstance(source, (str, Path)):
        raw = _read_file(Path(source))
    elif isinstance(source, pl.DataFrame):
        raw = RawTable("the table", {name: source[name] for name in source.columns})
    elif type(source).__module__.split(".")[0] == "pandas":
        raw = _from_pandas(source)
    elif isinstance(source, Mapping):
        raw = _from_mapping(source)
    else:
        raise UserError(
            f"a table is a path, a polars or pandas DataFrame or a dict of columns, "
            f"not {type(source).__name__}"
        )
    if not raw.columns:
        raise UserError(f"{raw.origin} has no columns")
    if raw.height == 0:
        raise UserError(f"{raw.origin} has column names but no rows of data; add rows")
    return raw


def _read_file(path: Path) -> RawTable:
    if not path.exists():
        near = ""
        if path.parent.is_dir():
            beside = [p.name for p in path.parent.iterdir() if p.suffix == path.suffix][:3]
            near = f" Files like it in that folder: {', '.join(beside)}." if beside else ""
        raise UserError(f"there is no file {path}; check the name and the folder.{near}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the CSV, TSV or Parquet file in it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise UserError(f"{path} is empty; it needs a line of column names and rows of data")
    if data[:4] == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise UserError(f"{path} is {what}")
    return _read_text(path, _decode(path, data))


def _read_parquet(path: Path) -> RawTable:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); "
            "write it again, or save it as CSV"
        ) from error
    return RawTable(str(path), {name: frame[name] for name in frame.columns})


def _decode(path: Path, data: bytes) -> str:
    marked = next(((bom, name) for bom, name in _BOMS if data.startswith(bom)), None)
    encoding = "utf-8"
    if marked is not None:
        data, encoding = data[len(marked[0]) :], marked[1]
    else:
        head = data[: 1 << 16]
        control = sum(head.count(c) for c in range(32) if c not in (9, 10, 11, 12, 13, 26))
        if b"\0" in head or control > len(head) // 20:
            raise UserError(
                f"{path} is a binary file, not a table; payoff reads CSV and TSV text and Parquet"
            )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not {encoding.upper()} text: byte 0x{data[error.start]:02x} in line {line} "
            "cannot be read. Save the file with the encoding UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error


def _read_text(path: Path, text: str) -> RawTable:
    separator = _separator(path, text)
    announced = _ANNOUNCED.match(text)
    if announced:  # spreadsheets may say the separator in a line of its own
        separator, text = announced.group(1), "\n" + text[announced.end() :]
    header, cells, lines = _plain_cells(text, separator) or _quoted_cells(path, text, separator)
    origin = str(path)
    header, cells, warnings = _named(origin, header, cells, lines[0])
    columns = {}
    for name, column in zip(header, cells, strict=True):
        stripped = column.str.strip_chars()
        columns[name] = stripped.set(stripped == "", None).alias(name)
    return RawTable(
        origin, columns, np.array(lines[1:], dtype=np.int64), separator != ",", warnings
    )


Cells = tuple[list[str], list[pl.Series], list[int]]  # header, columns, line of header and of rows


def _plain_cells(text: str, separator: str) -> Cells | None:
    """The fast way, for text without quotation marks in which every line has the same cells."""
    if '"' in text:
        return None
    every = pl.Series(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    empty = every.str.strip_chars(f" \t{separator}") == ""
    lines = np.flatnonzero(~empty.to_numpy()) + 1
    rows = every.filter(~empty)
    if not len(rows):
        return None
    header = rows[0].split(separator)
    if (rows.str.count_matches(separator, literal=True) != len(header) - 1).any():
        return None  # the slow way names the line
    if len(header) == 1:
        return [header[0].strip()], [rows[1:]], lines.tolist()
    names = [f"{i}" for i in range(len(header))]
    cut = rows[1:].str.split_exact(separator, len(header) - 1).struct.rename_fields(names)
    return [name.strip() for name in header], cut.struct.unnest().get_columns(), lines.tolist()


def _quoted_cells(path: Path, text: str, separator: str) -> Cells:
    """Cells by the rules of CSV: quoted cells may hold separators and line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] = []
    start = 1
    try:
        for row in reader:
            line, start = start, reader.line_num + 1
            if not any(row) or not any(cell.strip() for cell in row):
                continue  # blank lines, and lines of separators only as spreadsheets leave them
            if not header:
                header = [cell.strip() for cell in row]
            elif len(row) != len(header):
                raise UserError(_ragged(path, len(rows), line, row, header, separator))
            else:
                rows.append(row)
            lines.append(line)
    except csv.Error as error:
        raise UserError(
            f"{path}: line {start} cannot be split into cells ({error}); look for a quotation "
            "mark that is opened and not closed, and double every quotation mark inside a cell"
        ) from error
    if not header:
        raise UserError(f"{path} is empty; it needs a line of column names and rows of data")
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return header, [pl.Series(column, dtype=pl.String) for column in cells], lines


def _separator(path: Path, text: str) -> str:
    """The separator that cuts the header into most cells, quoted parts aside."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    bare = "".join(first.split('"')[::2])
    counts = {mark: bare.count(mark) for mark in SEPARATORS}
    if path.suffix.lower() in (".tsv", ".tab") and counts["\t"]:
        return "\t"
    return max(SEPARATORS, key=lambda mark: counts[mark])


def _ragged(
    path: Path, row_index: int, line: int, row: list[str], header: list[str], separator: str
) -> str:
    more = len(row) > len(header)
    hint = "a cell that contains the separator must be quoted" if more else "cells are missing"
    return (
        f"{path}: line {line} (row {row_index + 1}) has {_cells(len(row))} but the header has "
        f"{len(header)} (cells are separated by {SEPARATOR_NAMES[separator]}); {hint}"
    )


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"


def _named(
    origin: str, header: list[str], cells: list[pl.Series], line: int
) -> tuple[list[str], list[pl.Series], list[str]]:
    """Header and cells with nameless empty columns dropped, or an error about the names."""
    warnings = []
    keep = []
    for position, (name, column) in enumerate(zip(header, cells, strict=True)):
        if name:
            keep.append(position)
        elif (column.str.strip_chars() != "").any():
            raise UserError(
                f"{origin}: column {position + 1} has no name in the header (line {line}); give it "
                "one, or remove the column if it is only a row index"
            )
        else:
            warnings.append(f"column {position + 1} has neither a name nor cells and is left out")
    header, cells = [header[i] for i in keep], [cells[i] for i in keep]
    _check_names(origin, header)
    if header and all(_is_number(name) for name in header):
        raise UserError(
            f"{origin}: line {line} holds numbers ({', '.join(header[:3])}, ...) where the column "
            "names should be; add a first line with a name for each column"
        )
    return header, cells, warnings


def _check_names(origin: str, names: list[str]) -> None:
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if name in seen:
            raise UserError(
                f"{origin}: columns {seen[name]} and {position} are both called '{name}'; "
                "rename or remove one of them"
            )
        seen[name] = position


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_pandas(frame: Any) -> RawTable:
    """A pandas DataFrame, without pandas or pyarrow: its NaN means missing, as pandas has it."""
    if not hasattr(frame, "columns"):
        raise UserError(f"a table is a DataFrame, not a pandas {type(frame).__name__}")
    names = [str(name) for name in frame.columns]
    _check_names("the table", names)
    columns = {}
    for position, name in enumerate(names):
        column = frame.iloc[:, position]
        missing = column.isna().to_numpy()
        values = [
            None if gone else _plain(v) for v, gone in zip(column.tolist(), missing, strict=True)
        ]
        columns[name] = _series(name, values)
    return RawTable("the table", columns)


def _from_mapping(table: Mapping[Any, Any]) -> RawTable:
    """A dict of lists, arrays or tensors; NaN means missing, since arrays have nothing else."""
    columns = {}
    lengths = {}
    for key, given in table.items():
        values = given.tolist() if hasattr(given, "tolist") else list(given)
        lengths[str(key)] = len(values)
        values = [None if v is None or v != v else _plain(v) for v in values]
        columns[str(key)] = _series(str(key), values)
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{name}' {n}" for name, n in list(lengths.items())[:4])
        raise UserError(f"the table's columns have different lengths: {shown}")
    return RawTable("the table", columns)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _series(name: str, values: list[Any]) -> pl.Series:
    """Cells of one type as that type; a mixture as text, so that the odd one can be named."""
    present = [value for value in values if value is not None]
    if any(type(value) is float for value in present) and all(
        type(value) in (int, float) for value in present
    ):
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    try:
        return _trimmed(pl.Series(name, values))
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        text = [None if value is None else str(value) for value in values]
        return _trimmed(pl.Series(name, text, dtype=pl.String))


def _trimmed(column: pl.Series) -> pl.Series:
    return column.str.strip_chars() if column.dtype == pl.String else column
