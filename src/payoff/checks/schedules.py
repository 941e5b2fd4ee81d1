"""The laws of a schedule, for signal and noise and for the probability of being kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from payoff.checks.findings import (
    Budget,
    Law,
    Outcome,
    fails,
    holds,
    remark,
    skipped,
    told,
    verdict,
)
from payoff.schedules import KeepSchedule

DTYPES = (torch.float32, torch.float64)


class ScheduleSubject:
    """A schedule, and whether it is one of keep probabilities."""

    def __init__(self, part: Any, budget: Budget) -> None:
        self.part, self.budget = part, budget
        self.keeps = isinstance(part, KeepSchedule)

    def values(self, t: Tensor) -> tuple[Tensor, ...]:
        """(keep,) or (alpha, sigma, log-SNR) at t."""
        self.budget.spend()
        if self.keeps:
            return (self.part(t),)
        alpha, sigma = self.part(t)
        return alpha, sigma, self.part.log_snr(t)


def grid(dtype: torch.dtype) -> Tensor:
    """1001 times from 0 to 1."""
    return torch.linspace(0, 1, 1001, dtype=dtype)


def shapes_follow(s: ScheduleSubject) -> Outcome:
    """Elementwise in t, in its shape and dtype."""
    for dtype in DTYPES:
        for shape in ((), (3,), (2, 3)):
            t = torch.full(shape, 0.3, dtype=dtype)
            for v in s.values(t):
                if not isinstance(v, Tensor) or v.shape != t.shape or v.dtype != dtype:
                    got = (
                        f"{tuple(v.shape)}, {v.dtype}"
                        if isinstance(v, Tensor)
                        else type(v).__name__
                    )
                    return fails(f"t of {shape}, {dtype} gives {got}")
    return holds("shapes (), (3,), (2, 3) in float32 and float64")


def finite_and_positive(s: ScheduleSubject) -> Outcome:
    """Alpha and sigma positive, log-SNR finite, at both ends too; keep from 1 to 0."""
    for dtype in DTYPES:
        values = s.values(grid(dtype))
        if s.keeps:
            first, last = float(values[0][0]), float(values[0][-1])
            off = max(abs(first - 1), abs(last))
            if not off <= 4 * torch.finfo(dtype).eps:
                return fails(f"keep runs from {first:g} to {last:g}, not from 1 to 0")
            continue
        alpha, sigma, log_snr = values
        if not bool(log_snr.isfinite().all() & (alpha > 0).all() & (sigma > 0).all()):
            return fails(
                f"alpha from {float(alpha.min()):.3g}, sigma from {float(sigma.min()):.3g}, "
                f"log-SNR from {float(log_snr.min()):.3g} to {float(log_snr.max()):.3g}"
            )
    ends = s.values(grid(torch.float64))[-1]
    what = "keep" if s.keeps else "log-SNR"
    return holds(f"{what} from {float(ends[0]):.3g} at t = 0 to {float(ends[-1]):.3g} at t = 1")


def levels_agree(s: ScheduleSubject) -> Outcome:
    """log-SNR = 2 log(alpha / sigma)."""
    if s.keeps:
        return skipped("there is no sigma")
    worst = 0.0
    for dtype in DTYPES:
        alpha, sigma, log_snr = s.values(grid(dtype))
        off = (2 * (alpha.log() - sigma.log()) - log_snr).abs().max()
        allowed = 100 * torch.finfo(dtype).eps * (1 + log_snr.abs().max())
        worst = max(worst, float(off / allowed))
        if worst > 1:
            return fails(f"off by {float(off):.2g} in {dtype}")
    return holds(f"within {worst:.1g} of what rounding allows")


def monotone(s: ScheduleSubject) -> Outcome:
    """log-SNR (or keep) falls strictly from t = 0 to t = 1."""
    for dtype in DTYPES:
        t = grid(dtype)
        falls = s.values(t)[-1].diff() < 0
        if not bool(falls.all()):
            where = float(t[:-1][~falls][0])
            return fails(f"it does not fall at t = {where:.3g} ({int((~falls).sum())} of 1000)")
    return holds("strictly falling on 1000 intervals")


def time_inverts(s: ScheduleSubject) -> Outcome:
    """time(log_snr(t)) = t; time(keep(t)) = t."""
    worst = 0.0
    for dtype in DTYPES:
        t = grid(dtype)
        value = s.values(t)[-1]
        off = (s.part.time(value).double() - t.double()).abs()
        eps = torch.finfo(dtype).eps
        if s.keeps:
            allowed = torch.full_like(off, 4 * eps**0.5)  # acos near its ends loses half the digits
        else:  # rounding of the value moves t by the slope's inverse
            wide = s.values(grid(torch.float64))[-1]
            rate = (-torch.gradient(wide, spacing=1e-3)[0]).clamp(min=1e-9)
            allowed = 200 * eps * (1 + value.abs().double() / rate + 1 / rate)
        if not bool((off <= allowed).all()):
            i = int((off / allowed).nan_to_num(torch.inf).argmax())
            return fails(f"t = {float(t[i]):.4g} comes back off by {float(off[i]):.2g} in {dtype}")
        worst = max(worst, float(off.max()))
    return holds(f"t comes back within {worst:.1e}")


def config_rebuilds(s: ScheduleSubject) -> Outcome:
    """The saved arguments make it again."""
    try:
        again = type(s.part)(**s.part.config())
    except Exception as error:
        return remark(told(error), "make it a frozen dataclass of plain numbers, to be saved")
    t = grid(torch.float64)
    right = all(
        torch.equal(a, b)
        for a, b in zip(s.values(t), ScheduleSubject(again, s.budget).values(t), strict=True)
    )
    return verdict(right, f"{s.part.config()}", "config() must return every argument")


ENDS, FALLS = "finite and positive at both ends", "strictly falling"
LAWS: tuple[Law[ScheduleSubject], ...] = (
    Law("shape and dtype follow the time", shapes_follow, "use torch functions of t", gate=True),
    Law(
        ENDS,
        finite_and_positive,
        "stop short of the singular ends: leave a little noise at t = 0 and signal at t = 1",
    ),
    Law(
        "alpha, sigma and log-SNR agree",
        levels_agree,
        "λ = 2 log(alpha / sigma), natural log",
        needs=(ENDS,),
    ),
    Law(FALLS, monotone, "λ falls from t = 0 (data) to t = 1 (noise)"),
    Law("time() is the inverse", time_inverts, "solve λ(t) = value for t", needs=(ENDS, FALLS)),
    Law("its configuration rebuilds it", config_rebuilds),
)
