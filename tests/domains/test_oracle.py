from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from payoff.domains.vectors import Oracle, load_oracle
from payoff.errors import UserError


def designs(n: int = 10) -> pl.DataFrame:
    return pl.DataFrame({"a": [float(i) for i in range(n)], "kind": ["x", "y"] * (n // 2)})


@pytest.mark.parametrize(
    "fn",
    [
        lambda t: t["a"] * 2,
        lambda t: (t["a"] * 2).to_numpy(),
        lambda t: (t["a"] * 2).to_list(),
        lambda t: torch.tensor(t["a"].to_list(), requires_grad=True) * 2,
        lambda t: (t["a"] * 2).to_numpy()[:, None],
        lambda t: t.select(pl.col("a") * 2),
    ],
)
def test_one_call_whatever_the_answer_is_kept_in(fn: Any) -> None:
    result = Oracle(fn)(designs())
    np.testing.assert_array_equal(result.values, 2.0 * np.arange(10))
    assert (result.failed, result.calls, result.message) == (0, 1, None)


def picky(table: pl.DataFrame) -> pl.Series:
    if table["a"].is_in([3.0, 7.0]).any():
        raise RuntimeError("mesh failed")
    return table["a"]


def test_a_row_that_raises_costs_only_itself() -> None:
    result = Oracle(picky)(designs(100))
    assert np.flatnonzero(np.isnan(result.values)).tolist() == [3, 7]
    np.testing.assert_array_equal(
        np.delete(result.values, [3, 7]), np.delete(np.arange(100.0), [3, 7])
    )
    assert result.failed == 2
    assert result.calls < 40  # halving, not 100 single rows
    assert result.message == "the oracle failed: RuntimeError: mesh failed"


def test_nan_none_and_infinite_answers_are_failures() -> None:
    result = Oracle(lambda t: [1.0, None, float("nan"), float("inf")])(designs(4))
    assert np.isnan(result.values).tolist() == [False, True, True, True]
    assert result.failed == 3
    assert "NaN" in str(result.message)


def one_row(row: Any) -> float:
    """Knows single rows only, as a mapping."""
    return row["a"] * 2 if row["kind"] == "x" else -1.0


def one_row_table(table: pl.DataFrame) -> float:
    """Gives one number whatever it gets."""
    return float(table["a"][0])


def test_functions_of_one_row_work_too() -> None:
    a = np.arange(10.0)
    np.testing.assert_array_equal(
        Oracle(one_row)(designs()).values, np.where(a % 2 == 0, 2 * a, -1)
    )
    np.testing.assert_array_equal(Oracle(one_row_table)(designs()).values, a)


@pytest.mark.parametrize(
    "fn", [lambda t: None, lambda t: "high", lambda t: [1.0, 2.0, 3.0], lambda t: {"a": 1}]
)
def test_answers_of_the_wrong_form_are_failures_with_a_reason(fn: Any) -> None:
    result = Oracle(fn)(designs(4))
    assert result.failed == 4
    assert "it returned" in str(result.message)


def test_no_designs_no_calls() -> None:
    result = Oracle(picky)(designs(0))
    assert (len(result.values), result.calls) == (0, 0)


def test_interrupting_is_not_a_failed_row() -> None:
    def interrupted(table: pl.DataFrame) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Oracle(interrupted)(designs())


def test_pandas_is_passed_to_those_who_ask_for_it() -> None:
    pandas = pytest.importorskip("pandas")

    def annotated(table: pandas.DataFrame) -> Any:  # type: ignore[valid-type, name-defined]
        return table.apply(lambda row: row["a"] * 2, axis=1)  # type: ignore[attr-defined]

    result = Oracle(annotated)(designs())
    np.testing.assert_array_equal(result.values, 2.0 * np.arange(10))
    assert result.calls == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    (tmp_path / "lab_good.py").write_text(
        "def strength(t): return t['a'] + 1\nclass Rig:\n    @staticmethod\n"
        "    def score(t): return t['a']\nLIMIT = 3\n"
    )
    (tmp_path / "lab_needs.py").write_text("import not_a_package_here\n")
    (tmp_path / "lab_syntax.py").write_text("def f(:\n")
    (tmp_path / "lab_exits.py").write_text("raise SystemExit(3)\n")
    return tmp_path


def test_functions_are_found_in_the_users_folder(folder: Path) -> None:
    assert load_oracle("lab_good:strength")(designs()).values[0] == 1.0
    assert load_oracle("lab_good:Rig.score")(designs()).values[4] == 4.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab_good", "MODULE:FUNCTION"),
        ("lab_good:", "MODULE:FUNCTION"),
        ("lab_good.py:strength", "lab_good:strength"),
        ("./lab_good:strength", "lab_good:strength"),
        ("lab_missing:f", "no module 'lab_missing'"),
        ("lab_good:strenght", "did you mean 'strength'"),
        ("lab_good:LIMIT", "is a int, not a function"),
        ("lab_needs:f", "imports 'not_a_package_here', which is not installed"),
        ("lab_syntax:f", "importing 'lab_syntax' failed: SyntaxError"),
        ("lab_exits:f", "importing 'lab_exits' failed: SystemExit"),
    ],
)
def test_names_that_lead_nowhere(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_oracle(name)
