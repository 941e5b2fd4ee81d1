"""Estimated values against exact ones."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.nets import ResidualMLP
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.rewards import FunctionReward
from payoff.samplers import Ancestral, Heun
from payoff.targets import Target
from payoff.values import Learned, MonteCarlo, PlugIn

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(problem, time: float, n: int = 5, cond=None):
    t = torch.tensor(time, dtype=F64)
    return problem.base.sample_t(n, t, cond, generator=seeded()), t


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8])
def test_monte_carlo_is_unbiased_inside_the_logarithm(time: float) -> None:
    """exp of (estimate − exact) averages to 1 over independent estimates."""
    problem = MixtureProblem.two_modes(temperature=1.5, dtype=F64)
    x, t = states(problem, time, 4)
    repeats = 200
    value = MonteCarlo(problem, draws=32, steps=60)
    found = value(x.repeat(repeats, 1), t, generator=seeded(1)).view(repeats, 4)
    ratio = (found - problem.value()(x, t)).exp()
    # 60 first-order steps leave a bias of a few 1e-3, well inside this
    z = (ratio.mean(0) - 1) / (ratio.std(0) / repeats**0.5 + 3e-3)
    assert z.abs().max() < 4


def test_monte_carlo_converges_and_its_error_is_honest() -> None:
    problem = MixtureProblem.two_modes(temperature=1.5, dtype=F64)
    x, t = states(problem, 0.6, 40)
    exact = problem.value()(x, t)
    few, few_error = MonteCarlo(problem, 50, 60).estimate(x, t, generator=seeded(1))
    many, many_error = MonteCarlo(problem, 800, 60).estimate(x, t, generator=seeded(2))
    # sixteen times the draws: a quarter of the error
    assert float((few_error / many_error).median()) == pytest.approx(4.0, rel=0.3)
    assert (many - exact).abs().mean() < 0.5 * (few - exact).abs().mean()
    z = (many - exact) / (many_error + 3e-3)
    assert z.square().mean() < 2.5
    assert z.abs().max() < 5


def test_monte_carlo_takes_a_time_per_row_masks_and_tokens() -> None:
    cloud = CloudProblem(3, temperature=3.0, dtype=F64)
    cond = {"mask": torch.tensor([[True, True, False], [True, True, True]])}
    t = torch.tensor([0.3, 0.7], dtype=F64)
    x = cloud.base.sample_t(2, t, cond, generator=seeded())
    value = MonteCarlo(cloud, 2000, 40, batch_size=700)
    found, error = value.estimate(x, t, cond, generator=seeded(1))
    assert ((found - cloud.value()(x, t, cond)) / (error + 3e-3)).abs().max() < 4
    chain = TokenChain.random(3, 4, temperature=1.5, dtype=F64)
    y = torch.tensor([[3, 3, 3, 3], [0, 3, 1, 3], [0, 1, 2, 0]])
    t = torch.tensor([1.0, 0.5, 0.2], dtype=F64)
    found, error = MonteCarlo(chain, 3000, 40).estimate(y, t, generator=seeded(1))
    assert ((found - chain.value()(y, t)) / (error + 3e-3)).abs().max() < 4


def test_failed_rollouts_are_left_out_and_not_zero() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    broken = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, math.nan, 1.0 + 0 * x[:, 0]))
    x, t = states(problem, 0.9, 6)
    value = MonteCarlo(Target(problem.base, broken), 200, 20)(x, t, generator=seeded())
    torch.testing.assert_close(value, torch.ones(6, dtype=F64))
    never = FunctionReward(lambda x, cond: torch.full_like(x[:, 0], math.nan))
    assert MonteCarlo(Target(problem.base, never), 4, 4)(x, t).isnan().all()


def test_one_draw_has_no_error() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    x, t = states(problem, 0.5)
    assert MonteCarlo(problem, 1, 4).estimate(x, t)[1].isinf().all()
    with pytest.raises(ValueError, match="draws"):
        MonteCarlo(problem, 0)


def test_plug_in_is_the_reward_of_the_estimate_and_biased() -> None:
    problem = GaussianSubspace.random(4, 2, 0.5, dtype=F64)
    x, t = states(problem, 0.5)
    value = PlugIn(problem)
    assert value.differentiable
    assert not value.exact
    expected = problem.reward(problem.base(x, t).x0) / 0.5
    torch.testing.assert_close(value(x, t), expected)
    # linear reward, Gaussian posterior: it lacks half of the posterior variance of r/τ
    alpha, sigma = problem.base.process.schedule(t)  # type: ignore[attr-defined]
    posterior = float(sigma**2 / (alpha**2 + sigma**2))  # Σ = I, ‖β‖ = 1
    gap = problem.value()(x, t) - value(x, t)
    torch.testing.assert_close(gap, torch.full_like(gap, 0.5 * posterior / 0.25))


def test_plug_in_refuses_tokens() -> None:
    chain = TokenChain.random(3, 3)
    with pytest.raises(TypeError, match="Posterior"):
        PlugIn(chain)(torch.full((1, 3), 3), torch.tensor(1.0))


@pytest.mark.parametrize("objective", ["soft", "mean"])
def test_learned_losses_have_the_stated_minimisers(objective: str) -> None:
    """A constant fitted to two scores: the soft one finds log E exp, the other the mean."""
    problem = MixtureProblem.two_modes()

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, level, cond):
            return self.c.expand(len(x), 1)

    two = FunctionReward(lambda x, cond: (x[:, 0] > 0).float() * 2)
    value = Learned(Constant(), Target(problem.base, two), objective)
    x0 = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    value.fit(x0, steps=400, rate=0.02, generator=seeded())
    expected = math.log(0.5 * (1 + math.e**2)) if objective == "soft" else 1.0
    found = float(value(x0[:1], torch.tensor(0.5)).detach())
    assert found == pytest.approx(expected, abs=0.12)


def test_learned_value_beats_the_plug_in_where_that_is_biased() -> None:
    problem = MixtureProblem.two_modes(temperature=0.7)
    net = ResidualMLP(1, width=32, depth=2)
    value = Learned(net, problem, sigma_data=2.4)
    x0 = problem.sample_base(20_000, generator=seeded())
    losses: list[float] = []
    value.fit(x0, steps=800, generator=seeded(1), progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 16
    for time in (0.4, 0.6, 0.8):
        t = torch.tensor(time)
        x = problem.base.sample_t(2000, t, generator=seeded(2))
        exact = problem.value()(x, t)
        learned = (value(x, t).detach() - exact).square().mean().sqrt()
        plug_in = (PlugIn(problem)(x, t) - exact).square().mean().sqrt()
        assert learned < 0.5 * plug_in, (time, learned, plug_in)


def test_learned_is_row_wise_and_differentiable_and_checks_its_input() -> None:
    problem = MixtureProblem.two_modes()
    value = Learned(ResidualMLP(1, width=16, depth=1), problem)
    value.fit(problem.sample_base(100, generator=seeded()), steps=5, generator=seeded(1))
    x = torch.randn(6, 1, requires_grad=True)
    t = torch.linspace(0.1, 0.9, 6)
    whole = value(x, t)
    for i in range(6):
        torch.testing.assert_close(value(x[i : i + 1], t[i])[0], whole[i])
    assert torch.isfinite(torch.autograd.grad(whole.sum(), x)[0]).all()
    with pytest.raises(ValueError, match="objective"):
        Learned(ResidualMLP(1), problem, "hard")
    never = FunctionReward(lambda x, cond: torch.full_like(x[:, 0], math.nan))
    with pytest.raises(ValueError, match="NaN"):
        Learned(ResidualMLP(1), Target(problem.base, never)).fit(torch.zeros(3, 1))


def test_finish_draws_from_the_posterior() -> None:
    """Roll-outs from x_t have the exact mean of x_0; a deterministic sampler gives one point."""
    problem = MixtureProblem.two_modes(dtype=F64)
    x, t = states(problem, 0.5, 3)
    n = 4000
    walk = Ancestral(problem.base, problem.shape, 100)
    x0 = walk.finish(x.repeat_interleave(n, 0), t, generator=seeded()).view(3, n)
    z = (x0.mean(1) - problem.base(x, t).x0[:, 0]) / (x0.std(1) / n**0.5 + 1e-3)
    assert z.abs().max() < 4
    same = Heun(problem.base, problem.shape, 20).finish(x.repeat(2, 1), t)
    assert torch.equal(same[:3], same[3:])


def test_known_scores_are_fitted_without_a_call() -> None:
    """Scores that are given count, not the target's own; a failed one is left out."""
    problem = MixtureProblem.two_modes()
    never = FunctionReward(lambda x, cond: pytest.fail("the reward was called"))
    value = Learned(ResidualMLP(1, width=8, depth=1), Target(problem.base, never))
    scores = torch.full((200,), 1.5)
    scores[::4] = math.nan
    value.fit(torch.randn(200, 1), scores=scores, steps=20, generator=seeded())
    assert float(value.offset) == pytest.approx(1.5, abs=1e-5)
    found = value(torch.randn(5, 1), torch.tensor(0.5)).detach()
    assert torch.allclose(found, torch.full((5,), 1.5), atol=0.05)


@pytest.mark.parametrize("objective", ["soft", "mean"])
def test_log_weights_stand_for_another_law(objective: str) -> None:
    """Two scores in equal numbers, three quarters of the weight on one; −∞ is never drawn."""

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, x, level, cond):
            return self.c.expand(len(x), 1)

    problem = MixtureProblem.two_modes()
    value = Learned(Constant(), problem, objective)
    scores = torch.tensor([0.0, 1.0, 50.0]).repeat(300)
    log_weights = torch.tensor([math.log(3.0), 0.0, -math.inf], dtype=F64).repeat(300)
    value.fit(
        torch.zeros(900, 1),
        scores=scores,
        log_weights=log_weights,
        steps=300,
        rate=0.02,
        generator=seeded(),
    )
    expected = math.log(0.75 + 0.25 * math.e) if objective == "soft" else 0.25
    assert float(value.offset) == pytest.approx(expected, abs=1e-5)
    found = float(value(torch.zeros(1, 1), torch.tensor(0.5)).detach())
    assert found == pytest.approx(expected, abs=0.08)
