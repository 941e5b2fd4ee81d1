"""A table that can be learned in seconds, and the command line in this process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from payoff import cli
from payoff.experiments.design import DesignConfig

FAST: dict[str, Any] = {
    "reward": "ridge",
    "width": 32,
    "depth": 1,
    "steps": 120,
    "sampler_steps": 6,
    "aims": 3,
    "oversample": 4,
    "count": 12,
}
DESIGN = ["width", "holes", "wood"]


def table(rows: int = 240, labelled_every: int = 4, seed: int = 0) -> pl.DataFrame:
    """Boards: oak ones are wide (60 ± 4), ash ones narrow (30 ± 2); the load grows with width."""
    rng = np.random.default_rng(seed)
    wood = rng.choice(["ash", "oak"], rows)
    width = np.where(wood == "oak", rng.normal(60, 4, rows), rng.normal(30, 2, rows)).round(2)
    holes = rng.integers(0, 5, rows)
    load = 0.5 * width - 2.0 * holes + rng.normal(0, 0.5, rows)
    label = [round(float(v), 3) if i % labelled_every == 0 else None for i, v in enumerate(load)]
    return pl.DataFrame(
        {
            "name": [f"board {i}" for i in range(rows)],
            "width": width,
            "holes": holes,
            "wood": wood,
            "load": pl.Series(label, dtype=pl.Float64),
        }
    )


def config(source: Any = None, **options: Any) -> DesignConfig:
    """A configuration of seconds for :func:`table`."""
    source = table() if source is None else source
    base = {"source": source, "score": "load", "identifiers": ["name"]}
    return DesignConfig(**{**base, **FAST, **options})


def words(source: str | Path, out: str | Path, *more: str) -> list[str]:
    """The same as the words of a command line."""
    flags = [w for k, v in FAST.items() for w in ("--" + k.replace("_", "-"), str(v))]
    given = ["design", str(source), "--score", "load", "--id", "name", "--out", str(out)]
    return [*given, *flags, *more]


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


def files(folder: Path) -> set[str]:
    """Every file and folder below, by relative name."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}
