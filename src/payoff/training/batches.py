"""Batches of objects of about one size, so that little time is spent on padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Batches:
    """Endless random batches of rows, each with the number of nodes it needs.

    Every epoch walks through a new permutation. Its rows are sorted by rounded size and cut into
    batches, which come in random order; a size whose rows do not fill a batch is mixed with the
    next. Rounding keeps the number of different shapes, and so of compiled programs, small: with
    one rounded size for all nothing is sorted and a batch is a random sample.

    Args:
        sizes: nodes, such as atoms, of each object (n,).
        batch_size: rows a batch; an epoch leaves out fewer than this.
        rounding: sizes are rounded up to multiples of it, and down to the largest size.
        generator: of the permutations.
    """

    def __init__(
        self, sizes: Tensor, batch_size: int, rounding: int, generator: torch.Generator
    ) -> None:
        if len(sizes) < batch_size:
            raise ValueError(f"{len(sizes)} objects do not fill a batch of {batch_size}")
        rounded = (sizes + rounding - 1).div(rounding, rounding_mode="floor") * rounding
        self.sizes, self.batch_size = rounded.clamp(max=int(sizes.max())), batch_size
        self.generator = generator
        self.waiting = torch.empty(0, batch_size, dtype=torch.long)

    def next(self) -> tuple[Tensor, int]:
        """Rows (batch_size,) and the number of nodes that holds all of them."""
        if not len(self.waiting):
            self.waiting = self._epoch()
        rows, self.waiting = self.waiting[0], self.waiting[1:]
        return rows, int(self.sizes[rows].max())

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold, next to the generator's state."""
        return {"waiting": self.waiting.clone()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.waiting = state["waiting"]

    def _epoch(self) -> Tensor:
        order = torch.randperm(len(self.sizes), generator=self.generator)
        order = order[: len(order) // self.batch_size * self.batch_size]
        order = order[self.sizes[order].argsort(stable=True)]
        batches = order.reshape(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=self.generator)]
