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
