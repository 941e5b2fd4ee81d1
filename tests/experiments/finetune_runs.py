"""A table without scores, a reward that writes down what it is asked for, and runs of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from design_runs import table as boards

from payoff.experiments.finetune import TuneConfig
from payoff.finetuning import FinetuneConfig

BASE: dict[str, Any] = {"base_width": 32, "base_depth": 1, "base_steps": 60, "count": 10}
LOOP: dict[str, Any] = {
    **{"calls": 200, "per_round": 40, "updates": 5, "batch_size": 64},
    **{"sampler_steps": 6, "evaluate": 16},
}
DESIGN = ["width", "holes", "wood"]
REWARD = '''
import os
import signal


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


def mortal(designs):
    """Takes its process with it after forty designs, until it is cured."""
    asked = len(open("calls.txt").readlines()) if os.path.exists("calls.txt") else 0
    if asked > 40 and not os.path.exists("cured"):
        os.kill(os.getpid(), signal.SIGKILL)
    return load(designs)


def flat(designs):
    return [1.0] * len(designs)
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


def config(reward: str, **options: Any) -> TuneConfig:
    """A configuration of seconds for boards.csv."""
    given = {"source": "boards.csv", "reward": reward, "method": "rwr", **BASE}
    return TuneConfig(**{**given, **options})


def loop(**options: Any) -> FinetuneConfig:
    """The learning of such a run."""
    return FinetuneConfig(**{**LOOP, **options})


def words(reward: str, out: str | Path, *more: str) -> list[str]:
    """The same as the words of a command line."""
    flags = [w for k, v in {**BASE, **LOOP}.items() for w in ("--" + k.replace("_", "-"), str(v))]
    given = ["finetune", "boards.csv", "--reward", reward, "--method", "rwr", "--out", str(out)]
    return [*given, *flags, *more]
