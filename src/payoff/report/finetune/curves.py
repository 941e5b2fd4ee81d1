"""Figures of a fine-tuning run: what rose, what it cost, and how far the model went for it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from payoff.report.canvas import Figure, band, base, line, score_title
from payoff.report.finetune.run import TuneRun
from payoff.report.formatting import count, number, short, text
from payoff.report.palette import LIGHT as COLOUR
from payoff.report.recorded import Array
from payoff.report.scores import Sample, stacked

CALLS = "reward calls"
FILLED = {"size": 16, "symbol": "star"}


def rewards(run: TuneRun) -> list[Figure]:
    """The tuning reward and the held-out reward against reward calls: together, or one each."""
    shown = _has(run.column("reward")) or _has(run.column("reward_best"))
    held = _has(run.column("held_out"))
    if shown and held and run.one_scale:
        return [_reward(run, tuning=True, held=True)]
    figures = [_reward(run, tuning=True, held=False)] if shown else []
    return figures + ([_reward(run, tuning=False, held=True)] if held else [])


def _reward(run: TuneRun, *, tuning: bool, held: bool) -> Figure:
    plot = base(400 if tuning else 300, hovermode="x unified")
    x, middle = run.calls, run.base.score[np.isfinite(run.base.score)]
    told = []
    if tuning:
        colour = COLOUR["designs"]
        if len(middle) and len(x):
            level = np.full(2, float(middle.mean()))
            line(plot, x[[0, -1]], level, "base, mean", COLOUR["data"], dash="dot")
        line(plot, x, run.column("reward"), "tuning reward, mean", colour, marks=True)
        line(plot, x, run.column("reward_best"), "best of the round", colour, dash="dash")
        told.append(
            "The tuning reward is of the designs that a round learned from, which were drawn "
            "before its update."
        )
    if held:
        _held_out(plot, run, x)
        told.append(
            f"The held-out reward ({text(run.judge, 40)}) is of fresh samples drawn after it, "
            "which nothing was learned from; the band is two standard errors of its mean to "
            "either side. If it falls while the tuning reward rises, the method is exploiting "
            "mistakes of the reward."
        )
    mark_kept(plot, run)
    plot.update_xaxes(title_text=CALLS, rangemode="tozero")
    plot.update_yaxes(title_text=score_title(run) if tuning else text(run.judge, 36))
    what = " and ".join(["tuning reward"] * tuning + ["held-out reward"] * held)
    label = f"Curves of the {what} against reward calls, {_kept_words(run)}."
    return Figure("reward" if tuning else "held-out", plot, label, " ".join(told))


def _held_out(plot: go.Figure, run: TuneRun, x: Array) -> None:
    value, error = run.column("held_out"), run.column("held_out_stderr")
    band(
        plot, x, value - 2 * error, value + 2 * error, "± 2 standard errors", COLOUR["oracle-band"]
    )
    line(plot, x, value, "held-out reward, mean", COLOUR["oracle"], marks=True)


def costs(run: TuneRun) -> list[Figure]:
    """Small figures against reward calls: divergence, validity and diversity.

    What a run did not measure has no figure: distances of vectors, stability of molecules.
    """
    panels = [
        ("kl", "Divergence from the base", "nats, along the whole sampling path"),
        ("valid", "Valid", "share of fresh samples that are possible designs"),
        ("stable", "Stable", "share whose atoms all have their valence"),
        ("unique", "Different", "share of different SMILES among the valid"),
        ("diversity", "Pairwise distance", "mean distance of two samples"),
        ("vendi", "Effective number", "how many different samples there are (Vendi score)"),
    ]
    figures = []
    for key, title, meaning in panels:
        values = run.column(key)
        if not _has(values):
            continue
        plot = base(210, hovermode="x unified", showlegend=False)
        if key == "kl":
            error = run.column("kl_stderr")
            low, high = values - 2 * error, values + 2 * error
            band(plot, run.calls, low, high, "± 2 standard errors", COLOUR["data-band"])
        line(plot, run.calls, values, title, COLOUR["ink"], marks=True)
        mark_kept(plot, run, note=False)
        share = key in ("valid", "stable", "unique")
        plot.update_xaxes(title_text=CALLS, rangemode="tozero", nticks=5)
        plot.update_yaxes(rangemode="tozero", tickformat=".0%" if share else None)
        if share:
            plot.update_yaxes(range=[0, 1.06])
        label = f"{title} against reward calls: {meaning}."
        figures.append(Figure(f"cost-{key}", plot, label, f"<b>{title}</b><br>{meaning}"))
    return figures


def path(run: TuneRun) -> Figure | None:
    """Reward against divergence: the way that the model went."""
    kl = run.column("kl")
    held, same = run.column("held_out"), run.one_scale
    drawn = tuning_path(run)
    if np.isfinite(kl).sum() < 2 or not (_has(drawn[1]) or (_has(held) and same)):
        return None
    plot = base(420)
    if _has(held) and same:
        error = run.column("held_out_stderr")
        band(
            plot, kl, held - 2 * error, held + 2 * error, "± 2 standard errors",
            COLOUR["oracle-band"],
        )  # fmt: skip
        _way(plot, run, kl, held, "held-out reward, mean", "oracle", run.history["round"])
    _way(plot, run, *drawn[:2], "tuning reward, mean", "designs", drawn[2])
    ends = [("score", "designs", "designs, tuning reward")]
    if same:
        ends.append(("held_out", "oracle", "designs, held-out reward"))
    where = run.at("kl", run.kept)
    for judge, colour, name in ends if where is not None else []:
        values = run.designs.usable(judge)
        if len(values):
            mean = float(values.mean())
            plot.add_scatter(
                x=[where],
                y=[mean],
                mode="markers",
                name=name,
                marker={**FILLED, "color": COLOUR[colour], "line": _rim()},
                hovertext=f"{name}<br>mean {number(mean)} at {number(where)} nats",
                hoverinfo="text",
            )
    plot.update_xaxes(title_text="divergence from the base (nats)", rangemode="tozero")
    plot.update_yaxes(title_text=score_title(run))
    watched = " and of the held-out reward" if _has(held) and same else ""
    label = f"The way of the tuning reward{watched} against the divergence from the base."
    caption = (
        "Every point is a round; the way starts at the base, on the left. Moving away from the "
        "base is the price of a higher reward. A curve that goes flat says that more of it buys "
        "little; a held-out curve that turns down, or a widening gap between the two, says that "
        "the reward is being over-optimised. The stars are the means of the final designs."
    )
    return Figure("kl-path", plot, label, caption)


def tuning_path(run: TuneRun) -> tuple[Array, Array, Array]:
    """(divergence, tuning reward, round): each round's reward where the model stood that drew it.

    A round learns from designs of the model before its update, so its reward belongs to the
    divergence measured in the round before; where that was not measured, the point is left out.
    """
    rounds, kl, reward = run.history["round"], run.column("kl"), run.column("reward")
    after = np.flatnonzero(np.diff(rounds) == 1)
    return kl[after], reward[after + 1], rounds[after + 1]


def distributions(run: TuneRun) -> list[Figure]:
    """Histograms of the base's samples and of the designs, by either judge."""
    name, judge = short(run.score, 40), short(run.judge, 40)
    mine = [
        Sample("Base model", run.base.usable(), "valid sample", "data"),
        Sample("Designs", run.designs.usable(), "valid design", "designs"),
    ]
    other = [
        Sample("Base model, held-out judge", run.base.usable("held_out"), "valid sample", "data"),
        Sample("Designs, held-out judge", run.designs.usable("held_out"), "valid design", "oracle"),
    ]
    if run.one_scale:
        return [stacked("scores", [*mine, *other], score_title(run), name)]
    figures = []
    for key, samples, title, subject in (
        ("scores", mine, score_title(run), name),
        ("scores-held-out", other, text(judge), judge),
    ):
        if any(len(s.values) for s in samples):
            figures.append(stacked(key, samples, title, subject))
    return figures


