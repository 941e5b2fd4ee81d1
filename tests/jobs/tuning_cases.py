"""A table without scores, a reward that writes down what it is asked for, and runs of seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any

import polars as pl

from jobs.design_cases import DESIGN, interrupting
from jobs.design_cases import table as boards
from payoff.jobs.base import Outcome, start
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.steer.job import Steer

BASE: dict[str, Any] = {"base_width": 32, "base_depth": 1, "base_steps": 60, "count": 10}
TUNING: dict[str, Any] = {
    **{"method": "rwr", "calls": 200, "per_round": 40, "updates": 5, "batch_size": 64},
    **{"sampler_steps": 6, "evaluate": 16, **BASE},
}
STEERING: dict[str, Any] = {
    **{"method": "best-of-n", "calls": 100, "sampler_steps": 5, "batch": 4},
    **{**BASE, "count": 12},
}
REWARD = '''
import os
import signal


def paid():
    return len(open("calls.txt").readlines()) if os.path.exists("calls.txt") else 0


def load(designs):
    with open("calls.txt", "a") as file:
        for row in designs.iter_rows():
            print(*row, file=file)
    return 0.5 * designs["width"] - 2.0 * designs["holes"]


def fragile(designs):
    if (designs["wood"] == "ash").any():
        raise ValueError("ash splits")
    return load(designs)


def broken(designs):
    raise ValueError("no licence")


def flat(designs):
    return [1.0] * len(designs)


def deadly(designs):
    """Kills its process once, at the thirtieth design it is asked for."""
    if paid() > 30 and not os.path.exists("cured"):
        open("cured", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return load(designs)


def nothing(designs):
    before = paid()
    values = load(designs)
    return values if before < 24 else [float("nan")] * len(designs)


def slow(designs):
    import time
    time.sleep(0.02 * len(designs))
    return load(designs)
'''


def table() -> pl.DataFrame:
    """The boards without their load."""
    return boards().select(DESIGN)


def write(folder: Path, module: str) -> None:
    """The table as boards.csv, and the reward's module; the name must be new to this process."""
    table().write_csv(folder / "boards.csv")
    (folder / f"{module}.py").write_text(REWARD)


def paid(folder: Path) -> list[str]:
    """The designs that the reward was asked for, in order."""
    path = folder / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def tune(reward: Any, out: str | Path, source: Any = "boards.csv", **more: Any) -> Outcome | None:
    """A run of seconds of the fine-tuning job."""
    how = {name: more.pop(name) for name in ("resume", "overwrite") if name in more}
    given = {**TUNING, "reward": reward, **more}
    return start(Finetune, source, given, out=out, quiet=True, **how)[0]


def steered(reward: Any, out: str | Path, source: Any = "boards.csv", **more: Any) -> Any:
    """A run of seconds of the steering job."""
    how = {name: more.pop(name) for name in ("resume", "overwrite") if name in more}
    given = {**STEERING, "reward": reward, **more}
    return start(Steer, source, given, out=out, quiet=True, **how)[0]


def words(job: str, reward: str, out: str | Path, *more: str) -> list[str]:
    """The same as the words of a command line."""
    given = {"finetune": TUNING, "steer": STEERING}[job]
    flags = [w for k, v in given.items() for w in ("--" + k.replace("_", "-"), str(v))]
    return [job, "boards.csv", "--reward", reward, "--out", str(out), *flags, *more]


@contextmanager
def stopped_at(target: str, at: int, number: Signals) -> Iterator[None]:
    """The ``at``-th call of a function sends this process a signal."""
    patched = interrupting(target, at, number)
    next(patched)
    try:
        yield
    finally:
        patched.close()
