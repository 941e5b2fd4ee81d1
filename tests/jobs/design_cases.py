"""Sources of several kinds that can be learned in seconds, and runs of the design job on them."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from payoff.domains import installed
from payoff.jobs.base import Outcome, start
from payoff.jobs.design.job import Design
from payoff.jobs.records import RunFolder

FAST: dict[str, Any] = {
    "regressor": "ridge",
    "width": 32,
    "depth": 1,
    "steps": 120,
    "sampler_steps": 6,
    "aims": 3,
    "oversample": 4,
    "count": 12,
}
BOARDS = {"score": "load", "identifiers": ["name"]}
DESIGN = ["width", "holes", "wood"]
OWN_KIND = Path(__file__).parents[2] / "examples" / "own_kind"


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


def molecules(labelled_every: int = 1) -> pl.DataFrame:
    """Forty small molecules whose score is nearly their number of letters."""
    stems = ("C", "CC", "CCC", "C1CC1", "CC(C)", "C1CCC1", "OCC", "NCC")
    smiles = [stem + end for stem in stems for end in ("O", "N", "C#N", "F", "OC")]
    score = [
        round(len(text) + 0.1 * (i % 3), 2) if i % labelled_every == 0 else None
        for i, text in enumerate(smiles)
    ]
    return pl.DataFrame({"smiles": smiles, "logS": score})


def polygons(path: Path, rows: int = 150) -> None:
    """Hexagons whose score is their size."""
    rng, lines = np.random.default_rng(0), []
    for i in range(rows):
        angles = np.sort(np.linspace(0, 2 * np.pi, 6, endpoint=False) + rng.normal(0, 0.1, 6))
        radii = rng.uniform(0.6, 1.4) * (1 + 0.1 * rng.standard_normal(6))
        corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1).round(4)
        score = {"size": round(float(radii.mean()), 4)} if i % 2 == 0 else {}
        lines.append(json.dumps({"corners": corners.tolist(), **score}))
    path.write_text("\n".join(lines) + "\n")


KINDS = ("vectors", "molecules", "polygons")
"""The kinds of the cases: the package's own, and one of another package."""
OPTIONS: dict[str, dict[str, Any]] = {
    "vectors": BOARDS,
    "molecules": {
        **{"score": "logS", "base": "none", "oversample": 1, "count": 6, "aims": 2, "steps": 20},
        **{"width": 16, "sampler_steps": 4, "batch_size": 32},
    },
    "polygons": {"score": "size", "count": 6, "support": 3.0},
}


def source_of(kind: str, folder: Path) -> Path:
    """Write the file of a kind into a folder."""
    if kind == "polygons":
        polygons(folder / "hexagons.polygons")
        return folder / "hexagons.polygons"
    name, frame = ("boards.csv", table()) if kind == "vectors" else ("mine.csv", molecules())
    frame.write_csv(folder / name)
    return folder / name


def with_polygons(patch: pytest.MonkeyPatch) -> None:
    """Install the example's kind for the length of a test."""
    patch.syspath_prepend(str(OWN_KIND))
    kind = importlib.import_module("my_polygons").KIND
    patch.setitem(installed.kinds(), kind.name, kind)


def run(source: Any, out: Path, given: dict[str, Any], **how: Any) -> Outcome:
    """A run of seconds; its outcome."""
    outcome, _ = start(Design, source, {**FAST, **given}, out=out, quiet=True, **how)
    assert outcome is not None
    return outcome


def boards(out: Path, source: Any = None, **options: Any) -> pl.DataFrame:
    """The designs of a run on :func:`table`."""
    how = {name: options.pop(name) for name in ("resume", "overwrite") if name in options}
    source = table() if source is None else source
    outcome = run(source, out, {**BOARDS, **options}, **how)
    assert outcome.designs is not None
    return outcome.designs.table


def files(folder: Path) -> set[str]:
    """Every file and folder below, by relative name."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def begun(path: Path) -> RunFolder:
    """A folder with a request and no record."""
    return RunFolder(path, {})


def interrupting(target: str, at: int, number: signal.Signals) -> Iterator[None]:
    """Patch a function so that its ``at``-th call sends a signal to this process first."""
    module, _, name = target.rpartition(".")
    seen = 0

    with pytest.MonkeyPatch.context() as patch:
        try:
            owner = importlib.import_module(module)
        except ModuleNotFoundError:
            package, _, cls = module.rpartition(".")
            owner = getattr(importlib.import_module(package), cls)
        original = getattr(owner, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            nonlocal seen
            seen += 1
            if seen == at:
                signal.raise_signal(number)
            return original(*args, **kwargs)

        patch.setattr(owner, name, wrapped)
        yield


PROGRAM = """
import json, sys
from payoff.jobs.base import Interrupted, start
from payoff.jobs.design.job import Design

given = json.loads(sys.argv[3])
try:
    start(Design, sys.argv[1], given, out=sys.argv[2], quiet=True)
except Interrupted as stopped:
    print(" ".join(stopped.words), file=sys.stderr)
    sys.exit(130)
"""


def program(source: str, out: Path, given: dict[str, Any]) -> list[str]:
    """The words of a process that runs the job on a table."""
    return [sys.executable, "-c", PROGRAM, source, str(out), json.dumps({**FAST, **given})]
