"""Samples in, :class:`Estimate` out: a value, its standard error and the number behind it."""

from __future__ import annotations

from payoff.metrics.distances import (
    energy_distance,
    moment_scores,
    sliced_wasserstein,
    wasserstein,
)
from payoff.metrics.diversity import coverage, mean_pairwise_distance, vendi_score
from payoff.metrics.estimate import Estimate, bootstrap
from payoff.metrics.paths import mean_reward, path_kl, paths
from payoff.metrics.weights import effective_sample_size, log_mean_exp, weighted_mean

__all__ = [
    "Estimate",
    "bootstrap",
    "coverage",
    "effective_sample_size",
    "energy_distance",
    "log_mean_exp",
    "mean_pairwise_distance",
    "mean_reward",
    "moment_scores",
    "path_kl",
    "paths",
    "sliced_wasserstein",
    "vendi_score",
    "wasserstein",
    "weighted_mean",
]
