r"""Rewards made of rewards.

========  ==============================================================
`Sum`     :math:`b + \sum_i w_i r_i(x)`
`Product` :math:`\prod_i r_i(x)`
`Scale`   :math:`w\, r(x)` (`Negate`: w = -1, to make something small)
`Clip`    :math:`\min(\max(r(x), \text{low}), \text{high})`
`Gate`    :math:`r(x)` where the gate is open, a constant elsewhere
========  ==============================================================

A failure (NaN) in any part is a failure of the whole. A composite is differentiable when all of its
parts are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from payoff.rewards.base import Cond, Reward, checked_rows


class Sum(Reward):
    """Weighted sum with an offset.

    Args:
        rewards: the terms.
        weights: one factor a term; all 1 by default.
        offset: added to the sum.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Sequence[float] | None = None,
        *,
        offset: float = 0.0,
    ) -> None:
        weights = [1.0] * len(rewards) if weights is None else [float(w) for w in weights]
        if not rewards:
            raise ValueError("a Sum needs at least one reward")
        if len(weights) != len(rewards):
            raise ValueError(f"{len(rewards)} rewards but {len(weights)} weights; give one each")
        self.rewards = tuple(rewards)
        self.weights = tuple(weights)
        self.offset = offset
        self.differentiable = all(r.differentiable for r in rewards)

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        terms = [
            w * checked_rows(r(x, cond), x, r)
            for r, w in zip(self.rewards, self.weights, strict=True)
        ]
        return torch.stack(terms).sum(dim=0) + self.offset


class Product(Reward):
    """Product of rewards; with factors in [0, 1] a soft conjunction ("this and that")."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        if not rewards:
            raise ValueError("a Product needs at least one reward")
        self.rewards = tuple(rewards)
        self.differentiable = all(r.differentiable for r in rewards)

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return torch.stack([checked_rows(r(x, cond), x, r) for r in self.rewards]).prod(dim=0)


class Scale(Reward):
    """A reward times a constant."""

    def __init__(self, reward: Reward, factor: float) -> None:
        self.reward = reward
        self.factor = float(factor)
        self.differentiable = reward.differentiable

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return self.factor * checked_rows(self.reward(x, cond), x, self.reward)


class Negate(Scale):
    """The reward with its sign turned: what was to be small is now to be large."""

    def __init__(self, reward: Reward) -> None:
        super().__init__(reward, -1.0)


class Clip(Reward):
    """The reward held between two limits; the gradient is zero beyond them, NaN stays NaN.

    Args:
        reward: the reward to limit.
        low, high: the limits; either may be infinite.
    """

    def __init__(self, reward: Reward, low: float = -math.inf, high: float = math.inf) -> None:
        if not low <= high:
            raise ValueError(f"a Clip needs low <= high, not low={low} and high={high}")
        self.reward = reward
        self.low, self.high = low, high
        self.differentiable = reward.differentiable

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return checked_rows(self.reward(x, cond), x, self.reward).clamp(self.low, self.high)


class Gate(Reward):
    """The reward where a gate is open, ``otherwise`` where it is shut.

    The gate is open where ``gate(x) > threshold``. A row whose gate evaluation failed (NaN) is NaN;
    a row whose gate is shut does not need its reward, so a NaN there is replaced. As a function the
    result jumps at the gate; its gradient is the reward's inside and zero outside.

    Args:
        reward: the reward inside.
        gate: the reward that decides.
        threshold: open above it.
        otherwise: the value of shut rows (NaN counts them as failures).
    """

    def __init__(
        self, reward: Reward, gate: Reward, threshold: float = 0.0, otherwise: float = math.nan
    ) -> None:
        self.reward, self.gate = reward, gate
        self.threshold, self.otherwise = threshold, otherwise
        self.differentiable = reward.differentiable

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        value = checked_rows(self.reward(x, cond), x, self.reward)
        decision = checked_rows(self.gate(x, cond), x, self.gate)
        gated = torch.where(decision > self.threshold, value, self.otherwise)
        return gated.masked_fill(decision.isnan(), math.nan)
