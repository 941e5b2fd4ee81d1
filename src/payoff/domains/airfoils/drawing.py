"""Airfoils drawn as small outlines at one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.domains.airfoils.geometry import COLUMNS, coordinates

Array = npt.NDArray[np.float64]
MARGIN = 0.02


def draw(frame: pl.DataFrame, notes: Sequence[str]) -> str:
    """Outlines of the rows with a note of one or more lines under each, as HTML.

    Args:
        frame: the Kulfan parameters, one row an airfoil.
        notes: one a row; its first line is the title.
    """
    outlines = coordinates(_parameters(frame))
    whole = [
        (outline, note)
        for outline, note in zip(outlines, notes, strict=True)
        if np.isfinite(outline).all()
    ]
    if not whole:
        return ""
    heights = np.concatenate([outline[:, 1] for outline, _ in whole])
    low, high = float(heights.min()) - MARGIN, float(heights.max()) + MARGIN
    cells = "".join(_cell(outline, note, low, high) for outline, note in whole)
    return (
        f'<div class="foils">{cells}</div><p class="caption">Drawn to one scale, with equal axes, '
        "chord from left to right.</p>"
    )


def _parameters(frame: pl.DataFrame) -> Array:
    columns = [frame[name].cast(pl.Float64, strict=False) for name in COLUMNS]
    return np.column_stack([c.fill_null(float("nan")).to_numpy() for c in columns])


def _cell(outline: Array, note: str, low: float, high: float) -> str:
    box = f"{-MARGIN} {-high:.4f} {1 + 2 * MARGIN} {high - low:.4f}"
    first, *rest = [escape(line) for line in note.splitlines()] or [""]
    points = " ".join(f"{x:.4f},{-y:.4f}" for x, y in outline)
    lines = "<br>".join([f"<b>{first}</b>", *rest])
    return (
        f'<figure class="foil design"><svg viewBox="{box}" role="img" aria-label="Outline of '
        f'{first}"><path class="outline" d="M{points}Z"/></svg>'
        f"<figcaption>{lines}</figcaption></figure>"
    )
