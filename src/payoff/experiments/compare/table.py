"""The comparison as tables: one row a cell, and one row a method with mean and sd over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

FIRST = ("label", "calls", "seed")
DIGITS = 6
SHOWN = 4  # significant digits of a figure in the text table


def cells_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """``compare.csv``: every row of every cell as it is."""
    names = dict.fromkeys((*FIRST, *(name for row in rows for name in row)))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pl.DataFrame(columns, strict=False, infer_schema_length=None)


def summary_frame(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> pl.DataFrame:
    """``table.csv``: NAME_mean and NAME_sd over the seeds, in the order of the cells."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["calls"]), []).append(row)
    found = []
    for (label, calls), members in groups.items():
        good = [row for row in members if not row.get("error")]
        line: dict[str, Any] = {"label": label, "calls": calls}
        line |= {"seeds": len(good), "crashed": len(members) - len(good)}
        for name in measures:
            values = [row[name] for row in good if row.get(name) is not None]
            line |= {f"{name}_mean": _mean(values), f"{name}_sd": _sd(values)}
        found.append(line)
    frame = pl.DataFrame(found, infer_schema_length=None)
    floats = [c for c in frame.columns if c.endswith(("_mean", "_sd"))]
    return frame.with_columns(pl.col(floats).cast(pl.Float64).round_sig_figs(DIGITS))


def markdown(frame: pl.DataFrame, measures: Mapping[str, str], shown: Sequence[str]) -> str:
    """The same for reading: mean ± sd, with a line below on what the columns are."""
    shown = [name for name in shown if frame[f"{name}_mean"].is_not_null().any()]
    heads = ["method", "calls", *shown]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in frame.iter_rows(named=True):
        cells = [row["label"], str(row["calls"] or "")]
        cells += [_cell(row[f"{name}_mean"], row[f"{name}_sd"]) for name in shown]
        if row["crashed"]:
            cells[0] += f" ({row['crashed']} crashed)"
        lines.append(f"| {' | '.join(cells)} |")
    seeds = int(frame["seeds"].max() or 0)  # type: ignore[arg-type]
    spread = f"Mean ± sd over {seeds} seeds." if seeds > 1 else "One seed."
    words = "; ".join(f"{name}: {measures[name]}" for name in shown)
    return "\n".join([*lines, "", f"{spread} {words}.", ""])


def _cell(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    if sd is None:
        whole = mean == round(mean) and abs(mean) < 1e7
        return f"{mean:.0f}" if whole else f"{mean:.{SHOWN}g}"
    # as many decimals as two digits of the spread ask for
    places = max(0, 1 - math.floor(math.log10(sd))) if sd > 0 else SHOWN
    places = min(places, max(0, SHOWN - 1 - _exponent(mean)))
    return f"{mean:.{places}f} ± {sd:.{places}f}"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    """The sd over seeds; None for one."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
