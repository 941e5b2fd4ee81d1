r"""A judge of objects as a reward of samples: the one place where objects are scored.

.. math:: r(x) = \pm f\big(\mathrm{object}(x)\big)

Objects are told apart by their keys, each different one is asked for once, and every answer is in
the ledger before it is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from payoff.domains.base import Domain, Judge, select
from payoff.errors import UserError
from payoff.jobs.judges import Combined, find_held_out, find_judge
from payoff.rewards import Reward
from payoff.rewards.ledger import Entry, Ledger
from payoff.spaces import Condition

QUICK = 1.0  # seconds: a block that takes less doubles the next one
NAN = "the reward answered NaN"
GIVE_UP = 20  # evaluations that fail from the first on
__all__ = ["ObjectReward", "answers", "find_held_out", "find_judge", "has_gradient", "ordered"]

Answer = tuple[float, str | None, bool]
"""A value (NaN = failed), the reason of a failure, and whether the reward raised."""
Piece = tuple[Sequence[int], list[Answer]]
"""Places among the objects that were asked for, and their answers."""


class Place(Protocol):
    """Where objects are evaluated: this process, a pool of processes, or an executor.

    Attributes:
        workers: objects that are evaluated at the same time.
    """

    workers: int

    def stream(self, objects: Sequence[Any], part: int | None = None) -> Iterator[Piece]:
        """Yield answers in the order in which they arrive.

        Args:
            objects: present objects.
            part: place of the asked judge among the parts of a combined one; None: the whole.
        """


class Here:
    """A judge asked in this process.

    A batch is asked for as a whole. If that raises, nothing is known of its objects: they are
    asked one by one, and so are all that come later.
    """

    workers = 1

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.single = False

    def stream(self, objects: Sequence[Any], part: int | None = None) -> Iterator[Piece]:
        """Yield the answers of the whole batch, or of object by object."""
        if not self.single and len(objects) > 1:
            found = self._ask(objects)
            if found is not None:
                yield range(len(objects)), found
                return
            self.single = True
        for i in range(len(objects)):
            yield [i], self._one(select(objects, [i]))

    def _ask(self, objects: Sequence[Any]) -> list[Answer] | None:
        try:
            return _asked(self.judge, objects)
        except UserError:  # of the installation, not of these objects
            raise
        except (Exception, SystemExit):  # anything may happen in a user's code
            return None

    def _one(self, objects: Sequence[Any]) -> list[Answer]:
        try:
            return _asked(self.judge, objects)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            return [(math.nan, f"{type(error).__name__}: {error}", True)]


def answers(judge: Judge, objects: Sequence[Any]) -> list[Answer]:
    """Answers of a judge; objects are asked for one by one where a batch raises."""
    return ordered(Here(judge).stream(objects), len(objects))


def ordered(pieces: Iterable[Piece], n: int) -> list[Answer]:
    """The answers of n objects in the order of these."""
    found: dict[int, Answer] = {}
    for places, given in pieces:
        found.update(zip(places, given, strict=True))
    return [found[i] for i in range(n)]


def _asked(judge: Judge, objects: Sequence[Any]) -> list[Answer]:
    """Answers of a judge that may give reasons of its own; raises what the judge raises."""
    explain = getattr(judge.of, "answers", None)
    given = explain(objects) if explain is not None else [_plain(v) for v in judge.of(objects)]
    if len(given) != len(objects):
        raise ValueError(f"it returned {len(given)} values for {len(objects)} objects")
    return list(given)


def _plain(value: Any) -> Answer:
    number = math.nan if value is None else float(value)
    return (number, None, False) if math.isfinite(number) else (math.nan, NAN, False)


class ObjectReward(Reward):
    r""":math:`r(x) = \pm f(\mathrm{object}(x))`, NaN where x stands for no valid object.

    Each different object is asked for once. A NaN that f returned is an answer for good. Where f
    raised, took too long or lost its process there is no answer: the reason is recorded, the object
    has failed in this run, and a later run asks again. Of a combined judge each part is asked and
    remembered by itself, the gate first.

    Args:
        domain: of the objects.
        judge: f.
        ledger: where answers are kept, under the objects' keys.
        minimize: a lower value is better: the reward is its negative.
        valid_only: objects that the domain does not accept have failed and are not asked for.
        give_up: evaluations after which a run stops if all of them failed; None: never. Without
            ``valid_only`` failures are expected, and it never stops.

    Attributes:
        asked: objects that values were asked for.
        failed: of them, those without a value.
        failure: the reason of the first failure of f, or None.
        refused: the reason why the first invalid object was not asked for, or None.

    Raises:
        UserError: all of the first ``give_up`` evaluations failed.
    """

    def __init__(
        self,
        domain: Domain,
        judge: Judge,
        ledger: Ledger,
        *,
        minimize: bool = False,
        valid_only: bool = True,
        give_up: int | None = GIVE_UP,
    ) -> None:
        self.domain, self.judge, self.ledger = domain, judge, ledger
        self.sign, self.valid_only = (-1.0 if minimize else 1.0), valid_only
        self.version = f"{judge.version} {domain.meaning}".strip()
        self.differentiable = has_gradient(domain, judge)
        self.asked = self.failed = 0
        self.refused: str | None = None
        limit = give_up if valid_only else None
        parts = judge.parts if isinstance(judge, Combined) else (judge,)
        self._answers = [
            RecordedJudge(part, self.version_of(part), ledger, limit) for part in parts
        ]

    def version_of(self, judge: Judge) -> str:
        """The version of a judge in the ledger."""
        return f"{judge.version} {self.domain.meaning}".strip()

    @property
    def fresh(self) -> int:
        """Evaluations that were made because no ledger knew the answer."""
        return sum(part.fresh for part in self._answers)

    @property
    def failure(self) -> str | None:
        """The reason of the first failure, or None."""
        return next((part.failure for part in self._answers if part.failure), None)

    def answers_known(self) -> int:
        """Evaluations that the ledger holds, those that raised among them."""
        return sum(part.count() for part in self._answers)

    def evaluated_in(self, place: Place) -> None:
        """Evaluate in this place from now on; a block is large enough for all its workers."""
        for i, part in enumerate(self._answers):
            part.evaluated_in(place, i if isinstance(self.judge, Combined) else None)

    def __call__(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        values = self.values(self.domain.decode(x.detach(), cond or {})).to(x.device)
        if not x.is_floating_point():
            return self.sign * values.to(torch.get_default_dtype())
        if self.differentiable and x.requires_grad and torch.is_grad_enabled():
            numbers = self.domain.numbers(x, cond or {})
            assert numbers is not None
            assert self.judge.slope is not None
            smooth = self.judge.slope(numbers)
            values = values + (smooth - smooth.detach())  # the value is exact to the last digit
        return self.sign * values.to(x.dtype)

    def values(self, objects: Sequence[Any]) -> Tensor:
        """Values (n,) float64 in the user's direction, NaN = failed."""
        found = torch.full((len(objects),), math.nan, dtype=torch.float64)
        places = self._askable(objects)
        if places:
            present = select(objects, places)
            found[places] = self._of_parts(self.domain.keys(present), present)
        self.asked += len(objects)
        self.failed += int(found.isnan().sum())
        return found

    def _askable(self, objects: Sequence[Any]) -> list[int]:
        """Places of the objects that are there and, if only these count, valid."""
        if not self.valid_only:
            return [i for i, thing in enumerate(objects) if thing is not None]
        reasons = self.domain.check(objects)
        self.refused = self.refused or next((why for why in reasons if why is not None), None)
        return [i for i, why in enumerate(reasons) if why is None]

    def _of_parts(self, keys: list[str], objects: Sequence[Any]) -> Tensor:
        """Values (n,) of present objects; behind a gate that is shut nothing is asked for."""
        judge = self.judge
        if not isinstance(judge, Combined):
            return self._answers[0].values(keys, objects)
        columns = torch.full((len(keys), len(self._answers)), math.nan, dtype=torch.float64)
        inside = list(range(len(keys)))
        if judge.gate is not None:
            opened = self._answers[judge.gate].values(keys, objects)
            columns[:, judge.gate] = opened
            inside = (opened > 0).nonzero().flatten().tolist()
        some, things = [keys[i] for i in inside], select(objects, inside)
        for i, part in enumerate(self._answers):
            if i != judge.gate and inside:
                columns[inside, i] = part.values(some, things)
        return judge.combine(columns)


