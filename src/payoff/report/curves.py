"""Curves against the aim: what came out, and what it cost."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from payoff.report.canvas import Figure, base, line, score_title
from payoff.report.formatting import number, short, text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.run import DesignRun


def aim_curves(run: DesignRun) -> Figure:
    """What was asked for against what came out: mean, interval, pessimistic bound, truth."""
    sweep, score = run.sweep, text(run.score, 30)
    aim, chosen = sweep["aim"], run.number("aim", "chosen")
    plot = base(420, hovermode="x unified")
    ends = np.array([np.nanmin(aim), np.nanmax(aim)]) if np.isfinite(aim).any() else aim[:0]
    line(plot, ends, ends, "as asked", COLOUR["muted"], dash="dot")
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    plot.add_scatter(x=aim, y=sweep["predicted_low"], showlegend=False, **band)
    plot.add_scatter(
        x=aim,
        y=sweep["predicted_high"],
        fill="tonexty",
        fillcolor=COLOUR["designs-band"],
        name="90 % interval",
        **band,
    )
    line(plot, aim, sweep["predicted_mean"], "predicted mean", COLOUR["designs"], marks=True)
    line(plot, aim, sweep["pessimistic"], "pessimistic", COLOUR["labelled"], dash="dash")
    if "oracle_median" in sweep:
        line(plot, aim, sweep["oracle_median"], "true median", COLOUR["oracle"], marks=True)
    at = run.argbest(sweep["pessimistic"])
    if at is not None:
        plot.add_scatter(
            x=[aim[at]],
            y=[sweep["pessimistic"][at]],
            mode="markers",
            name="its best point",
            marker={
                "symbol": "star",
                "size": 15,
                "color": COLOUR["labelled"],
                "line": {"width": 1, "color": COLOUR["surface"]},
            },
            hoverinfo="skip",
        )
    _mark_aim(plot, run, f"chosen aim {number(chosen)}")
    _aim_axis(plot, run, "aim (more ambitious to the right)")
    plot.update_yaxes(title_text=score_title(run))
    label = (
        f"Curves of the predicted {short(run.score, 30)} of the designs against the aim, with their"
        f" interval and the pessimistic bound; the chosen aim is {number(chosen)}."
    )
    caption = (
        f"What came out (up) against the {score} asked for (across). Where the solid curve leaves "
        "the dotted line, asking for more no longer gives as much more. The pessimistic bound is "
        f"the prediction made {'lower' if run.sign > 0 else 'higher'} by its own uncertainty; the "
        "star is where it is best."
    )
    return Figure("aim", plot, label, caption)


def cost_curves(run: DesignRun) -> list[Figure]:
    """Small figures of what a higher aim costs: shift, distance, accepted share, valid share."""
    panels = [
        ("shift", "Distribution shift", "how far the designs, taken together, move from the data"),
        ("off_support", "Off-support distance", "how far a design lies from real rows"),
        ("accepted", "Accepted", "candidates that passed every check"),
        ("oracle_valid", "Valid", "designs that the oracle found valid"),
    ]
    figures = []
    for key, title, meaning in panels:
        values = run.sweep.get(key)
        if values is None or not np.isfinite(values).any():
            continue
        plot = base(200, hovermode="x unified", showlegend=False)
        colour = COLOUR["oracle"] if key.startswith("oracle") else COLOUR["ink"]
        line(plot, run.sweep["aim"], values, title, colour, marks=True)
        _mark_aim(plot, run, "")
        _aim_axis(plot, run, "aim")
        share = key in ("accepted", "oracle_valid") and np.nanmax(values) <= 1
        plot.update_yaxes(rangemode="tozero", tickformat=".0%" if share else None)
        label = f"{title} against the aim: {meaning}."
        figures.append(Figure(f"cost-{key}", plot, label, f"<b>{title}</b><br>{meaning}"))
    return figures


def _mark_aim(plot: go.Figure, run: DesignRun, note: str) -> None:
    """A line at the chosen aim, and a note in a corner that the curves leave free.

    More ambitious is to the right, so the curves run from bottom left to top right where more is
    better and from top left to bottom right where less is.
    """
    chosen, aim = run.number("aim", "chosen"), run.sweep["aim"]
    if chosen is None:
        return
    plot.add_vline(x=chosen, line={"color": COLOUR["designs"], "width": 1.5, "dash": "dash"})
    if not note:
        return
    middle = (np.nanmin(aim) + np.nanmax(aim)) / 2 if np.isfinite(aim).any() else chosen
    right = bool(run.sign * (chosen - middle) > 0)
    top = right == (run.sign > 0)
    plot.add_annotation(
        x=chosen,
        y=0.98 if top else 0.02,
        yref="paper",
        yanchor="top" if top else "bottom",
        text=f"<b>{note}</b>",
        showarrow=False,
        xanchor="right" if right else "left",
        xshift=-6 if right else 6,
        font={"color": COLOUR["designs"]},
    )


def _aim_axis(plot: go.Figure, run: DesignRun, title: str) -> None:
    plot.update_xaxes(title_text=title)
    if run.sign < 0:
        plot.update_xaxes(autorange="reversed")
