"""Comparisons of seconds on a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from jobs.command_line import call as call
from jobs.tuning_cases import REWARD, table
from jobs.tuning_cases import paid as paid
from payoff.jobs.base import start
from payoff.jobs.compare.job import Compare

MORTAL = '''

def mortal(designs):
    """Takes its process with it after forty designs, until it is cured."""
    if paid() > 40 and not os.path.exists("cured"):
        os.kill(os.getpid(), signal.SIGKILL)
    return load(designs)
'''


def write(folder: Path, module: str) -> None:
    """The table as boards.csv, and the reward's module; the name must be new to this process."""
    table().write_csv(folder / "boards.csv")
    (folder / f"{module}.py").write_text(REWARD + MORTAL)


def compare(config: dict[str, Any], out: str | Path, **flags: bool) -> pl.DataFrame:
    """Run a comparison; its ``compare.csv``."""
    given = {name: value for name, value in config.items() if name != "source"}
    _, folder = start(Compare, config["source"], given, out=out, **flags)
    return pl.read_csv(folder.path / "compare.csv", infer_schema_length=None)
