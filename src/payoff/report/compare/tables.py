"""HTML tables of a comparison: methods by measures, mean and spread over the seeds."""

from __future__ import annotations

import math

from payoff.report.compare.conclusion import leaders
from payoff.report.compare.run import BASE, COSTS, EXACT, CompareRun
from payoff.report.formatting import MISSING, count, duration, number, plural, text
from payoff.report.recorded import Array
from payoff.report.tables import Cell, table

SHARES = ("valid", "failed", "stable", "unique", "novel", "share", "mode_1", "mode_2")
# of these the table has a better one; they are in table.csv
LEFT_OUT = ("mean", "mean_all", "failed")
# what comes first; the rest follows in the record's order
FIRST = ("median", "best", "valid", "held_out", "kl", "vendi", "diversity", "support")
FIRST_EXACT = ("reward", "gain", "w1", "energy", "mode_1", "mode_2", "weight_error", "diversity")
HEADS = {
    "median": "median",
    "median_all": "median of all",
    "held_out": "held-out",
    "vendi": "effective number",
    "diversity": "pairwise distance",
    "kl": "divergence",
    "frontier": "frontier",
    "share": "share of frontier",
    "weight_error": "weight error",
    "memory": "memory (MiB)",
    "distinct": "different designs",
    "spent": "calls spent",
    "network": "network evaluations",
    "backward": "differentiated",
    "w1": "W1 to p*",
    "energy": "energy distance to p*",
    "mode_1": "first mode",
    "mode_2": "second mode",
    "seconds": "time",
}


def heading(measure: str) -> str:
    """What a measure is called in heads of tables and on axes; escaped."""
    return text(HEADS.get(measure, measure.replace("_", " ")), 30)


def results(run: CompareRun, calls: int) -> str:
    """What the methods came to at one budget."""
    left = LEFT_OUT if run.main == "median" else ()
    names = [m for m in run.measures if m not in (*COSTS, *left)]
    first = FIRST_EXACT if run.closed_form else FIRST if run.main == "median" else ()
    names.sort(key=lambda m: first.index(m) if m in first else len(first))
    return _table(run, calls, names)


def costs(run: CompareRun, calls: int) -> str:
    """What the methods cost at one budget."""
    return _table(run, calls, [m for m in COSTS if m in run.measures], spending=True)


def legend(run: CompareRun, *, cost: bool = False) -> str:
    """What the columns are, in a line below the tables."""
    names = [m for m in run.measures if run.has(m) and (m in COSTS) == cost]
    if run.main == "median":
        names = [m for m in names if m not in LEFT_OUT]
    words = "; ".join(f"<b>{heading(m)}</b>: {text(run.measures[m])}" for m in names)
    spread = (
        f"Mean ± standard deviation over {plural(run.seeds, 'seed')}"
        if run.seeds > 1
        else "One seed, so nothing is known about the spread over seeds; in brackets the standard "
        "error of a value, where it has one"
    )
    claims = (
        " <b>Declared</b>: exact, the method's law tends to p* as its size grows; biased, it does "
        "not; p* or reward, what the optimum of a tuned model is."
        if not cost and any(c.declared for c in run.cells)
        else ""
    )
    return f'<p class="caption">{spread}. {words}.{claims}</p>' if words else ""


def _table(run: CompareRun, calls: int, names: list[str], *, spending: bool = False) -> str:
    labels = [x for x in run.at(calls) if not (spending and x in (BASE, EXACT))]
    known = {m: {x: run.values(x, calls, m) for x in labels} for m in names}
    names = [m for m in names if any(len(v) for v in known[m].values())]
    best = set() if spending else set(leaders(run, calls))
    said = ("declared", "size") if not spending else ()
    words = [w for w in said if any(run.told(x, calls, w) for x in labels)]
    rows = []
    for label in labels:
        cells = run.group(label, calls)
        crashed = sum(bool(c.error) for c in cells)
        lost = f' <span class="tag">{count(crashed)} of {count(len(cells))} crashed</span>'
        name = text(label, 60) + (lost if crashed else "")
        if run.told(label, calls, "note"):
            name += ' <span class="tag">does not apply</span>'
        row: list[Cell] = [(name, None)]
        row += [(text(run.told(label, calls, word), 40) or MISSING, None) for word in words]
        for measure in names:
            errors = run.values(label, calls, f"{measure}_stderr")
            shown, key = spread(known[measure][label], measure, errors)
            bold = measure == run.main and label in best
            row.append((f"<b>{shown}</b>" if bold else shown, key))
        rows.append(row)
    if not names:
        return "" if spending else "<p>No method has a result.</p>"
    return table(["method", *words, *map(heading, names)], rows, sortable=True)


def spread(values: Array, measure: str, errors: Array | None = None) -> Cell:
    """Mean ± standard deviation, with as many digits as the latter supports.

    Of one value the standard error stands in brackets, where it has one.
    """
    if not len(values):
        return MISSING, None
    mean = float(values.mean())
    if measure == "seconds":
        return duration(mean), mean
    percent = measure in SHARES
    scale, unit = (100.0, " %") if percent else (1.0, "")
    if measure in ("spent", "distinct", "network", "backward", "memory"):
        return count(mean), mean
    error = scale * float(values.std(ddof=1)) if len(values) > 1 else 0.0
    own = scale * float(errors[0]) if errors is not None and len(errors) == 1 else 0.0
    if len(values) == 1 and own > 1e-9 * abs(scale * mean):
        return f"{rounded(scale * mean, own)} ({rounded(own, own)}){unit}", mean
    if not error > 1e-9 * abs(scale * mean):
        return f"{number(scale * mean, 3 if percent else 4)}{unit}", mean
    if percent:
        error = max(error, 0.1)  # shares with one decimal at most
        return f"{rounded(scale * mean, error, 1)} ± {rounded(error, error, 1)}{unit}", mean
    return f"{rounded(scale * mean, error)} ± {rounded(error, error)}", mean


def rounded(value: float, error: float, most: int = 6) -> str:
    """A value with the decimals of two digits of its error; at most ``most`` of them.

    >>> rounded(104.312, 4.47), rounded(1774.2, 5.3), rounded(0.0123456, 0.00071)
    ('104.3', '1,774.2', '0.01235')
    """
    places = min(max(0, 1 - math.floor(math.log10(error))), most)
    return f"{value:,.{places}f}".replace("-", "−")
