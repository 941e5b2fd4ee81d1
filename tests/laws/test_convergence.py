"""Every sampler converges at the order it declares, on every schedule.

The denoiser is exact for a Gaussian, so that every step is an affine map plus noise. Two points are
enough to read the map off a kernel, and mean and variance then follow in closed form: there is no
Monte Carlo in this file.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from law_cases import F64, gentle, mask_processes, slope
from torch import Tensor

from payoff.problems import GaussianMixture, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess
from payoff.samplers import SAMPLERS, Ancestral, Heun, Sampler
from payoff.schedules import KEEP_SCHEDULES, SCHEDULES

MEAN, VARIANCE = 0.7, 0.3
STEPS = [128, 256, 512]
CASES = [(name, {}) for name in SAMPLERS] + [("ddim", {"eta": eta}) for eta in (0.3, 1.0, 1.5)]
CASES += [("noisy", {"eta": 2.0})]
SCHEDULE_NAMES = list(SCHEDULES)


def gaussian(schedule: str) -> GaussianMixture:
    process = GaussianProcess(schedule=gentle(schedule))
    return GaussianMixture(
        torch.tensor([[MEAN]], dtype=F64), torch.tensor([VARIANCE], dtype=F64), process=process
    )


def propagate(sampler: Sampler, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0 from those of x_1, through the sampler's own kernels.

    The map is affine, also where a step remembers earlier ones, so a path at 0, one that starts at
    1, and for every step one that is pushed by 1 after it tell all gains.
    """
    times, memory = sampler.times(torch.device("cpu"), F64), {}
    x = torch.zeros(len(times) + 1, 1, dtype=F64)
    x[1] = 1.0
    stds = []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        kernel: Any = sampler.step(x, t, s, None, memory)
        stds.append(0.0 if kernel.std is None else float(kernel.std))
        x = kernel.mean.clone()
        x[2 + i] += 1.0
    gain, pushed = x[1, 0] - x[0, 0], x[2:, 0] - x[0, 0]
    noise = (pushed * torch.tensor(stds, dtype=F64)).square().sum()
    return gain * mean + x[0, 0], gain**2 * variance + noise


def error(sampler: Sampler) -> float:
    schedule = sampler.denoiser.process.schedule  # type: ignore[attr-defined]
    first, last = (torch.tensor(v, dtype=F64) for v in (1.0, 0.0))
    (a1, s1), (a0, s0) = schedule(first), schedule(last)
    mean, variance = propagate(sampler, a1 * MEAN, a1**2 * VARIANCE + s1**2)
    off_mean = float(mean - a0 * MEAN)
    off_std = float(variance.sqrt() - (a0**2 * VARIANCE + s0**2).sqrt())
    return math.hypot(off_mean, off_std)


@pytest.mark.parametrize("grid", ["time", "log_snr"])
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
def test_declared_order(name: str, options: dict, schedule: str, grid: str) -> None:
    law, kind = gaussian(schedule), SAMPLERS[name]
    errors = [error(kind(law, (1,), n, grid, **options)) for n in STEPS]
    measured = slope(STEPS, errors)
    assert kind.order - 0.25 <= measured <= kind.order + 0.75, (measured, errors)


@pytest.mark.parametrize("name", ["heun", "multistep"])
def test_second_order_without_a_gaussian(name: str) -> None:
    """On a mixture the ODE is not affine; the finest grid of a first-order method is no reference,
    so Heun with eight times the steps is."""
    law = MixtureProblem.two_modes(GaussianProcess(schedule=gentle("Cosine")), dtype=F64).base
    x = torch.linspace(-2.0, 2.0, 9, dtype=F64).unsqueeze(1)
    one, steps = torch.ones((), dtype=F64), [128, 256, 512]
    reference = Heun(law, (1,), 8 * steps[-1]).finish(x, one)
    errors = [
        float((SAMPLERS[name](law, (1,), n).finish(x, one) - reference).abs().max()) for n in steps
    ]
    assert slope(steps, errors) >= 1.75, errors


@pytest.mark.parametrize("keep", list(KEEP_SCHEDULES))
def test_masked_ancestral_law_is_of_first_order(keep: str) -> None:
    """Total variation between the law of the sampler and the data, by enumeration of all states."""
    problem = TokenChain.random(2, 3, dtype=F64, process=mask_processes(2)[keep])
    states = torch.cartesian_prod(*[torch.arange(3)] * 3)
    exact = torch.zeros(27, dtype=F64)
    clean = (states < 2).all(1)
    exact[clean] = problem.base.log_prob_t(states[clean], torch.tensor(0.0, dtype=F64)).exp()
    steps, errors = [16, 32, 64], []
    for n in steps:
        sampler: Any = Ancestral(problem.base, problem.shape, n)
        law = torch.zeros(27, dtype=F64)
        law[-1] = 1.0  # all masked
        for t, s in itertools.pairwise(sampler.times(torch.device("cpu"), F64)):
            rows = sampler.step(states, t, s, None, {})
            table = torch.stack([rows.log_prob(x.expand_as(states)) for x in states], 1).exp()
            law = law @ table
        errors.append(0.5 * float((law - exact).abs().sum()))
    assert errors[0] > 1e-3  # few steps are visibly not exact: positions are revealed together
    assert 0.75 <= slope(steps, errors) <= 1.5, errors
