"""A molecule as every part of the domain passes it on: elements and positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
"""Elements of QM9, by atomic number."""

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
