"""A small table of designs, as rows of text, for the tests of reading and checking."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEADER = ["width", "layers", "material", "site", "strength"]


def rows(n: int = 60, labelled: int = 30, seed: int = 0) -> list[list[str]]:
    """Header and rows: numeric, integer, categorical, constant, score."""
    random = np.random.default_rng(seed)
    body = [
        [
            f"{random.normal(10, 2):.3f}",
            str(random.integers(1, 9)),
            str(random.choice(["steel", "wood", "iron"])),
            "north",
            f"{random.normal():.2f}" if i < labelled else "",
        ]
        for i in range(n)
    ]
    return [list(HEADER), *body]


def with_cell(row: int, column: int, value: str) -> list[list[str]]:
    """The table with one cell changed; row 0 is the header."""
    table = rows()
    table[row][column] = value
    return table


def with_column(name: str, cells: list[str]) -> list[list[str]]:
    """The table with one more column in front."""
    return [[new, *old] for new, old in zip([name, *cells], rows(), strict=True)]


def write(
    path: Path, table: list[list[str]], separator: str = ",", encoding: str = "utf-8"
) -> Path:
    """Write rows as text."""
    text = "\n".join(separator.join(cells) for cells in table) + "\n"
    path.write_bytes(text.encode(encoding))
    return path
