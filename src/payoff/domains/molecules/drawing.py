"""Molecules drawn: structural formulas side by side, and one in space that can be turned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from payoff.domains.molecules.bonds import bond_orders, bonded
from payoff.domains.molecules.molecule import Molecule

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BALLS = {"H": ("#d9d9de", 9), "C": ("#5b616b", 17), "N": ("#3b6fd4", 17), "O": ("#d2402f", 16)}
BALLS["F"] = ("#4fa34f", 15)
OTHER = ("#a05fb0", 19)
STICK = "#9aa0aa"
APART = 0.06  # Å between the sticks of a double bond


def flat(smiles: str, width: int = 150, height: int = 115) -> str | None:
    """The structural formula as an SVG element without a background; None if RDKit refuses it.

    Args:
        smiles: of the molecule.
        width: of the view box; the element itself fits what is around it.
        height: of the view box.

    Raises:
        ImportError: RDKit is not installed.
    """
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    from payoff.domains.molecules.metrics import quiet

    quiet()
    found = Chem.MolFromSmiles(smiles)
    if found is None:
        return None
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.bondLineWidth = 1.6
    options.fixedBondLength = 24.0
    drawer.DrawMolecule(rdMolDraw2D.PrepareMolForDrawing(found))
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    body = re.search(r"<svg\b.*?>(.*)</svg>", text, re.DOTALL)
    if body is None:
        return None
    # the classes name atoms and bonds by number, the same on every drawing of a page
    inner = re.sub(r"<!--.*?-->| class='[^']*'", "", body.group(1), flags=re.DOTALL).strip()
    return f'<svg viewBox="0 0 {width} {height}" role="img">{inner}</svg>'


def gallery(smiles: Sequence[str | None], notes: Sequence[str]) -> str:
    """Structural formulas with a note under each, as HTML; empty without RDKit or molecules.

    Args:
        smiles: of each molecule; None is left out.
        notes: a line or two about each, plain text.
    """
    cells = []
    for word, note in zip(smiles, notes, strict=True):
        try:
            drawing = None if word is None else flat(word)
        except ImportError:
            return ""
        if drawing is not None and word is not None:
            lines = "<br>".join(escape(line) for line in note.splitlines())
            drawing = drawing.replace("<svg", f'<svg aria-label="{escape(word)}"', 1)
            cells.append(
                f'<figure class="molecule">{drawing}<figcaption>{lines}</figcaption></figure>'
            )
    return f'<div class="molecules">{"".join(cells)}</div>' if cells else ""


def ball_and_stick(molecule: Molecule) -> Figure:
    """A molecule in three dimensions, to be turned with the mouse; positions in Å."""
    import plotly.graph_objects as go

    plot = go.Figure()
    _sticks(plot, molecule)
    order = list(BALLS)
    for symbol in sorted(
        set(molecule.symbols), key=lambda s: order.index(s) if s in BALLS else len(order)
    ):
        colour, size = BALLS.get(symbol, OTHER)
        rows = torch.tensor([s == symbol for s in molecule.symbols])
        x, y, z = molecule.positions[rows].T.tolist()
        plot.add_scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            name=symbol,
            hoverinfo="name",
            marker={"size": size, "color": colour, "line": {"width": 1, "color": STICK}},
        )
    axis = {"visible": False, "showspikes": False}
    scene = {f"{name}axis": axis for name in "xyz"}
    plot.update_layout(
        scene={**scene, "aspectmode": "data", "dragmode": "orbit", "bgcolor": "rgba(0,0,0,0)"}
    )
    return plot


def _sticks(plot: Figure, molecule: Molecule) -> None:
    """Draw one line a bond, two or three beside each other where it is double or triple."""
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
        x=x,
        y=y,
        z=z,
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        line={"color": STICK, "width": 7},
    )


def _across(bond: Tensor) -> Tensor:
    """A unit vector at right angles to a bond."""
    axis = torch.eye(3, dtype=bond.dtype)[bond.abs().argmin()]
    normal = torch.linalg.cross(bond, axis)
    return normal / normal.norm()
