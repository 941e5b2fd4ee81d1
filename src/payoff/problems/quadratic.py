"""The reward for which linear-Gaussian problems keep a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.rewards.base import Cond, Reward


class Quadratic(Reward):
    r""":math:`r(x) = b\cdot x - \tfrac12 x^\top Q x + c`; linear when Q is left out.

    Args:
        linear: b, shape (D,).
        curvature: Q, symmetric, shape (D, D). Positive parts penalise, negative parts reward
            distance, which only some temperatures can normalise.
        constant: c.

    Shapes: x (B, D) -> (B,).

    Raises:
        ValueError: shapes that do not fit, or a Q that is not symmetric.
    """

    differentiable = True

    def __init__(
        self, linear: Tensor, curvature: Tensor | None = None, constant: float = 0.0
    ) -> None:
        if linear.ndim != 1:
            raise ValueError(f"linear must have shape (D,), got {tuple(linear.shape)}")
        if curvature is not None:
            if curvature.shape != 2 * linear.shape:
                raise ValueError(
                    f"curvature has shape {tuple(curvature.shape)}, expected "
                    f"{(len(linear), len(linear))} for a linear part of shape {tuple(linear.shape)}"
                )
            if not torch.allclose(curvature, curvature.T):
                raise ValueError("curvature must be symmetric")
        self.linear, self.curvature, self.constant = linear, curvature, float(constant)

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != len(self.linear):
            raise ValueError(
                f"Quadratic of {len(self.linear)} dimensions got x of shape {tuple(x.shape)}, "
                f"expected (B, {len(self.linear)})"
            )
        value = x @ self.linear.to(x) + self.constant
        if self.curvature is not None:
            value = value - 0.5 * ((x @ self.curvature.to(x)) * x).sum(1)
        return value


class Radius(Reward):
    r""":math:`r(x) = -\tfrac k2\sum_i\|x_i\|^2` of a cloud: how compact it is.

    Invariant to rotation and reflection, and for centred clouds to translation before centring. The
    sum is :math:`n` times the squared radius of gyration. A negative stiffness rewards spread.

    Shapes: x (B, N, C) -> (B,); padding is zero and so does not count.
    """

    differentiable = True

    def __init__(self, stiffness: float = 1.0) -> None:
        self.stiffness = float(stiffness)

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if cond is not None and "mask" in cond:
            x = x * cond["mask"].to(x.dtype).unsqueeze(-1)
        return -0.5 * self.stiffness * x.flatten(1).square().sum(1)
