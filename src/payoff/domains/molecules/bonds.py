"""Bonds from distances, by EDM's table.

A pair is bonded when it is closer than a typical single bond plus 0.10 Å, doubly when closer than a
double bond plus 0.05 Å, triply when closer than a triple bond plus 0.03 Å. The margins were tuned
by EDM's authors so that most of QM9's own molecules come out with the right valences.

The table here is that of QM9's elements: H, C, N, O, F. It says nothing about others: an atom of
another element, or next to one, is not stable. Whether two atoms are bonded at all is answered for
every pair, by covalent radii where the table has no entry.

References: E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras, Vignac,
Welling, 2022), appendix E and the code published with it. Covalent radii revisited (Cordero et al.,
2008).
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

_RADII = (
    "31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 153 139 139 "
    "132 126 124 132 122 122 120 119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 "
    "142 139 139 138 139 140 244 215 207 204 203 201 199 198 198 196 194 192 192 189 190 187 187 "
    "175 170 162 151 144 141 136 136 132 145 146 148 140 150 150 260 221 215 206 200 196 190 187 "
    "180 169"
)
RADIUS = {number: int(pm) / 100 for number, pm in enumerate(_RADII.split(), start=1)}
"""Covalent radii in Å, by atomic number, up to curium."""
STRETCH = 1.2
"""How much longer than the sum of the radii a bond may be."""


def bond_orders(numbers: Tensor, positions: Tensor) -> Tensor:
    """Bond orders 0 … 3 of every pair, (n, n) int64 with a zero diagonal.

    Args:
        numbers: atomic numbers (n,); elements that are not in the table have no bonds.
        positions: in Å (n, 3).
    """
    table = distance_table().to(positions)
    known = numbers.clamp(max=table.shape[-1] - 1)
    limit = table[:, known[:, None], known[None, :]]  # (3, n, n)
    gap = positions.unsqueeze(0) - positions.unsqueeze(1)
    orders = (gap.square().sum(-1).sqrt() < limit).sum(0)
    return orders.fill_diagonal_(0)


def bonded(numbers: Tensor, positions: Tensor) -> Tensor:
    """Which pairs are bonded, (n, n) bool: by the table, or by radii where it has no entry.

    Shapes as in :func:`bond_orders`.
    """
    return (bond_orders(numbers, positions) > 0) | beyond_table(numbers, positions)


def stable_atoms(numbers: Tensor, positions: Tensor) -> Tensor:
    """Which atoms have exactly the valence they should have, (n,) bool.

    The table cannot count the bonds of an atom that has one with another element than its own:
    such an atom is not stable.
    """
    wanted = torch.full((256,), -1)
    wanted[list(VALENCE)] = torch.tensor(list(VALENCE.values()))
    right = bond_orders(numbers, positions).sum(1) == wanted.to(numbers.device)[numbers]
    return right & ~beyond_table(numbers, positions).any(1)


def in_table(numbers: Tensor) -> bool:
    """Whether the table knows all of these elements."""
    return set(numbers.tolist()) <= set(VALENCE)


def beyond_table(numbers: Tensor, positions: Tensor) -> Tensor:
    """Pairs (..., n, n) that the table does not know and that radii say are bonded.

    Shapes: numbers (..., n), positions (..., n, 3). Where a number is 0 there is no atom.
    """
    known = torch.zeros(256, dtype=torch.bool)
    known[[0, *VALENCE]] = True
    here = known.to(numbers.device)[numbers]
    pairs = ~(here.unsqueeze(-2) & here.unsqueeze(-1))
    if not bool(pairs.any()):
        return pairs
    radii = torch.full((256,), max(RADIUS.values()), dtype=positions.dtype)
    radii[[0, *RADIUS]] = torch.tensor([-1e3, *RADIUS.values()], dtype=positions.dtype)
    radius = radii.to(positions.device)[numbers]
    reach = STRETCH * (radius.unsqueeze(-2) + radius.unsqueeze(-1))
    gap = (positions.unsqueeze(-3) - positions.unsqueeze(-2)).norm(dim=-1)
    itself = torch.eye(numbers.shape[-1], dtype=torch.bool, device=numbers.device)
    return pairs & (gap < reach) & ~itself


@cache
def distance_table() -> Tensor:
    """Largest distances of a single, double and triple bond: (3, 10, 10), 0 where there is none."""
    table = torch.zeros(3, 11, 11, dtype=torch.float64)  # the last row is for unknown elements
    for k, (lengths, margin) in enumerate(zip((SINGLE, DOUBLE, TRIPLE), MARGINS, strict=True)):
        for pair, length in lengths.items():
            i, j = NUMBER_OF[pair[0]], NUMBER_OF[pair[1]]
            table[k, i, j] = table[k, j, i] = length + margin
    return table
