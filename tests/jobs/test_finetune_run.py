"""The fine-tuning job from Python: what it pays for, what it leaves, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from design_cases import DESIGN, FAST, files
from tuning_cases import paid, table, tune, write

from payoff.errors import UserError
from payoff.jobs.base import start
from payoff.jobs.design.job import Design
from payoff.jobs.records import read_record
from payoff.jobs.sample import sample
from payoff.pretrained import from_pretrained

MODULE = "boards_of_runs"
LOAD = f"{MODULE}:load"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished run."""
    folder = tmp_path_factory.mktemp("finetune")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        tune(LOAD, "first")
    (folder / "calls.txt").rename(folder / "first-calls.txt")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "calls.txt").unlink(missing_ok=True)


def score(frame: pl.DataFrame) -> np.ndarray:
    return (0.5 * frame["width"] - 2.0 * frame["holes"]).to_numpy()


def test_the_budget_is_kept_and_everything_is_accounted_for(folder: Path) -> None:
    record = read_record("first")
    calls, asked = record["calls"], (folder / "first-calls.txt").read_text().splitlines()
    assert calls["pilot"] == 50  # a quarter of the budget, at most a hundred
    assert calls["spent"] == calls["pilot"] + calls["learning"] == calls["budget"] == 200
    assert calls["judging"] == 10
    assert len(asked) == len(set(asked)), "a design was paid for twice"
    # designs that occur twice are paid for once, and so the reward was asked for no more than that
    assert calls["distinct"] <= len(asked) <= calls["spent"] + calls["judging"]
    assert calls["failed"] == 0


def test_the_folder_holds_what_it_should(folder: Path) -> None:
    found = {f for f in files(folder / "first") if "/" not in f}
    results = {"designs.csv", "base_designs.csv", "history.csv", "data.parquet", "data.json"}
    assert found == {*results, "run.json", "request.json", "ledger.sqlite", "base", "model"}
    for name in ("base", "model"):
        assert from_pretrained(folder / "first" / name).process.noise_floor == 0  # type: ignore[attr-defined]


def test_designs_are_scored_as_they_are_written() -> None:
    frame = pl.read_csv("first/designs.csv")
    assert frame.columns == [*DESIGN, "score", "valid", "support"]
    np.testing.assert_allclose(frame["score"], score(frame), rtol=1e-9)
    assert frame["score"].is_sorted(descending=True)
    assert frame["valid"].all()
    reference = pl.read_csv("first/base_designs.csv")
    assert len(reference) == 50  # the pilot's
    np.testing.assert_allclose(reference["score"], score(reference), rtol=1e-9)


def test_the_temperature_is_a_tenth_of_the_pilots_spread() -> None:
    record, reference = read_record("first"), pl.read_csv("first/base_designs.csv")
    found = record["temperature"]
    assert found["mode"] == "pilot"
    assert found["value"] == pytest.approx(reference["score"].std() / 10, rel=1e-6)
    assert found["mean"] == pytest.approx(reference["score"].mean(), rel=1e-6)


def test_the_history_starts_with_the_base_and_ends_with_the_budget() -> None:
    history, record = pl.read_csv("first/history.csv"), read_record("first")
    assert history["round"].to_list() == list(range(record["tuning"]["rounds"] + 1))
    assert history["calls"][0] == 0
    assert history["calls"][-1] == record["calls"]["learning"]
    assert history["kl"][0] == 0
    assert history["reward"][0] is None
    assert history.filter("best")["round"].to_list() == [record["tuning"]["kept"]]


