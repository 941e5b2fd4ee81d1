"""What a column is: numeric, integer, categorical or constant, and whether its cells are sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import polars as pl

from payoff.domains.vectors.reading import RawTable
from payoff.errors import UserError

Kind = Literal["numeric", "integer", "categorical", "constant", "identifier", "score"]
MOST_LEVELS = 50
EXACT = 2**53  # integers beyond this are not exact as floating-point numbers
LARGEST = 1e100  # squares of larger numbers overflow
_COMMA_NUMBER = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$|^[+-]?\d+,$"
_DATE = (
    r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T]\d{1,2}:\d{2}.*)?$"
    r"|^\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( \d{1,2}:\d{2}.*)?$|^\d{1,2}:\d{2}(:\d{2})?$"
)
_MISSING_WORDS = {"na", "n/a", "nan", "null", "none", "-", "--", "?", "missing", "#n/a"}


@dataclass(frozen=True)
class Column:
    """One column of the user's table.

    Attributes:
        name: as in the header.
        kind: how it is treated.
        dtype: the polars type that designs are written in ("Int64", "Float32", "String", ...).
        levels: the values of a categorical column, sorted.
        low, high: the range of a numeric or integer column over the kept rows.
        value: the value of a constant column (None if all of its cells are empty).
    """

    name: str
    kind: Kind
    dtype: str
    levels: tuple[Any, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    value: Any = None


def read_feature(raw: RawTable, name: str, *, categorical: bool = False) -> tuple[pl.Series, str]:
    """A feature column's cells as numbers (Float64) or categories, and the type to write.

    Raises:
        UserError: dates, text among numbers, NaN or inf, a column that looks like an identifier.
    """
    column = raw.columns[name]
    dtype = column.dtype
    if dtype.is_temporal():
        _dates(raw, name, str(dtype))
    if column.null_count() == len(column):
        return column, str(dtype)
    if categorical or dtype == pl.Boolean:
        return _categories(raw, column, forced=categorical), str(dtype)
    if dtype.is_numeric():
        return read_numbers(raw, column, "feature"), _plain_type(dtype)
    if dtype == pl.String:
        return _from_text(raw, column)
    if dtype in (pl.Categorical, pl.Enum):
        return _categories(raw, column.cast(pl.String)), "String"
    raise UserError(
        f"{raw.origin}: column '{name}' holds {dtype}, which payoff cannot use; turn it into "
        f"numbers or text, or leave it out with --id {name}"
    )


def read_numbers(raw: RawTable, column: pl.Series, role: str) -> pl.Series:
    """Cells as Float64, every cell finite or null.

    Args:
        raw: the table, for places in messages.
        column: the cells.
        role: "feature" or "score", for the advice in messages.

    Raises:
        UserError: a cell is text, NaN or infinite.
    """
    if column.null_count() == len(column):
        return column.cast(pl.Float64)
    if column.dtype == pl.String:
        numbers = _parsed(raw, column)
        bad = np.flatnonzero((numbers.is_null() & column.is_not_null()).to_numpy())
        if len(bad):
            _not_a_number(raw, column, bad, role)
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Float64)
        large = numbers.filter(column.is_not_null()).abs().max() if column.dtype.is_integer() else 0
        if large is not None and large > EXACT:  # type: ignore[operator]
            raise UserError(
                f"{raw.origin}: column '{column.name}' holds integers beyond 2^53, which cannot be "
                f"kept exactly; if it is an identifier, leave it out with --id {column.name}"
            )
    else:
        raise UserError(
            f"{raw.origin}: column '{column.name}' is the {role} but holds {column.dtype}; "
            "it must hold numbers"
        )
    infinite = np.flatnonzero((~numbers.is_finite()).fill_null(False).to_numpy())
    if len(infinite):
        empty = "unlabelled" if role == "score" else "missing"
        raise UserError(
            f"{raw.origin}: column '{column.name}' holds '{column[int(infinite[0])]}' in "
            f"{raw.at(infinite)}; every number must be finite. Correct the cell, or empty it if "
            f"it means {empty}"
        )
    huge = np.flatnonzero((numbers.abs() > LARGEST).fill_null(False).to_numpy())
    if len(huge):
        raise UserError(
            f"{raw.origin}: column '{column.name}' holds {column[int(huge[0])]} in {raw.at(huge)}, "
            "too large to compute with; correct the cell or change the unit"
        )
    return numbers


def describe(name: str, cells: pl.Series, dtype: str, *, categorical: bool = False) -> Column:
    """The :class:`Column` of a feature's kept cells, none of them null."""
    distinct = cells.unique().sort()
    if len(distinct) <= 1:
        value = distinct[0] if len(distinct) else None
        if cells.dtype == pl.Float64 and value is not None and _whole(cells):
            value, dtype = int(value), dtype if dtype != "String" else "Int64"
        return Column(name, "constant", dtype, value=value)
    if categorical or cells.dtype != pl.Float64:
        return Column(name, "categorical", dtype, levels=tuple(distinct.to_list()))
    whole = _whole(cells)
    if dtype == "String":
        dtype = "Int64" if whole else "Float64"
    low, high = float(distinct[0]), float(distinct[-1])
    return Column(name, "integer" if whole else "numeric", dtype, low=low, high=high)


