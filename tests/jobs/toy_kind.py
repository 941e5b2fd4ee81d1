"""A small kind for tests: objects are whole numbers; odd ones below zero are not valid."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Data, Domain, Judge
from payoff.domains.kind import Kind
from payoff.spaces import Condition, Euclidean

KIND = Kind("numbers", "whole numbers", lambda source, given: 0, "toy_kind:Numbers")


def install() -> None:
    """Make the kind known in this process."""
    from payoff.domains import installed
    from payoff.jobs import judges

    installed.kinds = judges.kinds = lambda: {"numbers": KIND}  # type: ignore[assignment]


class Numbers(Domain[int]):
    space = Euclidean()
    shape = (1,)
    meaning = "numbers"

    @classmethod
    def read(cls, source: Any, options: Any, score: str | None = None, **more: Any) -> Data[int]:
        return Data(cls(), list(source))

    def encode(self, objects: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.tensor([[float(o)] for o in objects]), {}

    def decode(self, x: Tensor, cond: Condition) -> list[int | None]:
        return [None if math.isnan(v) else round(v) for v in x[:, 0].tolist()]

    def denoiser(self, labels: int = 0, **size: Any) -> Denoiser:
        raise NotImplementedError

    def check(self, objects: Sequence[int | None]) -> list[str | None]:
        return ["no number" if o is None else "odd" if o < 0 and o % 2 else None for o in objects]

    def keys(self, objects: Sequence[int]) -> list[str]:
        return [f"{o:064d}" for o in objects]

    def features(self, objects: Sequence[int]) -> Tensor:
        return torch.tensor([[float(o)] for o in objects])

    def judge_names(self) -> tuple[str, ...]:
        return ("itself", "square", "positive")

    def judge(self, name: str) -> Judge[int] | None:
        named: dict[str, Callable[[Any], Any]] = {
            "itself": lambda o: o,
            "square": lambda o: o * o,
            "positive": lambda o: 1.0 * (o > 0),
        }
        if name not in named:
            return None
        one = named[name]
        slope = None if name == "positive" else lambda numbers: one(numbers[:, 0])
        held_out = "square" if name == "itself" else None
        return Judge(
            f"numbers:{name}",
            lambda objects: [float(one(o)) for o in objects],
            "unit",
            "help",
            held_out=held_out,
            slope=slope,
        )

    def numbers(self, x: Tensor, cond: Condition) -> Tensor | None:
        return x.double()

    def table(self, objects: Sequence[int | None]) -> pl.DataFrame:
        return pl.DataFrame({"number": pl.Series(list(objects), dtype=pl.Int64)})

    def notes(self, objects: Sequence[int | None]) -> pl.DataFrame | None:
        even = [o is not None and o % 2 == 0 for o in objects]
        return pl.DataFrame({"even": pl.Series(even, dtype=pl.Boolean)})

    def config(self) -> dict[str, Any]:
        return {}


def identity(numbers: Sequence[int]) -> list[float]:
    return [float(n) for n in numbers]


def picky(numbers: Sequence[int]) -> list[float]:
    """Raises on multiples of 7, is NaN on multiples of 5, dies of 1000, sleeps at 2000."""
    if any(n % 7 == 0 for n in numbers):
        raise ValueError("a seven")
    if 1000 in numbers:
        os._exit(3)
    if 2000 in numbers:
        time.sleep(60.0)
    return [math.nan if n % 5 == 0 else float(n) for n in numbers]


def worker(*recipe: Any) -> Any:
    """As :func:`payoff.jobs.workers.object_judge`, where this kind is known."""
    from payoff.jobs.workers import object_judge

    install()
    return object_judge(*recipe)


def two_processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, get_context("spawn"), install)


def two_threads() -> ThreadPoolExecutor:
    install()
    return ThreadPoolExecutor(2)
