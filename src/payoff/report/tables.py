"""HTML tables: the top designs, the candidates for the learned reward, how the run was made."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from payoff.report.formatting import (
    DIGITS,
    MISSING,
    aligned,
    cell,
    count,
    duration,
    file_size,
    number,
    percent,
    plural,
    text,
)
from payoff.report.prose import candidates
from payoff.report.recorded import REPORT, Recorded
from payoff.report.run import DesignRun

TOP_ROWS = 20
TOP_COLUMNS = 24
LISTED = 60

Cell = tuple[str, float | None]  # what is shown, and what it is sorted by (None: by the text)


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False) -> str:
    """A table whose heads and shown cells are HTML already; a number in a cell aligns right."""
    rows = list(rows)
    numeric = [
        all(r[j][1] is not None or r[j][0] == MISSING for r in rows) for j in range(len(heads))
    ]
    head = "".join(
        f'<th scope="col"{" class=n" if right else ""}>'
        + (f'<button type="button">{name}</button>' if sortable else name)
        + "</th>"
        for name, right in zip(heads, numeric, strict=True)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{' class=n' if right else ''}{f' data-v={key!r}' if key is not None else ''}>"
            f"{shown}</td>"
            for (shown, key), right in zip(row, numeric, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def top_designs(run: DesignRun) -> str:
    """The first designs, scores first, then the user's columns."""
    shown = run.features[:TOP_COLUMNS]
    n = min(TOP_ROWS, len(run.predicted))
    low, high = run.judged["predicted_low"][:n], run.judged["predicted_high"][:n]
    written: dict[str, list[Cell]] = {
        "#": [(str(i + 1), float(i + 1)) for i in range(n)],
        "predicted": number_cells(run.predicted[:n]),
        "90 % interval": [
            (f"{a} … {b}", as_number(float(key)))
            for a, b, key in zip(aligned(low), aligned(high), low, strict=True)
        ],
    }
    if run.oracle is not None:
        written["true"] = number_cells(run.oracle[:n])
    if run.valid is not None:
        written["valid"] = [("yes" if v else "<b>no</b>", None) for v in run.valid[:n]]
    for name in ("novelty", "support"):
        written[name] = number_cells(run.judged[name][:n], 3)
    heads = [*written, *(text(f.name, 32) for f in shown)]
    cells = [*written.values(), *(column_cells(run.designs[f.name][:n]) for f in shown)]
    rows = zip(*cells, strict=True)
    notes = []
    if len(run.predicted) > TOP_ROWS:
        notes.append(f"the first {TOP_ROWS} of {plural(len(run.predicted), 'design')}")
    if len(run.features) > TOP_COLUMNS:
        notes.append(f"the first {TOP_COLUMNS} of {plural(len(run.features), 'column')}")
    note = f"Shown: {' and '.join(notes)}; all are in designs.csv. " if notes else ""
    return table(heads, rows, sortable=True) + (
        f'<p class="caption">{note}Novelty is the distance to the nearest row of data, in standard '
        "deviations: 0 is a copy. Support is the distance from where the data are dense: up to 1, "
        "a design is as usual as 95 % of the data. A click on a column's head sorts by it.</p>"
    )


def reward_candidates(run: Recorded) -> str:
    """The cross-validation table, with the chosen candidate marked."""
    rows = []
    for candidate in candidates(run):
        chosen = candidate.get("name") == run.get("reward", "chosen")
        name = text(candidate.get("name", ""), 40)
        shown = f'<b>{name}</b> <span class="tag">chosen</span>' if chosen else name
        keys = ("rank_correlation", "rmse", "r2", "coverage90")
        rank, rmse, r2, cover = (as_number(candidate.get(key)) for key in keys)
        rows.append(
            [
                (shown, None),
                number_cell(rank, 3),
                number_cell(rmse),
                number_cell(r2, 3),
                (percent(cover), cover),
            ]
        )
    if not rows:
        return "<p>The run folder does not say how the reward was chosen.</p>"
    error = "typical error" + (f" ({text(run.unit, 20)})" if run.unit else "")
    return table(["model", "rank correlation", error, "R²", "in the 90 % interval"], rows)


