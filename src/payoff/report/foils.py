"""The shapes of the best airfoils, drawn as small multiples at one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from payoff.domains.airfoils.geometry import COLUMNS, coordinates
from payoff.report.formatting import number, text
from payoff.report.run import Array, DesignRun

SHOWN = 14  # with the two for comparison, four full rows of four
_MARGIN = 0.02


@dataclass(frozen=True)
class _Foil:
    title: str
    note: str
    outline: Array
    kind: str


def drawn(run: DesignRun) -> str | None:
    """The section's HTML, or None if the designs are not airfoils or a column is missing."""
    names = {f.name for f in run.features}
    if run.get("domain") != "airfoils" or not names.issuperset(COLUMNS):
        return None
    best = run.argbest(run.measured)
    reference = None
    if best is not None:
        note = f"measured {number(run.measured[best])}"
        reference = Reference("best measured airfoil", note, run.data[best : best + 1])
    notes = [_scores(run, i) for i in range(min(SHOWN, len(run.designs)))]
    return multiples(run.data, run.designs, notes, reference)


@dataclass(frozen=True)
class Reference:
    """The airfoil that the designs are drawn over.

    Attributes:
        title: what it is called.
        note: a line about it.
        row: its parameters, a frame of one row.
    """

    title: str
    note: str
    row: pl.DataFrame


def multiples(
    data: pl.DataFrame, designs: pl.DataFrame, notes: Sequence[str], reference: Reference | None
) -> str | None:
    """The first designs as small drawings at one scale, after the reference and the data's mean.

    Args:
        data: rows with the parameters of airfoils.
        designs: the same columns, best first.
        notes: what is written under each of the first designs; as many are drawn.
        reference: what the designs are drawn over, or None.

    Returns:
        HTML, or None if nothing can be drawn.
    """
    rows, foils = _parameters(data), []
    ghost = None if reference is None else coordinates(_parameters(reference.row))[0]
    if reference is not None and ghost is not None:
        foils.append(_Foil(reference.title, reference.note, ghost, "labelled"))
    whole = rows[np.isfinite(rows).all(axis=1)]
    if len(whole):
        mean = coordinates(whole.mean(axis=0)[None])[0]
        foils.append(_Foil("mean of the data", "the average of every parameter", mean, "data"))
    outlines = coordinates(_parameters(designs)[: len(notes)])
    for i, (note, outline) in enumerate(zip(notes, outlines, strict=False)):
        foils.append(_Foil(f"design {i + 1}", note, outline, "design"))
    foils = [f for f in foils if np.isfinite(f.outline).all()]
    if not foils:
        return None
    heights = np.concatenate([f.outline[:, 1] for f in foils])
    low, high = float(heights.min()) - _MARGIN, float(heights.max()) + _MARGIN
    cells = "".join(_cell(f, ghost, low, high) for f in foils)
    told = (
        f" The thin dashed outline behind each design is the {text(reference.title)}."
        if reference is not None
        else ""
    )
    return (
        f'<div class="foils">{cells}</div>'
        f'<p class="caption">Drawn to one scale, with equal axes, chord from left to right.{told}'
        "</p>"
    )


def _parameters(frame: pl.DataFrame) -> Array:
    columns = [frame[name].cast(pl.Float64, strict=False) for name in COLUMNS]
    return np.column_stack([c.fill_null(float("nan")).to_numpy() for c in columns])


def _scores(run: DesignRun, i: int) -> str:
    note = f"predicted {number(run.predicted[i])}"
    if run.oracle is not None:
        note += f"\ntrue {number(run.oracle[i])}"
        if run.valid is not None and not run.valid[i]:
            note += " (not valid)"
    return note


def _cell(foil: _Foil, reference: Array | None, low: float, high: float) -> str:
    box = f"{-_MARGIN} {-high:.4f} {1 + 2 * _MARGIN} {high - low:.4f}"
    ghost = ""
    if foil.kind == "design" and reference is not None:
        ghost = f'<path class="ghost" d="{_path(reference)}"/>'
    title, notes = text(foil.title), [text(line) for line in foil.note.splitlines()]
    return (
        f'<figure class="foil {foil.kind}"><svg viewBox="{box}" role="img" '
        f'aria-label="Outline of {title}, {", ".join(notes)}">{ghost}<path class="outline" '
        f'd="{_path(foil.outline)}"/></svg>'
        f"<figcaption><b>{title}</b><br>{'<br>'.join(notes)}</figcaption></figure>"
    )


def _path(outline: Array) -> str:
    """An SVG path; SVG's y axis points down."""
    points = " ".join(f"{x:.4f},{-y:.4f}" for x, y in outline)
    return f"M{points}Z"
