"""Progress: one bar a stage with the time that is left, plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
from rich.progress import ProgressColumn as Column
from rich.progress import TimeElapsedColumn as Elapsed
from rich.text import Text

Advance = Callable[[int], None]
LONG = 2.0  # seconds that a stage takes before a log file mentions it
EVERY = 30.0  # seconds between two lines where there is no terminal


class Pace:
    """How long the rest of some work will take, from how long its steps took so far.

    The clock starts with the first reading, which may be 0 steps or, in a continued run, many: what
    was done before it says nothing about the pace.

    Args:
        total: number of steps.
        clock: seconds, from any start.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock = total, 0, clock
        self.began = clock()
        self.first: tuple[float, int] | None = None
        self.last = self.began

    def read(self, done: int) -> None:
        """Take note that ``done`` steps are done now."""
        self.done, self.last = done, self.clock()
        if self.first is None:
            self.first = (self.last, done)

    def left(self) -> float | None:
        """Seconds left, None while nothing is known."""
        if self.first is None or self.done <= self.first[1]:
            return None
        each = (self.last - self.first[0]) / (self.done - self.first[1])
        return max(0.0, (self.total - self.done) * each - (self.clock() - self.last))


class _Left(Column):
    """The time left of a task that carries its pace."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text("")
        left = task.fields["pace"].left()
        return Text("" if left is None else f"{duration(left)} left", style="cyan")


class Reporter:
    """Where a run says what it does.

    Args:
        quiet: no progress and no remarks; warnings are always shown.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line of text, printed as it is."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line that is shown even when quiet."""
        self.console.print(f"warning: {text}", markup=False)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A bar of ``total`` steps; the block gets a function that sets how many are done.

        Where the pace should be known from the first step on, set 0 at the start.
        """
        pace = Pace(total)
        if self.quiet:
            yield lambda done: None
        elif not self.console.is_terminal:
            yield self._lines(title, pace)
            took = pace.clock() - pace.began
            if took >= LONG:
                self.say(f"{title}: {pace.done}/{total} in {duration(took)}")
        else:
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(),
                MofNCompleteColumn(),
                Elapsed(),
                _Left(),
            )
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task(title, total=total, pace=pace)

                def advance(done: int) -> None:
                    pace.read(done)
                    progress.update(task, completed=done)

                yield advance

    def _lines(self, title: str, pace: Pace) -> Advance:
        """Progress for a log file: a line now and then."""
        said = pace.began

        def advance(done: int) -> None:
            nonlocal said
            pace.read(done)
            left = pace.left()
            if pace.last - said >= EVERY and left is not None and done < pace.total:
                said = pace.last
                self.say(f"{title}: {done}/{pace.total}, {duration(left)} left")

        return advance


def duration(seconds: float) -> str:
    """«12 s», «3:05 min» or «2:10 h»."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
