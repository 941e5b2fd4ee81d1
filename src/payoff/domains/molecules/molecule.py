"""A molecule as every part of the domain passes it on: elements and positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

_TABLE = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = dict(enumerate(_TABLE.split(), start=1))
"""Symbol of every element, by atomic number."""

NUMBER_OF = {symbol: number for number, symbol in SYMBOLS.items()}


@dataclass(frozen=True)
class Molecule:
    """Atoms in space, without bonds.

    Attributes:
        numbers: atomic numbers, (n,) int64.
        positions: in Å, (n, 3).
    """

    numbers: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        if self.numbers.ndim != 1 or self.positions.shape != (len(self.numbers), 3):
            raise ValueError(
                f"a molecule has numbers (n,) and positions (n, 3), got "
                f"{tuple(self.numbers.shape)} and {tuple(self.positions.shape)}"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> list[str]:
        """Element symbols, in order."""
        return [SYMBOLS.get(int(number), f"#{int(number)}") for number in self.numbers]

    def xyz(self) -> str:
        """The molecule in XYZ format."""
        rows = zip(self.symbols, self.positions.tolist(), strict=True)
        lines = (f"{symbol} {x:.6f} {y:.6f} {z:.6f}" for symbol, (x, y, z) in rows)
        return "\n".join([str(len(self)), "", *lines, ""])
