"""Rewards: what is to be made large.

A reward is a pure map r(x, cond) from a batch to one number a row, higher is better. A row whose
evaluation failed is NaN, never zero, so that a failure cannot be mistaken for a poor design.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from payoff.rewards.algebra import Product, Scale, Sum

Cond = dict[str, Tensor]


class Reward(ABC):
    """A pure map x (B, ...) -> (B,), higher is better, NaN = failed.

    Attributes:
        differentiable: gradients with respect to x are correct (checked by ``gradcheck``).

    Rewards add, subtract, scale and multiply like numbers; see :mod:`payoff.rewards.algebra`:

    >>> import torch
    >>> from payoff.rewards import FunctionReward
    >>> size = FunctionReward(lambda x, cond: x.pow(2).sum(1))
    >>> first = FunctionReward(lambda x, cond: x[:, 0])
    >>> (2 * first - size)(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    tensor([-3., -3.])
    """

    differentiable: bool = False

    @abstractmethod
    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        """Rewards (B,) of a batch x (B, ...)."""

    def __add__(self, other: Reward | float) -> Sum:
        from payoff.rewards.algebra import Sum

        if isinstance(other, (int, float)):
            return Sum((self,), offset=float(other))
        return Sum((self, other)) if isinstance(other, Reward) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Reward | float) -> Sum:
        from payoff.rewards.algebra import Sum

        if isinstance(other, (int, float)):
            return Sum((self,), offset=-float(other))
        return Sum((self, other), (1.0, -1.0)) if isinstance(other, Reward) else NotImplemented

    def __rsub__(self, other: float) -> Sum:
        from payoff.rewards.algebra import Sum

        if isinstance(other, (int, float)):
            return Sum((self,), (-1.0,), offset=float(other))
        return NotImplemented

    def __mul__(self, other: Reward | float) -> Scale | Product:
        from payoff.rewards.algebra import Product, Scale

        if isinstance(other, (int, float)):
            return Scale(self, float(other))
        return Product((self, other)) if isinstance(other, Reward) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> Scale:
        from payoff.rewards.algebra import Scale

        return Scale(self, 1.0 / other) if isinstance(other, (int, float)) else NotImplemented

    def __neg__(self) -> Scale:
        from payoff.rewards.algebra import Scale

        return Scale(self, -1.0)


class FunctionReward(Reward):
    """Any function ``fn(x, cond) -> (B,)`` as a reward.

    Args:
        fn: called with the batch and the conditions (or None).
        differentiable: whether gradients flow through ``fn``.

    Raises:
        ValueError: ``fn`` returned something other than one number a row.
    """

    def __init__(
        self, fn: Callable[[Tensor, Cond | None], Tensor], *, differentiable: bool = True
    ) -> None:
        self.fn = fn
        self.differentiable = differentiable

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return checked_rows(self.fn(x, cond), x, self)


def checked_rows(value: object, x: Tensor, reward: object) -> Tensor:
    """``value`` if it is one number a row of x, else an error that names both shapes."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{type(reward).__name__} returned {type(value).__name__}; expected a tensor of shape "
            f"({len(x)},), one number a row"
        )
    if value.shape != (len(x),):
        raise ValueError(
            f"{type(reward).__name__} returned shape {tuple(value.shape)} for x of shape "
            f"{tuple(x.shape)}; expected ({len(x)},), one number a row"
        )
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
