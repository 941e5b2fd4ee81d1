"""The map of data and designs."""

from __future__ import annotations

from typing import Any

from payoff.report.canvas import Figure, base, robust_range, score_title
from payoff.report.formatting import number, plural
from payoff.report.hover import design_hover, row_hover
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.projection import Projection
from payoff.report.run import Array, DesignRun


def plane(run: DesignRun, view: Projection, rows: Array, predicted: Array) -> Figure:
    """Data, coloured by predicted score, and designs on the plane of the widest directions.

    Args:
        run: the run.
        view: where the points lie.
        rows: (n,) the row numbers of the data that are drawn.
        predicted: (n,) their predicted scores.
    """
    flat = view.rank < 2
    y_data, y_designs = (
        (predicted, run.predicted) if flat else (view.data[:, 1], view.designs[:, 1])
    )
    plot = base(540)
    plot.add_scatter(
        x=view.data[:, 0],
        y=y_data,
        mode="markers",
        name="data",
        marker=_scored(run, predicted),
        hovertext=row_hover(run, rows, predicted),
        hoverinfo="text",
    )
    plot.add_scatter(
        x=view.designs[:, 0],
        y=y_designs,
        mode="markers",
        name="designs",
        marker={
            "symbol": "diamond",
            "size": 8,
            "color": COLOUR["designs"],
            "line": {"width": 1, "color": COLOUR["surface"]},
        },
        hovertext=design_hover(run),
        hoverinfo="text",
    )
    plot.update_xaxes(title_text=_axis_title("axis 1", view, 0), showticklabels=False, ticks="")
    second = score_title(run, "predicted ") if flat else _axis_title("axis 2", view, 1)
    plot.update_yaxes(title_text=second, showticklabels=flat, ticks="outside" if flat else "")
    label = (
        f"Map of {plural(len(rows), 'row')} of data and {plural(len(run.predicted), 'design')} on "
        "their two widest directions."
    )
    return Figure("map", plot, label, "")


def _scored(run: DesignRun, predicted: Array) -> dict[str, Any]:
    """Markers coloured by score; the strong end of the scale is the better one."""
    low, high = robust_range(predicted)
    colours = [COLOUR[f"scale-{i}"] for i in range(4)][:: run.sign]
    return {
        "size": 6,
        "color": predicted,
        "colorscale": [[i / 3, colour] for i, colour in enumerate(colours)],
        "cmin": low,
        "cmax": high,
        "line": {"width": 0.4, "color": COLOUR["data"]},
        "colorbar": {
            "title": {"text": "predicted", "font": {"size": 11}},
            "thickness": 10,
            "len": 0.6,
            "outlinewidth": 0,
            "tickfont": {"color": COLOUR["muted"]},
        },
    }


def _axis_title(name: str, view: Projection, j: int) -> str:
    return f"{name}: {number(100 * view.shares[j], 2)} % of the variance"
