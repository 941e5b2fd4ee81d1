"""Figures of a comparison: score against calls and divergence, what it costs, the way there."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from payoff.report.canvas import Figure, band, base, line, score_title
from payoff.report.compare.marks import Look, bars, level, looks, name_once, points_of
from payoff.report.compare.run import BASE, CompareRun, Way
from payoff.report.compare.tables import SHARES, heading
from payoff.report.formatting import number, plural, short, text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.recorded import Array

WIDE = 100.0  # times the smallest: beyond it an axis is logarithmic
TRADES = (
    ("valid", "Valid", "share of samples that are possible and have a score"),
    ("vendi", "Effective number", "how many different samples there are (Vendi score)"),
    ("unique", "Different", "share of different compounds among the valid"),
    ("novel", "New", "share of these that the data do not have"),
    ("support", "Support", "distance from the data; up to 1 is as usual as 95 % of them"),
)
EXACT_TRADES = (
    ("diversity", "Diversity", "mean distance of two samples"),
    ("w1", "Distance to p*", "Wasserstein-1 to exact draws; that of p* itself is chance"),
)
LEAST_KL = 1e-3  # nats: below this a divergence is drawn as this on a logarithmic axis


def against_calls(run: CompareRun) -> Figure | None:
    """The score against the budget, where there are several."""
    if len(run.budgets) < 2 or not run.has(run.main):
        return None
    plot = base(_height(run, 430), hovermode="closest")
    for label, look in looks(run).items():
        budgets = run.budgets_of(label)
        if budgets == [0]:
            level(plot, run, label, look, np.array([run.budgets[0], run.budgets[-1]], float))
            continue
        points = [(b, run.values(label, b, run.main)) for b in budgets]
        points_of(plot, label, look, [(np.array([float(b)]), v, b) for b, v in points if len(v)])
    plot.update_xaxes(
        title_text="reward calls",
        type="log" if run.budgets[-1] >= 4 * run.budgets[0] else "linear",
        tickvals=run.budgets,
        ticktext=[f"{b:,}" for b in run.budgets],
    )
    plot.update_yaxes(title_text=axis_title(run, run.main))
    label = f"The {run.main} score of every method against its number of reward calls."
    caption = (
        f"Mean over the seeds{bars(run)}. Dotted: what spends no calls. The calls of judging are "
        "not counted."
    )
    return Figure("calls-score", plot, label, caption)


def rows(
    run: CompareRun, key: str, measures: list[str], note: str, without: tuple[str, ...] = ()
) -> Figure | None:
    """One row a method, one column a measure, one dot a seed and a tick at their mean.

    Shown at the largest budget, for all labels but those in ``without``.
    """
    shown = [m for m in measures if run.has(m)]
    calls = run.budgets[-1] if run.budgets else 0
    labels = [x for x in run.at(calls) if any(len(run.values(x, calls, m)) for m in shown)]
    labels = [x for x in labels if x not in without]
    if not shown or not labels:
        return None
    plot = make_subplots(
        rows=1, cols=len(shown), shared_yaxes=True, horizontal_spacing=0.05,
        figure=base(90 + 28 * len(labels), showlegend=False),
    )  # fmt: skip
    names = [text(short(x, 30)) for x in labels]
    style = looks(run)
    for column, measure in enumerate(shown, start=1):
        for label, name in zip(labels, names, strict=True):
            values = run.values(label, calls, measure)
            if len(values):
                _row(plot, values, name, style[label], measure, column)
        positive = [v for x in labels for v in run.values(x, calls, measure) if v > 0]
        wide = bool(positive) and max(positive) > WIDE * min(positive)
        share = {"tickformat": ".0%"} if measure in SHARES else {}
        title = axis_title(run, measure) + (", logarithmic" if wide else "")
        plot.update_xaxes(
            title_text=title, type="log" if wide else "linear", nticks=5, col=column, **share
        )
    plot.update_yaxes(categoryorder="array", categoryarray=names[::-1], showline=False, ticks="")
    plot.update_yaxes(range=[-0.6, len(names) - 0.4])
    label = f"{', '.join(measures)} of every method at {plural(calls, 'reward call')}."
    return Figure(key, plot, label, f"At {plural(calls, 'reward call')}. {note}")


def _row(plot: go.Figure, values: Array, name: str, look: Look, measure: str, column: int) -> None:
    mean = float(values.mean())
    common: dict[str, Any] = {"hoverinfo": "text", "showlegend": False}
    plot.add_scatter(
        x=values,
        y=[name] * len(values),
        mode="markers",
        marker={"size": 9, "symbol": look.symbol, "color": look.colour, "opacity": 0.75},
        hovertext=[f"{name}<br>{heading(measure)} {number(v)}" for v in values],
        row=1,
        col=column,
        **common,
    )
    if len(values) > 1:
        plot.add_scatter(
            x=[mean],
            y=[name],
            mode="markers",
            marker={
                "symbol": "line-ns",
                "size": 18,
                "line": {"width": 2, "color": look.colour},
            },
            hovertext=f"{name}<br>mean {number(mean)}",
            row=1,
            col=column,
            **common,
        )


def against_divergence(run: CompareRun) -> Figure | None:
    """Gain or score against the divergence from the base, with the exact frontier if known."""
    kl = "kl"
    measure = "gain" if run.closed_form else run.main
    known = [
        (label, b) for label in run.labels for b in run.budgets_of(label)
        if len(run.values(label, b, kl)) and len(run.values(label, b, measure))
    ]  # fmt: skip
    moved = [v for x, b in known if x != BASE for v in run.values(x, b, kl)]
    if not moved or max(moved) <= 0:
        return None
    wide = max(moved) > WIDE * max(min(moved), LEAST_KL)
    low = max(min(v for v in moved if v > 0), LEAST_KL) if wide else 0.0
    plot = base(_height(run, 450), hovermode="closest")
    ends = np.array([low, max(moved)])
    if len(run.frontier):
        x, y = frontier_curve(run.frontier, low)
        line(plot, x, y, "frontier: the most gain possible", COLOUR["muted"], dash="dash")
    for label, look in looks(run).items():
        if label == BASE:
            level(plot, run, label, look, ends, measure)
            continue
        points = [
            (np.maximum(run.values(label, b, kl), low), run.values(label, b, measure), b)
            for x, b in known
            if x == label
        ]
        points_of(plot, label, look, points)
    plot.update_xaxes(
        title_text=f"divergence from the base (nats{', logarithmic' if wide else ''})",
        type="log" if wide else "linear",
        rangemode="normal" if wide else "tozero",
        dtick=1 if wide else None,
    )
    plot.update_yaxes(title_text=axis_title(run, measure))
    label = f"The {measure} of every method against its divergence from the base."
    return Figure("kl-score", plot, label, _divergence_note(run))


def _divergence_note(run: CompareRun) -> str:
    told = (
        f"Mean over the seeds{bars(run)}; budgets of one method are joined. High and to the left "
        "is better: much reward for little distance from the base. The divergence is that of the "
        "sampling paths, which is at least that of the samples themselves."
    )
    if len(run.frontier):
        told += (
            " No law at all has more gain at a divergence than the frontier. Points above it are "
            "there by chance of sampling, or because a sampler with few steps does not draw from "
            "its model exactly. The frontier is exact at the divergences of the runs and drawn "
            "through them."
        )
    if run.has("kl") and any(x.endswith("-selected") for x in run.labels):
        told += " Designs that were selected by a score have no divergence that could be measured."
    if any(x.startswith("steer:") for x in run.labels):
        told += (
            " Steering methods leave the model as it is, so that there is no divergence of models "
            "to measure: see what they cost in variety, below."
        )
    if "best-of-n" in run.labels:
        told += " The divergence of best-of-n is computed: log n − (n − 1)/n."
    return told


def frontier_curve(points: Array, low: float) -> tuple[Array, Array]:
    """A curve through exact points (n, 2) of the frontier and the origin, from ``low`` on.

    For small divergences k the gain grows as the square root of k, so that is what is
    interpolated over.
    """
    kl = np.concatenate([[0.0], points[:, 0]])
    gain = np.concatenate([[0.0], points[:, 1]])
    x = np.linspace(np.sqrt(low), np.sqrt(kl[-1]), 200)
    return x**2, np.interp(x, np.sqrt(kl), gain)


def trade_offs(run: CompareRun) -> list[Figure]:
    """Small figures of what the score costs: validity, variety and distance from the data."""
    if not run.has(run.main):
        return []
    figures = []
    for measure, title, meaning in EXACT_TRADES if run.closed_form else TRADES:
        if not run.has(measure):
            continue
        plot = base(270, showlegend=False, hovermode="closest")
        for label, look in looks(run).items():
            points = [
                (run.values(label, b, run.main), run.values(label, b, measure), b)
                for b in run.budgets_of(label)
            ]
            points_of(plot, label, look, [p for p in points if len(p[0]) and len(p[1])])
        plot.update_xaxes(title_text=axis_title(run, run.main), nticks=5)
        if measure in SHARES:
            shares = [c.values[measure] for c in run.cells if measure in c.values]
            span = [max(0.0, min(shares) - 0.05), min(1.03, max(shares) + 0.05)]
            plot.update_yaxes(tickformat=".0%", range=span)
        told = f"{title} of every method against its {run.main} score: {meaning}."
        figures.append(Figure(f"trade-{measure}", plot, told, f"<b>{title}</b><br>{meaning}"))
    return figures


def trade_note(run: CompareRun) -> str:
    """How to read :func:`trade_offs`, as HTML."""
    if run.closed_form:
        return (
            f'<p class="caption">Mean over the seeds{bars(run)}. p* is the star: a method that '
            "draws from it stands there. More reward than it has is bought with variety, or with "
            "samples that the base would not make. Steering methods have no divergence that could "
            "be measured, and are compared here.</p>"
        )
    way = "right" if run.sign > 0 else "left"
    return (
        f'<p class="caption">Mean over the seeds{bars(run)}; budgets of one method are joined. A '
        "score that is bought with valid designs or with their variety is worth less: a good "
        f"method is far to the {way} and no lower than the base in validity and variety.</p>"
    )


def ways(run: CompareRun) -> Figure | None:
    """Rewards on the way of each method at its largest budget: mean over seeds and range."""
    known = {k: w for k, w in run.ways.items() if any(np.isfinite(x.reward).any() for x in w)}
    if not known:
        return None
    plot = base(_height(run, 400), hovermode="x unified")
    style = looks(run)
    for label, several in known.items():
        look, name = style[label], text(short(label, 40))
        for x, low, mean, high in joined(several):
            if (high > low).any():
                band(plot, x, low, high, f"{name}, range", look.band)
                plot.data[-1].showlegend = False
            line(plot, x, mean, name, look.colour, marks=True)
            plot.data[-1].marker.symbol = look.symbol
            plot.data[-1].marker.size = 7
    name_once(plot)
    plot.update_xaxes(title_text="reward calls", rangemode="tozero")
    plot.update_yaxes(title_text="mean reward on the way")
    label = "The reward of every tuned model while it learned, against reward calls."
    caption = (
        "While they learned, at the largest budget: mean over the seeds, with their range shaded. "
        "It is the held-out reward of fresh samples where every run has one, otherwise the reward "
        "of the designs that were learned from."
    )
    return Figure("ways", plot, label, caption)


def joined(several: list[Way]) -> list[tuple[Array, Array, Array, Array]]:
    """(calls, low, mean, high) over seeds that spent their calls alike; else one entry a seed."""
    first = several[0].calls
    if all(len(w.calls) == len(first) and (w.calls == first).all() for w in several):
        stack = np.stack([w.reward for w in several])
        kept = np.isfinite(stack).all(0)
        stack = stack[:, kept]
        return [(first[kept], stack.min(0), stack.mean(0), stack.max(0))]
    found = []
    for way in several:
        kept = np.isfinite(way.reward)
        y = way.reward[kept]
        found.append((way.calls[kept], y, y, y))
    return found


def axis_title(run: CompareRun, measure: str) -> str:
    """A measure on an axis; escaped."""
    if measure == run.main:
        prefix = "mean " if measure == "reward" else f"{measure} "
        return score_title(run, prefix)
    units = {"seconds": "time (s)", "kl": "divergence (nats)"}
    return units.get(measure, heading(measure))


def _height(run: CompareRun, height: int) -> int:
    """Room for the legend's lines."""
    return height + 20 * (len(run.labels) // 6)
