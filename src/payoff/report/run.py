"""Reads and checks the folder that ``payoff design`` leaves behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.errors import UserError

Array = npt.NDArray[np.float64]

JUDGED = ("predicted", "predicted_low", "predicted_high", "novelty", "support")
CHECKED = ("oracle", "valid")
SWEEP = ("aim", "predicted_mean", "predicted_low", "predicted_high", "pessimistic", "shift")
PREDICTED = "__predicted"
_TRUE = {"true", "1", "1.0", "yes"}


@dataclass(frozen=True)
class Feature:
    """An input column that a design has: its name and whether it is a category."""

    name: str
    categorical: bool


@dataclass(frozen=True)
class DesignRun:
    """A finished run, in memory. Scores are in the user's units and direction throughout.

    Attributes:
        folder: where it was read from.
        record: run.json as it stands.
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

    folder: Path
    record: dict[str, Any]
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
    def name(self) -> str:
        return str(self.get("name") or self.folder.resolve().name)

    @property
    def score(self) -> str:
        return str(self.get("score", "name"))

    @property
    def unit(self) -> str:
        return str(self.get("score", "unit") or "")

    @property
    def sign(self) -> int:
        """+1 when more is better, -1 when less is."""
        return -1 if self.get("score", "direction") == "minimize" else 1

    @property
    def predicted(self) -> Array:
        return self.judged["predicted"]

    def get(self, *path: str) -> Any:
        """An entry of run.json, or None if any step of the path is missing."""
        here: Any = self.record
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def number(self, *path: str) -> float | None:
        """An entry of run.json if it is a finite number, otherwise None."""
        value = self.get(*path)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if np.isfinite(value) else None

    def best(self, values: Array) -> float | None:
        """The best of the finite values, in the user's direction; None if there are none."""
        kept = values[np.isfinite(values)]
        return float(self.sign * np.max(self.sign * kept)) if len(kept) else None

    def argbest(self, values: Array) -> int | None:
        """Where the best finite value stands; None if there are none."""
        if not np.isfinite(values).any():
            return None
        return int(np.nanargmax(np.where(np.isfinite(values), self.sign * values, np.nan)))


def median(values: Array | None) -> float | None:
    """The median of the finite values; None if there are none."""
    kept = np.array([]) if values is None else values[np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else None


def load(folder: Path) -> DesignRun:
    """Read a run folder.

    Args:
        folder: what ``payoff design --out`` wrote.

    Raises:
        UserError: the folder, one of its files or a column that must be there is missing or
            cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"there is no run folder {folder}; name the folder that `payoff design --out` wrote"
        )
    record = _read(folder / "run.json", _record)
    data = _read(folder / "data.parquet", pl.read_parquet)
    sweep_frame = _read(folder / "sweep.csv", _text_table)
    designs_frame = _read(folder / "designs.csv", _text_table)

    score = record["score"]["name"]
    predicted = max((c for c in data.columns if _is_ours(c, PREDICTED)), key=len, default=PREDICTED)
    for column in (score, predicted):
        if column not in data.columns:
            raise _damaged(folder / "data.parquet", f"has no column '{column}'")
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
        measured=_floats(data[score]),
        data_predicted=_floats(data[predicted]),
        designs=table.select(kept).with_columns(casts),
        judged={name: _floats(columns[name]) for name in JUDGED},
        oracle=_floats(columns["oracle"]) if "oracle" in columns else None,
        valid=_flags(columns["valid"]) if "valid" in columns else None,
        sweep=_sweep(folder / "sweep.csv", sweep_frame),
    )


_TAIL = "\0judged:"  # keeps the columns this package adds apart from a user's of the same name


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"the run folder is damaged or was not finished: {path} {what}. "
        "Finish it with `payoff design --resume`, or run it again"
    )


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise _damaged(path, "is missing")
    try:
        return reader(path)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _damaged(path, f"cannot be read ({reason})") from error


def _record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text(encoding="utf-8"))
    score = record.get("score") if isinstance(record, dict) else None
    if not isinstance(score, dict) or not isinstance(score.get("name"), str):
        raise _damaged(path, "does not name the score (key 'score', 'name')")
    return dict(record)


def _text_table(path: Path) -> pl.DataFrame:
    """A CSV file as text columns, whose names may repeat (they are numbered then)."""
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise _damaged(path, "is empty")
    frame = pl.read_csv(path, infer_schema=False)
    if frame.width != len(header):
        raise _damaged(path, f"has {frame.width} columns under {len(header)} names")
    return frame.rename(
        {old: f"{i}\0{new}" for i, (old, new) in enumerate(zip(frame.columns, header, strict=True))}
    )


def _split_columns(path: Path, numbered: list[str]) -> tuple[list[str], list[str]]:
    """The input's names and the names of what this package added, which stand last."""
    names = [name.split("\0", 1)[1] for name in numbered]
    for added in ((*JUDGED, *CHECKED), (*JUDGED, CHECKED[0]), JUDGED):
        tail = names[-len(added) :]
        if len(tail) == len(added) and all(map(_is_ours, tail, added)):
            inputs = names[: -len(added)]
            if len(set(inputs)) < len(inputs):
                raise _damaged(path, "has two input columns of the same name")
            return inputs, [_TAIL + name for name in added]
    raise _damaged(path, f"does not end in the columns {', '.join(JUDGED)}[, oracle, valid]")


def _is_ours(column: str, name: str) -> bool:
    """Whether a column is ``name``, with underscores in front where the user's table has it too."""
    return column.endswith(name) and not column.removesuffix(name).strip("_")


def _kinds(record: dict[str, Any]) -> dict[str, str]:
    data = record.get("data")
    columns = data.get("columns") if isinstance(data, dict) else None
    listed = columns if isinstance(columns, list) else []
    return {str(c.get("name")): str(c.get("kind")) for c in listed if isinstance(c, dict)}


def _floats(column: pl.Series) -> Array:
    if not column.dtype.is_numeric():
        column = column.cast(pl.String, strict=False)
    return np.asarray(column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy())


def _flags(column: pl.Series) -> npt.NDArray[np.bool_]:
    return np.array([str(value).strip().lower() in _TRUE for value in column.to_list()], dtype=bool)


def _sweep(path: Path, frame: pl.DataFrame) -> dict[str, Array]:
    sweep = {name.split("\0", 1)[1]: _floats(frame[name]) for name in frame.columns}
    lacking = [name for name in SWEEP if name not in sweep]
    if lacking:
        raise _damaged(path, f"has no column {', '.join(lacking)}")
    order = np.argsort(sweep["aim"], kind="stable")
    return {name: values[order] for name, values in sweep.items()}
