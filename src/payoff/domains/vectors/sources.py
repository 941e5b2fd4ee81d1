"""Tables of a run: read with a score, or without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from payoff.domains.vectors.codec import Codec
from payoff.domains.vectors.kinds import Column, read_feature
from payoff.domains.vectors.reading import read_raw
from payoff.domains.vectors.table import Table, read_table, to_dtype

KINDS = {"numeric": "number", "integer": "whole number", "categorical": "category"}
MAX_SHOWN = 6  # columns in a line


def read_unscored(source: Any, options: Any) -> Table:
    """A table all of whose columns are part of a design, except the identifiers.

    Raises:
        UserError: the table or an option is wrong.
    """
    raw = read_raw(source)
    typed: dict[str, pl.Series] = {}
    for name, cells in raw.columns.items():
        if name in options.identifiers:
            typed[name] = cells
        else:
            # read here, where messages can name the file and its lines
            found, dtype = read_feature(raw, name, categorical=name in options.categorical)
            typed[name] = to_dtype(found.alias(name), dtype)
    # a table of designs has a score by definition; this one stands in for it and is not learned
    score = "reward"
    while score in typed:
        score = "_" + score
    typed[score] = pl.Series(score, np.arange(raw.height), dtype=pl.Float64)
    table = read_table(
        pl.DataFrame(list(typed.values())),
        score=score,
        identifiers=options.identifiers,
        categorical=options.categorical,
        bounds=options.bounds,
        fixed=options.fixed,
        min_labelled=1,
    )
    table.origin, table.warnings = raw.origin, [*raw.warnings, *table.warnings]
    return table


def fingerprint(table: Table, codec: Codec) -> str:
    """A text that changes with the cells of a table."""
    cells = table.frame.select(*codec.columns, table.score)
    return hashlib.sha256(cells.write_csv().encode()).hexdigest()[:16]


def column_summaries(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """The columns of a table for a record."""
    return [
        {
            "name": c.name,
            "kind": c.kind,
            "low": c.low,
            "high": c.high,
            "levels": [str(level) for level in c.levels],
        }
        for c in columns
    ]


def summary(table: Table, scored: bool) -> dict[str, Any]:
    """Rows and columns of a table for a record."""
    names = [c.name for c in table.features]
    columns = column_summaries(c for c in table.columns if scored or c.kind != "score")
    found: dict[str, Any] = {"left_out": table.left_out, "columns": columns}
    if scored:
        found["duplicates"] = len(table) - table.frame.select(names).n_unique()
    return found


def about(table: Table) -> str:
    """The designed columns in a few words."""
    free = [c for c in table.features if c.name not in table.fixed]
    shown = ", ".join(f"{c.name} ({KINDS[c.kind]})" for c in free[:MAX_SHOWN])
    rest = f" and {len(free) - MAX_SHOWN} more columns" if len(free) > MAX_SHOWN else ""
    return f"designs of {shown}{rest}"


def limits(table: Table) -> str:
    """The user's limits as options of the command line; empty where there are none."""
    words = [
        f"--fixed {k}={v:g}" if isinstance(v, float) else f"--fixed {k}={v}"
        for k, v in table.fixed.items()
    ]
    for name, ends in table.bounds.items():
        low, high = (f"{end:g}" if np.isfinite(end) else "" for end in ends)
        words.append(f"--bounds {name}={low}:{high}")
    return " ".join(words)
