"""Clouds in the coordinates of an explicit orthonormal basis, where they are ordinary mixtures."""

from __future__ import annotations

import pytest
import torch

from payoff.problems import CloudProblem, GaussianMixture, Quadratic, Radius, ScaleMixture
from payoff.processes import GaussianProcess

F64 = torch.float64


def basis(n: int) -> torch.Tensor:
    """(n, n − 1) orthonormal columns orthogonal to the vector of ones."""
    ones = torch.ones(n, 1, dtype=F64)
    full, _ = torch.linalg.qr(torch.cat([ones, torch.eye(n, dtype=F64)[:, : n - 1]], 1))
    return full[:, 1:]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_against_an_ordinary_mixture_on_a_basis(n: int, tau: float) -> None:
    scales, weights = torch.tensor([0.5, 1.5], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    problem = CloudProblem(4, scales, weights, 0.8, tau)
    k, b = 3 * (n - 1), basis(n)
    flat = GaussianMixture(torch.zeros(2, k, dtype=F64), scales**2, weights, GaussianProcess())
    r = Quadratic(torch.zeros(k, dtype=F64), 0.8 * torch.eye(k, dtype=F64))
    cond = {"mask": (torch.arange(4) < n).unsqueeze(0)}
    one = cond["mask"].expand(5, -1)
    torch.testing.assert_close(problem.log_partition(cond=cond)[0], flat.log_partition(r, tau))
    expected = flat.tilt(r, tau).expected(r)
    torch.testing.assert_close(problem.target_reward(cond=cond)[0], expected)
    torch.testing.assert_close(problem.base_reward(cond)[0], flat.expected(r))
    for law, other in ((problem.base, flat), (problem.tilted(), flat.tilt(r, tau))):
        for time in (0.1, 0.5, 0.9):
            t = torch.tensor(time, dtype=F64)
            y = other.sample_t(5, t)
            x = torch.zeros(5, 4, 3, dtype=F64)
            x[:, :n] = torch.einsum("nm,bmk->bnk", b, y.view(5, n - 1, 3))
            many = {"mask": one}
            torch.testing.assert_close(law.log_prob_t(x, t, many), other.log_prob_t(y, t))
            clean = torch.einsum("nm,bnk->bmk", b, law(x, t, many).x0[:, :n]).flatten(1)
            torch.testing.assert_close(clean, other(y, t).x0)


def test_everything_is_invariant_to_rotation_and_order() -> None:
    problem = CloudProblem(5, dtype=F64)
    cond = {"mask": torch.arange(5).expand(6, 5) < 4}
    t = torch.tensor(0.4, dtype=F64)
    x = problem.base.sample_t(6, t, cond)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=F64))[0]
    order = torch.tensor([2, 0, 3, 1, 4])
    moved = (x @ turn)[:, order]
    for f in (problem.value(), problem.base.log_prob_t):
        torch.testing.assert_close(f(moved, t, cond), f(x, t, cond))
    torch.testing.assert_close(problem.reward(moved, cond), problem.reward(x, cond))
    found = problem.base(moved, t, cond).x0
    torch.testing.assert_close(found, (problem.base(x, t, cond).x0 @ turn)[:, order])


def test_value_against_monte_carlo_over_the_prior() -> None:
    problem, n, tau = CloudProblem(3, dtype=F64), 200_000, 0.7
    g, t = torch.Generator().manual_seed(0), torch.tensor(0.6, dtype=F64)
    x0 = problem.sample_base(n, generator=g)
    state = problem.base.sample_t(1, t, generator=g)
    process = problem.base.process
    log_w = process.marginal(x0, t).log_prob(state.expand_as(x0))  # type: ignore[attr-defined]
    value = problem.value(tau)(state, t)
    moved = log_w.softmax(0) * n * ((problem.reward(x0) / tau - value).exp() - 1)
    assert abs(float(moved.mean() / (moved.std() / n**0.5))) < 4


def test_unmasked_clouds_give_scalars() -> None:
    problem = CloudProblem(3, dtype=F64)
    full = {"mask": torch.ones(1, 3, dtype=torch.bool)}
    for find in (problem.log_partition, problem.kl, problem.target_reward):
        assert find().shape == ()
        torch.testing.assert_close(find(), find(cond=full)[0])


def test_bad_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="normalised"):
        CloudProblem(3, stiffness=-1.0)
    assert CloudProblem(3, stiffness=-0.2).target_reward() > 0
    with pytest.raises(TypeError, match="Radius"):
        CloudProblem(3).base.tilt(Quadratic(torch.ones(2)), 1.0)
    with pytest.raises(ValueError, match="positive"):
        ScaleMixture(torch.tensor([-1.0]), torch.zeros(1), 3)
    with pytest.raises(ValueError, match="share one shape"):
        ScaleMixture(torch.ones(2), torch.zeros(1), 3)
    x = torch.ones(1, 2, 3)
    assert float(Radius(2.0)(x)) == -6.0
    assert float(Radius(2.0)(x, {"mask": torch.tensor([[True, False]])})) == -3.0
