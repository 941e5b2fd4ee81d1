"""The laws of a Gaussian process: corruption, its reversal, and Bayes' rule between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from payoff.checks.findings import (
    Budget,
    Law,
    Outcome,
    difference,
    fails,
    generator,
    holds,
    verdict,
)
from payoff.checks.inputs import random_states, touched
from payoff.errors import UserError
from payoff.predictions import Prediction
from payoff.processes import GaussianProcess

F64 = torch.float64
PAIRS = ((0.9, 0.7), (0.5, 0.1), (1.0, 0.0))
DRAWS = 20_000


class ProcessSubject:
    """A process with a schedule of alpha and sigma, and clean rows."""

    def __init__(self, part: Any, shape: Any, seed: int, budget: Budget) -> None:
        if not isinstance(part, GaussianProcess):
            raise UserError(
                f"{type(part).__name__} is no GaussianProcess; only Gaussian processes are checked"
            )
        self.part, self.seed, self.budget = part, seed, budget
        self.shape = tuple(shape) if shape is not None else (4, 3)
        g = generator(seed)
        x = torch.randn((6, *self.shape), generator=g, dtype=F64)
        y = torch.randn((6, *self.shape), generator=g, dtype=F64)
        self.x0, self.noise = part.space.project(x), part.space.project(y)

    def levels(self, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """(t, alpha, sigma) in float64."""
        t = torch.tensor(time, dtype=F64)
        return t, *self.part.schedule(t)

    def kernel(self, x_t: Tensor, t: float, s: float, x0: Tensor, eta: float) -> Any:
        """The reverse kernel with x0 known."""
        self.budget.spend()
        time, alpha, sigma = self.levels(t)
        known = Prediction(x0, x_t, alpha, sigma)
        return self.part.reverse(x_t, time, torch.tensor(s, dtype=F64), known, eta)


def scores(x: Tensor, expected: Tensor) -> float:
    """The largest |z| of column means."""
    return float(((x.mean(0) - expected) / (x.std(0) / len(x) ** 0.5)).abs().max())


def _corrupted(s: ProcessSubject, x0: Tensor, time: float) -> Outcome:
    t, alpha, sigma = s.levels(time)
    s.budget.spend()
    x = s.part.corrupt(x0, t, generator=generator(s.seed))
    if x.shape != x0.shape or x.dtype != x0.dtype:
        return fails(f"shape {tuple(x.shape)}, {x.dtype} for x0 {tuple(x0.shape)}, {x0.dtype}")
    dof = float(s.part.space.dof(x0)[0])
    square = (x - alpha * x0).flatten(1).square().sum(1, keepdim=True)
    z = scores(x.flatten(1), (alpha * x0[0]).flatten()), scores(square, sigma**2 * dof)
    text = f"t = {time:g}: mean of alpha x0 at z = {z[0]:.1f}, variance sigma² at z = {z[1]:.1f}"
    return verdict(max(z) < 4.8, text)


def corrupts_as_declared(s: ProcessSubject) -> Outcome:
    """It draws N(alpha x0, sigma² I): z-tests of mean and variance."""
    return _corrupted(s, s.x0[:1].expand(DRAWS, *s.shape), 0.6)


def prior_is_the_end(s: ProcessSubject) -> Outcome:
    """The prior has the noise of t = 1 and a mean of zero."""
    _, _, sigma = s.levels(1.0)
    s.budget.spend()
    like = torch.zeros((), dtype=F64)
    x = s.part.prior((DRAWS, *s.shape), like=like, generator=generator(s.seed))
    dof = float(s.part.space.dof(x[:1])[0])
    square = x.flatten(1).square().sum(1, keepdim=True)
    z = scores(x.flatten(1), torch.zeros(1, dtype=F64)), scores(square, sigma**2 * dof)
    return verdict(max(z) < 4.8, f"mean at z = {z[0]:.1f}, variance at z = {z[1]:.1f}")


def keeps_the_marginals(s: ProcessSubject) -> Outcome:
    """x_t ~ q(x_t | x_0), then the kernel: gives q(x_s | x_0), for eta 0, 0.3 and 1."""
    floor, worst = s.part.noise_floor, 0.0
    for t, earlier in PAIRS:
        _, alpha_t, sigma_t = s.levels(t)
        _, alpha_s, sigma_s = s.levels(earlier)
        for eta in (0.0, 0.3, 1.0):
            still = s.kernel(alpha_t * s.x0, t, earlier, s.x0, eta)
            noisy = s.kernel(alpha_t * s.x0 + sigma_t * s.noise, t, earlier, s.x0, eta)
            std = torch.zeros((), dtype=F64) if noisy.std is None else torch.as_tensor(noisy.std)
            kept = (noisy.mean - still.mean).flatten(1).norm(dim=1) / s.noise.flatten(1).norm(dim=1)
            if floor and bool((std <= floor).any()):
                continue  # the floor adds noise on purpose
            total = (kept**2 + std**2).sqrt()
            worst = max(
                worst,
                difference(still.mean, alpha_s * s.x0),
                difference(total, sigma_s.expand_as(total)),
            )
    return verdict(worst < 1e-6, f"mean and variance off by {worst:.1e}")


def eta_one_is_bayes(s: ProcessSubject) -> Outcome:
    """At eta = 1 the kernel is the product of the step s -> t and the marginal at s."""
    worst = 0.0
    for t, earlier in PAIRS:
        _, alpha_t, sigma_t = s.levels(t)
        _, alpha_s, sigma_s = s.levels(earlier)
        ratio = alpha_t / alpha_s
        spread = sigma_t**2 - (ratio * sigma_s) ** 2
        precision = 1 / sigma_s**2 + ratio**2 / spread
        mean = (alpha_s * s.x0 / sigma_s**2 + ratio * s.noise / spread) / precision
        kernel = s.kernel(s.noise, t, earlier, s.x0, 1.0)
        if kernel.std is None:
            return fails("the kernel at eta = 1 has no noise")
        std = torch.as_tensor(kernel.std).reshape(-1)[:1]
        exact = precision.rsqrt().reshape(1).clamp(min=s.part.noise_floor)
        if float(std) > s.part.noise_floor:
            worst = max(worst, difference(kernel.mean, mean))
        worst = max(worst, difference(std, exact))
    return verdict(worst < 1e-6, f"mean and standard deviation off by {worst:.1e}")


def rows_alone(s: ProcessSubject) -> Outcome:
    """One time for all rows, and a time for each, give the same kernels."""
    t, alpha, sigma = s.levels(0.6)
    earlier = torch.tensor(0.2, dtype=F64)
    x_t = alpha * s.x0 + sigma * s.noise
    one = s.kernel(x_t, 0.6, 0.2, s.x0, 1.0)
    rows = len(s.x0)
    known = Prediction(s.x0, x_t, alpha.expand(rows), sigma.expand(rows))
    many = s.part.reverse(x_t, t.expand(rows), earlier.expand(rows), known, 1.0)
    gap = max(
        difference(one.mean, many.mean),
        difference(one.log_prob(x_t), many.log_prob(x_t)),
    )
    return verdict(gap < 1e-8, f"t () against t (B,): {gap:.1e}")


def draws_from_the_generator(s: ProcessSubject) -> Outcome:
    """Corruption and prior draw from the generator alone."""
    t, _, _ = s.levels(0.5)
    before = random_states()
    s.budget.spend(3)
    one, two = (s.part.corrupt(s.x0, t, generator=generator(1)) for _ in range(2))
    s.part.prior(tuple(s.x0.shape), like=s.x0, generator=generator(1))
    moved = touched(before)
    if moved:
        return fails(f"draws from the global state of {', '.join(moved)}")
    if not torch.equal(one, two):
        return fails("the same generator gives another corruption")
    return holds("the same for the same generator, no global draws")


LAWS: tuple[Law[ProcessSubject], ...] = (
    Law(
        "corruption draws alpha x0 + sigma ε",
        corrupts_as_declared,
        "see GaussianProcess.corrupt",
        gate=True,
    ),
    Law("the prior is the law at t = 1", prior_is_the_end, "standard noise times sigma(1)"),
    Law(
        "reverse kernels keep the marginals",
        keeps_the_marginals,
        "mean alpha_s x0 + sqrt(sigma_s² - std²) ε̂, for every eta",
    ),
    Law(
        "eta = 1 is Bayes' rule",
        eta_one_is_bayes,
        "std² = sigma_s² (1 - SNR_t / SNR_s)",
    ),
    Law("one time holds for all rows", rows_alone, "use payoff.spaces.expand_to"),
    Law("randomness comes from the generator", draws_from_the_generator, "hand the generator on"),
)
