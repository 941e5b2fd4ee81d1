"""The page of a ``payoff steer`` run."""

from __future__ import annotations

import numpy as np

from payoff.report.canvas import Figure
from payoff.report.finetune import curves
from payoff.report.finetune.page import circumstances, shapes, source
from payoff.report.finetune.tables import top_designs
from payoff.report.formatting import count, duration, number, short, text
from payoff.report.frame import Head, Section, draw, folded, render
from payoff.report.steer import figures, prose
from payoff.report.steer.run import SteerRun
from payoff.report.tables import (
    LISTED,
    Cell,
    as_number,
    command,
    number_cells,
    pairs,
    table,
)


def page(run: SteerRun) -> str:
    """The whole page."""
    drawn: list[Figure] = []
    sections = [_scores(run, drawn), _support(run, drawn), _weights(run, drawn)]
    return render(run, _head(run), [*sections, _designs(run), _made(run)], drawn)


def _head(run: SteerRun) -> Head:
    asked, lacking = run.number("designs", "asked"), []
    if asked is not None and len(run.designs.score) < asked:
        found = count(len(run.designs.score))
        lacking.append(f"{found} of the {count(asked)} designs asked for were found.")
    return Head(
        command="payoff steer",
        title=f"{short(run.name, 80)}: steered for {short(run.score, 60)}",
        question=prose.question(run),
        answer=prose.answer(run),
        verdict=prose.verdict(run),
        cards=prose.cards(run),
        warnings=lacking,
    )


def _scores(run: SteerRun, drawn: list[Figure]) -> Section | None:
    found = curves.distributions(run)
    if not found:
        return None
    told = "<p>Samples of the base model, which nothing steered, and the designs.</p>"
    content = "".join(draw(f, drawn) for f in found)
    return Section("histograms", "The scores, with and without steering", f"{told}{content}")


def _support(run: SteerRun, drawn: list[Figure]) -> Section | None:
    figure = figures.support(run)
    if figure is None:
        return None
    return Section("support-section", "Score against distance from the data", draw(figure, drawn))


def _weights(run: SteerRun, drawn: list[Figure]) -> Section | None:
    if len(run.history["batch"]) == 0:
        return None
    figure = figures.health(run)
    shown = "" if figure is None else draw(figure, drawn)
    known = [(k, v) for k, v in prose.MEANINGS.items() if k in run.reported]
    words = "; ".join(f"<b>{k.replace('_', ' ')}</b>: {v}" for k, v in known)
    note = (
        '<p class="caption">Designs are drawn in batches, each with random numbers of its own. '
        f"Time includes waiting for the other batches.{f' {words}.' if words else ''}</p>"
    )
    content = f"{prose.degeneracy(run)}{shown}{batches(run)}{note}"
    return Section("weights", "How well the weights were spread", content)


def batches(run: SteerRun) -> str:
    """The history, one row a batch."""
    n = min(LISTED, len(run.history["batch"]))
    heads, cells = ["batch"], [[(count(v + 1), as_number(v)) for v in run.column("batch")[:n]]]
    for name in ("designs", "calls", "failed", "network", "backward"):
        values = run.column(name)[:n]
        if np.isfinite(values).any() and (name in ("designs", "calls") or values.any()):
            heads.append({"failed": "failed calls", "network": "evaluations"}.get(name, name))
            cells.append([(count(v), as_number(v)) for v in values])
    heads.append("time")
    cells.append([(duration(v), as_number(v)) for v in run.column("seconds")[:n]])
    for name, values in run.reported.items():
        heads.append(text(name.replace("_", " "), 30))
        found: list[Cell] = number_cells(values[:n])
        cells.append(found)
    left = len(run.history["batch"]) - n
    rest = f'<p class="caption">{count(left)} more in history.csv.</p>' if left else ""
    return table(heads, zip(*cells, strict=True), sortable=True) + rest


def _designs(run: SteerRun) -> Section:
    if len(run.designs.score) == 0:
        return Section("designs", "The designs", "<p>There are none.</p>")
    shown = f'{shapes(run) or ""}<div class="wide">{top_designs(run)}</div>'
    return Section("designs", "The designs", shown)


def _made(run: SteerRun) -> Section:
    parts = [
        ("The method's options", pairs(run.entries("method", "options"))),
        ("What it declares to cost, for one design", pairs(run.entries("method", "cost"))),
        ("What it reports, a mean over the designs", pairs(run.entries("steering", "reported"))),
        *circumstances(run),
    ]
    size = run.entries("method", "size")
    value = run.number("method", "size", "value")
    big = f" with {text(size.get('name'), 30)} = {number(value)}" if value is not None else ""
    content = (
        f"<p><b>{prose.method(run)}</b>{big}. {prose.aim(run)}</p>"
        f"<p>{source(run)} {prose.calls(run)}</p>"
        "<p>To make it again (the same seed gives the same designs on the same machine, with any "
        f"number of workers):</p><pre>{text(command(run))}</pre>{folded(parts)}"
    )
    return Section("made", "How it was made", content)
