"""Reads and checks the folder that ``payoff steer`` leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from payoff.report.finetune.run import TuneRun, scored
from payoff.report.recorded import (
    Array,
    check_folder,
    damaged,
    floats,
    read,
    read_record,
    text_table,
)

COMMAND = "steer"
TOOK = ("batch", "designs", "calls", "failed", "network", "backward", "seconds", "reward_seconds")


@dataclass(frozen=True)
class SteerRun(TuneRun):
    """A finished steering run, in memory: designs and base as in a fine-tuning run.

    Its ``history`` has one entry a batch of designs, and no round is kept.
    """

    @property
    def reported(self) -> dict[str, Array]:
        """What the method reports of each batch, by name."""
        return {k: v for k, v in self.history.items() if k not in TOOK and np.isfinite(v).any()}

    @property
    def calls(self) -> Array:
        """Reward calls of each batch."""
        return self.column("calls")

    def column(self, name: str) -> Array:
        """A column of the history; NaN if it has none of that name."""
        return self.history.get(name, np.full(len(self.history["batch"]), np.nan))


def load(folder: Path) -> SteerRun:
    """Read a run folder.

    Args:
        folder: what ``payoff steer --out`` wrote.

    Raises:
        UserError: the folder, one of its files or a column that must be there is missing or
            cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    record = read_record(folder, COMMAND)
    path, data = folder / "history.csv", folder / "data.parquet"
    frame = read(path, text_table, COMMAND)
    history = {name.split("\0", 1)[1]: floats(frame[name]) for name in frame.columns}
    lacking = [name for name in ("batch", "designs", "calls") if name not in history]
    if lacking:
        raise damaged(path, f"has no column {', '.join(lacking)}", COMMAND)
    return SteerRun(
        folder=folder,
        record=record,
        history=history,
        kept=None,
        designs=scored(folder / "designs.csv", COMMAND),
        base=scored(folder / "base_designs.csv", COMMAND),
        data=read(data, pl.read_parquet, COMMAND) if data.exists() else None,
    )
