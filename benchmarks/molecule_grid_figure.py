"""Molecules of a base and of the model tuned from it, drawn at random, with both judges' scores.

    python benchmarks/molecule_grid_figure.py runs/gap/cells/rgdm-10000-seed0 molecules.svg

The folder is that of ``payoff finetune`` or of a cell of ``payoff compare``. First row: the base's;
the others: the tuned model's. Only valid ones are drawn, no compound twice, and none is chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

COLUMNS, ROWS, SIZE = 6, 3, (170, 130)


def some(path: Path, n: int) -> list[tuple[str, str]]:
    """(SMILES, legend) of ``n`` valid molecules of a table of designs, at random."""
    frame = pl.read_csv(path).filter(pl.col("valid")).unique("smiles", maintain_order=True)
    names = [name for name in ("score", "held_out") if name in frame.columns]
    rows = frame.sample(min(n, len(frame)), seed=0).select("smiles", *names).rows()
    return [(smiles, " / ".join(f"{value:.2f}" for value in values)) for smiles, *values in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    from rdkit import Chem
    from rdkit.Chem.Draw import MolsToGridImage, rdMolDraw2D

    shown = some(args.folder / "base_designs.csv", COLUMNS)
    shown += some(args.folder / "designs.csv", COLUMNS * (ROWS - 1))
    options = rdMolDraw2D.MolDrawOptions()
    options.legendFontSize = 14
    options.bondLineWidth = 1
    image = MolsToGridImage(
        [Chem.MolFromSmiles(smiles) for smiles, _ in shown],
        molsPerRow=COLUMNS,
        subImgSize=SIZE,
        legends=[legend for _, legend in shown],
        useSVG=True,
        drawOptions=options,
    )
    args.out.write_text(getattr(image, "data", image), encoding="utf-8")


if __name__ == "__main__":
    main()
