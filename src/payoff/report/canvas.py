"""What every figure shares: its frame, its style and its way to draw a line.

Figures are plotly specifications in the light theme's colours (see ``palette``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from payoff.report.formatting import text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.recorded import Array, Recorded

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Figure:
    """A plot with what a reader who cannot see it, or does not know it, needs.

    Attributes:
        key: its id on the page.
        plot: the plotly figure.
        label: one sentence that says what it shows (for screen readers), plain text.
        caption: HTML below the figure.
    """

    key: str
    plot: go.Figure
    label: str
    caption: str


def score_title(run: Recorded, prefix: str = "") -> str:
    """The score's name and unit, for an axis; escaped."""
    unit = f" ({text(run.unit, 20)})" if run.unit else ""
    return f"{prefix}{text(run.score, 36)}{unit}"


def base(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the page's style."""
    axis = {
        "gridcolor": COLOUR["grid"],
        "linecolor": COLOUR["rule"],
        "tickcolor": COLOUR["rule"],
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8, "font": {"color": COLOUR["muted"], "size": 12}},
        "tickfont": {"color": COLOUR["muted"]},
        "separatethousands": True,
    }
    template = go.layout.Template(layout={"xaxis": axis, "yaxis": axis})
    settings = {
        "template": template,
        "height": height,
        "margin": {"l": 12, "r": 16, "t": 16, "b": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": COLOUR["ink"]},
        "hoverlabel": {
            "bgcolor": COLOUR["surface"],
            "bordercolor": COLOUR["rule"],
            "font": {"color": COLOUR["ink"], "size": 12},
            "align": "left",
        },
        "legend": {
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.02,
            "x": 0,
            "xanchor": "left",
            "traceorder": "normal",
            "font": {"color": COLOUR["ink"], "size": 12},
        },
        "dragmode": False,
    }
    return go.Figure(layout=go.Layout(**{**settings, **layout}))


def line(
    plot: go.Figure,
    x: Array,
    y: Array,
    name: str,
    colour: str,
    dash: str = "solid",
    marks: bool = False,
) -> None:
    """Add a line; ``marks`` puts a dot on every point, dotted lines do not answer the cursor."""
    plot.add_scatter(
        x=x,
        y=y,
        name=name,
        mode="lines+markers" if marks or len(x) == 1 else "lines",
        line={"color": colour, "width": 2.2 if dash != "dot" else 1.4, "dash": dash},
        marker={"size": 5, "color": colour},
        hoverinfo="skip" if dash == "dot" else None,
    )


def band(plot: go.Figure, x: Array, low: Array, high: Array, name: str, colour: str) -> None:
    """Shade between two curves; ``colour`` is a transparent one of the palette."""
    kept = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    edge: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    plot.add_scatter(x=x[kept], y=low[kept], showlegend=False, **edge)
    plot.add_scatter(x=x[kept], y=high[kept], fill="tonexty", fillcolor=colour, name=name, **edge)


def robust_range(values: Array) -> tuple[float, float]:
    """A range that a few wild values cannot stretch: five quartile distances about the middle half.

    All of a normal sample lies inside; (0, 1) where there is no finite value.
    """
    kept = values[np.isfinite(values)]
    if len(kept) == 0:
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(kept, [0.25, 0.75]))
    room = 5 * (high - low) or float(np.ptp(kept))
    return max(float(kept.min()), low - room), min(float(kept.max()), high + room)