def looks_like_row_number(cells: pl.Series) -> bool:
    """Whether the cells count up by one from row to row, as an index does."""
    if cells.dtype != pl.Float64 or cells.null_count() or len(cells) < 20:
        return False
    return bool((np.diff(cells.to_numpy()) == 1).all())


def _whole(cells: pl.Series) -> bool:
    values = cells.to_numpy()
    return bool((values == np.rint(values)).all() and (np.abs(values) <= EXACT).all())


def _plain_type(dtype: pl.DataType) -> str:
    return "Float64" if dtype.is_decimal() else str(dtype)


def _from_text(raw: RawTable, column: pl.Series) -> tuple[pl.Series, str]:
    """Numbers if at least half of the cells are, else categories."""
    numbers = _parsed(raw, column)
    filled = len(column) - column.null_count()
    good = filled - int((numbers.is_null() & column.is_not_null()).sum())
    if good * 2 >= filled:
        cells = read_numbers(raw, column, "feature")
        if column.str.contains(r"^0\d").any():
            raw.warnings.append(
                f"column '{column.name}' has numbers with leading zeros and is read as numbers; "
                f"if they are codes, use --categorical {column.name}"
            )
        return cells, "String"
    if (column.str.contains(_DATE).sum() or 0) * 2 >= filled:
        _dates(raw, column.name, f"'{column.drop_nulls()[0]}'")
    return _categories(raw, column), "String"


def _parsed(raw: RawTable, column: pl.Series) -> pl.Series:
    numbers = column.cast(pl.Float64, strict=False)
    failed = numbers.is_null() & column.is_not_null()
    if not raw.decimal_comma or not failed.any():
        return numbers
    commas = column.str.contains(_COMMA_NUMBER)
    if not (failed & commas.fill_null(False)).any():
        return numbers
    points = column.str.contains(".", literal=True).fill_null(False) & ~failed
    if points.any():
        comma_row = int(np.flatnonzero((failed & commas.fill_null(False)).to_numpy())[0])
        point_row = int(np.flatnonzero(points.to_numpy())[0])
        raise UserError(
            f"{raw.origin}: column '{column.name}' uses a decimal comma in {raw.where(comma_row)} "
            f"('{column[comma_row]}') and a decimal point in {raw.where(point_row)} "
            f"('{column[point_row]}'); write all of its numbers one way"
        )
    replaced = column.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    note = "numbers are read with a decimal comma"
    if note not in raw.warnings:
        raw.warnings.append(note)
    return replaced.zip_with(commas.fill_null(False), numbers)


def _categories(raw: RawTable, column: pl.Series, *, forced: bool = False) -> pl.Series:
    if column.dtype.is_float():
        read_numbers(raw, column, "feature")  # NaN and inf are no categories
    filled = len(column) - column.null_count()
    levels = column.drop_nulls().n_unique()
    if levels > MOST_LEVELS or (not forced and levels > 10 and levels * 2 > filled):
        example = ", ".join(f"'{v}'" for v in column.drop_nulls().unique(maintain_order=True)[:3])
        raise UserError(
            f"{raw.origin}: column '{column.name}' has {levels} different texts in {filled} rows "
            f"({example}, ...), so it looks like an identifier or free text; leave it out with "
            f"--id {column.name}"
            + ("" if forced else f", or merge its levels to {MOST_LEVELS} or fewer")
        )
    return column


def _dates(raw: RawTable, name: str, what: str) -> NoReturn:
    raise UserError(
        f"{raw.origin}: column '{name}' holds dates or times ({what}), which payoff does not "
        "design with; turn it into a number (for instance days since the first), or leave it out "
        f"with --id {name}"
    )


def _not_a_number(raw: RawTable, column: pl.Series, bad: Any, role: str) -> NoReturn:
    cell = str(column[int(bad[0])])
    if cell.lower() in _MISSING_WORDS:
        empty = "the row has no score" if role == "score" else "the value is missing"
        advice = f"if it means that {empty}, leave the cell empty"
    elif "," in cell:
        advice = "write numbers with a decimal point and without thousands separators"
    elif role == "score":
        advice = "a score is a number, or empty where there is none"
    else:
        advice = (
            "correct the cell; if the column is a category use "
            f"--categorical {column.name}, if it is a label use --id {column.name}"
        )
    numbers = "is the score" if role == "score" else "holds numbers"
    raise UserError(
        f"{raw.origin}: column '{column.name}' {numbers}, but {raw.at(bad)} "
        f"{'holds' if len(bad) == 1 else 'hold'} '{cell[:40]}'"
        f"{'' if len(bad) == 1 else ' or the like'}, which is not a number; {advice}"
    )
