"""What the reports of all kinds of runs read in the same way: run.json, and tables as text."""

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
RECORD, REQUEST, REPORT = "run.json", "request.json", "report.html"
KINDS = ("design", "finetune", "steer", "compare")
_TRUE = {"true", "1", "1.0", "yes"}


@dataclass(frozen=True)
class Recorded:
    """A finished run of any kind. Scores are in the user's units and direction throughout.

    Attributes:
        folder: where it was read from.
        record: run.json as it stands.
    """

    folder: Path
    record: dict[str, Any]

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

    def get(self, *path: str) -> Any:
        """An entry of run.json, or None if any step of the path is missing."""
        here: Any = self.record
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def entries(self, *path: str) -> dict[str, Any]:
        """An entry of run.json that is an object; empty if it is missing or something else."""
        found = self.get(*path)
        return found if isinstance(found, dict) else {}

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


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        UserError: says which folder is meant.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no run folder {folder}; name the folder that `payoff design --out` wrote "
            "(or payoff finetune, steer or compare)"
        )


def kind_of(folder: Path) -> str:
    """What kind of run a folder holds: one of :data:`KINDS`.

    Raises:
        UserError: there is no folder, no finished run in it, or one of an unknown kind.
    """
    check_folder(folder)
    if not (folder / RECORD).exists() and not (folder / REQUEST).exists():
        raise UserError(
            f"{folder} holds no run: there is no {RECORD} in it. Name the folder that `payoff "
            "design`, finetune, steer or compare wrote with --out"
        )
    record = read(folder / RECORD, _object, _begun(folder))
    kind = str(record.get("kind") or "design")
    if kind not in KINDS:
        raise UserError(
            f"{folder / RECORD} is of a run of the kind '{kind}', which this version of payoff "
            f"has no report for (it has: {', '.join(KINDS)})"
        )
    return kind


def _begun(folder: Path) -> str:
    """The command that an unfinished folder was begun with, by its request."""
    try:
        request = _object(folder / REQUEST)
    except (OSError, ValueError):
        return "design"
    if "methods" in request:
        return "compare"
    if "particles" in request:
        return "steer"
    return "finetune" if "method" in request else "design"


def read_record(folder: Path, command: str = "design") -> dict[str, Any]:
    """run.json, which must name the score.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / RECORD
    record = read(path, _object, command)
    score = record.get("score")
    if not isinstance(score, dict) or not isinstance(score.get("name"), str):
        raise damaged(path, "does not name the score (key 'score', 'name')", command)
    return record


def damaged(path: Path, what: str, command: str = "design") -> UserError:
    """The error for a file that is missing or cannot be read."""
    return UserError(
        f"the run folder is damaged or was not finished: {path} {what}. "
        f"Finish it with `payoff {command} --resume`, or run it again"
    )


def read(path: Path, reader: Callable[[Path], Any], command: str = "design") -> Any:
    """What ``reader`` makes of a file.

    Raises:
        UserError: it is missing or cannot be read.
    """
    if not path.is_file():
        raise damaged(path, "is missing", command)
    try:
        return reader(path)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(path, f"cannot be read ({reason})", command) from error


def _object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    return found


def text_table(path: Path) -> pl.DataFrame:
    """A CSV file as text columns; since names may repeat, each has its place in front."""
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise damaged(path, "is empty")
    frame = pl.read_csv(path, infer_schema=False)
    if frame.width != len(header):
        raise damaged(path, f"has {frame.width} columns under {len(header)} names")
    return frame.rename(
        {old: f"{i}\0{new}" for i, (old, new) in enumerate(zip(frame.columns, header, strict=True))}
    )


def is_ours(column: str, name: str) -> bool:
    """Whether a column is ``name``, with underscores in front where the user's table has it too."""
    return column.endswith(name) and not column.removesuffix(name).strip("_")


def floats(column: pl.Series) -> Array:
    """Numbers, NaN where a cell is empty or no number."""
    if not column.dtype.is_numeric():
        column = column.cast(pl.String, strict=False)
    return np.asarray(column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy())


def flags(column: pl.Series) -> npt.NDArray[np.bool_]:
    """Which cells say yes."""
    return np.array([str(value).strip().lower() in _TRUE for value in column.to_list()], dtype=bool)
