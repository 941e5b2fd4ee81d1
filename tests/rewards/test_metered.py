from __future__ import annotations

import math

import pytest
import torch

from payoff.errors import UserError
from payoff.rewards import BudgetSpent, FunctionReward, Metered


def reward() -> FunctionReward:
    return FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, x[:, 0], math.nan))


def test_counts_rows_batches_and_failures() -> None:
    metered = Metered(reward())
    metered(torch.tensor([[1.0], [-1.0], [2.0]]))
    metered(torch.tensor([[-1.0]]))
    assert (metered.meter.rows, metered.meter.batches, metered.meter.failed) == (4, 2, 2)
    assert metered.meter.seconds > 0
    assert metered.remaining is None


def test_the_budget_is_never_passed_and_a_refused_batch_costs_nothing() -> None:
    metered = Metered(reward(), budget=5)
    metered(torch.ones(3, 1))
    with pytest.raises(BudgetSpent, match="3 are spent and 2 are left"):
        metered(torch.ones(3, 1))
    metered(torch.ones(2, 1))
    assert metered.remaining == 0
    assert metered.report()["rows"] == 5
    assert issubclass(BudgetSpent, UserError)


def test_a_call_that_raises_is_paid_for() -> None:
    def broken(x: torch.Tensor, cond: object) -> torch.Tensor:
        raise RuntimeError("simulator crashed")

    metered = Metered(FunctionReward(broken), budget=10)
    with pytest.raises(RuntimeError, match="simulator crashed"):
        metered(torch.ones(4, 1))
    assert metered.remaining == 6


def test_metering_changes_neither_values_nor_gradients() -> None:
    x = torch.rand(5, 1, requires_grad=True)
    torch.testing.assert_close(Metered(reward())(x), reward()(x))
    Metered(reward())(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(5, 1))
