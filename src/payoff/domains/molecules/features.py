r"""What a molecule is made of, as one row of numbers: the input of a score learned from few labels.

- how many atoms there are of each element, and of all;
- how many bonds of each pair of elements and order, by EDM's table, and how many pairs lie within
  3 Å by elements;
- how many heavy atoms carry 0, 1, 2, 3 hydrogens, by element;
- the radius of gyration and the largest distance, in Å;
- the eigenvalues of the Coulomb matrix :math:`C_{ij} = Z_iZ_j/|r_i - r_j|`,
  :math:`C_{ii} = \tfrac12 Z_i^{2.4}`, the largest :data:`EIGENVALUES` of them, as square roots.

The table knows H, C, N, O and F. Bonds of another element are told by covalent radii and count as
single ones: double and triple bonds of sulphur or silicon are not told apart from them.

All of them are unchanged by motions, by mirrors and by the order of the atoms.

Reference: Fast and Accurate Modeling of Molecular Atomization Energies with Machine Learning (Rupp,
Tkatchenko, Müller, von Lilienfeld, 2012).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from payoff.domains.molecules.bonds import beyond_table, distance_table
from payoff.domains.molecules.molecule import Molecule

ELEMENTS = (1, 6, 7, 8, 9)
"""Those that are counted unless others are asked for: QM9's. Hydrogen comes first."""
EIGENVALUES = 12
NEAR = 3.0  # Å: neighbours of neighbours
CHUNK = 512


def elements_of(molecules: Sequence[Molecule]) -> tuple[int, ...]:
    """The elements to count for these molecules: QM9's where they suffice, else those there are."""
    present = {int(n) for m in molecules for n in m.numbers.unique()}
    return ELEMENTS if present <= set(ELEMENTS) else (1, *sorted(present - {1}))


def features(molecules: Sequence[Molecule], elements: Sequence[int] = ELEMENTS) -> Tensor:
    """(n, D) in double precision; D depends on the number of elements only.

    Args:
        molecules: of any elements. Those not among ``elements`` are counted among all atoms and in
            the Coulomb matrix only.
        elements: atomic numbers, hydrogen first.
    """
    order = sorted(range(len(molecules)), key=lambda i: len(molecules[i]))
    rows = []
    for start in range(0, len(order), CHUNK):
        part = [molecules[i] for i in order[start : start + CHUNK]]
        numbers = pad_sequence([m.numbers for m in part], batch_first=True)
        places = pad_sequence([m.positions.double() for m in part], batch_first=True)
        rows.append(_rows(numbers.long(), places, elements))
    found = torch.cat(rows) if rows else torch.zeros(0, 0, dtype=torch.float64)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
    return found[back]


def _rows(numbers: Tensor, r: Tensor, elements: Sequence[int]) -> Tensor:
    """Features of padded molecules: numbers (B, N), 0 = padding, positions (B, N, 3)."""
    there = numbers > 0
    kinds = torch.stack([numbers == z for z in elements], dim=-1).double()  # (B, N, E)
    pair = there.unsqueeze(1) & there.unsqueeze(2)
    pair = pair & ~torch.eye(numbers.shape[1], dtype=torch.bool)
    gap = torch.linalg.vector_norm(r.unsqueeze(1) - r.unsqueeze(2), dim=-1)
    table = distance_table().to(r)
    known = numbers.clamp(max=table.shape[-1] - 1)
    limits = table[:, known.unsqueeze(2), known.unsqueeze(1)]  # (3, B, N, N)
    orders = (gap < limits).sum(0) * pair + beyond_table(numbers, r).long()

    upper = torch.triu_indices(len(elements), len(elements))
    counted = []
    for which in [orders == 1, orders == 2, orders == 3, pair & (gap < NEAR)]:
        between = torch.einsum("bie,bij,bjf->bef", kinds, which.double(), kinds)
        counted.append(between[:, upper[0], upper[1]])
    hydrogens = (orders > 0).double() @ kinds[..., :1]  # (B, N, 1)
    carry = torch.stack([(hydrogens[..., 0] == k).double() for k in range(4)], dim=-1)
    heavy = torch.einsum("bie,bik->bek", kinds[..., 1:], carry).flatten(1)

    n = there.sum(1, keepdim=True).double()
    centre = (r * there.unsqueeze(-1)).sum(1, keepdim=True) / n.unsqueeze(-1)
    spread = ((r - centre).square().sum(-1) * there).sum(1, keepdim=True) / n
    longest = (gap * pair).flatten(1).amax(1, keepdim=True)
    shape = [n, n.sqrt(), spread.sqrt(), longest]
    return torch.cat([kinds.sum(1), *counted, heavy, *shape, _spectrum(numbers, gap, pair)], dim=1)


def _spectrum(numbers: Tensor, gap: Tensor, pair: Tensor) -> Tensor:
    """Square roots of the largest eigenvalues of the Coulomb matrices, (B, EIGENVALUES)."""
    z = numbers.double()
    matrix = torch.where(pair, z.unsqueeze(1) * z.unsqueeze(2) / gap.clamp(min=0.1), 0.0)
    matrix = matrix + torch.diag_embed(0.5 * z.pow(2.4))
    values = torch.linalg.eigvalsh(matrix).flip(-1).clamp(min=0).sqrt()[:, :EIGENVALUES]
    return torch.nn.functional.pad(values, (0, EIGENVALUES - values.shape[1]))
