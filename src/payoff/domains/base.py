"""What a domain is: the bridge between a user's objects and tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from payoff.spaces import Space

Cond = dict[str, Tensor]


class Domain(ABC):
    """Objects (rows of a table, molecules, shapes, ...) and the tensors that stand for them.

    Attributes:
        space: where the tensors live.
    """

    space: Space

    @abstractmethod
    def encode(self, objects: Any) -> tuple[Tensor, Cond | None]:
        """Tensors x (n, ...) and their conditions (None if the domain has none).

        Raises:
            UserError: an object does not belong to the domain.
        """

    @abstractmethod
    def decode(self, x: Tensor, cond: Cond | None = None) -> list[Any | None]:
        """One object a row of x; None where a row stands for no object (such as one with NaN)."""

    @abstractmethod
    def check(self, objects: Sequence[Any | None]) -> list[str | None]:
        """Why each object is not valid, in a few words; None for the valid ones."""
