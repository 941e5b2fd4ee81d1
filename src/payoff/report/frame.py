"""The frame that every page shares: head, cards, warnings, navigation, figures, footer.

A page is one HTML file that needs nothing else. The content security policy in its head lets a
browser run exactly the two scripts inside (by their hashes) and load nothing from anywhere, so the
page works offline, and what a user's column or category is called cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plotly.offline import get_plotlyjs

from payoff.report.assets import SCRIPT, style
from payoff.report.canvas import Figure
from payoff.report.formatting import moment, plural, text
from payoff.report.palette import TO_DARK
from payoff.report.recorded import Recorded

WARNINGS_SHOWN = 8
MOST_CARDS = 6  # in one row


@dataclass(frozen=True)
class Card:
    """A key number: what it is, its value and a line about it, all HTML."""

    name: str
    value: str
    note: str
    kind: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: its id, its title and its content, the last two as HTML."""

    key: str
    title: str
    content: str


@dataclass(frozen=True)
class Head:
    """What stands above the sections; everything but ``title`` is HTML.

    Attributes:
        command: the command that made the run.
        title: of the document, plain text.
        question: what was asked for.
        answer: what came out, in a sentence or two.
        verdict: what to make of it.
        cards: the key numbers.
        warnings: beside those of the record, first.
    """

    command: str
    title: str
    question: str
    answer: str
    verdict: str
    cards: Sequence[Card]
    warnings: Sequence[str] = field(default_factory=tuple)


def render(
    run: Recorded, head: Head, sections: Sequence[Section | None], figures: Sequence[Figure]
) -> str:
    """The whole page.

    Args:
        run: whose page it is.
        head: what stands on top.
        sections: the parts in order; None for one that this run lacks.
        figures: every figure that a section has a place for, see :func:`draw`.
    """
    kept = [s for s in sections if s is not None]
    nav = "".join(f'<a href="#{s.key}">{s.title}</a>' for s in kept)
    body = "".join(
        f'<section id="{s.key}" aria-labelledby="{s.key}-title"><h2 id="{s.key}-title">{s.title}'
        f"</h2>{s.content}</section>"
        for s in kept
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
        f"<title>{text(head.title)}</title>"
        f"<style>{style()}</style></head>\n<body>{_head(run, head, nav)}"
        f"<main>{body}{_footer(run)}</main>\n"
        f"{_data('figures', '{' + specs + '}')}{_data('to-dark', json.dumps(TO_DARK))}\n"
        f"<script>{library}</script>\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def draw(figure: Figure, figures: list[Figure], *, titled: bool = False) -> str:
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


def folded(parts: Sequence[tuple[str, str]]) -> str:
    """Titles that open to show their content; what has no content is left out."""
    return "".join(
        f'<details><summary>{title}</summary><div class="wrap">{content}</div></details>'
        for title, content in parts
        if content
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _data(key: str, content: str) -> str:
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{key}">{safe}</script>'


def _head(run: Recorded, head: Head, nav: str) -> str:
    created = f", {text(moment(run.get('created')))}" if run.get("created") else ""
    rows = -(-len(head.cards) // MOST_CARDS) or 1
    cards = "".join(
        f'<div class="card {c.kind}"><dt>{c.name}</dt><dd><div class="value">{c.value}</div>'
        f'<div class="note">{c.note}</div></dd></div>'
        for c in head.cards
    )
    return (
        f'<header><p class="kicker">{text(head.command)}{created}</p><h1>{text(run.name, 120)}</h1>'
        f'<p class="question">{head.question}</p><p class="answer">{head.answer}</p>'
        f"<p>{head.verdict}</p>{_warnings(head, run.get('warnings'))}"
        f'<dl class="cards" style="--columns: {-(-len(head.cards) // rows)}">{cards}</dl>'
        f'<nav aria-label="Sections">{nav}</nav><noscript><p class="warnings">The figures need '
        "JavaScript, which is inside this file; tables and text do not.</p></noscript></header>"
    )


def _warnings(head: Head, recorded: Any) -> str:
    found = [text(w) for w in recorded] if isinstance(recorded, list) else []
    warnings = [*head.warnings, *found]
    if not warnings:
        return ""
    items = "".join(f"<li>{w}</li>" for w in warnings[:WARNINGS_SHOWN])
    rest = "".join(f"<li>{w}</li>" for w in warnings[WARNINGS_SHOWN:])
    more = f"<details><summary>more</summary><ul>{rest}</ul></details>" if rest else ""
    return (
        '<aside class="warnings" aria-labelledby="warnings-title"><h2 id="warnings-title">'
        f"{plural(len(warnings), 'warning')}</h2><ul>{items}</ul>{more}</aside>"
    )


def _footer(run: Recorded) -> str:
    version = text(run.get("payoff") or "", 20)
    return f"<footer>Written by payoff {version}. This file is complete and opens offline.</footer>"
