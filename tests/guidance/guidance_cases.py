"""Problems and tools that the tests of guidance share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.metrics.distances import wasserstein
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, Problem

F64 = torch.float64
VECTORS = ("gaussian", "mixture", "two_modes", "cloud")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem_of(name: str, dtype: torch.dtype = F64) -> Problem:
    if name == "gaussian":
        return GaussianSubspace.random(5, 2, 0.7, isotropic=False, dtype=dtype)
    if name == "mixture":
        return MixtureProblem.random(3, 3, temperature=1.3, dtype=dtype)
    if name == "two_modes":
        return MixtureProblem.two_modes(dtype=dtype)
    return CloudProblem(4, dtype=dtype)


def condition_of(name: str, rows: int) -> dict[str, Tensor] | None:
    if name != "cloud":
        return None
    return {"mask": torch.arange(4) < (2 + torch.arange(rows) % 3).unsqueeze(1)}


def states(name: str, t: Tensor, rows: int = 6) -> tuple[Problem, Tensor, dict[str, Tensor] | None]:
    """(problem, noisy states of its base, their conditions)."""
    problem, cond = problem_of(name), condition_of(name, rows)
    return problem, problem.base.sample_t(rows, t, cond, generator=seeded(1)), cond


def distance_from(problem: Problem, x: Tensor, seed: int = 100) -> tuple[float, float]:
    """(W1 of x (n, 1) from p*, the mean W1 of n exact draws): distance and floor."""
    sets = [problem.sample_target(len(x), generator=seeded(seed + i))[:, 0] for i in range(6)]
    floor = torch.stack([wasserstein(a, b) for a, b in zip(sets[1:], sets[:-1], strict=True)])
    return float(wasserstein(x[:, 0], sets[0])), float(floor.mean())


def mode_z(problem: MixtureProblem, x: Tensor) -> float:
    """The share of the right mode in x (n, 1) against that of p*, in standard errors."""
    share = float(problem.tilted().log_weights.exp()[1])
    found = float((x[:, 0] > 0.5).double().mean())
    return (found - share) / math.sqrt(share * (1 - share) / len(x))
