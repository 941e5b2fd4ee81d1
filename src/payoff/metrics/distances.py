r"""Distances between two sets of samples.

A mean reward alone is never evidence: the right mean is compatible with the wrong mode weights.
Memory is O(block²) or O(n), whatever the number of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.metrics.estimate import Estimate
from payoff.spaces import draw_noise


def wasserstein(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`W_1 = \int|F_x-F_y|` of two sets of numbers, exact, along the first axis.

    Shapes: x (n,) or (n, K), y (m,) or (m, K) -> () or (K,). It does not vanish for two finite
    samples of one law: compare it with the distance between two sets of exact draws.
    """
    n, m = len(x), len(y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x has shape {tuple(x.shape)}, y {tuple(y.shape)}: columns differ")
    a, b = x.sort(0).values, y.sort(0).values
    if n == m:
        return (a - b).abs().mean(0)
    # quantile functions are constant between these levels
    levels = torch.cat([torch.arange(n + 1).to(x) / n, torch.arange(1, m).to(x) / m])
    levels = levels.double().sort().values
    middle = 0.5 * (levels[1:] + levels[:-1])
    width = levels.diff().to(x)
    left = a[(middle * n).long().clamp(max=n - 1)]
    right = b[(middle * m).long().clamp(max=m - 1)]
    return torch.einsum("i,i...->...", width, (left - right).abs())


def sliced_wasserstein(
    x: Tensor, y: Tensor, directions: int = 64, *, generator: torch.Generator | None = None
) -> Estimate:
    """Mean W1 over random projections of x (n, ...) and y (m, ...).

    The standard error is that of the directions, n their number: it says nothing about the finite
    samples. Reference: Wasserstein Barycenter and Its Application to Texture Mixing (Rabin, Peyré,
    Delon, Bernot, 2011).
    """
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if x.shape[1] == 1:
        return Estimate(float(wasserstein(x[:, 0], y[:, 0])), 0.0, 1)
    theta = draw_noise((x.shape[1], directions), x, generator=generator)
    theta = theta / theta.norm(dim=0)
    parts = [wasserstein(x @ d, y @ d) for d in theta.split(16, dim=1)]
    return Estimate.of(torch.cat(parts))


def energy_distance(x: Tensor, y: Tensor, block: int = 1000) -> Estimate:
    r""":math:`2E\|X-Y\|-E\|X-X'\|-E\|Y-Y'\|`, zero exactly when the laws are equal.

    Samples x (n, ...) and y (m, ...) are cut into blocks; each gives an unbiased value, and their
    spread gives the standard error, which is right under equal laws too (where the usual expansion
    degenerates). Rows should be in random order. Fewer than two blocks of 50 rows is an error.

    Reference: Energy Statistics: A Class of Statistics Based on Distances (Székely, Rizzo, 2013).
    """
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    n = min(len(x), len(y))
    block = min(block, n // 8) if n >= 400 else n // 2
    if block < 50:
        raise ValueError(f"energy_distance needs at least 100 samples of each, got {n}")
    count = n // block
    values = []
    for a, b in zip(x[: count * block].split(block), y[: count * block].split(block), strict=True):
        within = _within(a) + _within(b)
        values.append(2 * torch.cdist(a, b).mean() - within)
    return Estimate.of(torch.stack(values))


def moment_scores(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """z-scores of the sample mean (D,) and second moments (D, D) against exact ones.

    x (n, D), mean (D,), covariance (D, D). Second moments are taken about the exact mean.
    """
    off = x - mean
    products = off.unsqueeze(2) * off.unsqueeze(1) if x.shape[1] <= 64 else None
    root = len(x) ** 0.5
    first = off.mean(0) / (x.std(0) / root)
    if products is not None:
        spread = products.std(0)
        second = (products.mean(0) - covariance) / (spread / root)
    else:
        average = off.T @ off / len(x)
        spread = ((off**2).T @ off**2 / len(x) - average**2).clamp(min=0).sqrt()
        second = (average - covariance) / (spread / root)
    return first, second


def _within(a: Tensor) -> Tensor:
    return torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))
