"""The figure of steps against quality: from a file of rows to a drawing with every line in it."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HEAD = (
    "sampler,steps,products,samples,molecule_stability,molecule_stability_error,"
    "worst_distance,worst_distance_error"
)
LEVELS = {"0": 0.2, "1": 0.5, "2": 0.501}  # the last two end where their labels would overlap
STEPS = (11, 23, 81)


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import molecule_steps_figure

    yield molecule_steps_figure
    for name in ("molecule_steps_figure", "frontier_figure", "readme_figure"):
        del sys.modules[name]


def parsed(module, folder: Path, rows: list[str]) -> ElementTree.Element:
    source, target = folder / "quality.csv", folder / "steps.svg"
    source.write_text("\n".join([HEAD, *rows]) + "\n")
    module.main(source, target)
    return ElementTree.parse(target).getroot()


def every(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == tag]


def rows() -> list[str]:
    found = [
        f"{name},{steps},{precision},50,{level},0.02,{1 - level},0.05"
        for name, level in LEVELS.items()
        for precision in ("bf16", "fp32")
        for steps in STEPS
    ]
    return [*found, 'QM9,,"",50,0.95,0.01,0.1,']


def test_all_lines_are_there_and_no_label_covers_another(module, tmp_path) -> None:
    root = parsed(module, tmp_path, rows())
    colours = module.COLOURS[: len(LEVELS)]
    lines = [e for e in every(root, "polyline") if e.get("stroke") in colours]
    bars = [e for e in lines if len(e.get("points", "").split()) == 2]
    curves = [e for e in lines if len(e.get("points", "").split()) == len(STEPS)]
    assert len(curves) == 2 * len(LEVELS)
    assert len(bars) == len(every(root, "circle")) == 2 * len(LEVELS) * len(STEPS)
    assert sum(e.get("stroke-dasharray") is not None for e in every(root, "line")) == 2
    words = [e.text for e in every(root, "text")]
    for label in ("η = 0", "η = 1", "η = 2", "real molecules", *map(str, STEPS)):
        assert words.count(label) == 2
    ends = [e for e in every(root, "text") if e.get("fill") in colours or e.text == words[-1]]
    for side in {e.get("x") for e in ends}:
        heights = sorted(float(e.get("y", "nan")) for e in ends if e.get("x") == side)
        assert all(b - a >= module.GAP - 0.2 for a, b in pairwise(heights))


def test_a_setting_without_valid_molecules_has_a_gap(module, tmp_path) -> None:
    """The share is known, the distance is not."""
    broken = "0,5,bf16,50,0.0,0.0,,"
    root = parsed(module, tmp_path, [broken, *rows()])
    colour = module.COLOURS[0]
    dots = [e for e in every(root, "circle") if e.get("fill") == colour]
    assert len(dots) == 2 * len(STEPS) + 1


def test_labels_stay_apart_and_inside(module) -> None:
    places = module.spread([5.0, 95.0, 94.0, 99.0], 10, 0, 100)
    assert places[0] == 5
    assert sorted(places) == pytest.approx([5, 80, 90, 100])
    assert places[2] < places[1] < places[3]
