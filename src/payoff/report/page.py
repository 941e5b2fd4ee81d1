"""Puts the report together: one HTML file that needs nothing else.

The content security policy in its head lets a browser run exactly the two scripts inside (by their
hashes) and load nothing from anywhere, so the page works offline, and what a user's column or
category is called cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from payoff.errors import UserError
from payoff.report import foils, prose, tables, tradeoff
from payoff.report.assets import SCRIPT, style
from payoff.report.canvas import Figure
from payoff.report.curves import aim_curves, cost_curves
from payoff.report.formatting import count, moment, number, plural, text
from payoff.report.landscape import plane
from payoff.report.palette import TO_DARK
from payoff.report.projection import project
from payoff.report.run import DesignRun, load
from payoff.report.scores import histograms, truth

NAME = "report.html"
MAX_POINTS = 3000
WARNINGS_SHOWN = 8
MOST_CARDS = 6  # in one row


def build(run_folder: Path) -> Path:
    """Write the report of a finished ``payoff design`` run.

    Only files of the folder are read; nothing is sampled or trained.

    Args:
        run_folder: a finished run's folder.

    Returns:
        the path of ``report.html`` inside the folder.

    Raises:
        UserError: the folder is missing, damaged, unfinished or cannot be written to.
    """
    run = load(Path(run_folder))
    target = run.folder / NAME
    temporary = target.with_name(f".{NAME}.tmp")
    try:
        temporary.write_text(_page(run), encoding="utf-8", newline="\n")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _page(run: DesignRun) -> str:
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
    kept = [s for s in sections if s is not None]
    nav = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in kept)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>'
        f"{content}</section>"
        for key, title, content in kept
    )
    specs = ",".join(f'"{f.key}":{f.plot.to_json(remove_uids=True)}' for f in figures)
    library = get_plotlyjs().replace("\r\n", "\n").replace("</script", "<\\/script")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(SCRIPT)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{text(run.name, 80)}: designs for {text(run.score, 60)}</title>"
        f"<style>{style()}</style></head>\n<body>{_head(run, nav)}"
        f"<main>{body}{_footer(run)}</main>\n"
        f"{_data('figures', '{' + specs + '}')}{_data('to-dark', json.dumps(TO_DARK))}\n"
        f"<script>{library}</script>\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _data(key: str, content: str) -> str:
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{key}">{safe}</script>'


def _draw(figure: Figure, figures: list[Figure], *, titled: bool = False) -> str:
    """A place for a figure, which is added to the list of those that the script draws.

    Args:
        figure: what to draw.
        figures: the list.
        titled: put the caption above, as a title.
    """
    figures.append(figure)
    caption = f"<figcaption>{figure.caption}</figcaption>" if figure.caption else ""
    above, below = (caption, "") if titled else ("", caption)
    return (
        f'<figure class="plot">{above}<div class="draw" id="{figure.key}" role="img" '
        f'aria-label="{text(figure.label)}" style="min-height:{figure.plot.layout.height}px">'
        f"</div>{below}</figure>"
    )


def _head(run: DesignRun, nav: str) -> str:
    created = f", {text(moment(run.get('created')))}" if run.get("created") else ""
    found = prose.cards(run)
    rows = -(-len(found) // MOST_CARDS)
    cards = "".join(
        f'<div class="card {c.kind}"><dt>{c.name}</dt><dd><div class="value">{c.value}</div>'
        f'<div class="note">{c.note}</div></dd></div>'
        for c in found
    )
    return (
        f'<header><p class="kicker">payoff design{created}</p><h1>{text(run.name, 120)}</h1>'
        f'<p class="question">{prose.question(run)}</p><p class="answer">{prose.answer(run)}</p>'
        f"<p>{prose.verdict(run)}</p>{_warnings(run)}"
        f'<dl class="cards" style="--columns: {-(-len(found) // rows)}">{cards}</dl>'
        f'<nav aria-label="Sections">{nav}</nav><noscript><p class="warnings">The figures need '
        "JavaScript, which is inside this file; tables and text do not.</p></noscript></header>"
    )


def _warnings(run: DesignRun) -> str:
    found = run.get("warnings")
    warnings = [text(w) for w in found] if isinstance(found, list) else []
    asked = run.number("designs", "asked")
    if asked is not None and len(run.predicted) < asked:
        lacking = f"{count(len(run.predicted))} of the {count(asked)} designs asked for were found."
        warnings.insert(0, lacking)
    if not warnings:
        return ""
    items = "".join(f"<li>{w}</li>" for w in warnings[:WARNINGS_SHOWN])
    rest = "".join(f"<li>{w}</li>" for w in warnings[WARNINGS_SHOWN:])
    more = f"<details><summary>more</summary><ul>{rest}</ul></details>" if rest else ""
    return (
        '<aside class="warnings" aria-labelledby="warnings-title"><h2 id="warnings-title">'
        f"{plural(len(warnings), 'warning')}</h2><ul>{items}</ul>{more}</aside>"
    )


def _designs(run: DesignRun) -> tuple[str, str, str]:
    if len(run.predicted) == 0:
        return "designs", "The designs", f"<p>There are none. {prose.yield_note(run)}</p>"
    shapes = foils.drawn(run)
    table = f'<div class="wide">{tables.top_designs(run)}</div><p>{prose.yield_note(run)}</p>'
    return "designs", "The designs", f"{shapes or ''}{table}"


def _aims(run: DesignRun, figures: list[Figure]) -> tuple[str, str, str] | None:
    if len(run.sweep["aim"]) == 0:
        return None
    costs = "".join(_draw(f, figures, titled=True) for f in cost_curves(run))
    content = (
        f"{tradeoff.reason(run)}{_draw(aim_curves(run), figures)}"
        f'<div class="grid">{costs}</div>{tradeoff.paragraph(run)}'
    )
    return "aims", "How far it could be pushed", content


def _truth(run: DesignRun, figures: list[Figure]) -> tuple[str, str, str] | None:
    if run.oracle is None or len(run.predicted) == 0:
        return None
    name = run.get("oracle", "name")
    who = f" (<code>{text(name, 80)}</code>)" if name else ""
    content = (
        f"<p>The designs were also scored by the oracle{who}. It played no part in making or "
        'choosing them.</p><div class="beside">'
        f'{_draw(truth(run), figures)}<div class="facts">{prose.truth_note(run)}</div></div>'
    )
    return "checked", "Predicted against true", content


def _scores(run: DesignRun, figures: list[Figure]) -> tuple[str, str, str]:
    return "histograms", "The scores", _draw(histograms(run), figures)


def _map(run: DesignRun, figures: list[Figure]) -> tuple[str, str, str] | None:
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
    figure = _draw(plane(run, view, rows, run.data_predicted[rows]), figures)
    return "landscape", "Where the designs lie", f'{figure}<p class="caption">{note}</p>'


def _reward(run: DesignRun) -> tuple[str, str, str]:
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
    return "reward", "The learned reward", f"{told}{tables.reward_candidates(run)}{spread}"


def _made(run: DesignRun) -> tuple[str, str, str]:
    config, versions = run.get("config"), run.get("versions")
    facts = run.get("data")
    numbers = {k: v for k, v in facts.items() if k != "columns"} if isinstance(facts, dict) else {}
    parts = [
        ("Data", tables.pairs(numbers)),
        ("Columns", tables.columns(run)),
        ("Configuration", tables.pairs(config if isinstance(config, dict) else {})),
        ("Time", tables.timings(run)),
        ("Versions", tables.pairs(versions if isinstance(versions, dict) else {})),
        ("Files", tables.files(run.folder, NAME)),
    ]
    folded = "".join(
        f'<details><summary>{title}</summary><div class="wrap">{content}</div></details>'
        for title, content in parts
        if content
    )
    content = (
        "<p>To make it again (the same seed gives the same designs on the same machine):</p>"
        f"<pre>{text(tables.command(run))}</pre><p>{tables.counts(run)}</p>{folded}"
    )
    return "made", "How it was made", content


def _footer(run: DesignRun) -> str:
    version = text(run.get("payoff") or "", 20)
    return f"<footer>Written by payoff {version}. This file is complete and opens offline.</footer>"
