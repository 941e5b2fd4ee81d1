"""What must hold between the parts of every closed-form problem, at several times and temperatures.

Whether the parts themselves are right is checked by independent routes in tests/problems.
"""

from __future__ import annotations

import pytest
import torch
from law_cases import F64, PROBLEM_NAMES, condition, gentle, problems, seeded, z_scores

from payoff.problems import Problem
from payoff.samplers import SAMPLERS, Ancestral
from payoff.schedules import SCHEDULES

CONTINUOUS = [name for name in PROBLEM_NAMES if name != "tokens"]
TAUS = [0.6, 1.0, 3.0]
ROWS = 6


@pytest.fixture(params=PROBLEM_NAMES)
def named(request: pytest.FixtureRequest) -> tuple[str, Problem]:
    return request.param, problems()[request.param]


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("name", CONTINUOUS)
def test_score_is_the_gradient_of_the_marginal(name: str, schedule: str) -> None:
    problem, cond = problems(gentle(schedule))[name], condition(name, ROWS)
    space = problem.base.process.space
    for law in (problem.base, problem.tilted(0.6)):
        for time in (0.05, 0.5, 0.95):
            t = torch.full((ROWS,), time, dtype=F64)
            x = law.sample_t(ROWS, t, cond, generator=seeded()).requires_grad_(True)
            gradient = torch.autograd.grad(law.log_prob_t(x, t, cond).sum(), x)[0]
            expected = space.project(gradient, cond)
            found = law(x, t, cond).score
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradient_of_the_value_is_the_difference_of_scores(name: str, tau: float) -> None:
    problem, cond = problems()[name], condition(name, ROWS)
    t = torch.linspace(0.1, 0.9, ROWS, dtype=F64)
    x = problem.base.sample_t(ROWS, t, cond, generator=seeded()).requires_grad_(True)
    value = problem.value(tau)
    assert value.exact
    assert value.differentiable
    gradient = torch.autograd.grad(value(x, t, cond).sum(), x)[0]
    gradient = problem.base.process.space.project(gradient, cond)
    expected = problem.tilted(tau)(x, t, cond).score - problem.base(x, t, cond).score
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", TAUS)
def test_mean_reward_is_the_derivative_of_log_z(named: tuple[str, Problem], tau: float) -> None:
    name, problem = named
    cond, h = condition(name, 3), 1e-5
    up, down = (problem.log_partition(1 / (1 / tau + d), cond) for d in (h, -h))
    expected = (up - down) / (2 * h)
    torch.testing.assert_close(problem.target_reward(tau, cond), expected, rtol=1e-6, atol=1e-7)


def test_frontier_is_ordered_and_starts_at_the_base(named: tuple[str, Problem]) -> None:
    name, problem = named
    cond = condition(name, 3)
    rewards, kls = problem.frontier([1e6, 10.0, 3.0, 1.0, 0.6], cond)
    assert (rewards.diff(dim=0) > 0).all()
    assert (kls.diff(dim=0) > 0).all()
    torch.testing.assert_close(rewards[0], problem.base_reward(cond), rtol=1e-4, atol=1e-4)
    assert kls[0].abs().max() < 1e-6
    # its slope is the temperature: dE[r] = τ dKL
    r, k = problem.frontier([1.001, 0.999], cond)
    slope = (r[1] - r[0]) / (k[1] - k[0])
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-4, atol=0)


@pytest.mark.parametrize("tau", TAUS)
def test_value_at_pure_noise_averages_to_z(named: tuple[str, Problem], tau: float) -> None:
    """E over x_t ~ p_t of exp(V_t) is Z at every t."""
    name, problem = named
    n = 20_000
    cond = condition(name, 1)
    many = None if cond is None else {"mask": cond["mask"].expand(n, -1)}
    log_z = problem.log_partition(tau, cond).reshape(())
    for time in (0.2, 0.6, 1.0):
        t = torch.tensor(time, dtype=F64)
        x = problem.base.sample_t(n, t, many, generator=seeded())
        ratio = (problem.value(tau)(x, t, many) - log_z).exp().unsqueeze(1)
        assert (ratio > 0).all()
        if float(ratio.std()) > 1e-9:  # at t = 1 nothing is left to know about tokens
            assert z_scores(ratio, torch.ones(1, dtype=F64)).abs() < 4
        else:
            torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("tau", TAUS)
def test_target_samples_are_of_the_target(named: tuple[str, Problem], tau: float) -> None:
    """Reward and log-ratio of draws of p*, and draws of p re-weighted, against closed forms."""
    name, problem = named
    n = 20_000
    cond = condition(name, 1)
    many = None if cond is None else {"mask": cond["mask"].expand(n, -1)}
    log_z = problem.log_partition(tau, cond).reshape(1)
    x = problem.sample_target(n, many, temperature=tau, generator=seeded())
    reward = problem.reward(x, many).unsqueeze(1)
    assert z_scores(reward, problem.target_reward(tau, cond).reshape(1)).abs() < 4
    assert z_scores(reward / tau - log_z, problem.kl(tau, cond).reshape(1)).abs() < 4
    y = problem.sample_base(n, many, generator=seeded(1))
    base = problem.reward(y, many).unsqueeze(1)
    assert z_scores(base, problem.base_reward(cond).reshape(1)).abs() < 4
    if float(problem.kl(tau, cond).max()) < 1.0:  # beyond that the weights' variance is too large
        assert z_scores((base / tau - log_z).exp(), torch.ones(1, dtype=F64)).abs() < 4


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("name", ["mixture", "two_modes"])
def test_sampled_mixtures_have_the_right_moments_and_weights(
    name: str, tilted: bool, sampler: str
) -> None:
    problem = problems()[name]
    law = problem.tilted() if tilted else problem.base
    n = 8000
    x = SAMPLERS[sampler](law, problem.shape, 200).sample(n, generator=seeded())
    zero = torch.zeros(n, dtype=F64)
    weights = law.log_weights.exp()  # type: ignore[attr-defined]
    mean, covariance = law.moments()  # type: ignore[attr-defined]
    # 4.5: some ten columns in sixteen runs; ancestral steps carry a bias of a few 1e-3
    assert z_scores(x, mean).abs().max() < 4.5
    assert z_scores((x - mean) ** 2, covariance.diagonal()).abs().max() < 4.5
    parts = law.responsibilities(x, zero)  # type: ignore[attr-defined]
    assert z_scores(parts, weights).abs().max() < 4.5


def test_sampled_tokens_follow_the_table() -> None:
    problem = problems()["tokens"]
    n = 20_000
    x = Ancestral(problem.tilted(), problem.shape, 64).sample(n, generator=seeded())
    law = problem.tilted()
    p = law.log_table.exp()  # type: ignore[attr-defined]
    counts = torch.bincount(law.index(x), minlength=len(p))  # type: ignore[attr-defined]
    chi2 = float(((counts - n * p) ** 2 / (n * p)).sum())
    k = len(p) - 1
    assert abs(chi2 - k) / (2 * k) ** 0.5 < 4
