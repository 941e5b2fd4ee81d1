"""Figures of a steering run: the scores, what they cost in support, and the weights' health."""

from __future__ import annotations

import numpy as np

from payoff.report.canvas import Figure, base, line, score_title
from payoff.report.finetune.run import Scored
from payoff.report.formatting import number, short, text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.steer.run import SteerRun

WIDE = 50.0  # times: beyond it an axis is logarithmic


def support(run: SteerRun) -> Figure | None:
    """Score against distance from the data: designs and plain samples."""
    plot, drawn = base(420, hovermode="closest"), 0
    groups: tuple[tuple[str, Scored, str, int], ...] = (
        ("base model", run.base, "data", 6),
        ("designs", run.designs, "designs", 8),
    )
    far = 1.0
    for name, group, colour, size in groups:
        kept = group.valid & np.isfinite(group.score) & np.isfinite(group.support)
        x, y = group.support[kept], group.score[kept]
        drawn += len(x) * (colour == "designs")
        far = max(far, *x.tolist(), far)
        plot.add_scatter(
            x=x,
            y=y,
            name=f"{name}, valid",
            mode="markers",
            marker={"size": size, "color": COLOUR[colour], "opacity": 0.75},
            hovertext=[
                f"{name}<br>{text(short(run.score, 30))} {number(v)}<br>support {number(u)}"
                for u, v in zip(x, y, strict=True)
            ],
            hoverinfo="text",
        )
    if not drawn:
        return None
    plot.add_vline(x=1.0, line={"color": COLOUR["muted"], "width": 1.5, "dash": "dot"})
    plot.update_xaxes(
        title_text="support: distance from where the data are dense",
        type="log" if far > WIDE else "linear",
        rangemode="normal" if far > WIDE else "tozero",
    )
    plot.update_yaxes(title_text=score_title(run))
    caption = (
        "Up to 1 (dotted), a design is as usual as 95 % of the data. Designs far to the right were "
        "found where the model and the reward have seen little: look at them before they are built."
    )
    return Figure("support", plot, "Score against support of base samples and designs.", caption)


def health(run: SteerRun) -> Figure | None:
    """Effective sample size of every batch, against the most it can be."""
    ess, size = run.reported.get("ess"), run.number("method", "size", "value")
    if ess is None or len(ess) < 2 or size is None:
        return None
    x = run.column("batch") + 1
    plot = base(260)
    line(plot, x, ess, "at the end", COLOUR["designs"], marks=True)
    least = run.reported.get("least_ess")
    if least is not None:
        line(plot, x, least, "smallest on the way", COLOUR["oracle"], marks=True)
    line(plot, x[[0, -1]], np.full(2, size), "all of them", COLOUR["muted"], dash="dot")
    plot.update_xaxes(title_text="batch of designs", dtick=1 if len(x) <= 20 else None)
    plot.update_yaxes(title_text="effective sample size", rangemode="tozero")
    caption = (
        "What the particles, or candidates, of one design are worth in equally weighted ones, a "
        "mean over the designs of a batch. Near 1, one of them decides: its design is the best of "
        "a few rather than a draw from the weighted law."
    )
    return Figure("ess", plot, "Effective sample size of every batch.", caption)
