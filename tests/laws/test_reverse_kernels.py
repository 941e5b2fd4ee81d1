"""Reverse kernels against Bayes' rule and against each other."""

from __future__ import annotations

import pytest
import torch
from law_cases import F64, mask_processes, seeded, z_scores

from payoff.predictions import Prediction, TokenPrediction
from payoff.processes import GaussianProcess
from payoff.schedules import KEEP_SCHEDULES, SCHEDULES
from payoff.spaces import Centered, Euclidean

PAIRS = [(0.9, 0.7), (0.5, 0.1), (1.0, 0.0), (0.3, 0.299)]


def pair(t: float, s: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(t, dtype=F64), torch.tensor(s, dtype=F64)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_eta_one_is_bayes(name: str, t: float, s: float) -> None:
    """q(x_s | x_t, x_0) from precisions: the forward step s -> t and the marginal at s multiply."""
    process = GaussianProcess(schedule=SCHEDULES[name]())
    time, earlier = pair(t, s)
    x0, x_t = torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
    alpha_t, sigma_t = process.schedule(time)
    alpha_s, sigma_s = process.schedule(earlier)
    step, spread = alpha_t / alpha_s, sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    precision = 1 / sigma_s**2 + step**2 / spread
    mean = (alpha_s * x0 / sigma_s**2 + step * x_t / spread) / precision
    kernel = process.reverse(x_t, time, earlier, Prediction(x0, x_t, alpha_t, sigma_t))
    torch.testing.assert_close(kernel.mean, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(kernel.std, precision.rsqrt(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_every_eta_keeps_the_marginals(name: str, eta: float, t: float, s: float) -> None:
    """Drawing x_t ~ q(x_t | x_0) and then x_s from the kernel gives q(x_s | x_0)."""
    process = GaussianProcess(schedule=SCHEDULES[name]())
    time, earlier = pair(t, s)
    on_x0, on_x, std = process.coefficients(time, earlier, eta)
    alpha_t, sigma_t = process.schedule(time)
    alpha_s, sigma_s = process.schedule(earlier)
    torch.testing.assert_close(on_x0 + on_x * alpha_t, alpha_s)
    torch.testing.assert_close((on_x * sigma_t) ** 2 + std**2, sigma_s**2)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_chapman_kolmogorov(name: str) -> None:
    """Two exact posterior steps t -> u -> s make the one step t -> s."""
    process = GaussianProcess(schedule=SCHEDULES[name]())
    t, u, s = (torch.tensor(v, dtype=F64) for v in (0.8, 0.5, 0.2))
    a1, b1, std1 = process.coefficients(t, u)
    a2, b2, std2 = process.coefficients(u, s)
    a, b, std = process.coefficients(t, s)
    torch.testing.assert_close(a2 + b2 * a1, a)
    torch.testing.assert_close(b2 * b1, b)
    torch.testing.assert_close((b2 * std1) ** 2 + std2**2, std**2)


@pytest.mark.parametrize("space", [Euclidean(), Centered(3)], ids=["euclidean", "centered"])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_corrupt_draws_the_marginal(space, name: str) -> None:
    process = GaussianProcess(space, SCHEDULES[name]())
    x0 = space.project(torch.randn(1, 4, 3, dtype=F64)).expand(20_000, -1, -1)
    t = torch.tensor(0.6, dtype=F64)
    x = process.corrupt(x0, t, generator=seeded())
    law = process.marginal(x0, t)
    assert z_scores(x.flatten(1), law.mean[0].flatten()).abs().max() < 4
    square = (x - law.mean).flatten(1).square().sum(1, keepdim=True)
    dof = float(space.dof(x0)[0])
    assert z_scores(square, law.std**2 * dof).abs().max() < 4
    # log-densities average to minus the entropy
    entropy = 0.5 * dof * (1 + torch.log(2 * torch.pi * law.std**2))
    assert z_scores(law.log_prob(x).unsqueeze(1), -entropy).abs().max() < 4


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_noise_floor(floor: float) -> None:
    process = GaussianProcess(noise_floor=floor)
    t, s = pair(0.01, 0.0)
    assert float(process.coefficients(t, s)[2]) >= floor
    x = torch.zeros(1, 2, dtype=F64)
    prediction = Prediction(x, x, *process.schedule(t))
    assert process.reverse(x, t, s, prediction, eta=0.0).deterministic == (floor == 0.0)


def mask_forward(keep_t: float, keep_s: float, x_s: torch.Tensor, x_t: torch.Tensor) -> float:
    """q(x_t | x_s) of the absorbing chain, position by position."""
    total, kept = 1.0, keep_t / keep_s
    for before, after in zip(x_s.tolist(), x_t.tolist(), strict=True):
        if before == 2:
            total *= float(after == 2)
        else:
            total *= kept if after == before else (1 - kept) if after == 2 else 0.0
    return total


@pytest.mark.parametrize("name", list(KEEP_SCHEDULES))
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.8, 0.3), (0.5, 0.0)])
def test_masked_kernel_is_bayes_by_enumeration(name: str, t: float, s: float) -> None:
    process = mask_processes(2)[name]
    time, earlier = pair(t, s)
    keep_t, keep_s = float(process.schedule(time)), float(process.schedule(earlier))
    states, x0 = torch.cartesian_prod(*[torch.arange(3)] * 2), torch.tensor([0, 1])
    log_probs = torch.nn.functional.one_hot(x0, 2).to(F64).log()[None]
    for x_t in states:
        prior = [mask_forward(keep_s, 1.0, x0, x_s) for x_s in states]
        likelihood = [mask_forward(keep_t, max(keep_s, 1e-300), x_s, x_t) for x_s in states]
        joint = torch.tensor([p * q for p, q in zip(prior, likelihood, strict=True)], dtype=F64)
        if float(joint.sum()) == 0:
            continue  # x_t cannot come from x0
        prediction = TokenPrediction(log_probs, x_t[None])
        kernel = process.reverse(x_t[None], time, earlier, prediction)
        found = torch.stack([kernel.log_prob(x[None])[0] for x in states]).exp()
        torch.testing.assert_close(found, joint / joint.sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(KEEP_SCHEDULES))
def test_masked_corruption_frequencies(name: str) -> None:
    process = mask_processes(3)[name]
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    x0 = torch.randint(0, 3, (5, 20_000), generator=seeded())
    x = process.corrupt(x0, t, generator=seeded(1))
    kept = (x != 3).to(F64)
    assert torch.equal(x[x != 3], x0[x != 3])
    keep = process.schedule(t)
    error = (keep * (1 - keep) / x.shape[1]).sqrt()
    assert ((kept.mean(1) - keep) / error).abs().max() < 4


def test_masked_reversal_has_no_eta() -> None:
    process = mask_processes(2)["LinearKeep"]
    x = torch.full((1, 2), 2)
    prediction = TokenPrediction(torch.full((1, 2, 2), 0.5, dtype=F64).log(), x)
    with pytest.raises(ValueError, match="eta"):
        process.reverse(x, *pair(0.5, 0.2), prediction, eta=0.5)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_single_precision_is_enough_for_a_thousand_steps(name: str, eta: float) -> None:
    """The standard deviation of a short step is a difference of nearly equal numbers."""
    process = GaussianProcess(schedule=SCHEDULES[name]())
    times = torch.linspace(1, 0, 1001, dtype=F64)
    exact = process.coefficients(times[:-1], times[1:], eta)
    found = process.coefficients(times[:-1].float(), times[1:].float(), eta)
    alpha_s, sigma_s = process.schedule(times[1:])
    for a, b, scale in zip(found, exact, (alpha_s, torch.ones_like(alpha_s), sigma_s), strict=True):
        assert a.dtype == torch.float32
        assert ((a.double() - b) / scale).abs().max() < 2e-3
    if eta:
        assert ((found[2].double() - exact[2]) / exact[2]).abs().max() < 1e-3
