"""The report of a fine-tuning run on fabricated folders: what it says, draws, escapes, refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fabricated_runs import mixed_run
from fabricated_tuning import tune_run
from test_report import SCRIPT, Structure, figures_of, page_of, words_of

from payoff.errors import UserError
from payoff.report import build
from payoff.report.finetune import load
from payoff.report.finetune.curves import tuning_path
from payoff.report.finetune.prose import difference
from payoff.report.formatting import number

COSTS = {"cost-kl", "cost-valid", "cost-diversity", "cost-vendi"}


def test_a_whole_run_shows_every_part(tmp_path: Path) -> None:
    page = page_of(tune_run(tmp_path / "foils", airfoils=True))
    words = words_of(page)
    assert set(figures_of(page)) == {"reward", "kl-path", "scores", *COSTS}
    for part in (
        "payoff finetune", "31 January 2025, 12:00 UTC", "The median load rose from",
        "27 nats from the base", "400 reward calls", "It ended after 6 rounds",
        "agrees that the gain is real", "best sample of the base", "mean of the data", "design 14",
        "390 of them were designs that the ledger did not know yet, 10 were answered from",
        "ledger.sqlite", "power", "1.5", "updates", "1 min 35 s", "--method rwr", "history.csv",
    ):  # fmt: skip
        assert part in words, part
    assert page.count('<path class="outline"') == 16
    assert page.count('class="ghost"') == 14


def test_the_head_has_the_medians_of_the_files(tmp_path: Path) -> None:
    folder = tune_run(tmp_path / "run")
    after, before = (
        pl.read_csv(folder / f).filter(pl.col("valid"))["score"].median()
        for f in ("designs.csv", "base_designs.csv")
    )
    words = words_of(page_of(folder))
    assert f"rose from {number(before)} for the base model's samples to {number(after)}" in words


def test_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    found = Structure(page_of(tune_run(tmp_path / "foils", airfoils=True, held_scale=40.0)))
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    for tag, address in found.addresses:
        assert address.startswith(("#", "data:")), (tag, address)
        assert not address.startswith("#") or address[1:] in found.ids


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (18.0, "agrees that the gain is real"),
        (0.0, "sees no clear difference"),
        (-12.0, "says that the designs got worse"),
    ],
)
@pytest.mark.parametrize("minimize", [False, True])
def test_the_held_out_judge_decides(tmp_path: Path, gain: float, told: str, minimize: bool) -> None:
    words = words_of(page_of(tune_run(tmp_path / "run", held_gain=gain, minimize=minimize)))
    verdicts = ("agrees that the gain", "sees no clear difference", "that the designs got worse")
    assert told in words
    assert sum(verdict in words for verdict in verdicts) == 1
    assert ("fell from" if minimize else "rose from") in words
    assert ("confirmed" in words) == (gain <= 0)  # as a share that is not


def test_a_gain_within_chance_is_not_called_one(tmp_path: Path) -> None:
    words = words_of(page_of(tune_run(tmp_path / "run", gain=0.3, held_gain=0.3)))
    assert "no more than chance could do" in words
    assert "rose from" not in words
    assert "did not improve" in words_of(page_of(tune_run(tmp_path / "worse", gain=-15.0)))


def test_a_quarter_of_the_gain_is_called_over_optimisation(tmp_path: Path) -> None:
    words = words_of(page_of(tune_run(tmp_path / "run", gain=40.0, held_gain=10.0)))
    assert "less than half of it is confirmed" in words
    assert "less than half" not in words_of(page_of(tune_run(tmp_path / "fair")))


def test_without_a_held_out_reward_nothing_is_claimed(tmp_path: Path) -> None:
    page = page_of(tune_run(tmp_path / "run", held_gain=None))
    words = words_of(page)
    assert "No held-out reward watched this run" in words
    assert "is real:" not in words
    names = {t.get("name") for t in figures_of(page)["reward"]["data"]}
    assert not any("held-out" in str(n) for n in names)


def test_judges_of_different_scales_do_not_share_an_axis(tmp_path: Path) -> None:
    assert load(tune_run(tmp_path / "near")).one_scale
    folder = tune_run(tmp_path / "far", held_scale=40.0)
    assert not load(folder).one_scale
    figures = figures_of(page_of(folder))
    assert {"reward", "held-out", "scores", "scores-held-out"} <= set(figures)
    assert not any("held-out" in str(t.get("name")) for t in figures["kl-path"]["data"])


def test_a_rounds_reward_belongs_to_the_model_that_drew_its_designs(tmp_path: Path) -> None:
    folder = tune_run(tmp_path / "run")
    history = pl.read_csv(folder / "history.csv")
    kl, reward, rounds = tuning_path(load(folder))
    assert kl.tolist() == history["kl"].to_list()[:-1]
    assert reward.tolist() == history["reward"].to_list()[1:]
    assert rounds.tolist() == history["round"].to_list()[1:]
    # where a round was not measured its reward is left out instead of being put elsewhere
    history.filter(pl.col("round") != 3).write_csv(folder / "history.csv")
    assert tuning_path(load(folder))[2].tolist() == [1, 2, 5, 6]


def test_the_returned_round_is_marked_at_its_calls(tmp_path: Path) -> None:
    page = page_of(tune_run(tmp_path / "run", kept=4, stopped="the divergence went beyond max_kl"))
    words = words_of(page)
    assert "It stopped by itself after 6 rounds: the divergence went beyond max_kl." in words
    assert "Round 4 was returned" in words
    for key, figure in figures_of(page).items():
        lines = [s for s in figure["layout"].get("shapes", []) if s["type"] == "line"]
        if key in COSTS or key == "reward":
            assert [s["x0"] for s in lines] == [100 + 4 * 50]


@pytest.mark.parametrize(
    "given",
    [
        {"rounds": 1},
        {"rounds": 0, "count": 1, "kept": 0},
        {"held_gain": None, "validity": False},
        {"kept": 0, "gain": -5.0},
        {"count": 0},
        {"minimize": True, "airfoils": True, "count": 3},
    ],
)
def test_missing_values_do_not_break_a_page(tmp_path: Path, given: dict[str, Any]) -> None:
    words = words_of(page_of(tune_run(tmp_path / "run", **given))).split()
    assert "nan" not in [w.lower() for w in words]
    assert "None" not in words


def test_a_sparse_folder_is_enough(tmp_path: Path) -> None:
    folder = tune_run(tmp_path / "run")
    (folder / "data.parquet").unlink()
    pl.read_csv(folder / "history.csv").select("round", "calls").write_csv(folder / "history.csv")
    record = {"kind": "finetune", "score": {"name": "load", "direction": "maximize"}}
    (folder / "run.json").write_text(json.dumps(record))
    page = page_of(folder)
    assert "None" not in words_of(page).split()
    assert set(figures_of(page)) == {"scores"}


def test_scores_that_all_failed_are_told(tmp_path: Path) -> None:
    folder = tune_run(tmp_path / "run", count=5)
    frame = pl.read_csv(folder / "designs.csv")
    nothing = pl.lit(None, pl.Float64)
    frame = frame.with_columns(score=nothing, held_out=nothing, valid=pl.lit(False))
    frame.write_csv(folder / "designs.csv")
    words = words_of(page_of(folder))
    assert "None of the 5 designs is valid and has a score" in words
    assert "Validity was lost: 0 % of the designs are valid" in words


def test_names_cannot_become_code(tmp_path: Path) -> None:
    score = {"name": SCRIPT, "held_out": f"mod:{SCRIPT}", "direction": "maximize"}
    folder = tune_run(
        tmp_path / "run",
        names=(SCRIPT, "<img src=x onerror=alert(1)>"),
        score=score,
        name=SCRIPT,
        warnings=[SCRIPT],
        ledger=SCRIPT,
        command=["payoff", SCRIPT],
        tuning={"rounds": 6, "kept": 6, "stopped": SCRIPT},
        method={"name": SCRIPT, "options": {SCRIPT: SCRIPT}},
    )
    page = page_of(folder)
    found = Structure(page)
    assert found.open == []
    assert "<img" not in page
    assert "owned'</script" not in page
    assert "&lt;script" in figures_of(page)["reward"]["layout"]["yaxis"]["title"]["text"]


def test_a_difference_of_means_has_welchs_error() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 40), rng.normal(1, 3, 90)
    found = difference(a, b)
    assert found is not None
    error = (a.var(ddof=1) / 40 + b.var(ddof=1) / 90) ** 0.5
    assert found == pytest.approx((b.mean() - a.mean(), error))
    back = difference(b, a)
    assert back is not None
    assert back == pytest.approx((-found[0], found[1]))
    assert difference(a[:2], b) is None


@pytest.mark.parametrize("lost", ["designs.csv", "base_designs.csv", "history.csv", "run.json"])
def test_damaged_folders_are_refused(tmp_path: Path, lost: str) -> None:
    folder = tune_run(tmp_path / "run")
    (folder / lost).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=lost.replace(".", r"\.")):
        build(folder)
    (folder / lost).unlink()
    (folder / "request.json").write_text('{"method": "rwr"}', encoding="utf-8")
    with pytest.raises(UserError, match="payoff finetune --resume"):
        build(folder)
    assert not list(folder.glob("*report*"))


def test_the_kind_of_run_is_recognised(tmp_path: Path) -> None:
    assert "payoff design" in words_of(page_of(mixed_run(tmp_path / "design", rows=30, count=3)))
    assert "payoff finetune" in words_of(page_of(tune_run(tmp_path / "tune")))
    folder = tune_run(tmp_path / "other", kind="dance")
    with pytest.raises(UserError, match="kind 'dance'"):
        build(folder)
