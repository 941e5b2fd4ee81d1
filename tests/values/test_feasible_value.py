"""The value of a reward that some samples do not have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from payoff.denoisers import Corrected
from payoff.errors import UserError
from payoff.finetuning import RGDM, FinetuneConfig
from payoff.nets import ResidualMLP
from payoff.problems import CloudProblem, GaussianSubspace
from payoff.rewards import FunctionReward
from payoff.samplers import Ancestral
from payoff.targets import Target
from payoff.values import Feasible, value_network

EDGE = 0.5  # samples with less in their first coordinate have no score


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def never(x: Tensor, cond) -> Tensor:
    return torch.full_like(x[:, 0], math.nan)


def target(reward=never) -> Target:
    return Target(GaussianSubspace.random(2, 2).base, FunctionReward(reward))


def scored(x0: Tensor) -> Tensor:
    """The second coordinate where the first is large enough."""
    return torch.where(x0[:, 0] > EDGE, x0[:, 1], torch.nan)


@pytest.mark.parametrize("time", [0.3, 0.6])
def test_chance_and_score_are_those_of_the_closed_form(time: float) -> None:
    """x₀ ~ N(0, I): given x_t the coordinates are Gaussian, so P = Φ and E are known."""
    torch.manual_seed(0)
    value = Feasible(ResidualMLP(2, width=64, depth=2), target(), "mean")
    x0 = torch.randn(20_000, 2, generator=seeded())
    value.fit(x0, scores=scored(x0), steps=800, generator=seeded(1))
    t = torch.tensor(time)
    x_t = value.target.denoiser.process.corrupt(x0[:4000], t, None, generator=seeded(2))
    alpha, sigma = value.target.denoiser.process.schedule(t)
    mean, std = alpha * x_t / (alpha**2 + sigma**2), sigma / (alpha**2 + sigma**2).sqrt()
    chance = torch.special.ndtr((mean[:, 0] - EDGE) / std)
    reward, log_odds = (part.detach() for part in value.parts(x_t, t, None))
    assert float((log_odds.sigmoid() - chance).abs().mean()) < 0.03
    near = chance > 0.2  # where there is next to no score, none is learned
    assert float((reward - mean[:, 1])[near].abs().mean()) < 0.1
    whole = value(x_t, t).detach()
    torch.testing.assert_close(whole, reward + torch.nn.functional.logsigmoid(log_odds))


def test_missing_scores_do_not_pull_those_that_are_there() -> None:
    value = Feasible(ResidualMLP(2, width=8, depth=1), target(), "mean")
    scores = torch.full((400,), 1.5)
    scores[::4] = torch.nan
    value.fit(torch.randn(400, 2, generator=seeded()), scores=scores, steps=20, generator=seeded())
    assert float(value.offset) == pytest.approx(1.5, abs=1e-5)
    assert float(value.log_odds.sigmoid()) == pytest.approx(0.75, abs=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        value.fit(torch.zeros(3, 2), scores=torch.full((3,), torch.nan))


def test_where_nothing_failed_there_is_no_slope_of_the_chance() -> None:
    value = Feasible(ResidualMLP(2, width=8, depth=1), target(), "mean")
    x0 = torch.randn(2000, 2, generator=seeded())
    value.fit(x0, scores=x0[:, 0], steps=50, generator=seeded())
    x = torch.randn(50, 2, generator=seeded(1), requires_grad=True)
    chance = torch.nn.functional.logsigmoid(value.parts(x, torch.tensor(0.4), None)[1])
    (slope,) = torch.autograd.grad(chance.sum(), x)
    assert float(slope.abs().max()) < 0.01


def test_one_output_is_too_few() -> None:
    value = Feasible(ResidualMLP(1, width=8, depth=1), target())
    with pytest.raises(ValueError, match="one output"):
        value(torch.zeros(3, 1), torch.tensor(0.5))
    problem = GaussianSubspace.random(1, 1)
    tuned = Target(Corrected(problem.base, ResidualMLP(1, 8, 1)), problem.reward)
    with pytest.raises(UserError, match="feasible=true needs samples of two columns"):
        RGDM(feasible=True).fit(tuned, FinetuneConfig(calls=100, evaluate=16, sampler_steps=4))


def test_a_value_is_fitted_up_to_the_noise_level_that_is_asked_for() -> None:
    """Where nothing is shifted nothing need be known, and the steps go to where it is."""
    seen = []

    class Watched(Feasible):
        def loss(self, x0, score, t, cond=None, *, generator=None):
            seen.append(t)
            return super().loss(x0, score, t, cond, generator=generator)

    value, x0 = Watched(ResidualMLP(2, width=8, depth=1), target(), "mean"), torch.randn(400, 2)
    for latest in (0.6, 1.0):
        seen.clear()
        value.fit(x0, scores=x0[:, 0], steps=20, latest=latest, generator=seeded())
        times = torch.cat(seen)
        assert float(times.max()) < latest
        error = latest / math.sqrt(12 * len(times))  # of the mean of even times
        assert abs(float(times.mean()) - latest / 2) < 4 * error


@pytest.mark.slow
def test_a_model_tuned_to_what_is_feasible_is_more_so() -> None:
    """p N(0, I), scored above the edge (31 %): with the chance learned apart most samples are.

    The pay-off law has all of them there; a value that puts a moderate score in place of the
    missing ones gets a part of the way.
    """
    shares = {}
    for feasible in (False, True):
        torch.manual_seed(0)
        base = GaussianSubspace.random(2, 2).base
        model = Corrected(base, ResidualMLP(2, width=32, depth=1))
        method = RGDM(feasible=feasible, anchor="model", value_steps=200)
        config = FinetuneConfig(
            calls=6000, per_round=1000, updates=100, evaluate=64, sampler_steps=20, seed=0
        )
        found = method.fit(Target(model, FunctionReward(lambda x, c: scored(x)), 4.0), config)
        x = Ancestral(found, (2,), 40).sample(2000, generator=seeded(3))
        shares[feasible] = float((x[:, 0] > EDGE).float().mean())
    assert shares[True] > 0.8, shares
    assert shares[True] > shares[False] + 0.1, shares


def test_sets_have_a_network_of_two_outputs() -> None:
    problem = CloudProblem(4)
    value = Feasible(value_network(problem.base, (4, 3), 8, 2), problem)
    assert value(torch.randn(6, 4, 3), torch.tensor(0.5)).shape == (6,)
