"""A source, options of seconds and a reward for every kind of object, a foreign one among them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.domains import installed

OWN_KIND = Path(__file__).parents[2] / "examples" / "own_kind"
BASE = {"base_width": 16, "base_depth": 1, "base_steps": 40, "base_batch_size": 32}
LAB = """
import os
import signal


def note(n):
    # one line an object; the process ends at the call whose number is LAST
    before = 0
    if os.path.exists(os.environ["PAID"]):
        before = len(open(os.environ["PAID"]).readlines())
    last = int(os.environ.get("LAST", "0"))
    if last and before >= last:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(os.environ["PAID"], "a") as file:
        print("\\n".join(["call"] * n), file=file)


def load(designs):
    note(designs.height)
    return 0.5 * designs["width"] - 2.0 * designs["holes"]


def light(molecule):
    note(1)
    return -float(len(molecule.numbers))


def thick(designs):
    note(designs.height)
    return designs["upper_0"] - designs["lower_0"]


def first(points):
    note(len(points))
    return [float(p[0]) for p in points]


def spread(polygons):
    note(len(polygons))
    return [float(p.std()) for p in polygons]
"""


@dataclass
class Case:
    """How the jobs are tried on a kind.

    Attributes:
        source: data, as a name or a file of the test's folder.
        options: of every job that trains a base.
        reward: one that comes with the kind, or None, and
        own: a user's function, which notes every object that it is asked for.
        score: a column or property to design for.
        files: written beside ``designs.csv``.
    """

    source: str
    own: str
    reward: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    score: str | None = None
    design: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


CASES = {
    "vectors": Case(
        "boards.csv",
        "lab:load",
        options={**BASE, "identifiers": ["name", "stiffness"]},
        score="stiffness",
        design={"identifiers": ["name"]},
    ),
    "airfoils": Case("airfoils", "lab:thick", "airfoils:lift_to_drag", BASE, "lift_to_drag"),
    "molecules": Case(
        "qm9", "lab:light", "molecules:stability", score="alpha", files=("designs.sdf",)
    ),
    "closed": Case("mixture", "lab:first", "closed:reward", score="reward"),
    "polygons": Case("hexagons.polygons", "lab:spread", "polygons:area", BASE, "stiffness"),
}


def write_sources(folder: Path) -> None:
    """The files that the cases name, and the module of the rewards."""
    rng = np.random.default_rng(0)
    n = 80
    width, holes = rng.normal(40, 9, n).round(2), rng.integers(0, 5, n)
    score = 0.5 * width - 2.0 * holes + rng.normal(0, 0.5, n)
    frame = pl.DataFrame(
        {
            "name": [f"board {i}" for i in range(n)],
            "width": width,
            "holes": holes,
            "wood": rng.choice(["ash", "oak", "fir"], n),
            "stiffness": [None if i % 2 else round(v, 3) for i, v in enumerate(score.tolist())],
        }
    )
    frame.write_csv(folder / "boards.csv")
    shutil.copy(OWN_KIND / "hexagons.polygons", folder)
    (folder / "lab.py").write_text(LAB)


@contextmanager
def foreign_kind(folder: Path) -> Iterator[str]:
    """The package of ``examples/own_kind`` as if it were installed; gives its search path.

    It is found by its entry point alone.
    """
    place = folder / "site"
    facts = place / "my_polygons-0.1.dist-info"
    facts.mkdir(parents=True)
    shutil.copytree(OWN_KIND / "my_polygons", place / "my_polygons")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-polygons\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[payoff.kinds]\npolygons = my_polygons:KIND\n")
    sys.path.insert(0, str(place))
    installed.kinds.cache_clear()
    try:
        yield str(place)
    finally:
        sys.path.remove(str(place))
        installed.kinds.cache_clear()
