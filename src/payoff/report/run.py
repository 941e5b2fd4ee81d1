"""Reads and checks the folder that ``payoff design`` leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    median,
    read,
    read_record,
    text_table,
)

__all__ = ["Array", "DesignRun", "Feature", "load", "median"]

JUDGED = ("predicted", "predicted_low", "predicted_high", "novelty", "support")
CHECKED = ("oracle", "valid")
SWEEP = ("aim", "predicted_mean", "predicted_low", "predicted_high", "pessimistic", "shift")
PREDICTED, LABEL = "__predicted", "__label"


@dataclass(frozen=True)
class Feature:
    """An input column that a design has: its name and whether it is a category."""

    name: str
    categorical: bool


@dataclass(frozen=True)
class DesignRun(Recorded):
    """A finished run, in memory. Scores are in the user's units and direction throughout.

    Attributes:
        features: the input columns, in the file's order.
        data: the rows that were learned from (n rows, the features' columns).
        measured: (n,) scores of the data, NaN where there is no label.
        data_predicted: (n,) the learned reward on the data.
        designs: the designs (m rows, the features' columns), best first.
        judged: 'predicted', 'predicted_low', 'predicted_high', 'novelty', 'support', each (m,).
        oracle: (m,) true scores, NaN where it failed; None without an oracle.
        valid: (m,) whether the oracle found the design valid; None if it did not say.
        sweep: the columns of sweep.csv, each with one entry per aim.
    """

    features: tuple[Feature, ...]
    data: pl.DataFrame
    measured: Array
    data_predicted: Array
    designs: pl.DataFrame
    judged: dict[str, Array]
    oracle: Array | None
    valid: npt.NDArray[np.bool_] | None
    sweep: dict[str, Array]

    @property
    def predicted(self) -> Array:
        return self.judged["predicted"]


def load(folder: Path) -> DesignRun:
    """Read a run folder.

    Args:
        folder: what ``payoff design --out`` wrote.

    Raises:
        UserError: the folder, one of its files or a column that must be there is missing or
            cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    record = read_record(folder)
    data = read(folder / "data.parquet", pl.read_parquet)
    sweep_frame = read(folder / "sweep.csv", text_table)
    designs_frame = read(folder / "designs.csv", text_table)

    score = record["score"]["name"]
    if score not in data.columns:  # since payoff 0.2 the labels have a name of their own
        score = max((c for c in data.columns if is_ours(c, LABEL)), key=len, default=score)
    predicted = max((c for c in data.columns if is_ours(c, PREDICTED)), key=len, default=PREDICTED)
    for column in (score, predicted):
        if column not in data.columns:
            raise damaged(folder / "data.parquet", f"has no column '{column}'")
    names, tail = _split_columns(folder / "designs.csv", designs_frame.columns)
    kinds = _kinds(record)
    features = tuple(
        Feature(n, "categor" in kinds.get(n, "") or not data.schema[n].is_numeric())
        for n in names
        if n in data.columns
        and n not in (score, predicted)
        and kinds.get(n) not in ("identifier", "score")
    )
    kept = [f.name for f in features]
    table = designs_frame.rename(dict(zip(designs_frame.columns, [*names, *tail], strict=True)))
    casts = [
        pl.col(f.name).cast(data.schema[f.name], strict=False)
        for f in features
        if data.schema[f.name].is_numeric()
    ]
    columns = {c.split(_TAIL)[-1]: table[c] for c in tail}
    return DesignRun(
        folder=folder,
        record=record,
        features=features,
        data=data.select(kept),
        measured=floats(data[score]),
        data_predicted=floats(data[predicted]),
        designs=table.select(kept).with_columns(casts),
        judged={name: floats(columns[name]) for name in JUDGED},
        oracle=floats(columns["oracle"]) if "oracle" in columns else None,
        valid=flags(columns["valid"]) if "valid" in columns else None,
        sweep=_sweep(folder / "sweep.csv", sweep_frame),
    )


_TAIL = "\0judged:"  # keeps the columns this package adds apart from a user's of the same name


def _split_columns(path: Path, numbered: list[str]) -> tuple[list[str], list[str]]:
    """The input's names and the names of what this package added, which stand last."""
    names = [name.split("\0", 1)[1] for name in numbered]
    for added in ((*JUDGED, *CHECKED), (*JUDGED, CHECKED[0]), JUDGED):
        tail = names[-len(added) :]
        if len(tail) == len(added) and all(map(is_ours, tail, added)):
            inputs = names[: -len(added)]
            if len(set(inputs)) < len(inputs):
                raise damaged(path, "has two input columns of the same name")
            return inputs, [_TAIL + name for name in added]
    raise damaged(path, f"does not end in the columns {', '.join(JUDGED)}[, oracle, valid]")


def _kinds(record: dict[str, Any]) -> dict[str, str]:
    data = record.get("data")
    columns = data.get("columns") if isinstance(data, dict) else None
    listed = columns if isinstance(columns, list) else []
    return {str(c.get("name")): str(c.get("kind")) for c in listed if isinstance(c, dict)}


def _sweep(path: Path, frame: pl.DataFrame) -> dict[str, Array]:
    sweep = {name.split("\0", 1)[1]: floats(frame[name]) for name in frame.columns}
    lacking = [name for name in SWEEP if name not in sweep]
    if lacking:
        raise damaged(path, f"has no column {', '.join(lacking)}")
    order = np.argsort(sweep["aim"], kind="stable")
    return {name: values[order] for name, values in sweep.items()}
