r"""Importance weights: how many samples they are worth, and what they estimate.

All take log-weights, (n,) or (..., n), and none overflows.
"""

from __future__ import annotations

import math

from torch import Tensor

from payoff.metrics.estimate import Estimate


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r""":math:`(\sum w)^2/\sum w^2` along the last axis, between 1 and n.

    Reference: Sequential Imputations and Bayesian Missing Data Problems (Kong, Liu, Wong, 1994).
    """
    weights = (log_weights - log_weights.amax(-1, keepdim=True)).exp()
    return weights.sum(-1).square() / weights.square().sum(-1)


def log_mean_exp(log_weights: Tensor) -> Estimate:
    """Log of the mean weight (n,), such as log Z; the error by the delta method."""
    n = len(log_weights)
    top = log_weights.max()
    weights = (log_weights - top).exp().double()
    mean = weights.mean()
    stderr = float(weights.std() / mean) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(float(mean.log() + top), stderr, n)


def weighted_mean(values: Tensor, log_weights: Tensor) -> Estimate:
    r"""Self-normalised :math:`\sum w f/\sum w` of values (n,), with its delta-method error.

    NaN values (failures) are left out. ``n`` is the effective sample size, rounded.
    """
    known = ~values.isnan()
    values, log_weights = values[known].double(), log_weights[known].double()
    if not len(values):
        return Estimate(math.nan, math.inf, 0)
    weights = log_weights.softmax(0)
    mean = (weights * values).sum()
    stderr = (weights.square() * (values - mean).square()).sum().sqrt()
    return Estimate(float(mean), float(stderr), round(float(effective_sample_size(log_weights))))