class RecordedJudge:
    """One judge with the answers that a ledger holds, asked block by block for the others.

    Blocks grow while they take less than a second, so that a killed run loses little. An answer is
    recorded when it arrives.

    Args:
        judge: what is asked.
        version: its version in the ledger.
        ledger: where answers are kept.
        give_up: evaluations after which it stops if all of them failed; None: never.

    Attributes:
        fresh: evaluations that were made.
        failure: the reason of the first failure, or None.
    """

    def __init__(self, judge: Judge, version: str, ledger: Ledger, give_up: int | None) -> None:
        self.judge, self.version, self.ledger = judge, version, ledger
        self.give_up = give_up
        self.fresh = 0
        self.failure: str | None = None
        self._answered = False  # a number is known
        self._raised: dict[str, Entry] = {}  # failed in this run, asked again in the next
        self._place: Place = Here(judge)
        self._part: int | None = None
        self._size = self._least = 1

    def evaluated_in(self, place: Place, part: int | None) -> None:
        """Evaluate in this place from now on, as a part of the judge that is asked there."""
        self._place, self._part = place, part
        self._size = self._least = place.workers

    def count(self) -> int:
        """Evaluations that the ledger holds, those that raised among them."""
        return self.ledger.count(self.judge.name, self.version, raised=True)

    def values(self, keys: list[str], objects: Sequence[Any]) -> Tensor:
        """Values (n,) float64 of objects with these keys."""
        place = {key: i for i, key in reversed(list(enumerate(keys)))}
        known, start = self._lookup(list(dict.fromkeys(keys))), 0
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        while start < len(missing):
            some = missing[start : start + self._block()]
            start += len(some)
            if start > len(some):  # another process may have answered meanwhile
                known |= self._lookup(some)
                some = [key for key in some if key not in known]
            if some:
                known |= self._ask(some, select(objects, [place[key] for key in some]))
        return torch.tensor([known[key] for key in keys], dtype=torch.float64)

    def _block(self) -> int:
        """Objects of the next block: none beyond those after which the run gives up."""
        if self.give_up is None or self._answered or self.fresh >= self.give_up:
            return self._size
        return min(self._size, self.give_up - self.fresh)

    def _lookup(self, keys: Sequence[str]) -> dict[str, float]:
        found = {key: self._raised[key] for key in keys if key in self._raised}
        found |= self.ledger.lookup(self.judge.name, self.version, keys)
        for entry in found.values():
            if entry.failed:
                self.failure = self.failure or entry.error
            else:
                self._answered = True
        return {key: entry.value for key, entry in found.items()}

    def _ask(self, keys: list[str], objects: Sequence[Any]) -> dict[str, float]:
        """Evaluate a block; its answers are recorded as they arrive."""
        began = last = time.perf_counter()
        known: dict[str, float] = {}
        for places, given in self._place.stream(objects, self._part):
            now = time.perf_counter()
            known |= self._record([keys[i] for i in places], given, now - last)
            last = now
        took = time.perf_counter() - began
        self._size = self._size * 2 if took < QUICK else max(self._least, self._size // 2)
        if self.give_up is not None and not self._answered and self.fresh >= self.give_up:
            raise UserError(
                f"the reward {self.judge.name} failed on each of its first {self.fresh} "
                f"evaluations ({self.failure}): check it on designs of your own first"
            )
        return known

    def _record(self, keys: list[str], given: list[Answer], took: float) -> dict[str, float]:
        self.fresh += len(keys)
        entries = {}
        for key, (value, reason, raised) in zip(keys, given, strict=True):
            if not math.isfinite(value):
                value, reason = math.nan, reason or NAN
            entries[key] = Entry(value + 0.0, "float64", reason, took / len(keys), raised=raised)
            self.failure = self.failure or reason
            self._answered = self._answered or reason is None
            if raised:
                self._raised[key] = entries[key]
        self.ledger.record(self.judge.name, self.version, entries)
        return {key: entry.value for key, entry in entries.items()}


def has_gradient(domain: Domain, judge: Judge) -> bool:
    """Whether a judge has a gradient in the samples of a domain."""
    if judge.slope is None:
        return False
    cond = domain.conditions(1, None, torch.Generator().manual_seed(0))
    return domain.numbers(torch.zeros(1, *domain.shape), cond) is not None
