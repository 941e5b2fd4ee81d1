"""The user's table of designs, checked: features with their kinds, labels, limits and warnings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.domains.vectors.kinds import (
    Column,
    describe,
    looks_like_row_number,
    read_feature,
    read_numbers,
)
from payoff.domains.vectors.reading import RawTable, read_raw
from payoff.errors import UserError

MIN_LABELLED = 20
Bound = tuple[float, float]


@dataclass
class Table:
    """Designs that passed every check.

    Attributes:
        origin: how messages call the table.
        frame: the kept rows (n) in the input's column order, cells parsed.
        columns: every column with its kind, in the input's order.
        score: name of the score column.
        minimize: whether a lower score is better.
        labels: (n,) float64, **higher is better** (the sign is turned if ``minimize``), NaN =
            unlabelled.
        rows: (n,) the kept rows' numbers in the input, counted from 1.
        bounds: limits a design must keep, column -> (low, high).
        fixed: values a design must have, column -> value.
        left_out: rows that were dropped because a feature cell is empty.
        warnings: what the user should know.
    """

    origin: str
    frame: pl.DataFrame
    columns: tuple[Column, ...]
    score: str
    minimize: bool
    labels: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    bounds: dict[str, Bound] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which rows carry a score, (n,)."""
        return np.isfinite(self.labels)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that vary and are designed."""
        return tuple(c for c in self.columns if c.kind in ("numeric", "integer", "categorical"))

    @property
    def design_columns(self) -> list[str]:
        """The columns of a design, in the input's order: features and constants."""
        return [c.name for c in self.columns if c.kind not in ("identifier", "score")]

    def column(self, name: str) -> Column:
        """A column by name, or a :class:`UserError` with the closest names."""
        return find_column(self.columns, name, self.origin)

    def to_score(self, values: Any) -> Any:
        """Rewards (higher is better) back in the user's score; its own inverse."""
        return -values if self.minimize else values

    def with_limits(
        self,
        bounds: Sequence[str] | Mapping[str, Any] = (),
        fixed: Sequence[str] | Mapping[str, Any] = (),
    ) -> Table:
        """The table with bounds and fixed values; see :func:`read_table`."""
        from payoff.domains.vectors.limits import parse_bounds, parse_fixed

        found = parse_bounds(self, bounds)
        values, notes = parse_fixed(self, fixed, found[0])
        warnings = [*self.warnings, *found[1], *notes]
        return replace(self, bounds=found[0], fixed=values, warnings=warnings)


def read_table(
    source: Any,
    *,
    score: str | None = None,
    minimize: bool = False,
    identifiers: Iterable[str] = (),
    categorical: Iterable[str] = (),
    bounds: Sequence[str] | Mapping[str, Any] = (),
    fixed: Sequence[str] | Mapping[str, Any] = (),
    min_labelled: int = MIN_LABELLED,
) -> Table:
    """Read and check a table of designs.

    Args:
        source: a CSV, TSV or Parquet file, a polars or pandas DataFrame or a dict of columns.
        score: the score's column; may be left out if one is called "score".
        minimize: a lower score is better.
        identifiers: columns to ignore.
        categorical: columns whose numbers are categories.
        bounds: ``"width=0:40"``, ``"width=:40"``, or ``{"width": (0, 40)}``.
        fixed: ``"material=steel"``, or ``{"material": "steel"}``.
        min_labelled: fewest labelled rows that are accepted.

    Raises:
        UserError: anything is wrong with the table or the options; see the module's files for the
            list. Nothing is written anywhere before that.
    """
    raw = read_raw(source)
    score = _score_name(raw, list(raw.columns), score)
    identifiers, categorical = _named(raw, score, tuple(identifiers), tuple(categorical))
    table = _checked(raw, score, minimize, identifiers, categorical, min_labelled)
    table.warnings += _remarks(table)
    return table.with_limits(bounds, fixed)


