from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.rewards import Clip, FunctionReward, Gate, Negate, Product, Reward, Scale, Sum

finite = st.floats(-5, 5)


def column(i: int) -> FunctionReward:
    return FunctionReward(lambda x, cond: x[:, i])


def batch(n: int = 7) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


COMPOSITES: list[Reward] = [
    Sum([column(0), column(1)], [2.0, -3.0], offset=1.0),
    Product([column(0), column(1), column(2)]),
    Scale(column(0), 2.5),
    Negate(column(1)),
    Clip(column(0), -0.5, 0.5),
    Gate(column(0), column(1), threshold=0.1, otherwise=0.0),
    2 * column(0) - column(1) * column(2) / 3 + 1 - (4 - column(0)),
]


@settings(max_examples=30, deadline=None)
@given(a=finite, b=finite, c=finite)
def test_operators_are_arithmetic(a: float, b: float, c: float) -> None:
    x = batch()
    r, s = column(0), column(1)
    combined = a * r + s * b - r * s / 2 - (c - r) + c
    expected = a * x[:, 0] + x[:, 1] * b - x[:, 0] * x[:, 1] / 2 - (c - x[:, 0]) + c
    torch.testing.assert_close(combined(x), expected)
    torch.testing.assert_close((-r)(x), -x[:, 0])
    torch.testing.assert_close(sum([r, s])(x), x[:, 0] + x[:, 1])


@pytest.mark.parametrize("reward", COMPOSITES, ids=lambda r: type(r).__name__)
def test_a_row_does_not_depend_on_its_batch(reward: Reward) -> None:
    x = batch()
    torch.testing.assert_close(torch.cat([reward(row[None]) for row in x]), reward(x))


@pytest.mark.parametrize("reward", COMPOSITES, ids=lambda r: type(r).__name__)
def test_declared_gradients_are_right(reward: Reward) -> None:
    assert reward.differentiable
    assert torch.autograd.gradcheck(reward, batch().requires_grad_())


@pytest.mark.parametrize("reward", COMPOSITES, ids=lambda r: type(r).__name__)
def test_a_failed_part_fails_the_whole_row_only(reward: Reward) -> None:
    x = batch()
    x[2] = math.nan
    assert reward(x).isnan().nonzero().flatten().tolist() == [2]


def test_gate_hides_failures_behind_a_shut_gate_and_nothing_else() -> None:
    x = torch.tensor([[1.0, 1.0], [math.nan, -1.0], [math.nan, 1.0], [1.0, math.nan]])
    value = Gate(column(0), column(1), otherwise=-9.0)(x)
    assert value[:2].tolist() == [1.0, -9.0]
    assert value[2:].isnan().all()
    assert Gate(column(0), column(1))(x).isnan().tolist() == [False, True, True, True]


def test_a_composite_is_differentiable_only_if_all_parts_are() -> None:
    rough = FunctionReward(lambda x, cond: x[:, 0].round(), differentiable=False)
    assert not (column(0) + rough).differentiable
    assert not (column(0) * rough).differentiable
    assert not Clip(rough).differentiable


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"returned shape \(7, 3\).*expected \(7,\)"):
        FunctionReward(lambda x, cond: x)(batch())
    with pytest.raises(ValueError, match="returned float"):
        FunctionReward(lambda x, cond: 1.0)(batch())  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="2 rewards but 1 weights"):
        Sum([column(0), column(1)], [1.0])
    with pytest.raises(ValueError, match="low <= high"):
        Clip(column(0), 1.0, 0.0)
    with pytest.raises(TypeError):
        column(0) + "a"  # type: ignore[operator]


def test_conditions_reach_every_part() -> None:
    label = FunctionReward(lambda x, cond: cond["label"][:, 0] + 0 * x[:, 0])
    cond = {"label": torch.arange(7.0)[:, None]}
    torch.testing.assert_close((2 * label + label)(batch(), cond).float(), 3 * torch.arange(7.0))
