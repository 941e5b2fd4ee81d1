"""Reads and checks the folder that ``payoff compare`` leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.report.recorded import (
    Array,
    Recorded,
    check_folder,
    damaged,
    floats,
    read,
    read_record,
    text_table,
)

COMMAND = "compare"
CELLS, FRONTIER = "cells", "frontier.csv"
BASE, EXACT = "base", "p* (exact)"
COSTS = ("spent", "distinct", "network", "backward", "seconds", "memory")
TEXTS = ("label", "folder", "error", "stopped", "declared", "size", "note")


@dataclass(frozen=True)
class Cell:
    """One method at one budget with one seed.

    Attributes:
        label: the method with its options, as the user wrote it.
        calls: its budget; 0 for the base and the exact answer.
        seed: of everything random in it.
        folder: its name in ``cells/``.
        error: why it has no results; empty if it has.
        stopped: why its learning ended before its calls were spent; empty if it did not.
        values: what was measured.
        declared: whether a method says that its law tends to p*; empty where it says nothing.
        size: what the budget made of a steering method: ``particles=8``.
        note: why a steering method does not apply; empty if it does.
    """

    label: str
    calls: int
    seed: int
    folder: str
    error: str
    stopped: str
    values: dict[str, float]
    declared: str = ""
    size: str = ""
    note: str = ""


@dataclass(frozen=True)
class Way:
    """Rewards on the way of one learning: (rounds,) calls spent and mean reward."""

    calls: Array
    reward: Array


@dataclass(frozen=True)
class CompareRun(Recorded):
    """A finished comparison, in memory.

    Attributes:
        cells: one entry a row of compare.csv, in its order.
        frontier: (n, 2) divergence and the most gain at it; of closed forms only, else empty.
        ways: of each method at its largest budget, one entry a seed, where that is known.
        network: the rows whose budget is one of network evaluations, which ``calls`` is then.
    """

    cells: tuple[Cell, ...]
    frontier: Array
    ways: dict[str, list[Way]]
    network: tuple[Cell, ...] = ()

    @property
    def by_network(self) -> CompareRun | None:
        """The comparison at equal network evaluations, where there was one."""
        if not self.network:
            return None
        free = tuple(c for c in self.cells if not c.calls)
        return replace(self, cells=(*free, *self.network), ways={}, network=())

    def told(self, label: str, calls: int, text: str) -> str:
        """What the cells of a method at a budget say of themselves; empty if nothing."""
        return next((t for c in self.group(label, calls) if (t := getattr(c, text))), "")

    @property
    def closed_form(self) -> bool:
        """Whether the problem has an exact answer."""
        return "gain" in self.measures

    @property
    def measures(self) -> dict[str, str]:
        """What each measure is, by name."""
        return {str(k): str(v) for k, v in self.entries("measures").items()}

    @property
    def main(self) -> str:
        """The measure that says who is best."""
        names = ("median", "reward", "mean")
        return next((n for n in names if n in self.measures or self.has(n)), "median")

    @property
    def labels(self) -> list[str]:
        """The methods and baselines, in the order of the table."""
        return list(dict.fromkeys(c.label for c in self.cells))

    @property
    def budgets(self) -> list[int]:
        """The numbers of calls, ascending."""
        return sorted({c.calls for c in self.cells if c.calls})

    @property
    def seeds(self) -> int:
        """How often everything was repeated."""
        return len({c.seed for c in self.cells})

    def has(self, measure: str) -> bool:
        """Whether any cell has a value of the measure."""
        return any(measure in c.values for c in self.cells)

    def at(self, calls: int) -> list[str]:
        """The labels that have a cell at a budget; those that spend nothing are at every one."""
        return list(dict.fromkeys(c.label for c in self.cells if c.calls in (calls, 0)))

    def group(self, label: str, calls: int) -> list[Cell]:
        """The cells of a method at a budget, crashed ones too."""
        return [c for c in self.cells if c.label == label and c.calls in (calls, 0)]

    def values(self, label: str, calls: int, measure: str) -> Array:
        """A measure of a method at a budget, one entry a seed that has it."""
        cells = self.group(label, calls)
        return np.array([c.values[measure] for c in cells if measure in c.values])

    def budgets_of(self, label: str) -> list[int]:
        """The budgets of a method; 0 for one that spends nothing."""
        return sorted({c.calls for c in self.cells if c.label == label})


def load(folder: Path) -> CompareRun:
    """Read a run folder.

    Args:
        folder: what ``payoff compare --out`` wrote.

    Raises:
        UserError: the folder, one of its files or a column that must be there is missing or
            cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    record = read_record(folder, COMMAND)
    cells, network = _cells(folder / "compare.csv")
    ways = _ways(folder, cells)
    return CompareRun(folder, record, cells, _frontier(folder, cells), ways, network)


