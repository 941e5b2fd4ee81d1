"""The user's oracle: it judges what is finished, and what fails in it costs that row only."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from design_runs import DESIGN, config

from payoff.experiments.design import design
from payoff.experiments.progress import Reporter
from payoff.experiments.records import read_record
from payoff.report import build, load


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
    from payoff.experiments.design import run as job

    stages: list[str] = []

    def after(name: str) -> None:
        original = getattr(job, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            stages.append(name)
            return result

        monkeypatch.setattr(job, name, wrapped)

    for name in ("learn_reward", "train_model", "sweep", "choose", "propose"):
        after(name)
    seen: list[pl.DataFrame] = []

    def judge(designs: pl.DataFrame) -> pl.Series:
        assert stages == ["learn_reward", "train_model", "sweep", "choose", "propose"]
        assert designs.columns == DESIGN
        seen.append(designs)
        return load_of(designs)

    designs = design(config(oracle=oracle(judge)), tmp_path / "run", quiet=True)
    assert pl.concat(seen).equals(designs.select(DESIGN))
    record = read_record(tmp_path / "run")
    assert record["oracle_calls"] == designs.height
    assert record["oracle"]["failed"] == 0
    assert record["oracle"]["valid"] == designs.height
    assert record["oracle"]["best"] == pytest.approx(designs["oracle"].max())
    assert designs["oracle"].to_list() == pytest.approx(load_of(designs).to_list())


def test_it_changes_nothing_but_its_columns(oracle: Callable[..., str], tmp_path: Path) -> None:
    without = design(config(), tmp_path / "without", quiet=True)
    judged = design(config(oracle=oracle(load_of)), tmp_path / "with", quiet=True)
    assert judged.columns == [*without.columns, "oracle", "valid"]
    assert judged.select(without.columns).equals(without)
    assert build(tmp_path / "with").exists()


def test_the_sweep_can_be_judged_too(oracle: Callable[..., str], tmp_path: Path) -> None:
    options = {"oracle": oracle(load_of), "oracle_sweep": True, "minimize": True}
    design(config(**options), tmp_path / "run", quiet=True)
    sweep = pl.read_csv(tmp_path / "run/sweep.csv")
    assert sweep["oracle_median"].null_count() == 0
    assert (sweep["oracle_valid"] == 1).all()
    record = read_record(tmp_path / "run")
    assert record["oracle_calls"] == 12 * 4
    assert record["oracle"]["best"] <= record["oracle"]["median"]
    assert load(tmp_path / "run").oracle is not None


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
    designs = design(
        config(oracle=oracle(judge), aim=18.0, oversample=1, count=30), tmp_path / "run", quiet=True
    )
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
    assert build(tmp_path / "run").exists()


@pytest.mark.parametrize("answer", ["a text", None, [1.0] * 7, {"a": 1}, math.inf])
def test_an_oracle_that_always_fails(
    answer: Any, oracle: Callable[..., str], tmp_path: Path
) -> None:
    """The designs are there all the same, unjudged."""
    name = oracle(lambda designs: answer)
    designs = design(
        config(oracle=name, steps=20, count=3, support=9.0), tmp_path / "run", quiet=True
    )
    assert designs["oracle"].null_count() == 3
    assert not designs["valid"].any()
    record = read_record(tmp_path / "run")
    assert record["oracle"]["median"] is None
    assert record["oracle"]["best"] is None
    assert build(tmp_path / "run").exists()


def test_a_slow_oracle_moves_a_bar(
    oracle: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked in blocks; blocks grow as long as they are fast."""
    from payoff.domains.vectors import OracleResult
    from payoff.domains.vectors.oracle import Oracle
    from payoff.experiments.design.record import _in_blocks

    sizes: list[int] = []

    def pretend(seconds: float) -> list[int]:
        sizes.clear()

        def score(self: Oracle, designs: pl.DataFrame) -> OracleResult:
            sizes.append(designs.height)
            values = designs["width"].to_numpy()
            return OracleResult(values, 0, 1, seconds * designs.height, None)

        monkeypatch.setattr(Oracle, "__call__", score)
        frame = pl.DataFrame({"width": [float(i) for i in range(100)]})
        values, failed, message = _in_blocks(Oracle(load_of), frame, Reporter(quiet=True))
        assert values.tolist() == frame["width"].to_list()
        assert (failed, message) == (0, None)
        return sizes

    assert pretend(0.001) == [5, 10, 20, 40, 25]
    assert pretend(1.0) == [5] * 20