def _named(
    raw: RawTable, score: str, identifiers: tuple[str, ...], categorical: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """The columns that options name, known to exist."""
    for option, given in (("--id", identifiers), ("--categorical", categorical)):
        for name in given:
            if name not in raw.columns:
                raise UserError(f"{option} {name}: {_no_column(raw.origin, name, [*raw.columns])}")
            if name == score:
                raise UserError(f"{option} {name}: '{name}' is the score; name another column")
    both = sorted(set(identifiers) & set(categorical))
    if both:
        raise UserError(f"column '{both[0]}' is named by both --id and --categorical; choose one")
    return set(identifiers), set(categorical)


def _checked(
    raw: RawTable,
    score: str,
    minimize: bool,
    identifiers: set[str],
    categorical: set[str],
    min_labelled: int,
) -> Table:
    """The table with its rows chosen and its columns described."""
    cells: dict[str, pl.Series] = {}
    types: dict[str, str] = {}
    for name in raw.columns:
        if name != score and name not in identifiers:
            cells[name], types[name] = read_feature(raw, name, categorical=name in categorical)
    scores = read_numbers(raw, raw.columns[score], "score")
    keep = _complete_rows(raw, cells)
    chosen = pl.Series(keep)
    _check_labels(raw, score, scores.filter(chosen), min_labelled)
    columns: list[Column] = []
    kept: list[pl.Series] = []
    for name, found in raw.columns.items():
        if name == score:
            columns.append(Column(name, "score", "Float64"))
            kept.append(scores.alias(name).filter(chosen))
        elif name in identifiers:
            columns.append(Column(name, "identifier", str(found.dtype)))
            kept.append(found.alias(name).filter(chosen))
        else:
            some = cells[name].alias(name).filter(chosen)
            columns.append(describe(name, some, types[name], categorical=name in categorical))
            kept.append(to_dtype(some, columns[-1].dtype))
    frame = pl.DataFrame(kept)
    labels = frame[score].fill_null(float("nan")).to_numpy().astype(np.float64)
    labels = -labels if minimize else labels
    rows = np.flatnonzero(keep) + 1
    table = Table(raw.origin, frame, tuple(columns), score, minimize, labels, rows)
    table.warnings = list(raw.warnings)
    table.left_out = raw.height - len(table)
    if not table.features:
        raise UserError(
            f"{raw.origin}: no column besides the score"
            f"{' and the identifiers' if identifiers else ''} differs between rows, so there is "
            f"nothing to design; add columns that vary{_one_column_hint(raw)}"
        )
    return table


def find_column(columns: Sequence[Column], name: str, origin: str) -> Column:
    """The column called ``name``, or a :class:`UserError` with the closest names."""
    for column in columns:
        if column.name == name:
            return column
    raise UserError(_no_column(origin, name, [c.name for c in columns]))


def to_dtype(cells: pl.Series, dtype: str) -> pl.Series:
    """Cells in a column's own type; integers that do not fit it stay 64-bit."""
    if dtype in ("String", "Boolean"):
        return cells
    wanted = getattr(pl, dtype, None)
    if wanted is None or cells.dtype == wanted:
        return cells
    try:
        return cells.cast(wanted)
    except pl.exceptions.PolarsError:
        return cells.cast(pl.Int64, strict=False) if wanted.is_integer() else cells


def close_match(name: str, names: Sequence[str]) -> str:
    """A hint naming what the user may have meant, or the first few choices."""
    lowered = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"did you mean '{lowered[near[0]]}'?"
    shown = ", ".join(names[:8])
    return f"there are: {shown}{', ...' if len(names) > 8 else ''}"


def _no_column(origin: str, name: str, names: Sequence[str]) -> str:
    return f"{origin} has no column '{name}'; {close_match(name, names)}"


def _one_column_hint(raw: RawTable) -> str:
    if len(raw.columns) > 1:
        return ""
    only = next(iter(raw.columns))
    return f". Only one column was found ('{only[:60]}'): separate the cells by commas"


def _score_name(raw: RawTable, names: list[str], score: str | None) -> str:
    if score is None:
        if "score" not in names:
            raise UserError(
                f"which column of {raw.origin} is the score? Name it with --score; "
                f"{close_match('score', names)}{_one_column_hint(raw)}"
            )
        return "score"
    if score not in names:
        raise UserError(f"--score {score}: {_no_column(raw.origin, score, names)}")
    return score


def _complete_rows(raw: RawTable, cells: dict[str, pl.Series]) -> npt.NDArray[np.bool_]:
    """Rows whose feature cells are all there; columns without any cell do not count."""
    keep = np.ones(raw.height, dtype=bool)
    emptiest = ("", 0)
    for name, column in cells.items():
        missing = column.is_null().to_numpy()
        if missing.all():
            raw.warnings.append(f"column '{name}' has no values; it is kept empty")
            continue
        emptiest = max(emptiest, (name, int(missing.sum())), key=lambda pair: pair[1])
        keep &= ~missing
    if not keep.any():
        raise UserError(
            f"{raw.origin}: every row has an empty feature cell (column '{emptiest[0]}' alone has "
            f"{emptiest[1]} of {raw.height}); fill the cells in, or leave sparse columns out with "
            "--id"
        )
    lost = np.flatnonzero(~keep)
    if len(lost):
        raw.warnings.append(
            f"rows with an empty feature cell are left out: {len(lost)} of {raw.height}, most of "
            f"them empty in column '{emptiest[0]}': {raw.at(lost)}"
        )
    return keep


def _check_labels(raw: RawTable, score: str, labels: pl.Series, least: int) -> None:
    count = len(labels) - labels.null_count()
    if count == 0:
        raise UserError(
            f"{raw.origin}: no row has a value in the score column '{score}'; at least {least} "
            "rows must be labelled, since the score is learned from them"
        )
    if count < least:
        raise UserError(
            f"{raw.origin}: only {count} of {len(labels)} usable rows have a value in the score "
            f"column '{score}'; at least {least} are needed to learn it. Measure more designs"
        )
    if labels.n_unique() - (labels.null_count() > 0) == 1:
        raise UserError(
            f"{raw.origin}: the score column '{score}' has the same value "
            f"({labels.drop_nulls()[0]:g}) in all {count} labelled rows, so there is nothing to "
            "learn from it; check that it is the right column"
        )


def _remarks(table: Table) -> list[str]:
    notes = []
    constant = [c for c in table.columns if c.kind == "constant" and c.value is not None]
    if constant:
        shown = ", ".join(f"{c.name}={c.value}" for c in constant[:5])
        rest = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        notes.append(f"constant columns are kept as they are: {shown}{rest}")
    names = [c.name for c in table.features]
    distinct = table.frame.select(names).n_unique()
    if distinct < len(table):
        notes.append(f"duplicate rows (same features as another row): {len(table) - distinct}")
    for c in table.features:
        if c.kind == "integer" and looks_like_row_number(table.frame[c.name].cast(pl.Float64)):
            notes.append(
                f"column '{c.name}' counts the rows and is used as a feature; if it is a row "
                f"number or an identifier, leave it out with --id {c.name}"
            )
    return notes
