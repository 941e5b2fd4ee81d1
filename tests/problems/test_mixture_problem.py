"""Mixtures against quadrature in one and two dimensions, and against Monte Carlo in more."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate

from payoff.problems import GaussianMixture, MixtureProblem, Quadratic
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.schedules import SCHEDULES
from payoff.spaces import Centered

F64 = torch.float64
TAUS = [0.5, 1.0, 4.0]
TIMES = [0.05, 0.4, 0.8, 1.0]


def density(x: float) -> float:
    """The base density of ``two_modes``, written out."""
    a = math.exp(-0.5 * ((x + 2) / 0.5) ** 2) * 0.7
    b = math.exp(-0.5 * ((x - 3) / 0.5) ** 2) * 0.3
    return (a + b) / (0.5 * math.sqrt(2 * math.pi))


def reward(x: float) -> float:
    return -0.5 * 0.35 * (x - 0.3) ** 2


def integral(f) -> float:
    points = (-2.0, 0.0, 3.0)
    return integrate.quad(f, -12, 12, points=points, epsabs=1e-13, epsrel=1e-11, limit=400)[0]


@pytest.mark.parametrize("tau", TAUS)
def test_one_dimension_against_quadrature(tau: float) -> None:
    problem = MixtureProblem.two_modes(temperature=tau, dtype=F64)
    z = integral(lambda x: density(x) * math.exp(reward(x) / tau))

    def target(x: float) -> float:
        return density(x) * math.exp(reward(x) / tau) / z

    mean_reward = integral(lambda x: target(x) * reward(x))
    kl = integral(lambda x: target(x) * (reward(x) / tau - math.log(z)))
    assert float(problem.log_partition()) == pytest.approx(math.log(z), abs=1e-7)
    assert float(problem.target_reward()) == pytest.approx(mean_reward, abs=1e-7)
    assert float(problem.kl()) == pytest.approx(kl, abs=1e-7)
    assert float(problem.base_reward()) == pytest.approx(
        integral(lambda x: density(x) * reward(x)), abs=1e-7
    )


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("time", TIMES)
def test_noisy_quantities_against_quadrature(schedule: str, time: float) -> None:
    process, tau = GaussianProcess(schedule=SCHEDULES[schedule]()), 0.8
    problem = MixtureProblem.two_modes(process, tau, dtype=F64)
    t = torch.tensor(time, dtype=F64)
    alpha, sigma = (float(v) for v in process.schedule(t))
    for x in (-2.3, 0.4, 1.7):
        x_t = alpha * x + 0.7 * sigma

        def joint(x0: float, x_t: float = x_t) -> float:
            return density(x0) * math.exp(-0.5 * ((x_t - alpha * x0) / sigma) ** 2)

        centre, width = x_t / alpha, sigma / alpha
        low, high = max(-8.0, centre - 9 * width), min(9.0, centre + 9 * width)

        def total(f, low: float = low, high: float = high) -> float:
            points = [p for p in (-2.0, 0.5, 3.0) if low < p < high]
            return integrate.quad(f, low, high, points=points or None, limit=400, epsrel=1e-10)[0]

        mass = total(joint)
        mean = total(lambda y: joint(y) * y) / mass
        value = math.log(total(lambda y: joint(y) * math.exp(reward(y) / tau)) / mass)
        noisy = math.log(mass / (sigma * math.sqrt(2 * math.pi)))
        state = torch.tensor([[x_t]], dtype=F64)
        assert float(problem.base(state, t).x0) == pytest.approx(mean, abs=1e-6)
        assert float(problem.base.log_prob_t(state, t)) == pytest.approx(noisy, abs=1e-6)
        assert float(problem.value()(state, t)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_two_dimensions_against_a_grid(tau: float) -> None:
    """Full covariances and a quadratic reward with one negative direction."""
    bend = torch.tensor([[0.5, 0.2], [0.2, -0.1]], dtype=F64)
    r = Quadratic(torch.tensor([0.4, -0.3], dtype=F64), bend, 0.7)
    covariances = torch.tensor([[[0.5, 0.3], [0.3, 0.6]], [[0.4, -0.1], [-0.1, 0.2]]], dtype=F64)
    means = torch.tensor([[-1.0, 0.5], [1.5, 1.0]], dtype=F64)
    problem = MixtureProblem(means, covariances, torch.tensor([1.0, 3.0]), r, tau)
    axis = torch.linspace(-9, 9, 721, dtype=F64)
    x, cell = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2
    p = torch.zeros(len(x), dtype=F64)
    for w, m, c in zip((0.25, 0.75), means, covariances, strict=True):
        p += w * torch.distributions.MultivariateNormal(m, c).log_prob(x).exp()
    weight = p * (r(x) / tau).exp() * cell
    z = weight.sum()
    torch.testing.assert_close(problem.log_partition(), z.log(), rtol=0, atol=1e-8)
    torch.testing.assert_close(problem.target_reward(), (weight * r(x)).sum() / z)
    torch.testing.assert_close(problem.kl(), (weight * r(x)).sum() / z / tau - z.log())
    mean, covariance = problem.tilted().moments()  # type: ignore[attr-defined]
    expected = (weight.unsqueeze(1) * x).sum(0) / z
    torch.testing.assert_close(mean, expected)
    second = torch.einsum("b,bd,be->de", weight / z, x, x) - torch.outer(expected, expected)
    torch.testing.assert_close(covariance, second)
    # the noisy side, at three states
    process = problem.base.process
    for time in TIMES:
        t = torch.tensor(time, dtype=F64)
        alpha, sigma = process.schedule(t)  # type: ignore[attr-defined]
        if float(sigma) < 4 * cell**0.5:
            continue  # the grid does not resolve it; quadrature in one dimension does
        for state in torch.tensor([[0.3, 0.2], [-1.0, 1.0], [2.0, -0.5]], dtype=F64):
            likelihood = (-0.5 * ((state - alpha * x) / sigma).square().sum(1)).exp()
            joint = p * likelihood
            value = ((joint * (r(x) / tau).exp()).sum() / joint.sum()).log()
            found = problem.value()(state[None], t)[0]
            torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-7)
            mean = (joint.unsqueeze(1) * x).sum(0) / joint.sum()
            torch.testing.assert_close(problem.base(state[None], t).x0[0], mean)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_many_dimensions_against_monte_carlo(tau: float) -> None:
    problem = MixtureProblem.random(6, 4, temperature=tau, dtype=F64)
    n, g = 200_000, torch.Generator().manual_seed(0)
    x = problem.sample_base(n, generator=g)
    ratio = (problem.reward(x) / tau - problem.log_partition()).exp()
    assert abs(float((ratio.mean() - 1) / (ratio.std() / n**0.5))) < 4
    gap = ratio * (problem.reward(x) - problem.target_reward())
    assert abs(float(gap.mean() / (gap.std() / n**0.5))) < 4
    # the value at a noisy state: draws of the prior re-weighted by the likelihood
    t = torch.tensor(0.7, dtype=F64)
    process = problem.base.process
    state = problem.base.sample_t(1, t, generator=g)
    likelihood = process.marginal(x, t).log_prob(state.expand_as(x)).softmax(0)  # type: ignore[attr-defined]
    value = problem.value()(state, t)
    moved = likelihood * n * ((problem.reward(x) / tau - value).exp() - 1)
    assert abs(float(moved.mean() / (moved.std() / n**0.5))) < 4


def test_published_reference_of_the_two_modes() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    law = problem.tilted()
    weights, means = law.log_weights.exp(), law.means[:, 0]  # type: ignore[attr-defined]
    assert weights.tolist() == pytest.approx([0.763, 0.237], abs=5e-4)
    assert means.tolist() == pytest.approx([-1.815, 2.783], abs=5e-4)
    assert float(problem.target_reward()) == pytest.approx(-0.894, abs=2e-3)


def test_impossible_tilts_and_bad_arguments_are_errors() -> None:
    means, variances = torch.zeros(1, 2), torch.ones(1)
    spread = Quadratic(torch.zeros(2), -2.0 * torch.eye(2))
    with pytest.raises(ValueError, match="normalised at temperature 1"):
        MixtureProblem(means, variances, None, spread, 1.0)
    assert MixtureProblem(means, variances, None, spread, 3.0).kl() > 0  # a gentler tilt exists
    with pytest.raises(ValueError, match="normalised"):
        MixtureProblem(means, variances, None, spread, 3.0).kl(1.5)
    with pytest.raises(ValueError, match="temperature"):
        MixtureProblem(means, variances, None, Quadratic(torch.ones(2)), 0.0)
    with pytest.raises(TypeError, match="Quadratic"):
        GaussianMixture(means, variances).tilt(FunctionReward(lambda x, cond: x.sum(1)), 1.0)
    with pytest.raises(ValueError, match="symmetric"):
        Quadratic(torch.zeros(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        GaussianMixture(means, torch.ones(3))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        GaussianMixture(means, -torch.ones(1))
    with pytest.raises(ValueError, match="positive"):
        GaussianMixture(torch.zeros(2, 1), torch.ones(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="Euclidean"):
        GaussianMixture(means, variances, process=GaussianProcess(Centered()))
