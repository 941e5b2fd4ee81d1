"""Reads and checks the folder that ``payoff finetune`` leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.report.recorded import (
    Array,
    Recorded,
    check_folder,
    damaged,
    flags,
    floats,
    is_ours,
    read,
    read_record,
    text_table,
)

COMMAND = "finetune"
LEAST = 3  # values that a mean's standard error is taken from


@dataclass(frozen=True)
class Scored:
    """Designs with what was found out about them.

    Attributes:
        rows: their columns (n rows), as the user has them.
        score: (n,) the reward they were made for, NaN where it failed.
        held_out: (n,) the held-out reward; None if there was none.
        valid: (n,) whether they are possible at all and have a score.
        support: (n,) distance from where the data are dense; NaN where that is not measured.
        stable: (n,) whether every atom of a molecule has its valence; None for other designs.
    """

    rows: pl.DataFrame
    score: Array
    held_out: Array | None
    valid: npt.NDArray[np.bool_]
    support: Array
    stable: npt.NDArray[np.bool_] | None = None

    def usable(self, judge: str = "score") -> Array:
        """The finite values of the valid designs by the reward or the held-out reward."""
        values = self.score if judge == "score" else self.held_out
        if values is None:
            return np.array([])
        kept = values[self.valid]
        return kept[np.isfinite(kept)]


@dataclass(frozen=True)
class TuneRun(Recorded):
    """A finished fine-tuning run, in memory.

    Attributes:
        history: the columns of history.csv, one entry a measured round; NaN where nothing is known.
        kept: the place in the history of the round whose weights were returned, or None.
        designs: samples of the tuned model, best first.
        base: samples of the base model.
        data: the rows the base was trained on; None if the folder has none.
    """

    history: dict[str, Array]
    kept: int | None
    designs: Scored
    base: Scored
    data: pl.DataFrame | None

    @property
    def calls(self) -> Array:
        """Reward calls spent until each measured round, those of the pilot included."""
        return self.history["calls"] + (self.number("calls", "pilot") or 0.0)

    def column(self, name: str) -> Array:
        """A column of the history; NaN if it has none of that name."""
        return self.history.get(name, np.full(len(self.history["round"]), np.nan))

    def at(self, name: str, place: int | None) -> float | None:
        """One entry of the history; None if it is unknown."""
        if place is None or not len(self.column(name)):
            return None
        value = float(self.column(name)[place])
        return value if np.isfinite(value) else None

    @property
    def judge(self) -> str:
        """The held-out reward's name without where it comes from; empty if there was none."""
        return str(self.get("score", "held_out") or "").rpartition(":")[2]

    @property
    def one_scale(self) -> bool:
        """Whether the reward and the held-out reward can share an axis.

        They can if the base's samples are alike to both: medians less than three standard
        deviations apart, standard deviations within a factor of three.
        """
        mine, other = self.base.usable(), self.base.usable("held_out")
        if len(mine) < LEAST or len(other) < LEAST:
            return False
        a, b = float(mine.std()), float(other.std())
        gap = abs(float(np.median(mine) - np.median(other)))
        return min(a, b) > 0 and max(a, b) < 3 * min(a, b) and gap < 3 * max(a, b)


def load(folder: Path) -> TuneRun:
    """Read a run folder.

    Args:
        folder: what ``payoff finetune --out`` wrote.

    Raises:
        UserError: the folder, one of its files or a column that must be there is missing or
            cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    record = read_record(folder, COMMAND)
    history = _history(folder / "history.csv")
    tuning = record.get("tuning")
    kept = tuning.get("kept") if isinstance(tuning, dict) else None
    places = np.flatnonzero(history["round"] == (-1 if kept is None else kept))
    data = folder / "data.parquet"
    return TuneRun(
        folder=folder,
        record=record,
        history=history,
        kept=int(places[0]) if len(places) else None,
        designs=scored(folder / "designs.csv"),
        base=scored(folder / "base_designs.csv"),
        data=read(data, pl.read_parquet, COMMAND) if data.exists() else None,
    )


def _history(path: Path) -> dict[str, Array]:
    frame = read(path, text_table, COMMAND)
    found = {name.split("\0", 1)[1]: floats(frame[name]) for name in frame.columns}
    lacking = [name for name in ("round", "calls") if name not in found]
    if lacking:
        raise damaged(path, f"has no column {', '.join(lacking)}", COMMAND)
    order = np.argsort(found["round"], kind="stable")
    return {name: values[order] for name, values in found.items()}


_TAILS = (
    *(("score", "held_out", "valid", "support"), ("score", "valid", "support")),
    *(("score", "held_out", "valid", "stable"), ("score", "valid", "stable")),  # molecules
)


def scored(path: Path, command: str = COMMAND) -> Scored:
    """A table that ends in score, held_out (where there is one), valid and support or stable."""
    frame = read(path, text_table, command)
    names = [name.split("\0", 1)[1] for name in frame.columns]
    for added in _TAILS:
        tail = names[-len(added) :]
        if len(tail) == len(added) and all(map(is_ours, tail, added)):
            break
    else:
        told = "does not end in the columns score[, held_out], valid, support"
        raise damaged(path, told, command)
    inputs = names[: -len(added)]
    if len(set(inputs)) < len(inputs):
        raise damaged(path, "has two input columns of the same name", command)
    last = dict(zip(added, frame.columns[-len(added) :], strict=True))
    rows = frame.select(
        pl.Series(name, _typed(frame[column]))
        for name, column in zip(inputs, frame.columns, strict=False)
    )
    return Scored(
        rows=rows,
        score=floats(frame[last["score"]]),
        held_out=floats(frame[last["held_out"]]) if "held_out" in last else None,
        valid=flags(frame[last["valid"]]),
        support=(
            floats(frame[last["support"]]) if "support" in last else np.full(len(frame), np.nan)
        ),
        stable=flags(frame[last["stable"]]) if "stable" in last else None,
    )


def _typed(column: pl.Series) -> pl.Series:
    """Whole numbers or numbers where every cell is one, else the text."""
    for kind in (pl.Int64, pl.Float64):
        found = column.cast(kind, strict=False)
        if found.null_count() == column.null_count():
            return found
    return column
