"""How the methods of a comparison are drawn: their colours, symbols, points and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from payoff.report.canvas import line
from payoff.report.compare.run import BASE, EXACT, CompareRun
from payoff.report.formatting import number, plural, short, text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.palette import METHODS
from payoff.report.recorded import Array

SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "cross", "pentagon"),
    *("triangle-down", "hexagram", "x"),
)
BASELINES = {"best-of-n": "diamond-open", "rcgdm": "square-open", "rcgdm-selected": "circle-open"}
# the same symbols as text
MARKS = {
    **{"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"},
    **{"pentagon": "⬟", "triangle-down": "▼", "hexagram": "✶", "x": "✖", "star": "★"},
    **{"diamond-open": "◇", "square-open": "□", "circle-open": "○"},
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure: a name of the palette, a symbol of plotly's."""

    name: str
    symbol: str

    @property
    def colour(self) -> str:
        """The light theme's colour."""
        return COLOUR[self.name]

    @property
    def band(self) -> str:
        """The same, transparent."""
        return COLOUR.get(f"{self.name}-band", COLOUR["data-band"])


def looks(run: CompareRun) -> dict[str, Look]:
    """A colour and a symbol for each label; baselines are grey or black."""
    found, n = {}, 0
    for label in run.labels:
        if label == BASE:
            found[label] = Look("data", "circle")
        elif label == EXACT:
            found[label] = Look("ink", "star")
        elif label in BASELINES:
            found[label] = Look("ink", BASELINES[label])
        else:
            symbol = SYMBOLS[(n + n // len(METHODS)) % len(SYMBOLS)]
            found[label] = Look(METHODS[n % len(METHODS)], symbol)
            n += 1
    return found


def legend(run: CompareRun) -> str:
    """The methods' marks and names in a line of HTML, for figures too small for their own."""
    marks = "".join(
        f'<span class="key"><span style="color: var(--{look.name})" aria-hidden="true">'
        f"{MARKS[look.symbol]}</span> {text(short(label, 40))}</span>"
        for label, look in looks(run).items()
    )
    return f'<p class="keys">{marks}</p>'


def points_of(
    plot: go.Figure,
    label: str,
    look: Look,
    points: list[tuple[Array, Array, int]],
) -> None:
    """Mean of each (x over seeds, y over seeds, budget) with bars to their extremes."""
    if not points:
        return
    name = text(short(label, 40))
    x = np.array([float(across.mean()) for across, _, _ in points])
    y = np.array([float(up.mean()) for _, up, _ in points])
    hover = [
        f"<b>{name}</b>" + (f", {plural(b, 'call')}" if b else "")
        + f"<br>{number(v)} at {number(u)}<br>{plural(max(len(p), len(q)), 'seed')}"
        for u, v, (p, q, b) in zip(x, y, points, strict=True)
    ]  # fmt: skip
    plot.add_scatter(
        x=x,
        y=y,
        name=name,
        legendgroup=label,
        mode="lines+markers" if len(points) > 1 else "markers",
        line={"color": look.colour, "width": 1.8},
        marker={"size": 9, "symbol": look.symbol, "color": look.colour},
        error_x=_error(x, [p[0] for p in points], look),
        error_y=_error(y, [p[1] for p in points], look),
        hovertext=hover,
        hoverinfo="text",
    )
    name_once(plot)


def _error(mean: Array, seeds: list[Array], look: Look) -> dict[str, Any]:
    low, high = (np.array([f(s) for s in seeds]) for f in (np.min, np.max))
    return {
        "type": "data",
        "symmetric": False,
        "array": high - mean,
        "arrayminus": mean - low,
        "thickness": 1.2,
        "width": 3,
        "color": look.colour,
        "visible": bool((high > low).any()),
    }


def level(
    plot: go.Figure, run: CompareRun, label: str, look: Look, ends: Array, measure: str = ""
) -> None:
    """A dotted line at the mean of a label that spends no calls."""
    values = run.values(label, 0, measure or run.main)
    if len(values):
        height = np.full(2, float(values.mean()))
        line(plot, ends, height, text(short(label, 40)), look.colour, dash="dot")


def name_once(plot: go.Figure) -> None:
    """Every name stands in the legend once."""
    seen: set[str] = set()
    for trace in plot.data:
        if trace.showlegend is not False and trace.name is not None:
            trace.showlegend = trace.name not in seen
            seen.add(trace.name)


def bars(run: CompareRun) -> str:
    """What the bars of a figure are."""
    return ", with bars from the worst seed to the best" if run.seeds > 1 else " (there is one)"
