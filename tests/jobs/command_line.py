"""The command line in this process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from jobs.design_cases import FAST
from payoff import cli


def call(monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    """``payoff COMMAND`` in this process: its exit code."""
    monkeypatch.setattr(sys, "argv", ["payoff", *command])
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def design_words(source: str | Path, out: str | Path, *more: str) -> list[str]:
    """The words of a run of seconds of the design job on boards."""
    flags = [w for k, v in FAST.items() for w in ("--" + k.replace("_", "-"), str(v))]
    given = ["design", str(source), "--score", "load", "--id", "name", "--out", str(out)]
    return [*given, *flags, *more]