def test_the_record_is_plain_json() -> None:
    record = read_record("first")
    assert record == json.loads(json.dumps(record, allow_nan=False))
    assert record["kind"] == "finetune"
    assert record["method"]["name"] == "rwr"
    assert record["score"] == {
        "name": "load", "reward": LOAD, "held_out": None,
        "direction": "maximize", "unit": None, "help": None,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_designs_and_a_known_reward_costs_nothing() -> None:
    """With the first run's ledger the second has nothing to pay for."""
    tune(LOAD, "second", ledger="first/ledger.sqlite")
    assert not paid(Path())
    assert read_record("second")["calls"]["distinct"] == 0
    for name in ("designs.csv", "base_designs.csv"):
        assert Path("second", name).read_bytes() == Path("first", name).read_bytes()


def test_less_can_be_better() -> None:
    """The best are first, and all scores are in the user's own direction."""
    tune(LOAD, "less", minimize=True, temperature=1.0)
    frame, record = pl.read_csv("less/designs.csv"), read_record("less")
    np.testing.assert_allclose(frame["score"], score(frame), rtol=1e-9)
    assert frame["score"].is_sorted()
    assert record["score"]["direction"] == "minimize"
    assert record["designs"]["best"] == frame["score"].min()
    assert record["calls"]["pilot"] == 0
    assert record["calls"]["judging"] == 20  # nothing is known of the base without a pilot
    history = pl.read_csv("less/history.csv").drop_nulls("reward")
    assert (history["reward_best"] <= history["reward"]).all()


def test_a_base_can_be_taken_from_a_run() -> None:
    tune(LOAD, "borrowed", base="first", count=5, calls=80)
    weights = "base/model.safetensors"
    assert Path("borrowed", weights).read_bytes() == Path("first", weights).read_bytes()
    source = table().with_columns(load=pl.Series(range(240), dtype=pl.Float64))
    given = {**FAST, "score": "load", "steps": 40}
    start(Design, source, given, out="designed", quiet=True)
    tune(LOAD, "from-design", base="designed", count=5, calls=80)
    assert len(pl.read_csv("from-design/designs.csv")) == 5


def test_limits_are_kept_and_the_base_knows_what_is_fixed() -> None:
    options: dict[str, Any] = {"fixed": ["wood=oak"], "bounds": ["width=:58"]}
    tune(LOAD, "limited", calls=80, **options)
    frame = pl.read_csv("limited/designs.csv")
    assert set(frame["wood"]) == {"oak"}
    assert frame["width"].max() <= 58
    # oak boards are 60 ± 4 wide, ash 30 ± 2: a base that did not know would be far off
    assert pl.read_csv("limited/base_designs.csv")["width"].median() > 45
    more = sample("limited", count=30, quiet=True).table
    assert set(more["wood"]) == {"oak"}
    assert more["width"].max() <= 58
    with pytest.raises(UserError, match="trained without --fixed or with other values"):
        tune(LOAD, "wrong", base="first", **options)


def test_more_designs_from_a_run_without_its_table(tmp_path: Path) -> None:
    frame = sample("first", count=12, seed=3, quiet=True).table
    assert frame.columns == [*DESIGN, "support"]
    assert frame.equals(sample("first", count=12, seed=3, quiet=True).table)
    assert not frame.equals(sample("first", count=12, seed=4, quiet=True).table)
    Path("boards.csv").rename("gone.csv")
    try:
        assert frame.equals(sample("first", count=12, seed=3, quiet=True).table)
    finally:
        Path("gone.csv").rename("boards.csv")
    assert not paid(Path()), "sampling asks no reward"
    with pytest.raises(UserError, match="--aim is for runs of payoff design"):
        sample("first", aim=3.0, quiet=True)


def test_a_reward_that_fails_on_some_designs(folder: Path) -> None:
    name = f"{MODULE}:fragile"
    tune(name, "fragile", held_out=LOAD, calls=120)
    frame, record = pl.read_csv("fragile/designs.csv"), read_record("fragile")
    ash = frame["wood"] == "ash"
    assert frame["score"].is_null().to_list() == ash.to_list()
    assert frame["valid"].to_list() == (~ash).to_list()
    assert record["calls"]["failed"] > 0
    np.testing.assert_allclose(frame["held_out"], score(frame), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": f"{MODULE}:broken"}, "failed on 50 of 50 samples.*no licence"),
        ({"reward": f"{MODULE}:flat"}, "is 1 for every sample of the base"),
        ({"reward": None}, "which reward"),
        ({"method": "draft"}, "needs the reward's gradient, and .*load is a black box"),
        ({"method": "adjoint"}, "choose a method that only asks for values"),
        ({"base": "nowhere"}, "--base nowhere: there is no base model"),
        ({"source": "bords.csv"}, "there is no file bords.csv"),
        ({"identifiers": ["wod"]}, "--id wod"),
        ({"device": "abacus"}, "--device abacus"),
    ],
)
def test_a_mistake_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        tune(**{"reward": LOAD, "out": "refused", **options})
    if "of the base" not in message and "samples" not in message:
        assert not Path("refused").exists()
    else:  # the base was trained; nothing pretends to be finished
        assert not Path("refused/run.json").exists()
        import shutil

        shutil.rmtree("refused")


def test_too_few_calls_for_a_temperature() -> None:
    with pytest.raises(UserError, match="--calls 30 is too few to find a temperature"):
        tune(LOAD, "few", calls=30)


def test_columns_of_another_table_are_refused() -> None:
    table().with_columns(width=pl.col("width") * 3).write_csv("wide.csv")
    with pytest.raises(UserError, match="trained on other columns or other rows"):
        tune(LOAD, "wide", "wide.csv", base="first")
