"""Warnings of a method while it draws: shown once, kept with the batch that they are about."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from payoff.jobs.progress import Reporter
from payoff.rewards.pooled import Lost
from payoff.steering.base import Degenerate

OURS = (Degenerate, Lost)
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


class Remarks:
    """Collects the warnings of several threads, by the batch that each works on.

    Attributes:
        others: those that are about no batch, such as a worker that died.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.others: list[str] = []
        self._here = threading.local()
        self._lock = threading.Lock()
        self._shown: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the warnings of all threads for the length of the block."""
        # the filters and the hook belong to the whole process: set once, here, not by each thread
        with warnings.catch_warnings():
            for category in OURS:
                warnings.simplefilter("always", category)
            before = warnings.showwarning

            def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
                if issubclass(category, OURS):
                    self._take(str(message))
                else:
                    before(message, category, *rest, **more)

            warnings.showwarning = show
            yield

    @contextmanager
    def about(self, batch: list[str]) -> Iterator[None]:
        """Collect this thread's warnings in the list."""
        self._here.batch = batch
        try:
            yield
        finally:
            self._here.batch = None

    def _take(self, text: str) -> None:
        batch = getattr(self._here, "batch", None)
        (self.others if batch is None else batch).append(text)
        with self._lock:
            new = kind(text) not in self._shown
            self._shown.add(kind(text))
        if new:
            self.reporter.warn(text)


def kind(text: str) -> str:
    """A warning without its numbers: those of two batches differ in nothing else."""
    return NUMBER.sub("#", text)


def gathered(batches: Sequence[Sequence[str]]) -> list[str]:
    """One text a kind, with the first one's numbers, and in how many of the batches it came."""
    first: dict[str, str] = {}
    heard: dict[str, set[int]] = {}
    for place, texts in enumerate(batches):
        for text in texts:
            first.setdefault(kind(text), text)
            heard.setdefault(kind(text), set()).add(place)
    many = len(batches)
    return [
        text if many == 1 else f"{text} (in {len(heard[key])} of {many} batches)"
        for key, text in first.items()
    ]
