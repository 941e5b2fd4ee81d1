"""Schedules: inverse, monotone, and (alpha, sigma) consistent with log-SNR."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.schedules import KEEP_SCHEDULES, SCHEDULES

DTYPES = {"float32": torch.float32, "float64": torch.float64}
NAMES = list(SCHEDULES)
times = st.floats(0.0, 1.0, allow_subnormal=False)


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(NAMES, DTYPES)))
@settings(max_examples=50, deadline=None)
@given(t=times)
def test_time_inverts_log_snr(name: str, dtype: str, t: float) -> None:
    schedule, kind = SCHEDULES[name](), DTYPES[dtype]
    value = torch.tensor(t, dtype=kind)
    log_snr = schedule.log_snr(value)
    # rounding of λ moves t by its derivative, taken here as a difference quotient in float64
    wide, h = torch.tensor(t, dtype=torch.float64), 1e-6
    low, high = (wide - h).clamp(min=0), (wide + h).clamp(max=1)
    rate = ((schedule.log_snr(low) - schedule.log_snr(high)) / (high - low)).abs()
    eps = torch.finfo(kind).eps
    allowed = 50 * eps * (1 + log_snr.abs().to(torch.float64) / rate + 1 / rate)
    back = schedule.time(log_snr)
    assert back.dtype == kind
    assert (back.double() - wide.to(kind).double()).abs() <= allowed


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(NAMES, DTYPES)))
def test_signal_and_noise_agree_with_log_snr(name: str, dtype: str) -> None:
    schedule, kind = SCHEDULES[name](), DTYPES[dtype]
    t = torch.linspace(0, 1, 1001, dtype=kind)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    assert alpha.dtype == sigma.dtype == log_snr.dtype == kind
    assert torch.isfinite(log_snr).all()
    assert (alpha > 0).all()
    assert (sigma > 0).all()
    tolerance = 100 * torch.finfo(kind).eps * (1 + log_snr.abs().max())
    assert (2 * (alpha.log() - sigma.log()) - log_snr).abs().max() <= tolerance


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(NAMES, DTYPES)))
def test_strictly_monotone(name: str, dtype: str) -> None:
    schedule = SCHEDULES[name]()
    t = torch.linspace(0, 1, 1001, dtype=DTYPES[dtype])
    assert (schedule.log_snr(t).diff() < 0).all()
    alpha, sigma = schedule(t)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_shapes_follow_the_time(name: str) -> None:
    schedule = SCHEDULES[name]()
    for shape in [(), (3,), (2, 3)]:
        t = torch.rand(shape)
        assert schedule(t)[0].shape == schedule(t)[1].shape == schedule.log_snr(t).shape == shape


@pytest.mark.parametrize("name", [*NAMES, *KEEP_SCHEDULES])
def test_config_rebuilds_it(name: str) -> None:
    kind = {**SCHEDULES, **KEEP_SCHEDULES}[name]
    assert kind(**kind().config()) == kind()


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(KEEP_SCHEDULES, DTYPES)))
def test_keep_falls_from_one_to_zero_and_inverts(name: str, dtype: str) -> None:
    schedule = KEEP_SCHEDULES[name]()
    t = torch.linspace(0, 1, 1001, dtype=DTYPES[dtype])
    keep = schedule(t)
    eps = torch.finfo(t.dtype).eps
    assert (keep.diff() < 0).all()
    assert abs(float(keep[0]) - 1) <= eps
    assert abs(float(keep[-1])) <= eps
    # acos near its ends loses half of the digits
    assert (schedule.time(keep) - t).abs().max() <= 4 * eps**0.5


@pytest.mark.parametrize("name", NAMES)
def test_tabulated_times_have_the_same_levels(name: str) -> None:
    """A sampler computes all its levels at once; nothing else may change by it."""
    schedule, other = SCHEDULES[name](), SCHEDULES["LogLinear"](-3.0, 3.0)
    for times in (torch.linspace(1, 0, 9), torch.rand(9, 4)):
        table = schedule.tabulate(times)
        assert len(table) == 9
        for scalar, t in zip(table, times, strict=True):
            assert torch.equal(scalar, t)
            fresh = t.clone()
            torch.testing.assert_close(schedule(scalar), schedule(fresh))
            torch.testing.assert_close(schedule.log_snr(scalar), schedule.log_snr(fresh))
            # another schedule asked about the same scalar must not get this one's levels
            torch.testing.assert_close(other(scalar), other(fresh))
            torch.testing.assert_close(other.log_snr(scalar), other.log_snr(fresh))
