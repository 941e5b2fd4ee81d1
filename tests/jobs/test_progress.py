"""What is said while a run works: the time that is left, and lines where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from payoff.jobs import progress
from payoff.jobs.progress import Pace, Reporter, duration


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_the_pace() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    pace.read(0)
    assert pace.left() is None
    clock.now += 4
    pace.read(2)
    assert pace.left() == pytest.approx(16)
    clock.now += 3  # it counts down between two readings
    assert pace.left() == pytest.approx(13)
    clock.now += 1000
    assert pace.left() == 0


def test_a_continued_run_counts_its_own_steps_only() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    clock.now += 1
    pace.read(900)
    assert pace.left() is None
    clock.now += 5
    pace.read(950)
    assert pace.left() == pytest.approx(5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1:01 min"), (3600 * 2.5, "2:30 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def reporter(quiet: bool = False, terminal: bool = False) -> tuple[Reporter, io.StringIO]:
    reporter, stream = Reporter(quiet), io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    reporter.console = console
    return reporter, stream


def test_a_terminal_gets_a_bar() -> None:
    said, stream = reporter(terminal=True)
    with said.bar("training the model", 3) as advance:
        for i in range(4):
            advance(i)
    assert "training the model" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "Pace", lambda total: Pace(total, clock))
    said, stream = reporter()
    with said.bar("training the model", 100) as advance:
        for i in range(0, 101, 10):
            advance(i)
            clock.now += 10
    assert stream.getvalue().splitlines() == [
        "training the model: 30/100, 1:10 min left",
        "training the model: 60/100, 40 s left",
        "training the model: 90/100, 10 s left",
        "training the model: 100/100 in 1:50 min",
    ]


def test_what_is_quick_is_not_mentioned() -> None:
    said, stream = reporter()
    with said.bar("trying aims", 2) as advance:
        advance(2)
    assert stream.getvalue() == ""


def test_quiet() -> None:
    said, stream = reporter(quiet=True, terminal=True)
    said.say("a remark")
    with said.bar("trying aims", 2) as advance:
        advance(1)
    assert stream.getvalue() == ""
    said.warn("column [bold]x[/bold] is odd")
    assert stream.getvalue() == "warning: column [bold]x[/bold] is odd\n"
