r"""Where hydrogens go, given the heavy atoms and how many each has.

A geometric rule. Heavy neighbours come from EDM's bond table (from covalent radii where an element
is not in it); their number k and the number of hydrogens n give the shape at an atom: k + n = 4
tetrahedral; 3 planar at carbon, boron and, between flat neighbours, nitrogen, otherwise pyramidal;
2 bent or (beside a triple bond) straight. Where k = 1 the hydrogens can turn about one bond: the
turn with the least repulsion from all other atoms is taken, hydrogens of O and N being drawn to
other O and N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.domains.molecules.bonds import RADIUS, bond_orders, bonded
from payoff.domains.molecules.molecule import Molecule

LENGTH = {
    **{number: radius + RADIUS[1] for number, radius in RADIUS.items()},
    **{6: 1.093, 7: 1.013, 8: 0.966, 9: 0.92},
    **{5: 1.19, 14: 1.48, 15: 1.42, 16: 1.34, 17: 1.27, 34: 1.46, 35: 1.41, 53: 1.61},
}
"""X–H in Å, by the atomic number of X."""

ANGLE = {7: 110.5, 8: 106.5, 15: 97.0, 16: 96.0, 34: 94.5}
"""Y–X–H in degrees where X has one heavy neighbour Y and is not flat; 110.6 for other X."""

STEEP, STEEP_LIFT, STEEP_SPREAD = (15, 33), 0.98, math.radians(95.0)
"""Elements whose three bonds are nearly at right angles."""
TURNS = 24
HALF = math.radians(53.6)
"""Half the angle H–X–H where X has two neighbours and two hydrogens."""
SIZES, ATTRACTION = (2.55, 2.4, 2.0), {7: 1.5, 8: 8.0}
"""Sizes in the repulsion from heavy atoms and hydrogens and in the attraction, in Å, and the weight
of the attraction by the atomic number of X: chosen so that turning hydrogens of 1,000 molecules of
QM9's train part come close to where they are."""
_TETRAHEDRON = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / math.sqrt(3)


def place(numbers: Tensor, positions: Tensor, counts: Tensor) -> Molecule:
    """The molecule with hydrogens: heavy atoms first, in order, then theirs, in order.

    Args:
        numbers: atomic numbers of the heavy atoms (n,).
        positions: in Å (n, 3).
        counts: hydrogens at each (n,).
    """
    heavy = positions.double()
    orders = bond_orders(numbers, heavy)
    skeleton = _Skeleton(numbers, heavy, counts, bonded(numbers, heavy), (orders == 3).any(1))
    options = {i: skeleton.options(i) for i in range(len(numbers)) if counts[i] > 0}
    placed: dict[int, Tensor] = {}
    # what cannot turn first, so that the rest can keep away from it
    for i in sorted(options, key=lambda i: len(options[i]) > 1):
        choice = int(skeleton.cost(i, options[i], placed).argmin()) if len(options[i]) > 1 else 0
        placed[i] = options[i][choice]
    hydrogens = torch.cat([*(placed[i] for i in sorted(placed)), heavy[:0]])
    ones = torch.ones(len(hydrogens), dtype=numbers.dtype)
    return Molecule(
        torch.cat([numbers, ones]), torch.cat([positions, hydrogens.to(positions.dtype)])
    )


