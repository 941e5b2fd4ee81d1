"""The report of a comparison on fabricated folders: what it concludes, draws and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fabricated_tuning import EXACT_MEASURES, compare_run, exact_run
from test_report import SCRIPT, Structure, figures_of, page_of, tables_of, words_of

from payoff.errors import UserError
from payoff.report import build
from payoff.report.compare import load
from payoff.report.compare.conclusion import apart, best, leaders
from payoff.report.compare.figures import against_divergence, frontier_curve
from payoff.report.compare.tables import rounded

TRADES = ("trade-valid", "trade-vendi", "trade-support")
AHEAD = "every one of its seeds is better"
SCORES: dict[str, dict[int, list[float]]] = {
    "base": {0: [100.0, 101, 99]},
    "rwr": {100: [105.0, 106, 107], 1000: [115.0, 116, 117]},
    "ddpo:clip=0.2": {100: [104.0, 105.5, 103], 1000: [120.0, 121, 122]},
}


def test_several_budgets_show_every_part(tmp_path: Path) -> None:
    page = page_of(compare_run(tmp_path / "run", SCORES, ways=True))
    words = words_of(page)
    drawn = {"calls-score", "ways", "kl-score", "rows-cost", *TRADES}
    assert set(figures_of(page)) == drawn
    for part in (
        "a comparison of 2 ways to a higher load at 100 and 1,000 reward calls",
        "106.0 ± 1.0", "104.2 ± 1.3", "median score of the valid samples",
        "No run stopped before its calls were spent, and none crashed",
        "Validity is kept", "payoff compare boards.csv", "compare.csv",
    ):  # fmt: skip
        assert part in words, part
    lines = {t["name"]: t for t in figures_of(page)["calls-score"]["data"]}
    assert set(lines) == {"base", "rwr", "ddpo:clip=0.2"}
    assert all(t["y"] for t in lines.values())


def test_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    for folder in (
        compare_run(tmp_path / "run", SCORES, ways=True),
        exact_run(tmp_path / "exact"),
    ):
        found = Structure(page_of(folder))
        assert found.open == []
        assert len(set(found.ids)) == len(found.ids)
        for tag, address in found.addresses:
            assert address.startswith(("#", "data:")), (tag, address)
            assert not address.startswith("#") or address[1:] in found.ids


def test_methods_are_told_apart_only_without_overlap(tmp_path: Path) -> None:
    run = load(compare_run(tmp_path / "run", SCORES))
    assert "cannot be told apart from ddpo:clip=0.2" in best(run, 100)
    assert AHEAD not in best(run, 100)
    assert AHEAD in best(run, 1000)
    assert leaders(run, 100) == ["rwr", "ddpo:clip=0.2"]
    assert leaders(run, 1000) == ["ddpo:clip=0.2"]


def test_being_apart_is_symmetric_and_survives_a_change_of_units() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = rng.normal(0, 1, 3), rng.normal(1, 1, 4)
        told = apart(a, b)
        assert told == apart(b, a) == apart(3 * a + 5, 3 * b + 5) == apart(-a, -b)
        assert told == (a.max() < b.min() or b.max() < a.min())
        assert not apart(a[:1], b)


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    one = {k: {c: v[:1] for c, v in s.items()} for k, s in SCORES.items()}
    folder = compare_run(tmp_path / "run", one)
    page = page_of(folder)
    words = words_of(page)
    assert "This is one seed: it does not say how much of the difference is chance" in words
    assert AHEAD not in words
    assert "±" not in words
    assert not any("<b>" in table for table in tables_of(page)[:2])
    assert leaders(load(folder), 1000) == []


def test_a_method_alone_is_ahead_of_nobody(tmp_path: Path) -> None:
    alone = {name: SCORES[name] for name in ("base", "rwr")}
    told = best(load(compare_run(tmp_path / "run", alone)), 1000)
    assert "<b>rwr</b> has a median load of 116" in told
    assert "nothing to compare it with" in told
    assert "highest" not in told


def test_the_order_of_the_cells_does_not_matter(tmp_path: Path) -> None:
    folder = compare_run(tmp_path / "run", SCORES)
    told = [best(load(folder), calls) for calls in (100, 1000)]
    pl.read_csv(folder / "compare.csv").reverse().write_csv(folder / "compare.csv")
    assert [best(load(folder), calls) for calls in (100, 1000)] == told


def test_minimising_makes_the_lowest_the_best(tmp_path: Path) -> None:
    turned = {k: {c: [-v for v in vs] for c, vs in s.items()} for k, s in SCORES.items()}
    run = load(compare_run(tmp_path / "run", SCORES))
    other = load(compare_run(tmp_path / "turned", turned, minimize=True))
    assert [leaders(run, c) for c in (100, 1000)] == [leaders(other, c) for c in (100, 1000)]
    assert "has the lowest median load" in best(other, 1000)


def test_what_was_chosen_afterwards_is_kept_apart(tmp_path: Path) -> None:
    scores = SCORES | {"best-of-n": {1000: [130.0, 131, 132]}}
    words = words_of(page_of(compare_run(tmp_path / "run", scores)))
    assert "best-of-n, whose designs are chosen among more samples by a score," in words
    assert "Where nothing is chosen afterwards, the samples of ddpo:clip=0.2" in words


def test_lost_validity_is_told(tmp_path: Path) -> None:
    # 1,200 samples each: a standard error of 0.9 points, so 20 points are lost and 1 is not
    extra = {"rwr": {"valid": 0.7}, "ddpo:clip=0.2": {"valid": 0.89}}
    words = words_of(page_of(compare_run(tmp_path / "run", SCORES, extra=extra)))
    assert "Validity is lost, beyond chance, by rwr (70 %); the base has 90 %" in words
    assert "ddpo:clip=0.2 (89" not in words


def test_not_better_than_the_base_is_told(tmp_path: Path) -> None:
    scores = SCORES | {"awm": {1000: [99.5, 100.5, 103.0]}}
    words = words_of(page_of(compare_run(tmp_path / "run", scores)))
    assert "Not clearly better than the base, 100 (seeds: 99 to 101), is awm." in words


def test_crashed_and_stopped_cells_are_listed(tmp_path: Path) -> None:
    crash = {"label": "rwr", "calls": 1000, "seed": 3, "folder": "x", "error": "out of memory"}
    extra = {"ddpo:clip=0.2": {"stopped": "the divergence went beyond max_kl"}}
    words = words_of(page_of(compare_run(tmp_path / "run", SCORES, errors=[crash], extra=extra)))
    assert "rwr, 1,000 calls, seed 3 crashed: out of memory" in words
    assert "1 of 4 crashed" in words
    assert "stopped: the divergence went beyond max_kl" in words
    assert "1 run of" in words


def test_a_closed_form_has_its_frontier(tmp_path: Path) -> None:
    folder = exact_run(tmp_path / "run")
    words, figure = words_of(page_of(folder)), against_divergence(load(folder))
    assert "the largest share of the possible gain is made by rwr, 97 %" in words
    assert "too far from the base or hardly moved: rgdm" in words
    assert "rgdm has more in every seed, which is no merit" in words
    assert figure is not None
    curve = next(t for t in figure.plot.data if t.name.startswith("frontier"))
    x, y = np.array(curve.x), np.array(curve.y)
    # the fabricated frontier is 0.6 √k: interpolation over √k is exact for it
    assert np.abs(y - 0.6 * np.sqrt(x)).max() < 1e-9
    # a file of its own, if there is one, takes the place of the cells' points
    pl.DataFrame({"kl": [0.5, 4.0], "gain": [0.3, 0.9]}).write_csv(folder / "frontier.csv")
    assert load(folder).frontier.tolist() == [[0.5, 0.3], [4.0, 0.9]]


def test_the_frontier_passes_through_its_points() -> None:
    points = np.array([[0.01, 0.08], [0.3, 0.4], [2.0, 0.7]])
    x, y = frontier_curve(points, 0.0)
    assert x[0] == y[0] == 0
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert np.interp(np.sqrt(points[:, 0]), np.sqrt(x), y) == pytest.approx(points[:, 1], abs=5e-3)


def test_rounding_keeps_two_digits_of_the_error() -> None:
    rng = np.random.default_rng(1)
    for value, error in zip(rng.normal(0, 50, 300), 10 ** rng.uniform(-4, 2, 300), strict=True):
        shown = float(rounded(value, error).replace("−", "-").replace(",", ""))
        assert abs(shown - value) <= max(0.051 * error, 0.5 if error > 10 else 0)


@pytest.mark.parametrize(
    "given",
    [
        {"scores": {"rwr": {100: [105.0]}}},
        {"scores": {"base": {0: [100.0]}}},
        {"scores": SCORES, "drop": ("kl", "valid", "vendi", "support", "held_out")},
        {"scores": SCORES, "drop": ("median",)},
        {"scores": SCORES, "drop": ("seconds", "memory", "samples", "folder")},
        {"scores": SCORES, "extra": {"rwr": {"valid": None, "kl": None, "median": None}}},
        {"scores": {"rwr": {100: [7.0, 7.0]}, "awm": {100: [7.0, 7.0]}}},
        {"scores": {}, "errors": [{"label": "rwr", "calls": 9, "seed": 0, "error": "boom"}]},
        {"scores": SCORES, "measures": EXACT_MEASURES},
    ],
)
def test_missing_values_do_not_break_a_page(tmp_path: Path, given: dict[str, Any]) -> None:
    words = words_of(page_of(compare_run(tmp_path / "run", **given))).split()
    assert "nan" not in [w.lower() for w in words]
    assert "None" not in words


def test_a_lost_cell_costs_its_curve_only(tmp_path: Path) -> None:
    folder = compare_run(tmp_path / "run", SCORES, ways=True)
    assert {k: len(v) for k, v in load(folder).ways.items()} == {"rwr": 3, "ddpo:clip=0.2": 3}
    shutil.rmtree(folder / "cells" / "rwr-1000-seed1")
    (folder / "cells" / "rwr-1000-seed2" / "history.csv").write_text("")
    assert {k: len(v) for k, v in load(folder).ways.items()} == {"rwr": 1, "ddpo:clip=0.2": 3}
    assert "ways" in figures_of(page_of(folder))


def test_many_methods_look_different(tmp_path: Path) -> None:
    scores = {f"rgdm:radius={i / 10}": {100: [100.0 + i, 101.0 + i]} for i in range(20)}
    page = page_of(compare_run(tmp_path / "run", scores))
    traces = [t for t in figures_of(page)["kl-score"]["data"] if t.get("mode") == "markers"]
    assert len({(t["marker"]["color"], t["marker"]["symbol"]) for t in traces}) == 20


def test_names_cannot_become_code(tmp_path: Path) -> None:
    scores = {SCRIPT: {100: [1.0, 2.0]}, "<img src=x onerror=alert(1)>": {100: [3.0, 4.0]}}
    crash = {"label": SCRIPT, "calls": 100, "seed": 5, "error": SCRIPT}
    folder = compare_run(
        tmp_path / "run",
        scores,
        errors=[crash],
        name=SCRIPT,
        command=["payoff", SCRIPT],
        score={"name": SCRIPT, "direction": "maximize"},
        config={SCRIPT: SCRIPT},
    )
    page = page_of(folder)
    assert Structure(page).open == []
    assert "<img" not in page
    assert "owned'</script" not in page


@pytest.mark.parametrize("lost", ["compare.csv", "run.json"])
def test_damaged_folders_are_refused(tmp_path: Path, lost: str) -> None:
    folder = compare_run(tmp_path / "run", SCORES)
    (folder / lost).unlink()
    (folder / "request.json").write_text('{"methods": "rwr"}', encoding="utf-8")
    with pytest.raises(UserError, match="payoff compare --resume"):
        build(folder)
    pl.DataFrame({"label": ["rwr"]}).write_csv(folder / "compare.csv")
    record = {"kind": "compare", "score": {"name": "load"}}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no column calls, seed"):
        build(folder)
