"""The page of a ``payoff design`` run."""

from __future__ import annotations

import numpy as np

from payoff.report import foils, prose, tables, tradeoff
from payoff.report.canvas import Figure
from payoff.report.curves import aim_curves, cost_curves
from payoff.report.formatting import count, number, plural, short, text
from payoff.report.frame import Head, Section, draw, folded, render
from payoff.report.landscape import plane
from payoff.report.projection import project
from payoff.report.run import DesignRun
from payoff.report.scores import histograms, truth

MAX_POINTS = 3000


def page(run: DesignRun) -> str:
    """The whole page."""
    figures: list[Figure] = []
    sections = [
        _designs(run),
        _aims(run, figures),
        _truth(run, figures),
        _scores(run, figures),
        _map(run, figures),
        _reward(run),
        _made(run),
    ]
    return render(run, _head(run), sections, figures)


def _head(run: DesignRun) -> Head:
    asked = run.number("designs", "asked")
    lacking = []
    if asked is not None and len(run.predicted) < asked:
        found = count(len(run.predicted))
        lacking.append(f"{found} of the {count(asked)} designs asked for were found.")
    return Head(
        command="payoff design",
        title=f"{short(run.name, 80)}: designs for {short(run.score, 60)}",
        question=prose.question(run),
        answer=prose.answer(run),
        verdict=prose.verdict(run),
        cards=prose.cards(run),
        warnings=lacking,
    )


def _designs(run: DesignRun) -> Section:
    if len(run.predicted) == 0:
        return Section("designs", "The designs", f"<p>There are none. {prose.yield_note(run)}</p>")
    shapes = foils.drawn(run)
    table = f'<div class="wide">{tables.top_designs(run)}</div><p>{prose.yield_note(run)}</p>'
    return Section("designs", "The designs", f"{shapes or ''}{table}")


def _aims(run: DesignRun, figures: list[Figure]) -> Section | None:
    if len(run.sweep["aim"]) == 0:
        return None
    costs = "".join(draw(f, figures, titled=True) for f in cost_curves(run))
    content = (
        f"{tradeoff.reason(run)}{draw(aim_curves(run), figures)}"
        f'<div class="grid">{costs}</div>{tradeoff.paragraph(run)}'
    )
    return Section("aims", "How far it could be pushed", content)


def _truth(run: DesignRun, figures: list[Figure]) -> Section | None:
    if run.oracle is None or len(run.predicted) == 0:
        return None
    name = run.get("oracle", "name")
    who = f" (<code>{text(name, 80)}</code>)" if name else ""
    content = (
        f"<p>The designs were also scored by the oracle{who}. It played no part in making or "
        'choosing them.</p><div class="beside">'
        f'{draw(truth(run), figures)}<div class="facts">{prose.truth_note(run)}</div></div>'
    )
    return Section("checked", "Predicted against true", content)


def _scores(run: DesignRun, figures: list[Figure]) -> Section:
    return Section("histograms", "The scores", draw(histograms(run), figures))


def _map(run: DesignRun, figures: list[Figure]) -> Section | None:
    n, finite = len(run.data_predicted), np.isfinite(run.data_predicted)
    if n == 0 or not run.features:
        return None
    if n > MAX_POINTS:  # evenly spread over the scores, so that the rare good rows stay in
        order = np.argsort(np.where(finite, run.data_predicted, -np.inf), kind="stable")
        rows = np.sort(order[np.linspace(0, n - 1, MAX_POINTS).round().astype(int)])
    else:
        rows = np.arange(n)
    view = project(run, run.data[rows], run.data_predicted[rows])
    note = (
        "Each row is a point; rows that are alike lie close together. The axes are the two "
        "directions along which the data vary most (principal components of the standardised "
        "columns; a category counts as much as a number), turned so that predicted scores improve "
        "to the right and up. The designs took no part in finding them."
    )
    for j in range(min(view.rank, 2)):
        drivers = " and ".join(text(d, 40) for d in view.drivers[j])
        note += f" Axis {j + 1} is mostly {drivers}."
    if view.rank < 2:
        note += " The data vary along one direction only, so the second axis is the score."
    if n > MAX_POINTS:
        note += f" Drawn: {count(MAX_POINTS)} of {count(n)} rows, spread over all scores."
    figure = draw(plane(run, view, rows, run.data_predicted[rows]), figures)
    return Section("landscape", "Where the designs lie", f'{figure}<p class="caption">{note}</p>')


def _reward(run: DesignRun) -> Section:
    noise = run.number("reward", "noise_sd")
    labelled = int(np.isfinite(run.measured).sum())
    told = (
        f"<p>The score was learned from the {plural(labelled, 'labelled row')}. Each model was "
        "judged on rows it had not seen (cross-validation): rank correlation says how well it "
        "sorts them (1 is perfect, 0 is chance), and of its 90 % intervals close to 90 % should "
        "hold the measured score.</p>"
    )
    spread = (
        f"<p>Noise of one measurement, as the chosen model estimates it: "
        f"{prose.with_unit(run, noise)} (standard deviation).</p>"
        if noise is not None
        else ""
    )
    stretch = run.number("reward", "extrapolation")
    if stretch is not None:
        spread += (
            "<p>Designs are chosen to lie beyond the labelled rows. With the best fifth of these "
            f"held out together, intervals had to be {number(stretch, 2)} times as wide to hold "
            "90 % of them; the designs' intervals are widened by that factor.</p>"
        )
    return Section("reward", "The learned reward", f"{told}{tables.reward_candidates(run)}{spread}")


def _made(run: DesignRun) -> Section:
    config, versions = run.get("config"), run.get("versions")
    facts = run.get("data")
    numbers = {k: v for k, v in facts.items() if k != "columns"} if isinstance(facts, dict) else {}
    parts = [
        ("Data", tables.pairs(numbers)),
        ("Columns", tables.columns(run)),
        ("Configuration", tables.pairs(config if isinstance(config, dict) else {})),
        ("Time", tables.timings(run)),
        ("Versions", tables.pairs(versions if isinstance(versions, dict) else {})),
        ("Files", tables.files(run.folder)),
    ]
    content = (
        "<p>To make it again (the same seed gives the same designs on the same machine):</p>"
        f"<pre>{text(tables.command(run))}</pre><p>{tables.counts(run)}</p>{folded(parts)}"
    )
    return Section("made", "How it was made", content)
