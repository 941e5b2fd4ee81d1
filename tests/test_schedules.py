"""Known values; the laws are in tests/laws/test_schedule_laws.py."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.schedules import Cosine, CosineKeep, Flow, Karras, LinearBeta, LinearKeep, LogLinear

F64 = torch.float64


def at(schedule, t: float) -> tuple[float, float]:
    alpha, sigma = schedule(torch.tensor(t, dtype=F64))
    return float(alpha), float(sigma)


@pytest.mark.parametrize("schedule", [Cosine(), LogLinear(), LinearBeta()])
def test_variance_preserving(schedule) -> None:
    alpha, sigma = schedule(torch.linspace(0, 1, 11, dtype=F64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(11, dtype=F64))


@pytest.mark.parametrize("schedule", [Cosine(-9.0, 7.0), LogLinear(-9.0, 7.0)])
def test_ends_are_as_asked(schedule) -> None:
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64))
    assert ends.tolist() == pytest.approx([7.0, -9.0])


def test_known_values() -> None:
    assert at(Cosine(), 0.5) == pytest.approx((0.5**0.5, 0.5**0.5))
    assert at(Flow(0.25), 0.0) == pytest.approx((0.75, 0.25))
    assert at(Karras(), 0.0) == pytest.approx((1.0, 0.002))
    assert at(Karras(), 1.0) == pytest.approx((1.0, 80.0))
    # constant rate: the Ornstein-Uhlenbeck process of the theory, h(t) = 1 − exp(−t)
    alpha, sigma = at(LinearBeta(1.0, 1.0, 1e-12), 0.7)
    assert (alpha, sigma**2) == pytest.approx((math.exp(-0.35), 1 - math.exp(-0.7)))
    keep = CosineKeep()(torch.tensor([0.0, 0.5, 1.0], dtype=F64))
    assert keep.tolist() == pytest.approx([1.0, 1 - 0.5**0.5, 0.0], abs=1e-15)
    assert float(LinearKeep()(torch.tensor(0.3, dtype=F64))) == pytest.approx(0.7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cosine(1.0, 1.0),
        lambda: LogLinear(2.0, 1.0),
        lambda: LinearBeta(2.0, 1.0),
        lambda: LinearBeta(0.0, 1.0),
        lambda: LinearBeta(epsilon=0.0),
        lambda: Flow(0.5),
        lambda: Flow(0.0),
        lambda: Karras(1.0, 0.5),
        lambda: Karras(sigma_min=-1.0),
    ],
)
def test_impossible_arguments_are_errors(make) -> None:
    with pytest.raises(ValueError, match=r"need|must"):
        make()
