"""RGDM that tells by the samples how far the model has come."""

from __future__ import annotations

import pytest
import torch
from finetuning_cases import QUICK, corrected, run_of, seeded

from payoff.errors import UserError
from payoff.finetuning import RGDM, FinetuneConfig
from payoff.finetuning.pool import Pool
from payoff.finetuning.rollouts import Samples
from payoff.problems import GaussianSubspace
from payoff.targets import Target


@pytest.mark.parametrize("inverse", [0.0, 0.4, 1.0, 1.5])
def test_a_mean_reward_tells_the_tilt(inverse: float) -> None:
    """Rewards N(0, 1): the tilt by β has mean β. Standard errors of 0.007 from 20,000 samples."""
    pool = Pool()
    rewards = torch.randn(20_000, generator=seeded())
    pool.add(Samples(rewards[:, None], rewards, None), 0.0)
    assert pool.inverse_of(inverse, 2.0) == pytest.approx(inverse, abs=0.06)
    assert pool.inverse_of(99.0, 2.0) == pytest.approx(2.0)
    assert pool.inverse_of(-99.0, 2.0) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("inverse", [0.4, 1.0])
def test_what_is_asked_for_is_not_tilted(inverse: float) -> None:
    """Rewards N(c, 1) given c: the tilt by β has mean c + β, and of c what was asked for.

    Were the samples of all conditions weighed as one, large c would take over: E[c] would be the
    mean of c under e^{βc}, and the mean reward of a model at β would be taken for one far lower.
    """
    n = 20_000
    c = torch.randint(3, (n,), generator=seeded(1)).float() * 2
    rewards = c + torch.randn(n, generator=seeded())
    pool = Pool()
    for half in range(2):  # two rounds, and a condition that is too rare to be weighed alone
        rows = slice(half * n // 2, (half + 1) * n // 2)
        asked = c[rows].clone()
        asked[:20] = 7.0
        pool.add(Samples(c[rows, None], rewards[rows], {"c": asked[:, None]}), 0.0)
    weights = pool.log_weights(inverse).exp()
    assert weights.sum() == pytest.approx(1)
    assert float((weights * c).sum()) == pytest.approx(float(c.mean()), abs=0.02)
    # 20,000 rewards of variance 1 within a condition: standard errors of about 0.01 in β
    assert pool.inverse_of(float(c.mean()) + inverse, 2.0) == pytest.approx(inverse, abs=0.06)


def test_failures_do_not_say_how_far_a_model_has_come() -> None:
    """One in twenty has no reward, before and after: β is that of the others."""
    rewards = torch.randn(20_000, generator=seeded())
    rewards[::20] = torch.nan
    pool = Pool()
    pool.add(Samples(torch.zeros(20_000, 1), rewards, None), 0.0)
    assert pool.inverse_of(0.1, 2.0) == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("catch_up", [False, True])
def test_a_model_that_learns_nothing_is_where_it_was(catch_up: bool) -> None:
    """Without updates the plan walks on; the samples say that the model has not."""
    problem = GaussianSubspace.random(4, 2)
    target = Target(corrected(problem), problem.reward)
    config = FinetuneConfig(
        **{"calls": 4000, "per_round": 500, "updates": 1, "batch_size": 8, "sampler_steps": 5},
        **{"evaluate": 16, "learning_rate": 1e-12, "noise_floor": 0.0},
    )
    run = run_of(RGDM(**QUICK["rgdm"], catch_up=catch_up), target, (4,), config)
    method = RGDM(**QUICK["rgdm"], catch_up=catch_up)
    for run.round in range(4):
        method.play(run)
    # the first round is the base's; with the plan each of the others is an eighth farther
    inverses = run.memory["pool"]["inverses"]
    if catch_up:
        assert max(inverses) < 0.1
        assert run.memory["gain"] == 8  # doubled in each round but the first
    else:
        assert inverses == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8])


def test_a_gain_below_one_is_refused() -> None:
    problem = GaussianSubspace.random(4, 2)
    config = FinetuneConfig(calls=100, evaluate=16, sampler_steps=4)
    with pytest.raises(UserError, match="gain must be at least 1"):
        RGDM(gain=0.5).fit(Target(corrected(problem), problem.reward), config)
