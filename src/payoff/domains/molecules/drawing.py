"""Molecules as flat drawings."""

from __future__ import annotations

import re
from typing import Any


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