def mark_kept(plot: go.Figure, run: TuneRun, *, note: bool = True) -> None:
    """A line at the round whose weights were returned."""
    if run.kept is None or not len(run.calls):
        return
    x = float(run.calls[run.kept])
    plot.add_vline(x=x, line={"color": COLOUR["labelled"], "width": 1.5, "dash": "dash"})
    if not note:
        return
    right = x > float(np.nanmax(run.calls)) / 2
    plot.add_annotation(
        x=x,
        y=0.02,
        yref="paper",
        yanchor="bottom",
        text=f"<b>returned: {_kept_round(run)}</b>",
        showarrow=False,
        xanchor="right" if right else "left",
        xshift=-6 if right else 6,
        font={"color": COLOUR["labelled"]},
        bgcolor=COLOUR["surface"],
    )


def _way(
    plot: go.Figure, run: TuneRun, x: Array, y: Array, name: str, colour: str, rounds: Array
) -> None:
    hover = [
        f"{name}<br>round {count(r)}: {number(v)} at {number(k)} nats"
        for r, v, k in zip(rounds, y, x, strict=True)
    ]
    plot.add_scatter(
        x=x,
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": COLOUR[colour], "width": 2},
        marker={"size": 7, "color": COLOUR[colour], "line": _rim()},
        hovertext=hover,
        hoverinfo="text",
    )


def _rim() -> dict[str, object]:
    return {"width": 1, "color": COLOUR["surface"]}


def _has(values: Array) -> bool:
    return bool(np.isfinite(values).any())


def _kept_round(run: TuneRun) -> str:
    assert run.kept is not None
    kept = run.history["round"][run.kept]
    return f"round {count(kept)}" if kept else "the base"


def _kept_words(run: TuneRun) -> str:
    return "no round is marked" if run.kept is None else f"{_kept_round(run)} was returned"
