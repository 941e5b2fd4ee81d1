"""Random inputs for a part whose shapes are not known, and the state around a call."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from payoff.checks.findings import Spent, generator, told
from payoff.errors import UserError

Cond = dict[str, Tensor]
Shape = tuple[int, ...]

# A vector of one coordinate broadcasts against anything, so it comes last.
SHAPES: tuple[Shape, ...] = (
    *((d,) for d in (*range(2, 21), 24, 32, 48, 64, 96, 128, 256)),
    *((5, 3), (5, 2), (3, 16, 16), (1, 16, 16), (1,)),
)


@dataclass(frozen=True)
class Inputs:
    """Standard normal rows, or uniform tokens.

    Attributes:
        shape: of one row.
        tokens: size of the vocabulary, None for real numbers.
        masked: rows are sets of different sizes, padded with zeros, with ``cond["mask"]``.
        seed: the draws are the same for the same seed.
    """

    shape: Shape
    tokens: int | None = None
    masked: bool = False
    seed: int = 0

    def draw(
        self, rows: int, dtype: torch.dtype = torch.float32, stream: int = 0
    ) -> tuple[Tensor, Cond | None]:
        """(x (rows, *shape), condition); another ``stream`` gives other rows."""
        g = generator(self.seed + 7919 * stream)
        if self.tokens is not None:
            return torch.randint(0, self.tokens, (rows, *self.shape), generator=g), None
        x = torch.randn((rows, *self.shape), generator=g, dtype=torch.float64).to(dtype)
        if not self.masked:
            return x, None
        members = self.shape[0]
        sizes = members - torch.arange(rows) % max(1, members - 1)  # from all down to two
        mask = torch.arange(members) < sizes.unsqueeze(1)
        return x * mask.reshape(rows, members, *(1,) * (x.ndim - 2)).to(x), {"mask": mask}

    def __str__(self) -> str:
        kind = f"tokens below {self.tokens}" if self.tokens is not None else "standard normal"
        return f"{kind}, shape {self.shape}" + (", with a mask" if self.masked else "")


def take(cond: Cond | None, rows: Any) -> Cond | None:
    """The condition of some rows."""
    return None if cond is None else {k: v[rows] for k, v in cond.items()}


def find_inputs(
    call: Callable[[Tensor, Cond | None], Any],
    part: Any,
    shape: Shape | None,
    tokens: int | None,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """The first inputs that ``call`` takes without an error.

    A given shape is taken as it is, with a mask only if it does not work without; otherwise the
    part's own ``shape`` or ``dim`` is tried, and then many.

    Raises:
        UserError: none works; the message has the first error.
        Spent: the budget ended before anything was learned.
    """
    hint = shape_of(part)
    shapes = (shape,) if shape is not None else (hint,) if hint is not None else SHAPES
    first: BaseException | None = None
    for candidate in _candidates(shapes, tokens, seed):
        try:
            call(*candidate.draw(2, dtype))
            return candidate
        except Spent:
            if first is None:
                raise
            break
        except (Exception, SystemExit) as error:  # the wrong shape can raise anything
            first = first or error
    tried = f"rows of shape {shapes[0]}" if len(shapes) == 1 else "rows of any usual shape"
    reason = f": {told(first)}" if first is not None else ""
    raise UserError(
        f"it cannot be called on {tried}{reason}. Give the shape of one row with --shape, for "
        "instance --shape 18 or --shape 5,3; sequences of tokens also need --tokens"
    )


def shape_of(part: Any) -> Shape | None:
    """The shape that a part, or the network inside it, says it is for."""
    for owner in (part, getattr(part, "net", None), getattr(part, "inner", None)):
        shape, dim = getattr(owner, "shape", None), getattr(owner, "dim", None)
        if isinstance(shape, tuple) and shape and all(isinstance(n, int) for n in shape):
            return shape
        if isinstance(dim, int) and not isinstance(dim, bool):
            return (dim,)
    return None


def _candidates(shapes: Iterable[Shape], tokens: int | None, seed: int) -> Iterator[Inputs]:
    for shape in shapes:
        yield Inputs(shape, tokens, False, seed)
        if tokens is None and len(shape) == 2:
            yield Inputs(shape, tokens, True, seed)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Set the global random states of torch, NumPy and Python, and put them back afterwards."""
    kept = random_states()
    torch.random.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 the global state is what is looked at
    random.seed(seed)
    try:
        yield
    finally:
        torch.random.default_generator.set_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])


def random_states() -> tuple[Any, Any, Any]:
    """The global random states of torch, NumPy and Python."""
    return (
        torch.random.default_generator.get_state(),
        np.random.get_state(),  # noqa: NPY002
        random.getstate(),
    )


def touched(before: tuple[Any, Any, Any]) -> list[str]:
    """Which of the global random states have changed since ``before``."""
    now = random_states()
    moved = (
        not torch.equal(before[0], now[0]),
        any(not np.array_equal(a, b) for a, b in zip(before[1], now[1], strict=True)),
        before[2] != now[2],
    )
    return [n for n, m in zip(("torch", "numpy", "random"), moved, strict=True) if m]
