"""The airfoil benchmark at toy size: same evidence for all, sound measures, a page it can renew."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

pytest.importorskip("aerosandbox")
pytest.importorskip("neuralfoil")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONDITION = ["--preset", "toy", "--seeds", "100", "--alpha", "4", "--reynolds", "1.5e6"]
METHODS = "payoff,best-of-n,labelled,rows,ascent,ascent-pessimistic-short"


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import airfoil_designs

        yield airfoil_designs
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def study(module, tmp_path_factory):
    out = tmp_path_factory.mktemp("airfoils")
    page = out / "page.md"
    page.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n")
    arguments = [*CONDITION, "--methods", METHODS, "--out", str(out), "--doc", str(page)]
    return module.main(arguments), out


@pytest.fixture(scope="module")
def evidence(module, study):
    _, out = study
    return module.Evidence.of(out / "seed-100/run", 12, 800, 100, module.TOY)


def test_every_method_has_a_row_with_the_same_evidence(module, study) -> None:
    result, out = study
    assert [row["method"] for row in result["rows"]] == METHODS.split(",")
    assert len({row["evidence"] for row in result["rows"]}) == 1
    for row in result["rows"]:
        assert row["n"] == len(pl.read_csv(out / f"seed-100/{row['method']}.csv")) <= 12
        assert row["valid"] <= min(row["confident"], row["thick"]) <= row["n"]
        assert all(math.isfinite(row[k]) for k in ("median", "predicted", "novelty", "diversity"))
        assert row["beats"] == ((row["best_valid"] or 0) > result["data"]["best"])
    assert json.loads((out / "results.json").read_text())["rows"] == result["rows"]


def test_references_are_rows_of_the_data_and_no_better_than_its_best(study) -> None:
    result, _ = study
    for row in result["rows"]:
        if row["method"] in ("labelled", "rows"):
            assert row["novelty"] < 1e-4
            assert row["best_valid"] <= result["data"]["best"] * (1 + 1e-6)
            assert not row["beats"]


def test_methods_never_see_the_judge(evidence) -> None:
    assert evidence.draws == 100  # 800 network calls of 8 steps
    assert evidence.sampler.job.oracle is None
    assert evidence.labels.isfinite().float().mean() < 0.05


def test_ascent_climbs_and_stays_in_the_box(module, evidence) -> None:
    from airfoil_proposals import ascent

    start, found = evidence.best_rows(), ascent(evidence)
    low, high = evidence.box()
    assert ((found >= low) & (found <= high)).all()
    reward = evidence.sampler.score.regressor
    with torch.no_grad():
        assert (reward(found) > reward(start)).double().mean() > 0.9


def test_the_page_is_renewed_between_its_markers_only(module, study, tmp_path) -> None:
    result, out = study
    text = (out / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for row in result["rows"]:
        assert row["title"] in text
    assert "not a result" in text
    (tmp_path / "bare.md").write_text("no markers")
    with pytest.raises(SystemExit, match="results: begin"):
        module.write_page(tmp_path / "bare.md", "text")


def test_parts_are_joined_and_stale_rows_dropped(module) -> None:
    def row(method: str, seed: int, evidence: str) -> dict[str, Any]:
        return {"method": method, "seed": seed, "evidence": evidence}

    earlier = [row("rows", 0, "a"), row("ts", 0, "a"), row("ts", 1, "b"), row("ei", 0, "old")]
    earlier.append(row("a method that is no more", 1, "b"))
    joined = module._joined(earlier, [row("rows", 0, "a")])
    assert joined == [row("rows", 0, "a"), row("ts", 0, "a"), row("ts", 1, "b")]


def test_loss_of_the_aim_counts_only_aims_with_all_their_designs(module) -> None:
    sweep = pl.DataFrame(
        {
            "aim": [1.0, 2.0, 3.0],
            "pessimistic": [0.5, 0.4, None],
            "chosen": [1, 0, 0],
            "oracle_median": [90.0, 100.0, 500.0],
        }
    )
    assert module.aim_loss(sweep)["loss"] == pytest.approx(0.1)


def test_what_does_not_exist_is_named(module, study, tmp_path) -> None:
    with pytest.raises(SystemExit, match="magic"):
        module.Config(methods="rows,magic")
    _, out = study
    with pytest.raises(SystemExit, match="alpha"):
        module.main([*CONDITION, "--alpha", "6", "--methods", "rows", "--out", str(out)])


def test_gaussian_processes_propose_from_the_same_labels(module, study, evidence) -> None:
    pytest.importorskip("botorch")
    _, out = study
    arguments = [*CONDITION, "--methods", "ei,ts,ts-rows", "--out", str(out)]
    result = module.main(arguments)
    rows = {row["method"]: row for row in result["rows"]}
    assert set(METHODS.split(",")) < set(rows)
    low, high = evidence.box()
    for name in ("ei", "ts", "ts-rows"):
        frame = pl.read_csv(out / f"seed-100/{name}.csv")
        x = evidence.sampler.domain.codec.encode(frame, dtype=torch.float64)
        assert len(x) == 12
        assert ((x >= low - 1e-5) & (x <= high + 1e-5)).all()
    assert rows["ts-rows"]["novelty"] < 1e-4


def test_a_polar_is_read_at_its_angle(module, tmp_path) -> None:
    from airfoil_xfoil import read_polar

    file = tmp_path / "polar.txt"
    file.write_text(" alpha CL CD\n ------ ---- ----\n 3.000 0.5 0.010\n 4.000 0.6 0.008 0.1\n")
    assert read_polar(file, 4.0) == pytest.approx(75.0)
    assert math.isnan(read_polar(file, 5.0))
    assert math.isnan(read_polar(tmp_path / "none.txt", 4.0))


@pytest.mark.skipif(
    shutil.which("xfoil") is None or shutil.which("cc") is None, reason="needs xfoil and cc"
)
def test_xfoil_agrees_with_neuralfoil_on_an_ordinary_airfoil(module) -> None:
    from payoff.domains import airfoils

    names, values = airfoils.load_airfoils()
    foils = values[[names.index("e337"), names.index("s1223")]]
    with module.XFoil(3.0, 1e6) as xfoil:
        theirs = xfoil.lift_to_drag(foils)
    assert np.allclose(theirs, airfoils.oracle(foils, 3.0, 1e6), rtol=0.1)


def test_a_missing_xfoil_says_what_to_install(module) -> None:
    with pytest.raises(FileNotFoundError, match="Debian"):
        module.XFoil(3.0, 1e6, executable="no-such-program")
