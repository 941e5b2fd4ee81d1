"""What a point tells about itself under the cursor."""

from __future__ import annotations

import numpy as np
import polars as pl

from payoff.report.formatting import count, number, plural, text
from payoff.report.run import Array, DesignRun

HOVER_COLUMNS = 8


def row_hover(run: DesignRun, rows: Array, predicted: Array) -> list[str]:
    """The text of each data row in ``rows``: its number, its scores, its first columns."""
    heads = []
    for row, value in zip(rows.astype(int), predicted, strict=True):
        measured = run.measured[row]
        label = f", measured {number(measured)}" if np.isfinite(measured) else ""
        heads.append(f"<b>data row {count(int(row) + 1)}</b>: predicted {number(value)}{label}")
    return _with_values(run, heads, run.data[rows.astype(int)])


def design_hover(run: DesignRun) -> list[str]:
    """The text of each design: its rank, its scores, its first columns."""
    low, high = run.judged["predicted_low"], run.judged["predicted_high"]
    heads = []
    for i, value in enumerate(run.predicted):
        head = f"<b>design {i + 1}</b>: {number(value)} [{number(low[i])}, {number(high[i])}]"
        if run.oracle is not None:
            head += f", true {number(run.oracle[i])}"
        heads.append(head)
    return _with_values(run, heads, run.designs)


def _with_values(run: DesignRun, heads: list[str], frame: pl.DataFrame) -> list[str]:
    names = [f.name for f in run.features[:HOVER_COLUMNS]]
    lines = [[head] for head in heads]
    for name in names:
        shown = text(name, 24)
        for line, value in zip(lines, frame[name].to_list(), strict=True):
            written = number(value) if isinstance(value, float) else text(value, 24)
            line.append(f"{shown}: {written}")
    rest = len(run.features) - len(names)
    if rest > 0:
        for line in lines:
            line.append(f"and {plural(rest, 'more column')}")
    return ["<br>".join(line) for line in lines]
