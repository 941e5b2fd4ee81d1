"""The value by draws around the clean estimate, against the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.denoisers import Counted
from payoff.problems import CloudProblem, MixtureProblem, TokenChain
from payoff.problems.mixture import GaussianMixture
from payoff.problems.quadratic import Quadratic
from payoff.rewards import FunctionReward
from payoff.rewards.metered import Metered
from payoff.targets import Target
from payoff.values import PlugIn, Posterior

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(sigma: float = 0.7, dim: int = 2) -> MixtureProblem:
    """N(0, σ²) in every coordinate, with a bent reward."""
    reward = Quadratic(torch.linspace(0.5, 1, dim, dtype=F64), 0.6 * torch.eye(dim, dtype=F64))
    variance = torch.full((1,), sigma**2, dtype=F64)
    return MixtureProblem(torch.zeros(1, dim, dtype=F64), variance, None, reward, 0.8)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9, "rows"])
def test_inside_the_logarithm_it_is_unbiased_for_normal_data(time: float | str) -> None:
    problem = normal()
    t = torch.linspace(0.1, 0.9, 4, dtype=F64) if time == "rows" else torch.tensor(time, dtype=F64)
    x = problem.base.sample_t(4, t, generator=seeded())
    repeats = 3000
    value = Posterior(problem, 8, sigma_data=0.7)
    times = t.repeat(repeats) if t.ndim else t
    found = value(x.repeat(repeats, 1), times, generator=seeded(1)).view(repeats, 4)
    ratio = (found - problem.value()(x, t)).exp()
    assert ((ratio.mean(0) - 1) / (ratio.std(0) / repeats**0.5)).abs().max() < 4


def test_it_converges_to_the_exact_value_for_the_right_deviation_only() -> None:
    problem, t = normal(), torch.tensor(0.5, dtype=F64)
    x = problem.base.sample_t(20, t, generator=seeded())
    exact = problem.value()(x, t)

    def error(draws: int, sigma: float) -> float:
        found = Posterior(problem, draws, sigma)(x, t, generator=seeded(2))
        return float((found - exact).square().mean().sqrt())

    assert error(40_000, 0.7) < 0.15 * error(100, 0.7)  # 400 times the draws
    assert error(40_000, 0.7) < 0.02
    assert error(40_000, 1.4) > 0.05
    plug_in = float((PlugIn(problem)(x, t) - exact).square().mean().sqrt())
    assert error(40_000, 0.7) < 0.2 * plug_in


def test_at_deviation_zero_it_is_the_plug_in() -> None:
    problem, t = normal(), torch.tensor(0.5, dtype=F64)
    x = problem.base.sample_t(5, t, generator=seeded())
    assert torch.equal(Posterior(problem, 1, 0.0)(x, t), PlugIn(problem)(x, t))


def test_it_is_biased_where_the_posterior_has_modes() -> None:
    problem, t = MixtureProblem.two_modes(dtype=F64), torch.tensor(0.7, dtype=F64)
    x = torch.tensor([[0.5]], dtype=F64)
    gap = [
        float(Posterior(problem, n, 2.4)(x, t, generator=seeded(1)) - problem.value()(x, t))
        for n in (10_000, 100_000)
    ]
    assert all(abs(g) > 0.05 for g in gap), gap


def test_its_gradient_is_that_of_the_same_draws() -> None:
    problem, t = normal(), torch.tensor(0.5, dtype=F64)
    x = problem.base.sample_t(3, t, generator=seeded()).requires_grad_()
    value = Posterior(problem, 5, 0.7)
    assert value.differentiable
    assert torch.autograd.gradcheck(lambda x: value(x, t, generator=seeded(4)), (x,))


@pytest.mark.parametrize("additive", [True, False])
def test_tokens_against_the_exact_value(additive: bool) -> None:
    """One hidden position: exact as draws grow. Several: only where positions are independent."""
    chain = TokenChain.random(3, 4, 0.8, additive=additive, dtype=F64)
    x = torch.tensor([[0, 1, 3, 2], [3, 2, 0, 0], [1, 1, 2, 0]])
    t = torch.tensor(0.5, dtype=F64)
    found = Posterior(chain, 40_000)(x, t, generator=seeded())
    torch.testing.assert_close(found, chain.value()(x, t), atol=0.03, rtol=0)
    assert float(found[2]) == pytest.approx(float(chain.value()(x, t)[2]), abs=1e-12)
    # every position hidden: the law that it draws from is the product of the marginals
    hidden = torch.full((1, 4), 3)
    marginals = chain.base(hidden, t).log_probs[0]
    sequences = chain.base.sequences
    logs = marginals[torch.arange(4), sequences].sum(1) + chain.reward(sequences) / 0.8
    one = Posterior(chain, 40_000)(hidden, t, generator=seeded(1))
    assert float(one) == pytest.approx(float(logs.logsumexp(0)), abs=0.04)


def test_one_network_call_and_n_rewards() -> None:
    for problem, x in (
        (normal(), torch.randn(6, 2, generator=seeded(), dtype=F64)),
        (TokenChain.random(3, 4, dtype=F64), torch.full((6, 4), 3)),
    ):
        counted, metered = Counted(problem.base), Metered(problem.reward)
        value = Posterior(Target(counted, metered), 5)
        t = torch.tensor(0.5, dtype=F64)
        value(x, t, generator=seeded())
        assert (counted.rows, metered.meter.rows) == (6, 30)
        value.given(problem.base(x, t), x, t, generator=seeded())
        assert (counted.rows, metered.meter.rows) == (6, 60)


def test_masks_go_with_their_rows_and_draws_stay_centred() -> None:
    seen: list[torch.Tensor] = []

    def reward(x, cond):  # type: ignore[no-untyped-def]
        assert (x[~cond["mask"]] == 0).all()
        seen.append(x)
        return cond["mask"].sum(1).to(x)

    problem = CloudProblem(4, dtype=F64)
    cond = {"mask": torch.arange(4) < torch.tensor([[2], [4], [3]])}
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    x = problem.base.sample_t(3, t, cond, generator=seeded())
    found = Posterior(Target(problem.base, FunctionReward(reward)), 3)(x, t, cond)
    torch.testing.assert_close(found, torch.tensor([2.0, 4.0, 3.0], dtype=F64))
    assert seen[0].sum(1).abs().max() < 1e-9


def test_failed_draws_are_left_out_and_their_gradient_is_not_poisoned() -> None:
    base = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64))
    part = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, math.nan, 1.0 + 0 * x[:, 0]))
    t = torch.tensor(0.5, dtype=F64)
    x = torch.zeros(4, 1, dtype=F64, requires_grad=True)
    value = Posterior(Target(base, part), 50)(x, t, generator=seeded())
    torch.testing.assert_close(value.detach(), torch.ones(4, dtype=F64))
    assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()
    never = FunctionReward(lambda x, cond: x[:, 0] * math.nan)
    assert Posterior(Target(base, never), 5)(x, t).isnan().all()
    with pytest.raises(ValueError, match="draws"):
        Posterior(Target(base, part), 0)
    with pytest.raises(ValueError, match="sigma_data"):
        Posterior(Target(base, part), 1, -1.0)
