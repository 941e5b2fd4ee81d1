from __future__ import annotations

import math

import pytest
import torch

from payoff.problems import MixtureProblem
from payoff.rewards import FunctionReward
from payoff.targets import Target

LAW = MixtureProblem.two_modes().base
REWARD = FunctionReward(lambda x, cond: x.sum(1))


def test_it_holds_what_it_was_given() -> None:
    target = Target(LAW, REWARD, 2)
    assert target.denoiser is LAW
    assert target.reward is REWARD
    assert target.temperature == 2.0
    assert "temperature=2" in repr(target)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Target(LAW, REWARD, temperature)


def test_the_parts_must_be_what_they_say() -> None:
    with pytest.raises(TypeError, match="Denoiser"):
        Target(torch.nn.Identity(), REWARD)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="FunctionReward"):
        Target(LAW, lambda x, cond: x)  # type: ignore[arg-type]
