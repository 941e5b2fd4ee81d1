"""The user's oracle: it judges finished designs, and a failure in it costs that design only."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from design_cases import (
    DESIGN,
    FAST,
    KINDS,
    OPTIONS,
    boards,
    run,
    source_of,
    with_polygons,
)

from payoff.domains.base import Judge
from payoff.jobs.base import start
from payoff.jobs.design import job
from payoff.jobs.design.record import Oracle
from payoff.jobs.records import read_record


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], str]:
    """Puts a function where ``--oracle`` finds it; returns its name."""

    def place(function: Callable[[Any], Any]) -> str:
        module = types.ModuleType("a_users_laboratory")
        module.judge = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "a_users_laboratory", module)
        return "a_users_laboratory:judge"

    return place


def load_of(designs: pl.DataFrame) -> pl.Series:
    return 0.5 * designs["width"] - 2.0 * designs["holes"]


def test_it_sees_finished_designs_only(
    oracle: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the model is trained, the aim chosen and the designs drawn; each row once."""
    stages: list[str] = []

    def after(name: str) -> None:
        original = getattr(job, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            stages.append(name)
            return result

        monkeypatch.setattr(job, name, wrapped)

    names = ["learn_score", "train_conditioner", "sweep", "choose", "propose"]
    for name in names:
        after(name)
    seen: list[pl.DataFrame] = []

    def judge(designs: pl.DataFrame) -> pl.Series:
        assert stages == names
        assert designs.columns == DESIGN
        seen.append(designs)
        return load_of(designs)

    designs = boards(tmp_path / "run", oracle=oracle(judge))
    assert pl.concat(seen).equals(designs.select(DESIGN))
    record = read_record(tmp_path / "run")
    assert record["oracle_calls"] == designs.height
    assert record["oracle"]["failed"] == 0
    assert record["oracle"]["valid"] == designs.height
    assert record["oracle"]["best"] == pytest.approx(designs["oracle"].max())
    assert designs["oracle"].to_list() == pytest.approx(load_of(designs).to_list())


def test_it_changes_nothing_but_its_columns(oracle: Callable[..., str], tmp_path: Path) -> None:
    without = boards(tmp_path / "without")
    judged = boards(tmp_path / "with", oracle=oracle(load_of))
    assert judged.columns == [*without.columns, "oracle", "valid"]
    assert judged.select(without.columns).equals(without)


def test_the_sweep_and_the_data_can_be_judged_too(
    oracle: Callable[..., str], tmp_path: Path
) -> None:
    options = {"oracle": oracle(load_of), "oracle_sweep": True, "oracle_data": True}
    boards(tmp_path / "run", minimize=True, **options)
    sweep = pl.read_csv(tmp_path / "run/sweep.csv")
    assert sweep["oracle_median"].null_count() == 0
    assert (sweep["oracle_valid"] == 1).all()
    record = read_record(tmp_path / "run")
    assert record["oracle_calls"] == 12 * 4 + 240
    assert record["oracle"]["best"] <= record["oracle"]["median"]
    rows = pl.read_parquet(tmp_path / "run/data.parquet")
    assert record["oracle"]["data_best"] == pytest.approx(load_of(rows).min())


def raises_on_some(designs: pl.DataFrame) -> pl.Series:
    if (designs["holes"] == 0).any():
        raise ValueError("no hole to hang it by")
    return load_of(designs)


def nan_for_some(designs: pl.DataFrame) -> list[float | None]:
    return [None if h == 0 else w for h, w in zip(designs["holes"], load_of(designs), strict=True)]


def a_row_at_a_time(row: Any) -> float:
    if not isinstance(row, dict):
        raise TypeError("one design, please")
    return math.nan if row["holes"] == 0 else 0.5 * row["width"] - 2.0 * row["holes"]


@pytest.mark.parametrize("judge", [raises_on_some, nan_for_some, a_row_at_a_time])
def test_failures_cost_their_rows_only(
    judge: Callable[[Any], Any],
    oracle: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # a low aim, so that some designs have holes and some have none
    options = {"oracle": oracle(judge), "aim": 18.0, "oversample": 1, "count": 30}
    designs = boards(tmp_path / "run", **options)
    failed = designs["holes"] == 0
    assert 0 < failed.sum() < designs.height
    assert designs["oracle"].is_null().to_list() == failed.to_list()
    assert designs["valid"].to_list() == (~failed).to_list()
    good = designs.filter(~failed)
    assert good["oracle"].to_list() == pytest.approx(load_of(good).to_list())
    record = read_record(tmp_path / "run")
    assert record["oracle"]["failed"] == failed.sum()
    assert record["oracle"]["valid"] == (~failed).sum()
    warning = f"a_users_laboratory:judge: {failed.sum()} of {designs.height} designs failed"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["a text", None, [1.0] * 7, {"a": 1}, math.inf])
def test_an_oracle_that_always_fails(
    answer: Any, oracle: Callable[..., str], tmp_path: Path
) -> None:
    """The designs are there all the same, unjudged."""
    name = oracle(lambda designs: answer)
    designs = boards(tmp_path / "run", oracle=name, steps=20, count=3, support=9.0)
    assert designs["oracle"].null_count() == 3
    assert not designs["valid"].any()
    record = read_record(tmp_path / "run")
    assert record["oracle"]["median"] is None
    assert record["oracle"]["best"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_an_oracle(
    kind: str, oracle: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's function of the kind's objects; refused objects are not asked for."""
    with_polygons(monkeypatch)
    asked: list[int] = []

    def of_molecule(mol: Any) -> float:
        asked.append(1)
        return float(mol.GetNumAtoms())

    def of_many(objects: Any) -> list[float]:
        asked.append(len(objects))
        return [float(i) for i in range(len(objects))]

    name = oracle(of_molecule if kind == "molecules" else of_many)
    outcome = run(source_of(kind, tmp_path), tmp_path / "run", {**OPTIONS[kind], "oracle": name})
    assert outcome.designs is not None
    table, names = outcome.designs.table, outcome.designs.names
    known = table[names["oracle"]].is_not_null()
    assert sum(asked) == known.sum() == outcome.record["oracle_calls"]
    assert table[names["valid"]].to_list() == known.to_list()


def test_a_reward_of_the_kind_is_an_oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_polygons(monkeypatch)
    source = source_of("polygons", tmp_path)
    given = {**FAST, **OPTIONS["polygons"], "oracle": "polygons:area"}
    outcome, _ = start(job.Design, source, given, out=tmp_path / "run", quiet=True)
    assert outcome is not None
    assert outcome.record["oracle"]["name"] == "polygons:area"
    assert (outcome.designs.table["oracle"] > 0).all()


def test_a_slow_oracle_moves_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked in blocks; blocks grow as long as they are fast."""
    clock = [0.0]
    monkeypatch.setattr("payoff.jobs.design.record.time.perf_counter", lambda: clock[0])

    def pretend(seconds: float) -> list[int]:
        sizes: list[int] = []

        def score(objects: Any) -> list[float]:
            sizes.append(len(objects))
            clock[0] += seconds * len(objects)
            return [float(thing) for thing in objects]

        bar: list[int] = []
        oracle = Oracle(Judge("lab:load", score), None)  # type: ignore[arg-type]
        values, message = oracle.in_blocks(list(range(100)), bar.append)
        assert values.tolist() == list(range(100))
        assert message is None
        assert bar[-1] == oracle.calls == 100
        return sizes

    assert pretend(0.001) == [5, 10, 20, 40, 25]
    assert pretend(1.0) == [5] * 20
