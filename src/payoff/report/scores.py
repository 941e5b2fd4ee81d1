"""Score histograms, and predicted against true scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from payoff.report.canvas import Figure, base, line, robust_range, score_title
from payoff.report.formatting import count, number, plural, short
from payoff.report.hover import design_hover
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.run import Array, DesignRun, median

BINS = 36


@dataclass(frozen=True)
class Sample:
    """Values whose histogram is drawn: their name, one of them, a colour of the palette."""

    name: str
    values: Array
    noun: str
    colour: str


def histograms(run: DesignRun) -> Figure:
    """Scores of data, labelled rows and designs, one above the other on one axis."""
    samples = [
        Sample("Data, predicted", run.data_predicted, "row", "data"),
        Sample("Labelled rows, measured", run.measured, "row", "labelled"),
        Sample("Designs, predicted", run.predicted, "design", "designs"),
    ]
    if run.oracle is not None:
        samples.append(Sample("Designs, true", run.oracle, "design", "oracle"))
    return stacked("scores", samples, score_title(run), short(run.score, 30))


def stacked(key: str, samples: Sequence[Sample], title: str, subject: str) -> Figure:
    """Histograms one above the other on one axis, each with its median.

    Args:
        key: the figure's id.
        samples: what is drawn; those without a finite value are left out.
        title: of the axis, escaped.
        subject: what the values are, plain text.
    """
    rows = [(s, s.values[np.isfinite(s.values)]) for s in samples]
    rows = [row for row in rows if len(row[1])]
    edges = _edges([values for _, values in rows])
    plot = make_subplots(
        rows=max(len(rows), 1), cols=1, shared_xaxes=True, vertical_spacing=0.13, figure=base(10)
    )
    beyond = 0
    for i, (sample, values) in enumerate(rows, start=1):
        inside = values[(values >= edges[0]) & (values <= edges[-1])]
        beyond += len(values) - len(inside)
        counts = np.histogram(inside, edges)[0]
        share = 100 * counts / len(values)
        hover = [
            f"{sample.name}<br>{number(a)} to {number(b)}: {count(int(c))} of {count(len(values))}"
            for a, b, c in zip(edges, edges[1:], counts, strict=False)
        ]
        plot.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=share,
            width=edges[1] - edges[0],
            marker={"color": COLOUR[sample.colour], "line": {"width": 0}},
            hovertext=hover,
            hoverinfo="text",
            row=i,
            col=1,
        )
        middle = median(values)
        plot.add_vline(
            x=middle, line={"color": COLOUR["ink"], "width": 1.5}, row=i, col=1, opacity=0.9
        )
        many = plural(len(values), sample.noun)
        _row_label(plot, i, f"<b>{sample.name}</b>  {many}, median {number(middle)}")
    plot.update_layout(height=50 + 110 * max(len(rows), 1), showlegend=False, bargap=0)
    plot.update_xaxes(range=[edges[0], edges[-1]])
    plot.update_yaxes(showticklabels=False, ticks="", showgrid=False, showline=False, nticks=3)
    plot.update_xaxes(title_text=title, row=max(len(rows), 1), col=1)
    caption = (
        "Each histogram is scaled to its own number of rows; the vertical line is its median."
        + (f" {plural(beyond, 'value')} outside the drawn range." if beyond else "")
    )
    parts = "; ".join(f"{s.name}: median {number(median(v))}" for s, v in rows)
    return Figure(key, plot, f"Histograms of {subject}. {parts}.", caption)


def truth(run: DesignRun) -> Figure:
    """Predicted against true score of the designs, with the line where both agree."""
    assert run.oracle is not None
    kept = np.isfinite(run.oracle) & np.isfinite(run.predicted)
    x, y = run.predicted[kept], run.oracle[kept]
    valid = np.ones(len(x), bool) if run.valid is None else run.valid[kept]
    plot = base(420)
    spans = [robust_range(x), robust_range(y)]
    beyond = int(((y < spans[1][0]) | (y > spans[1][1])).sum())
    if len(x):
        low, high = min(s[0] for s in spans), max(s[1] for s in spans)
        pad = 0.06 * (high - low or 1.0)
        ends = np.array([low - pad, high + pad])
        line(plot, ends, ends, "as predicted", COLOUR["muted"], dash="dot")
    hover = np.array(design_hover(run), dtype=object)[kept]
    groups = [("valid", valid, "circle"), ("not valid", ~valid, "x-thin")]
    for name, members, symbol in (
        groups if run.valid is not None else [("designs", valid, "circle")]
    ):
        if members.any():
            colour = COLOUR["oracle"] if symbol == "circle" else COLOUR["designs"]
            plot.add_scatter(
                x=x[members],
                y=y[members],
                mode="markers",
                name=name,
                marker={
                    "symbol": symbol,
                    "size": 8,
                    "color": colour,
                    "opacity": 0.85,
                    "line": {"width": 2 if symbol != "circle" else 0.5, "color": colour},
                },
                hovertext=list(hover[members]),
                hoverinfo="text",
            )
    plot.update_xaxes(title_text=score_title(run, "predicted "))
    plot.update_yaxes(title_text=score_title(run, "true "))
    if beyond:
        plot.update_yaxes(range=list(ends))
    label = f"Predicted against true {short(run.score, 30)} of {plural(len(x), 'design')}."
    caption = (
        "Points on the dotted line were predicted exactly; "
        f"below it the truth is {'worse' if run.sign > 0 else 'better'} than predicted."
        + (f" {plural(beyond, 'design')} outside the drawn range." if beyond else "")
    )
    return Figure("truth", plot, label, caption)


def _row_label(plot: go.Figure, row: int, label: str) -> None:
    axis = "" if row == 1 else str(row)
    plot.add_annotation(
        xref="paper",
        x=0,
        yref=f"y{axis} domain",
        y=1.0,
        yanchor="bottom",
        yshift=2,
        xanchor="left",
        text=label,
        showarrow=False,
        align="left",
    )


def _edges(groups: list[Array]) -> Array:
    ranges = [robust_range(values) for values in groups] or [(0.0, 1.0)]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    pad = 0.02 * (high - low) or 0.5 * abs(high) or 0.5
    return np.linspace(low - pad, high + pad, BINS + 1)
