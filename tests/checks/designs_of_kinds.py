"""Small data of the kinds of objects."""

from __future__ import annotations

import numpy as np
import polars as pl


def table(rows: int = 60, seed: int = 0) -> pl.DataFrame:
    """Boards: numbers, whole numbers, categories, a truth value, a constant, and a load."""
    rng = np.random.default_rng(seed)
    width = rng.normal(40, 9, rows).round(2)
    holes = rng.integers(0, 5, rows)
    return pl.DataFrame(
        {
            "name": [f"board {i}" for i in range(rows)],
            "width": width,
            "length": np.exp(rng.normal(0, 2, rows)),
            "holes": holes,
            "wood": rng.choice(["ash", "oak", "fir"], rows),
            "coated": rng.choice([True, False], rows),
            "site": ["north"] * rows,
            "load": (0.5 * width - 2.0 * holes).round(3),
        }
    )


def broken_table() -> str:
    """The same as CSV, with a cell in row 7 that is no number."""
    lines = table().write_csv().splitlines()
    cells = lines[7].split(",")
    cells[1] = "wide"
    lines[7] = ",".join(cells)
    return "\n".join(lines) + "\n"


def molecules() -> pl.DataFrame:
    """Small molecules as SMILES, with a number."""
    smiles = ["C" * n + end for n in range(1, 5) for end in ("C", "O", "N", "C=O", "C#N", "OC")]
    return pl.DataFrame({"smiles": smiles, "load": [float(i % 5) for i in range(len(smiles))]})
