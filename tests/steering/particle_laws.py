"""The law that particle methods are held to, as a function: true engines pass it, broken ones do
not.

What a method should draw from is p* up to the discretisation of the base's own sampler, which is
known to any accuracy: draws of that sampler, weighted by exp(r/τ).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from payoff.metrics import Estimate, log_mean_exp, wasserstein
from payoff.problems import CloudProblem, MixtureProblem, Problem, TokenChain
from payoff.samplers import Ancestral
from payoff.steering.base import Steered

LIMIT = 4.5  # standard errors; chance alone: 1 in 150,000 a number
Features = Callable[[Tensor], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Case:
    """A problem with numbers of its samples that tell laws apart."""

    problem: Problem
    features: Features
    steps: int
    cond: Callable[[int], dict[str, Tensor] | None] = lambda n: None

    def method(self, cls: type[Steered], **options) -> Steered:
        return cls(self.problem, self.problem.shape, self.steps, **options)


class Reference:
    """What the base's own sampler says about p*: features, log Z, draws."""

    def __init__(self, case: Case, n: int = 100_000, seed: int = 99) -> None:
        problem, cond = case.problem, case.cond(n)
        walk = Ancestral(problem.denoiser, problem.shape, case.steps)
        self.x = walk.sample(n, cond, generator=seeded(seed), batch_size=50_000).clone()
        logs = problem.reward(self.x, cond).double() / problem.temperature
        # conditions come in turn: two by two, each half of the rows for itself
        turns = 1 if cond is None else 2
        self.log_weights = (logs.view(-1, turns) - logs.view(-1, turns).logsumexp(0)).reshape(-1)
        self.log_z = log_mean_exp(logs)
        values, weights = case.features(self.x).double(), self.log_weights.exp() / turns
        self.mean = weights @ values
        self.error = (weights.square() @ (values - self.mean).square()).sqrt()

    def draws(self, n: int, seed: int) -> Tensor:
        rows = torch.multinomial(self.log_weights.exp(), n, True, generator=seeded(seed))
        return self.x[rows]


def deviations(method: Steered, case: Case, reference: Reference, n: int, seed: int = 0) -> Tensor:
    """z-scores of the features of n draws, and of the mean of Ẑ where the method has one."""
    cond = case.cond(n)
    x = method.sample(n, cond, generator=seeded(seed), batch_size=40_000)
    found = case.features(x).double()
    error = (found.var(0) / n + reference.error.square()).sqrt()
    z = (found.mean(0) - reference.mean) / error
    if "log_z" in getattr(method, "summary", {}):
        log_z = Estimate(method.summary["log_z"], method.summary["log_z_stderr"], n)
        z = torch.cat([z, z.new_tensor([log_z.z(reference.log_z)])])
    return z


def obeys(method: Steered, case: Case, reference: Reference, n: int, seed: int = 0) -> bool:
    """Whether draws follow p* and Ẑ is unbiased, as far as n populations can tell."""
    return bool(deviations(method, case, reference, n, seed).abs().max() < LIMIT)


def distance(method: Steered, reference: Reference, n: int, seed: int) -> float:
    """W1 along the first coordinate."""
    x = method.sample(n, generator=seeded(seed), batch_size=40_000)
    return float(wasserstein(x.flatten(1)[:, 0], reference.draws(n, 7).flatten(1)[:, 0]))


def floor(reference: Reference, n: int, repeats: int = 20) -> tuple[float, float]:
    """Mean and standard deviation of W1 between two sets of n exact draws."""
    found = [
        float(
            wasserstein(
                reference.draws(n, 2 * i + 20).flatten(1)[:, 0],
                reference.draws(n, 2 * i + 21).flatten(1)[:, 0],
            )
        )
        for i in range(repeats)
    ]
    values = torch.tensor(found)
    return float(values.mean()), float(values.std())


def two_modes(temperature: float = 0.35, steps: int = 30) -> Case:
    problem = MixtureProblem.two_modes(temperature=temperature)
    return Case(
        problem,
        lambda x: torch.stack([(x[:, 0] < 0.5).float(), x[:, 0].abs(), problem.reward(x)], 1),
        steps,
    )


def mixture(dim: int, temperature: float = 1.0, steps: int = 30) -> Case:
    problem = MixtureProblem.random(dim, 3, temperature=temperature)
    zero, tilted = torch.zeros(()), problem.tilted()
    # a mode of hardly any weight has no normal mean over a few hundred draws
    often = tilted.log_weights.exp().clamp(max=0.999) > 0.05
    centre = tilted.moments()[0]

    def features(x: Tensor) -> Tensor:
        modes = problem.base.responsibilities(x, zero)[:, often]
        sides = (x[:, :2] > centre[:2]).float()
        return torch.cat([x[:, :2], sides, modes[:, 1:], problem.reward(x)[:, None]], 1)

    return Case(problem, features, steps)


def cloud(temperature: float = 1.0, steps: int = 30) -> Case:
    """Sizes 3 and 5 in turn: the tilt of a small cloud is another than that of a large one."""
    problem = CloudProblem(5, temperature=temperature)

    def cond(n: int) -> dict[str, Tensor]:
        sizes = torch.where(torch.arange(n) % 2 == 0, 3, 5)
        return {"mask": torch.arange(5) < sizes.unsqueeze(1)}

    def features(x: Tensor) -> Tensor:
        radius = x.flatten(1).square().sum(1)
        small = (torch.arange(len(x)) % 2 == 0).float()
        return torch.stack([radius, radius * small, (radius < 2).float() * (1 - small)], 1)

    return Case(problem, features, steps, cond)


def chain(temperature: float = 0.7, steps: int = 12) -> Case:
    problem = TokenChain.random(3, 4, temperature=temperature)

    def features(x: Tensor) -> Tensor:
        first = [(x[:, i] == i % 3).float() for i in range(4)]
        pair = ((x[:, 0] == x[:, 1]) & (x[:, 2] == x[:, 3])).float()
        return torch.stack([*first, pair, problem.reward(x)], 1)

    return Case(problem, features, steps)


def nan_above(limit: float, problem: Problem) -> Callable[[Tensor, object], Tensor]:
    """The problem's reward, failing where the first coordinate exceeds ``limit``."""

    def score(x: Tensor, cond: object = None) -> Tensor:
        return torch.where(x[:, 0] > limit, math.nan, problem.reward(x))

    return score
