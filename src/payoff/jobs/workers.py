"""Places where a run's reward is evaluated while the network works: processes or an executor."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from functools import lru_cache
from typing import Any

from payoff.domains.base import select
from payoff.domains.installed import kind_named
from payoff.errors import UserError
from payoff.jobs.judges import Combined, find_judge
from payoff.jobs.rewards import Answer, Here, Piece, ordered
from payoff.jobs.tilt import Begin
from payoff.naming import load_named
from payoff.rewards.pooled import PooledObjects

CHUNKS = 4  # that a worker of an executor is given of a block, where the reward names no size


def object_judge(
    kind: str, config: dict[str, Any], reward: Any, gate: Any
) -> Callable[[Sequence[Any], Any], list[Answer]]:
    """The reward of objects in a worker process; it is given what makes it, not the reward."""
    found = kind_named(kind)
    judge = find_judge(found.load()(**config), found, reward, gate=gate)
    whole = Here(judge)
    parts = [Here(part) for part in judge.parts] if isinstance(judge, Combined) else []

    def evaluate(objects: Sequence[Any], cond: Any = None) -> list[Answer]:
        place = whole if cond is None else parts[int(cond["part"][0])]
        return ordered(place.stream(objects), len(objects))

    return evaluate


class Executed:
    """An executor of the user's own as the place of evaluation.

    An executor that breaks, as one does whose process died, is made anew and its objects are asked
    one by one; an object that breaks it again has failed.

    Args:
        factory: makes a ``concurrent.futures.Executor``.
        recipe: arguments of :func:`object_judge`, pickled.
        workers: objects evaluated at the same time; 0: as many as the executor says.
        chunk: objects at a time; None: a share of the block.
    """

    def __init__(
        self, factory: Callable[[], Executor], recipe: bytes, workers: int, chunk: int | None
    ) -> None:
        self.factory, self.recipe, self.chunk = factory, recipe, chunk
        self.executor = factory()
        self.workers = workers or int(getattr(self.executor, "_max_workers", 0) or 1)

    def stream(self, objects: Sequence[Any], part: int | None = None) -> Iterator[Piece]:
        """Yield places among the objects with their answers, in the order in which they arrive."""
        n = len(objects)
        size = self.chunk or max(1, math.ceil(n / (CHUNKS * self.workers)))
        chunks = [list(range(first, min(n, first + size))) for first in range(0, n, size)]
        broken: list[int] = []
        futures: dict[Future, list[int]] = {}
        for places in chunks:
            try:
                futures[self._submit(objects, places, part)] = places
            except BrokenExecutor:
                broken += places
        for future in as_completed(futures):
            try:
                yield futures[future], self._answers(future, len(futures[future]))
            except BrokenExecutor:
                broken += futures[future]
        if broken:
            self._renew()
        for place in sorted(broken):
            try:
                yield [place], self._answers(self._submit(objects, [place], part), 1)
            except BrokenExecutor as error:
                self._renew()
                yield [place], [(math.nan, f"the executor broke: {error}", True)]

    def _submit(self, objects: Sequence[Any], places: list[int], part: int | None) -> Future:
        return self.executor.submit(evaluated, self.recipe, select(objects, places), part)

    @staticmethod
    def _answers(future: Future, n: int) -> list[Answer]:
        try:
            found: list[Answer] = future.result()
        except (BrokenExecutor, UserError):
            raise
        except Exception as error:  # such as a node of a cluster that went away
            return [(math.nan, f"{type(error).__name__}: {error}", True)] * n
        return found

    def _renew(self) -> None:
        self.close()
        self.executor = self.factory()

    def close(self) -> None:
        """End the executor without waiting for what it has not begun."""
        try:
            self.executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # not every executor can cancel
            self.executor.shutdown(wait=False)

    def __enter__(self) -> Executed:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(BrokenExecutor):
            self.close()


def evaluated(recipe: bytes, objects: Sequence[Any], part: int | None) -> list[Answer]:
    """Answers for objects in a worker of an executor; it makes the reward once."""
    return _made(recipe)(objects, None if part is None else {"part": [part]})


@lru_cache(maxsize=8)
def _made(recipe: bytes) -> Callable[[Sequence[Any], Any], list[Answer]]:
    return object_judge(*pickle.loads(recipe))


def pool_of(
    start: Begin, workers: int, time_limit: float, executor: str | None = None
) -> PooledObjects | Executed | None:
    """The place where the reward of a run is evaluated; it starts at once. None: this process.

    Raises:
        UserError: the reward cannot be sent to another process, or the executor cannot be made.
    """
    if not workers and executor is None:
        return None
    recipe = (start.asked.kind.name, start.domain.config(), start.reward_name, start.gate)
    try:
        pickled = pickle.dumps(recipe)
    except Exception as error:
        raise UserError(
            f"the reward {start.reward.name} cannot be sent to another process ({error}): define "
            "the function at the top of a module, or do without workers"
        ) from None
    if executor is None:
        make = f"{__name__}:{object_judge.__name__}"
        limit, chunk = time_limit or None, start.reward.chunk
        return PooledObjects(make, *recipe, workers=workers, chunk=chunk, timeout=limit)
    if time_limit:
        raise UserError("--time-limit: an executor has limits of its own; leave one of them out")
    return Executed(load_executor(executor), pickled, workers, start.reward.chunk)


def load_executor(name: str) -> Callable[[], Executor]:
    """The user's function that makes an executor.

    Raises:
        UserError: there is none of that name.
    """
    said = f"--executor {name}"
    factory = load_named(name, said, "MODULE:FACTORY", "cluster:dask", lambda *_: "")
    if not callable(factory):
        raise UserError(f"{said} is a {type(factory).__name__}, not a function")

    def make() -> Executor:
        try:
            made = factory()
        except Exception as error:
            raise UserError(f"{said} failed: {type(error).__name__}: {error}") from error
        if not callable(getattr(made, "submit", None)):
            raise UserError(f"{said} made a {type(made).__name__}, which has no method submit")
        return made  # type: ignore[no-any-return]

    return make
