"""HTML tables of a fine-tuning run: the top designs, the rounds."""

from __future__ import annotations

import numpy as np

from payoff.report.finetune.run import Scored, TuneRun
from payoff.report.formatting import MISSING, count, duration, percent, plural, text
from payoff.report.recorded import Array
from payoff.report.tables import (
    LISTED,
    TOP_COLUMNS,
    TOP_ROWS,
    Cell,
    as_number,
    column_cells,
    number_cells,
    table,
)


def top_designs(run: TuneRun) -> str:
    """The first designs, scores first, then the user's columns."""
    designs = run.designs
    n = min(TOP_ROWS, len(designs.score))
    written: dict[str, list[Cell]] = {
        "#": [(str(i + 1), float(i + 1)) for i in range(n)],
        text(run.score, 32): number_cells(designs.score[:n]),
    }
    if designs.held_out is not None:
        written["held-out"] = number_cells(designs.held_out[:n])
    written["valid"] = [("yes" if v else "<b>no</b>", None) for v in designs.valid[:n]]
    if designs.stable is None:
        written["support"] = number_cells(designs.support[:n], 3)
    else:
        written["stable"] = [("yes" if v else "no", None) for v in designs.stable[:n]]
    shown = designs.rows.columns[:TOP_COLUMNS]
    heads = [*written, *(text(name, 32) for name in shown)]
    cells = [*written.values(), *(column_cells(designs.rows[name][:n]) for name in shown)]
    notes = []
    if len(designs.score) > TOP_ROWS:
        notes.append(f"the first {TOP_ROWS} of {plural(len(designs.score), 'design')}")
    if designs.rows.width > TOP_COLUMNS:
        notes.append(f"the first {TOP_COLUMNS} of {plural(designs.rows.width, 'column')}")
    note = f"Shown: {' and '.join(notes)}; all are in designs.csv. " if notes else ""
    held = (
        f"Held-out is the score by {text(run.judge, 40)}, which nothing was learned from. "
        if designs.held_out is not None
        else ""
    )
    return table(heads, zip(*cells, strict=True), sortable=True) + (
        f'<p class="caption">{note}{held}{_last(designs)} A click on a column\'s head sorts by it.'
        "</p>"
    )


def _last(designs: Scored) -> str:
    """What the last of our own columns means."""
    if designs.stable is not None:
        return (
            "Valid: RDKit finds bonds that explain every atom, in one piece. Stable: every atom "
            "has its valence by EDM's table of bond lengths, which is stricter."
        )
    return (
        "Support is the distance from where the data are dense: up to 1, a design is as usual as "
        "95 % of the data."
    )


def rounds(run: TuneRun) -> str:
    """The history, one row a measured round."""
    n = len(run.history["round"])
    first = max(0, n - LISTED)
    columns: list[tuple[str, list[Cell]]] = [("round", _rounds(run, first))]
    columns.append(("calls", [(count(v), as_number(v)) for v in run.calls[first:].tolist()]))
    for key, name in (
        ("reward", "tuning reward"), ("reward_best", "best"), ("held_out", "held-out"),
        ("kl", "divergence"), ("valid", "valid"), ("stable", "stable"), ("unique", "different"),
        ("diversity", "pairwise distance"),
        ("vendi", "effective number"), ("loss", "loss"), ("seconds", "time"),
    ):  # fmt: skip
        values = run.column(key)[first:]
        if np.isfinite(values).any():
            columns.append((name, _written(key, values)))
    note = f'<p class="caption">The last {LISTED} of {count(n)} rounds.</p>' if first else ""
    rows = zip(*(cells for _, cells in columns), strict=True)
    return table([name for name, _ in columns], rows) + note


def _rounds(run: TuneRun, first: int) -> list[Cell]:
    found: list[Cell] = []
    for place, value in enumerate(run.history["round"].tolist()):
        tag = ' <span class="tag">returned</span>' if place == run.kept else ""
        name = "base" if value == 0 else count(value)
        found.append((f"{name}{tag}", as_number(value)))
    return found[first:]


def _written(key: str, values: Array) -> list[Cell]:
    if key in ("valid", "stable", "unique"):
        return [(percent(v), as_number(v)) for v in values.tolist()]
    if key == "seconds":
        return [(duration(v), as_number(v)) for v in values.tolist()]
    return [(s if v is not None else MISSING, v) for s, v in number_cells(values.tolist())]
