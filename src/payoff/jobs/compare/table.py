"""The comparison as tables: one row a cell, and one row a method with mean and sd over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

FIRST = ("label", "calls", "seed")
TEXTS = ("family", "declared", "size", "note")
DIGITS = 6
SHOWN = 4  # significant digits of a figure in the text table


def cells_table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """``compare.csv``: every row of every cell as it is."""
    names = dict.fromkeys((*FIRST, *(name for row in rows for name in row)))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pl.DataFrame(columns, strict=False, infer_schema_length=None)


def summary_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> pl.DataFrame:
    """``table.csv``: NAME_mean and NAME_sd over the seeds, in the order of the cells.

    Where a seed's own value has a standard error, NAME_stderr is that of the mean of them.
    """
    groups: dict[tuple[str, int, int | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["label"], row["calls"], row.get("network_budget"))
        groups.setdefault(key, []).append(row)
    found = []
    for (label, calls, network), members in groups.items():
        good = [row for row in members if not row.get("error")]
        line: dict[str, Any] = {"label": label, "calls": calls, "network_budget": network}
        line |= {"seeds": len(good), "crashed": len(members) - len(good)}
        line |= {name: next((r[name] for r in good if r.get(name)), None) for name in TEXTS}
        for name in measures:
            values = [row[name] for row in good if row.get(name) is not None]
            errors = [row[e] for row in good if row.get(e := f"{name}_stderr") is not None]
            line |= {f"{name}_mean": _mean(values), f"{name}_sd": _sd(values)}
            line[f"{name}_stderr"] = math.hypot(*errors) / len(errors) if errors else None
        found.append(line)
    frame = pl.DataFrame(found, infer_schema_length=None)
    floats = [c for c in frame.columns if c.endswith(("_mean", "_sd", "_stderr"))]
    empty = [c for c in floats if c.endswith("_stderr") and frame[c].is_null().all()]
    empty += [c for c in (*TEXTS, "network_budget") if frame[c].is_null().all()]
    frame = frame.with_columns(pl.col(floats).cast(pl.Float64).round_sig_figs(DIGITS))
    return frame.drop(empty)


def both_tables(frame: pl.DataFrame, measures: Mapping[str, str], shown: Sequence[str]) -> str:
    """``table.md``: at equal reward calls, and at equal network evaluations if that was asked."""
    if "network_budget" not in frame.columns:
        return markdown(frame, measures, shown)
    own = pl.col("network_budget").is_null()
    free = own & (pl.col("calls") == 0)  # the base and the exact answer stand in both
    calls = markdown(frame.filter(own), measures, shown)
    network = markdown(frame.filter(~own | free), measures, shown, "network_budget")
    return f"At equal reward calls:\n\n{calls}\nAt equal network evaluations:\n\n{network}"


def markdown(
    frame: pl.DataFrame,
    measures: Mapping[str, str],
    shown: Sequence[str],
    budget: str = "calls",
) -> str:
    """The same for reading: mean ± sd, with a line below on what the columns are."""
    shown = [n for n in shown if f"{n}_mean" in frame.columns]
    shown = [n for n in shown if frame[f"{n}_mean"].is_not_null().any()]
    texts = [n for n in ("declared", "size") if n in frame.columns]
    heads = ["method", budget.removesuffix("_budget"), *texts, *shown]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    notes = []
    for row in frame.iter_rows(named=True):
        cells = [row["label"], str(row[budget] or ""), *(row[n] or "" for n in texts)]
        cells += [_cell(row[f"{n}_mean"], row[f"{n}_sd"], row.get(f"{n}_stderr")) for n in shown]
        if row["crashed"]:
            cells[0] += f" ({row['crashed']} crashed)"
        if row.get("note"):
            cells[0] += " (does not apply)"
            notes.append(f"{row['label']}, {row[budget]}: {row['note']}")
        lines.append(f"| {' | '.join(cells)} |")
    seeds = int(frame["seeds"].max() or 0)  # type: ignore[arg-type]
    spread = f"Mean ± sd over {seeds} seeds." if seeds > 1 else "One seed."
    if seeds == 1 and any(f"{n}_stderr" in frame.columns for n in shown):
        spread += " In brackets: the standard error of a value."
    words = "; ".join(f"{name}: {measures[name]}" for name in shown)
    if "family" in frame.columns and (frame["family"] == "steer").any():
        words += "; the budget of a steering method is that of 100 samples"
    if texts:
        words += (
            "; declared: exact, its law tends to p* as its size grows; biased, it does not; p* or "
            "reward, what the optimum of a tuned model is"
        )
    told = "".join(f"Does not apply: {note}.\n" for note in dict.fromkeys(notes))
    return "\n".join([*lines, "", *([told] if told else []), f"{spread} {words}.", ""])


def _cell(mean: float | None, sd: float | None, error: float | None = None) -> str:
    if mean is not None and sd is None and error:
        places = min(max(0, 1 - math.floor(math.log10(error))), 6)
        return f"{mean:.{places}f} ({error:.{places}f})"
    return _plain_cell(mean, sd)


def _plain_cell(mean: float | None, sd: float | None) -> str:
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