def pairs(entries: dict[str, Any]) -> str:
    """A nested dictionary as a two-column table of escaped text, at most LISTED rows."""
    flat = list(_flatten(entries))
    rows: list[list[Cell]] = [[(text(k, 80), None), (v, None)] for k, v in flat[:LISTED]]
    more = len(flat) - LISTED
    note = f'<p class="caption">and {count(more)} more, in run.json</p>' if more > 0 else ""
    return (table(["setting", "value"], rows) if rows else "<p>Not recorded.</p>") + note


def columns(run: Recorded) -> str:
    """The input columns and how each was treated."""
    listed = run.get("data", "columns")
    entries = [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
    rows: list[list[Cell]] = []
    for entry in entries[:LISTED]:
        levels = entry.get("levels")
        low, high = as_number(entry.get("low")), as_number(entry.get("high"))
        if levels:
            values = text(", ".join(str(v) for v in levels), 80)
        elif low is not None and high is not None:
            values = f"{number(low)} … {number(high)}"
        else:
            values = MISSING
        name, kind = text(entry.get("name", ""), 60), text(entry.get("kind", ""))
        rows.append([(name, None), (kind, None), (values, None)])
    if not rows:
        return ""
    note = (
        f'<p class="caption">The first {LISTED} of {plural(len(entries), "column")}.</p>'
        if len(entries) > LISTED
        else ""
    )
    return table(["column", "kind", "values"], rows) + note


def timings(run: Recorded) -> str:
    """Stages and their times."""
    found = run.get("timings")
    stages = found if isinstance(found, dict) else {}
    rows: list[list[Cell]] = [
        [(text(name, 60), None), (duration(v), as_number(v))] for name, v in stages.items()
    ]
    return table(["stage", "time"], rows) if rows else ""


def files(folder: Path, *, nested: bool = True) -> str:
    """The files of the run folder, with sizes; ``nested``: those of its folders too."""
    found = sorted(
        p
        for p in (folder.rglob("*") if nested else folder.glob("*"))
        if p.is_file() and p.name != REPORT and p.name[:1] != "."
    )
    rows: list[list[Cell]] = [
        [(text(p.relative_to(folder).as_posix(), 80), None), (file_size(n), float(n))]
        for p, n in ((p, p.stat().st_size) for p in found[:LISTED])
    ]
    return table(["file", "size"], rows)


def command(run: Recorded) -> str:
    """The command to reproduce the run, as text."""
    given = run.get("command")
    if isinstance(given, list):
        return shlex.join(str(word) for word in given)
    return str(given or "not recorded")


def counts(run: DesignRun) -> str:
    """How much work it was."""
    names = {
        "seed": "seed",
        "reward_calls": "reward calls",
        "network_calls": "network calls",
        "oracle_calls": "oracle calls",
    }
    parts = []
    for key, name in names.items():
        value = run.number(key)
        if value is not None:
            shown = str(int(value)) if key == "seed" else count(value)
            parts.append(f"{name} {shown}")
    return "; ".join(parts)


def _flatten(entries: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in entries.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple | dict):
            yield f"{prefix}{key}", text(", ".join(str(v) for v in value) or MISSING, 120)
        else:
            yield f"{prefix}{key}", text(value, 120) if isinstance(value, str) else cell(value)


def as_number(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number_cells(values: Iterable[Any], digits: int = DIGITS) -> list[Cell]:
    """A column of numbers, with the same number of decimals."""
    values = list(values)
    return [
        (s, as_number(v)) for s, v in zip(aligned(values, digits), map(_float, values), strict=True)
    ]


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def column_cells(column: pl.Series) -> list[Cell]:
    """A user's column, as cells."""
    if column.dtype.is_float():
        return number_cells(column.to_list())
    return [(cell(v), as_number(v)) for v in column.to_list()]


def number_cell(value: Any, digits: int = 4) -> Cell:
    """A number on its own."""
    found = _float(value)
    return number(found, digits), as_number(found)
