"""Molecules on a page: structural formulas side by side, and one that the mouse can turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import torch

from payoff.domains.molecules.bonds import bond_orders, bonded
from payoff.domains.molecules.molecule import Molecule
from payoff.errors import UserError
from payoff.report.canvas import Figure, base
from payoff.report.formatting import text

SHOWN = 12
BALLS = {"H": ("#d9d9de", 9), "C": ("#5b616b", 17), "N": ("#3b6fd4", 17), "O": ("#d2402f", 16)}
BALLS["F"] = ("#4fa34f", 15)
OTHER = ("#a05fb0", 19)
STICK = "#9aa0aa"
APART = 0.06  # Å between the sticks of a double bond


def gallery(title: str, smiles: Sequence[str | None], notes: Sequence[str]) -> str:
    """Structural formulas with a note under each, as HTML; empty without RDKit or molecules.

    Args:
        title: what they are, HTML.
        smiles: of each molecule; None is left out.
        notes: a line or two about each, plain text.
    """
    cells = []
    for word, note in zip(smiles, notes, strict=True):
        drawing = None if word is None else _flat(word)
        if drawing is not None and word is not None:
            lines = "<br>".join(text(line) for line in note.splitlines())
            label = f'<svg aria-label="{text(word)}"'
            drawing = drawing.replace("<svg", label, 1)
            cells.append(
                f'<figure class="molecule">{drawing}<figcaption>{lines}</figcaption></figure>'
            )
    if not cells:
        return ""
    return f'<div><h3>{title}</h3><div class="molecules">{"".join(cells[:SHOWN])}</div></div>'


def _flat(smiles: str) -> str | None:
    from payoff.domains.molecules.drawing import flat

    try:
        return flat(smiles)
    except ImportError:
        return None


def first_structure(path: Path, rows: int) -> tuple[int, Molecule] | None:
    """The first of the first ``rows`` entries of an SDF file that can be read, with its place."""
    from payoff.domains.molecules.files import read_molecules

    try:
        found = read_molecules(path)
    except UserError:  # no RDKit here, or nothing in it
        return None
    failed = {failure.row for failure in found.failed}
    place = next((row for row in range(1, rows + 1) if row not in failed), None)
    # an entry that cannot be used has no place among the molecules
    return None if place is None else (place - 1, found.molecules[0])


def ball_and_stick(key: str, molecule: Molecule, told: str) -> Figure:
    """A molecule in three dimensions, to be turned with the mouse.

    Args:
        key: the figure's id.
        molecule: positions in Å.
        told: what it is, HTML.
    """
    plot = base(460)
    _sticks(plot, molecule)
    for symbol in sorted(set(molecule.symbols), key=lambda s: list(BALLS).index(s)
                         if s in BALLS else len(BALLS)):  # fmt: skip
        colour, size = BALLS.get(symbol, OTHER)
        rows = torch.tensor([s == symbol for s in molecule.symbols])
        x, y, z = molecule.positions[rows].T.tolist()
        plot.add_scatter3d(
            x=x, y=y, z=z, mode="markers", name=symbol, hoverinfo="name",
            marker={"size": size, "color": colour, "line": {"width": 1, "color": STICK}},
        )  # fmt: skip
    axis = {"visible": False, "showspikes": False}
    scene = {f"{name}axis": axis for name in "xyz"}
    plot.update_layout(
        scene={**scene, "aspectmode": "data", "dragmode": "orbit", "bgcolor": "rgba(0,0,0,0)"}
    )
    label = f"Ball-and-stick model of a molecule of {len(molecule)} atoms."
    caption = f"{told} Drag to turn it, scroll to come closer. Sticks are bonds by EDM's table."
    return Figure(key, plot, label, caption)


def _sticks(plot: go.Figure, molecule: Molecule) -> None:
    """One line a bond, two or three beside each other where it is double or triple."""
    numbers, r = molecule.numbers, molecule.positions
    # where the table has no entry the radii tell of a bond, and not of its order
    orders = torch.maximum(bond_orders(numbers, r), bonded(numbers, r).long())
    ends: list[list[float | None]] = [[], [], []]
    for i, j in orders.triu().nonzero().tolist():
        order = int(orders[i, j])
        side = _across(r[j] - r[i])
        for k in range(order):
            shift = APART * (2 * k - order + 1) * side
            for axis in range(3):
                ends[axis] += [float((r[i] + shift)[axis]), float((r[j] + shift)[axis]), None]
    x, y, z = ends
    plot.add_scatter3d(
        x=x, y=y, z=z, mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": STICK, "width": 7},
    )  # fmt: skip


def _across(bond: torch.Tensor) -> torch.Tensor:
    """A unit vector at right angles to a bond."""
    axis = torch.eye(3, dtype=bond.dtype)[bond.abs().argmin()]
    normal = torch.linalg.cross(bond, axis)
    return normal / normal.norm()
