"""How varied samples are, and how much of a reference they reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.metrics.estimate import Estimate

LARGEST = 5000


def mean_pairwise_distance(x: Tensor, block: int = 1024) -> Estimate:
    """Mean Euclidean distance between two different rows of x (n, ...).

    A U-statistic; its standard error is twice that of the rows' mean distances. O(n²) time,
    O(block · n) memory.
    """
    x = x.reshape(len(x), -1)
    n = len(x)
    if n < 3:
        raise ValueError(f"a mean pairwise distance needs at least 3 samples, got {n}")
    rows = torch.cat([torch.cdist(part, x).sum(1) for part in x.split(block)]) / (n - 1)
    return Estimate(float(rows.mean()), 2 * float(rows.std()) / math.sqrt(n), n)


def vendi_score(x: Tensor, bandwidth: float | None = None) -> float:
    r"""The effective number of different samples, between 1 and n.

    .. math:: \exp\Big(-\sum_i\lambda_i\log\lambda_i\Big),\quad \lambda = \mathrm{eig}(K/n),\quad
              K_{ij} = e^{-\|x_i-x_j\|^2/2h^2}

    h is the median distance unless given. It grows with n, so compare at equal n (at most 5000,
    the eigenvalues take O(n³)).

    Reference: The Vendi Score (Friedman, Dieng, 2023).
    """
    x = x.reshape(len(x), -1).double()
    if not 1 <= len(x) <= LARGEST:
        raise ValueError(f"vendi_score takes 1 to {LARGEST} samples, got {len(x)}: take a subset")
    square = torch.cdist(x, x).square()
    h = float(square[square > 0].median().sqrt()) if bandwidth is None and bool(square.any()) else 1
    h = h if bandwidth is None else bandwidth
    values = torch.linalg.eigvalsh(torch.exp(-0.5 * square / h**2) / len(x)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())


def coverage(samples: Tensor, reference: Tensor, k: int = 5, block: int = 1024) -> Estimate:
    """Share of the reference points that have a sample within their k-th neighbour's distance.

    samples (n, ...), reference (m, ...). For two sets of one law and size it tends to
    1 − 2**(−k). The standard error is binomial.

    Reference: Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020).
    """
    samples = samples.reshape(len(samples), -1)
    reference = reference.reshape(len(reference), -1)
    if not 1 <= k < len(reference):
        raise ValueError(f"k must lie in 1 … {len(reference) - 1}, got {k}")
    hits = []
    for part in reference.split(block):
        # a point is its own nearest neighbour
        radius = torch.cdist(part, reference).topk(k + 1, largest=False).values[:, -1]
        hits.append(torch.cdist(part, samples).amin(1) <= radius)
    share = torch.cat(hits).double()
    p, m = float(share.mean()), len(share)
    return Estimate(p, math.sqrt(max(p * (1 - p), 1 / m) / m), m)
