"""Laws, what was found of them, and the limits within which they are tested."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

HOLDS, FAILS, REMARK, SKIPPED = "holds", "fails", "remark", "skipped"
S = TypeVar("S")


@dataclass(frozen=True)
class Finding:
    """One law and how a part stands to it.

    Attributes:
        name: the law.
        status: ``holds``; ``fails``; ``remark`` (allowed, and worth knowing); ``skipped`` (not
            tested, and ``measured`` says why).
        measured: the numbers.
        advice: what to do; empty where there is nothing to be done.
    """

    name: str
    status: str
    measured: str
    advice: str = ""


class Outcome(NamedTuple):
    """What the test of a law returns: a finding without its name."""

    status: str
    measured: str
    advice: str = ""


@dataclass(frozen=True)
class Law(Generic[S]):
    """A test of a subject.

    Attributes:
        name: the law in a few words, as it should be.
        test: measures the subject.
        advice: what to do when it fails and the test does not say it better.
        gate: when it fails no other law can be tested.
        needs: laws that must not have failed for this one to have a meaning.
        strict: whether an exception in the test is a failure; otherwise it is a remark.
    """

    name: str
    test: Callable[[S], Outcome]
    advice: str = ""
    gate: bool = False
    needs: tuple[str, ...] = ()
    strict: bool = True


class Spent(BaseException):
    """The calls or the seconds that a check may take are used up.

    Not an Exception: code that guards itself against a failing reward must not swallow it.
    """


class Budget:
    """How much of the user's time a check may take.

    Args:
        calls: how many rows of a reward, or calls of anything else, may be spent; None: any number.
        seconds: how long; None: any time. What is running when the time is over is not cut off.
    """

    def __init__(self, calls: int | None = None, seconds: float | None = None) -> None:
        self.calls, self.seconds = calls, seconds
        self.batches = self.used = 0
        self.start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the check began."""
        return time.perf_counter() - self.start

    def spend(self, n: int = 1) -> None:
        """Count a call that costs ``n``; raises :class:`Spent` if it is not allowed any more."""
        if self.calls is not None and self.used + n > self.calls:
            raise Spent(
                f"it needs more than the {self.calls} calls allowed (--calls), of which "
                f"{self.used} are spent"
            )
        if self.seconds is not None and self.elapsed > self.seconds:
            raise Spent(f"the {self.seconds:g} seconds allowed are over (--seconds)")
        self.used += n
        self.batches += 1


def examine(subject: S, laws: Sequence[Law[S]]) -> list[Finding]:
    """Test one law after the other; an exception in a test is a finding, not a crash."""
    findings: list[Finding] = []
    failed: set[str] = set()
    shut: str | None = None
    for law in laws:
        broken = [name for name in law.needs if name in failed]
        blocker = shut or (broken[0] if broken else None)
        if blocker is not None:
            findings.append(Finding(law.name, SKIPPED, f"cannot be tested while “{blocker}” fails"))
            continue
        outcome = _tested(law, subject)
        advice = outcome.advice
        if not advice and outcome.status == FAILS:
            advice = law.advice
        findings.append(Finding(law.name, outcome.status, outcome.measured, advice))
        if outcome.status == FAILS:
            failed.add(law.name)
            shut = law.name if law.gate else None
    return findings


def _tested(law: Law[S], subject: S) -> Outcome:
    try:
        return law.test(subject)
    except Spent as spent:
        return Outcome(SKIPPED, str(spent))
    except (Exception, SystemExit) as error:  # the user's code may do anything
        return Outcome(FAILS if law.strict else REMARK, f"it raised {told(error)}")


def told(error: BaseException) -> str:
    """An exception with its first line and the place in the user's code where it arose."""
    message = str(error).strip().splitlines()
    text = type(error).__name__ + (f": {message[0]}" if message else "")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _foreign(f.filename)]
    return text + (f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else "")


def _foreign(filename: str) -> bool:
    # not the library's own lines, nor an installed package's
    return not any(part in filename for part in ("site-packages", "payoff/checks", "<frozen"))


def holds(measured: str) -> Outcome:
    """The law holds."""
    return Outcome(HOLDS, measured)


def fails(measured: str, advice: str = "") -> Outcome:
    """The law does not hold; without advice the law's own is given."""
    return Outcome(FAILS, measured, advice)


def remark(measured: str, advice: str = "") -> Outcome:
    """Allowed, and worth knowing."""
    return Outcome(REMARK, measured, advice)


def skipped(measured: str) -> Outcome:
    """The law could not be tested, or says nothing about this part."""
    return Outcome(SKIPPED, measured)


def verdict(right: bool, measured: str, advice: str = "") -> Outcome:
    """Holds or fails."""
    return holds(measured) if right else fails(measured, advice)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry of b; inf where NaN meets a number."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())  # equal infinities included
    if bool(same.all()):
        return 0.0
    off = torch.where(same, 0.0, (a - b).abs())
    if not bool(off.isfinite().all()):
        return math.inf
    scale = b[b.isfinite()].abs().amax() if bool(b.isfinite().any()) else torch.ones(())
    return float(off.max() / scale.clamp(min=1e-12))


def rounding(*tensors: Tensor) -> float:
    """The relative difference that rounding may make, from the coarsest floating dtype."""
    steps = [torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()]
    return 1e3 * max(steps, default=1e-7)


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def type_name(part: Any) -> str:
    """How messages call an object: the name of a class or function, else of its class."""
    return str(getattr(part, "__name__", type(part).__name__))
