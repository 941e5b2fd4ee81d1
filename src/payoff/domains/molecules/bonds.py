"""Bonds from distances, by EDM's table.

A pair is bonded when it is closer than a typical single bond plus 0.10 Å, doubly when closer than a
double bond plus 0.05 Å, triply when closer than a triple bond plus 0.03 Å. The margins were tuned
by EDM's authors so that most of QM9's own molecules come out with the right valences.

Reference: E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras, Vignac,
Welling, 2022), appendix E and the code published with it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from payoff.domains.molecules.molecule import NUMBER_OF

SINGLE = {
    **{"HH": 0.74, "HC": 1.09, "HN": 1.01, "HO": 0.96, "HF": 0.92, "CC": 1.54, "CN": 1.47},
    **{"CO": 1.43, "CF": 1.35, "NN": 1.45, "NO": 1.40, "NF": 1.36, "OO": 1.48, "OF": 1.42},
    "FF": 1.42,
}
DOUBLE = {"CC": 1.34, "CN": 1.29, "CO": 1.20, "NN": 1.25, "NO": 1.21, "OO": 1.21}
TRIPLE = {"CC": 1.20, "CN": 1.16, "CO": 1.13, "NN": 1.10}
MARGINS = (0.10, 0.05, 0.03)
VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
"""The number of bonds a stable atom has, by atomic number."""


def bond_orders(numbers: Tensor, positions: Tensor) -> Tensor:
    """Bond orders 0 … 3 of every pair, (n, n) int64 with a zero diagonal.

    Args:
        numbers: atomic numbers (n,); elements that are not in the table have no bonds.
        positions: in Å (n, 3).
    """
    table = _table().to(positions)
    known = numbers.clamp(max=table.shape[-1] - 1)
    limit = table[:, known[:, None], known[None, :]]  # (3, n, n)
    gap = positions.unsqueeze(0) - positions.unsqueeze(1)
    orders = (gap.square().sum(-1).sqrt() < limit).sum(0)
    return orders.fill_diagonal_(0)


def stable_atoms(numbers: Tensor, positions: Tensor) -> Tensor:
    """Which atoms have exactly the valence they should have, (n,) bool."""
    wanted = torch.zeros(256, dtype=torch.long)
    wanted[list(VALENCE)] = torch.tensor(list(VALENCE.values()))
    return bond_orders(numbers, positions).sum(1) == wanted.to(numbers.device)[numbers]


@cache
def _table() -> Tensor:
    """Largest distances of a single, double and triple bond: (3, 10, 10), 0 where there is none."""
    table = torch.zeros(3, 11, 11, dtype=torch.float64)  # the last row is for unknown elements
    for k, (lengths, margin) in enumerate(zip((SINGLE, DOUBLE, TRIPLE), MARGINS, strict=True)):
        for pair, length in lengths.items():
            i, j = NUMBER_OF[pair[0]], NUMBER_OF[pair[1]]
            table[k, i, j] = table[k, j, i] = length + margin
    return table