def _cells(path: Path) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """The rows at budgets of reward calls, and those at budgets of network evaluations."""
    frame = read(path, text_table, COMMAND)
    columns = {name.split("\0", 1)[1]: frame[name] for name in frame.columns}
    lacking = [name for name in ("label", "calls", "seed") if name not in columns]
    if lacking:
        raise damaged(path, f"has no column {', '.join(lacking)}", COMMAND)
    words = {n: _words(columns[n]) for n in TEXTS if n in columns}
    numbers = {n: floats(c) for n, c in columns.items() if n not in words}
    empty = [""] * frame.height
    found: list[Cell] = []
    network: list[Cell] = []
    for i in range(frame.height):
        here = {n: float(v[i]) for n, v in numbers.items() if np.isfinite(v[i])}
        calls, seed = here.pop("calls", 0.0), here.pop("seed", 0.0)
        texts = {n: words.get(n, empty)[i] for n in TEXTS}
        budget = here.pop("network_budget", 0.0)
        cell = Cell(calls=int(budget or calls), seed=int(seed), values=here, **texts)
        (network if budget else found).append(cell)
    return tuple(found), tuple(network)


def _words(column: pl.Series) -> list[str]:
    return [str(v) for v in column.cast(pl.String).fill_null("").to_list()]


def _frontier(folder: Path, cells: Iterable[Cell]) -> Array:
    """Exact points of the frontier: those of its own file, else those at the cells' divergences."""
    path = folder / FRONTIER
    if path.exists():
        frame = read(path, text_table, COMMAND)
        columns = {name.split("\0", 1)[1]: floats(frame[name]) for name in frame.columns}
        if {"kl", "gain"} <= columns.keys():
            points = np.column_stack([columns["kl"], columns["gain"]])
            return points[np.isfinite(points).all(1) & (points[:, 0] > 0)]
    pairs = {(c.values["kl"], c.values["frontier"]) for c in cells if "frontier" in c.values}
    kept = sorted(p for p in pairs if p[0] > 0)
    return np.array(kept) if kept else np.empty((0, 2))


def _ways(folder: Path, cells: Iterable[Cell]) -> dict[str, list[Way]]:
    """The histories of the learning, where a cell is a fine-tuning run and can still be read."""
    cells, found = list(cells), dict[str, list[tuple[Way, Way]]]()
    for label in dict.fromkeys(c.label for c in cells):
        most = max(c.calls for c in cells if c.label == label)
        for cell in cells:
            if cell.label == label and cell.calls == most and cell.folder and not cell.error:
                way = _way(folder / CELLS / cell.folder)
                if way is not None:
                    found.setdefault(label, []).append(way)
    held = bool(found) and all(np.isfinite(w[1].reward).any() for ws in found.values() for w in ws)
    return {label: [w[held] for w in ways] for label, ways in found.items()}


def _way(folder: Path) -> tuple[Way, Way] | None:
    """Tuning reward and held-out reward of a learning; None if the folder does not have them.

    A comparison stands on its table: a cell's folder that was deleted or damaged since costs a
    curve and not the page.
    """
    try:
        frame = text_table(folder / "history.csv")
        record: Any = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        pilot = float(record["calls"]["pilot"] or 0)
    except Exception:
        return None
    columns = {name.split("\0", 1)[1]: floats(frame[name]) for name in frame.columns}
    if "calls" not in columns:
        return None
    calls, nothing = columns["calls"] + pilot, np.full(frame.height, np.nan)
    mine, other = (columns.get(name, nothing) for name in ("reward", "held_out"))
    return Way(calls, mine), Way(calls, other)