class _Skeleton:
    """Heavy atoms with their bonds, and where hydrogens may go at each."""

    def __init__(
        self, numbers: Tensor, positions: Tensor, counts: Tensor, bonded: Tensor, triple: Tensor
    ) -> None:
        self.numbers, self.positions, self.counts = numbers, positions, counts
        self.bonded, self.triple = bonded, triple
        partners = bonded.sum(1) + counts
        planar = (numbers == 6) | (numbers == 5)
        self.flat = planar & (partners <= 3) | (numbers == 7) & (partners <= 2)
        self.beside = (bonded & self.flat.unsqueeze(0)).sum(1)
        self.amide = (numbers == 7) & (partners == 3) & (self.beside > 0)

    def options(self, i: int) -> Tensor:
        """Possible positions of all hydrogens of atom i, (T, n, 3)."""
        number, n = int(self.numbers[i]), int(self.counts[i])
        b = _unit(self.positions[self.bonded[i]] - self.positions[i])
        k = len(b)
        if k == 1 and not (n == 1 and number == 6 and bool(self.triple[i])):
            out = self._turns(i)
        elif k < 2:
            out = -b if k and n == 1 else _TETRAHEDRON.to(b)[:n]
            out = out.unsqueeze(0)
        elif n > 1:
            normal, away = _normal(b), _unit(-b[:2].sum(0))
            side = torch.linspace(-1, 1, n, dtype=b.dtype).unsqueeze(1)
            out = _unit(math.cos(HALF) * away + math.sin(HALF) * side * normal).unsqueeze(0)
        elif k == 2:
            lift = self._lift(i, float(b[0] @ b[1]))
            away, up = math.sqrt(1 - lift**2) * _unit(-b.sum(0)), lift * _normal(b)
            out = torch.stack([away + up, away - up] if lift else [away]).unsqueeze(1)
        else:
            # the direction that makes the same angle with the first three bonds
            out = _unit(torch.linalg.cross(b[1] - b[0], b[2] - b[0]))
            out = (out * torch.where(out @ b[:3].sum(0) > 0, -1.0, 1.0)).expand(1, n, 3)
        return self.positions[i] + LENGTH.get(number, 1.0) * out

    def cost(self, i: int, options: Tensor, placed: dict[int, Tensor]) -> Tensor:
        """Repulsion of each option from all other atoms, less what O and N attract, (T,)."""
        rest = torch.arange(len(self.numbers)) != i
        hydrogens = torch.cat([*placed.values(), self.positions[:0]])
        cost = _sum_of_powers(options, self.positions[rest], SIZES[0], 6)
        cost = cost + _sum_of_powers(options, hydrogens, SIZES[1], 6)
        if weight := ATTRACTION.get(int(self.numbers[i]), 0.0):
            polar = rest & ((self.numbers == 7) | (self.numbers == 8)) & ~self.bonded[i]
            attracted = _sum_of_powers(options, self.positions[polar], SIZES[2], 3)
            cost = cost - weight * attracted
        return cost

    def _lift(self, i: int, cosine: float) -> float:
        """Sine of the angle by which one hydrogen leaves the plane of two bonds.

        Means over the hydrogens of QM9's molecules; at nitrogen the angle of the bonds tells rings
        of three from the rest.
        """
        if int(self.numbers[i]) in STEEP:
            return STEEP_LIFT
        if int(self.numbers[i]) != 7 or bool(self.flat[i]):
            return 0.0
        between = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        free = min(0.92, max(0.78, 0.92 - 0.12 * (between - 61) / 48))
        return (free, 0.33, 0.0)[min(2, int(self.beside[i]))]

    def _turns(self, i: int) -> Tensor:
        """Directions (T, n, 3) at an atom with one neighbour, turned about that bond."""
        number, n = int(self.numbers[i]), int(self.counts[i])
        j = int(self.bonded[i].nonzero()[0])
        axis = _unit(self.positions[i] - self.positions[j])
        flat = bool(self.flat[i] | self.amide[i])
        angle = math.radians(120.5 if flat and n == 2 else ANGLE.get(number, 110.6))
        others = self.bonded[j].clone()
        others[i] = False
        start = _across(self.positions[others] - self.positions[j], axis)
        side = torch.linalg.cross(axis, start)
        spread = STEEP_SPREAD if number in STEEP else 2 * math.pi / 3
        spread = math.pi if flat and n == 2 else spread
        # flat groups lie in the plane of the neighbour's bonds, where it has one
        turns = 2 if flat and bool(self.flat[j]) else TURNS
        first = torch.arange(turns, dtype=axis.dtype) * (2 * math.pi / turns)
        turn = first.unsqueeze(1) + spread * torch.arange(n, dtype=axis.dtype)  # (T, n)
        ring = turn.cos().unsqueeze(-1) * start + turn.sin().unsqueeze(-1) * side
        return -math.cos(angle) * axis + math.sin(angle) * ring


def _sum_of_powers(options: Tensor, others: Tensor, size: float, power: int) -> Tensor:
    """Sum of (size / distance)^power over all pairs, for each option (T,)."""
    distance = torch.cdist(options, others.expand(len(options), -1, -1)).clamp(min=0.3)
    return (size / distance).pow(power).sum((1, 2))


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def _normal(b: Tensor) -> Tensor:
    """A unit vector perpendicular to the first two directions."""
    normal = torch.linalg.cross(b[0], b[1])
    return _unit(normal) if float(normal.norm()) > 1e-3 else _across(b[:0], b[0])


def _across(bonds: Tensor, axis: Tensor) -> Tensor:
    """The first bond's direction perpendicular to ``axis``, or any where there is none."""
    for bond in (*bonds, *torch.eye(3).to(axis)):
        part = bond - (bond @ axis) * axis
        if float(part.norm()) > 0.1:
            return _unit(part)
    raise AssertionError("one of three axes is not along a given one")
