"""RGDM where some samples have no reward, and the chance of one is learned apart."""

from __future__ import annotations

import pytest
import torch
from finetuning_cases import run_of, seeded

from payoff.denoisers import Corrected
from payoff.errors import UserError
from payoff.finetuning import RGDM, FinetuneConfig
from payoff.finetuning.pool import Pool
from payoff.finetuning.rgdm_step import learned_value
from payoff.nets import ResidualMLP
from payoff.problems import GaussianSubspace
from payoff.rewards import FunctionReward
from payoff.targets import Target


@pytest.mark.parametrize("insist", [1.0, 4.0])
def test_the_slope_of_the_chance_is_multiplied_and_that_of_the_reward_is_not(insist: float) -> None:
    """Nor does a gain go for the chance; the value goes by ``gap`` of the reward's unit."""
    torch.manual_seed(0)
    tuned = Target(
        Corrected(GaussianSubspace.random(2, 2).base, ResidualMLP(2, 8, 1)),
        FunctionReward(lambda x, c: torch.where(x[:, 0] > 0.5, x[:, 1], torch.nan)),
        2.0,
    )
    method = RGDM(feasible=True, insist=insist, value_width=8, value_steps=5)
    run = run_of(method, tuned, (2,), FinetuneConfig(calls=400, per_round=200, evaluate=16))
    pool = Pool()
    pool.add(run.samples(200), 0.0)
    run.memory["gain"] = 3.0
    gap, unit = 1.2, 1 / (2.0 * run.rounds)
    valued = learned_value(method, run, pool, torch.zeros(200), gap)
    x, t = torch.randn(20, 2, generator=seeded(1)), torch.tensor(0.4)
    reward, log_odds = run.kept["value"].parts(x, t, None)
    expected = gap / unit * reward + insist * torch.nn.functional.logsigmoid(log_odds)
    torch.testing.assert_close(valued(x, t, None), expected)
    with pytest.raises(UserError, match="insist"):
        RGDM(feasible=True, insist=0.0).fit(tuned, FinetuneConfig(calls=100, sampler_steps=4))
