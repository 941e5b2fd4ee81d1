"""Kinds, labels, warnings, bounds and fixed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from designs_table import rows, with_cell, with_column, write

from payoff.domains.vectors import Table, read_table
from payoff.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "designs.csv", rows())


def kinds(table: Table) -> dict[str, str]:
    return {c.name: c.kind for c in table.columns}


def read_with(tmp_path: Path, name: str, cells: list[str], **options: Any) -> Table:
    path = write(tmp_path / "t.csv", with_column(name, cells))
    return read_table(path, score="strength", **options)


def test_kinds_are_found(path: Path) -> None:
    table = read_table(path, score="strength")
    assert kinds(table) == {
        "width": "numeric",
        "layers": "integer",
        "material": "categorical",
        "site": "constant",
        "strength": "score",
    }
    assert table.design_columns == ["width", "layers", "material", "site"]
    assert table.column("material").levels == ("iron", "steel", "wood")
    assert table.column("site").value == "north"
    assert table.frame["layers"].dtype == pl.Int64


def test_integers_written_with_a_point_and_booleans(tmp_path: Path) -> None:
    table = read_with(tmp_path, "a", [f"{i % 7}.0" for i in range(60)])
    assert table.column("a").kind == "integer"
    table = read_with(tmp_path, "a", [f"{i % 7}.5" for i in range(60)])
    assert table.column("a").kind == "numeric"
    table = read_with(tmp_path, "a", ["yes" if i % 3 else "no" for i in range(60)])
    assert table.column("a").levels == ("no", "yes")
    frame = table.frame.with_columns(a=pl.Series([i % 3 == 0 for i in range(60)]))
    assert read_table(frame, score="strength").column("a").levels == (False, True)


@pytest.mark.parametrize("cells", [["10", "20", "30"], ["0.5", "1.0", "1.5"]])
def test_numbers_can_be_declared_categories(tmp_path: Path, cells: list[str]) -> None:
    column = [cells[i % 3] for i in range(60)]
    table = read_with(tmp_path, "code", column, categorical=["code"])
    assert table.column("code").levels == tuple(cells)
    frame = table.frame.with_columns(code=pl.Series([float(c) for c in column]))
    typed = read_table(frame, score="strength", categorical=["code"]).column("code")
    assert typed.levels == tuple(float(c) for c in cells)
    assert typed.kind == "categorical"


def test_labels_are_higher_is_better_whatever_the_score(path: Path) -> None:
    high = read_table(path, score="strength")
    low = read_table(path, score="strength", minimize=True)
    assert high.labelled.sum() == 30
    np.testing.assert_array_equal(high.labels, -low.labels)
    np.testing.assert_array_equal(high.labelled, low.labelled)
    np.testing.assert_array_equal(low.to_score(low.labels), high.labels)
    given = [float(row[4]) for row in rows()[1:] if row[4]]
    np.testing.assert_array_equal(high.labels[high.labelled], given)


def test_rows_with_an_empty_feature_are_left_out_and_counted(tmp_path: Path) -> None:
    table = rows()
    table[3][0] = table[10][2] = table[40][2] = ""
    found = read_table(write(tmp_path / "t.csv", table), score="strength")
    assert len(found) == 57
    assert set(range(1, 61)) - set(found.rows.tolist()) == {3, 10, 40}
    assert found.labelled.sum() == 28
    note = next(w for w in found.warnings if "left out" in w)
    assert "3 of 60" in note
    assert "'material'" in note
    assert "row 3 (line 4)" in note


def test_what_is_odd_but_no_error_is_a_warning(tmp_path: Path) -> None:
    table = rows()
    table[7] = [*table[6]]
    path = write(tmp_path / "t.csv", [[str(i), *r, ""] for i, r in enumerate(table)])
    text = path.read_text().replace("0,width", "row,width", 1)
    path.write_text(text)
    notes = read_table(path, score="strength").warnings
    assert any("neither a name nor cells" in w for w in notes)
    assert any("column 'row' counts the rows" in w and "--id row" in w for w in notes)
    assert any("constant" in w and "site=north" in w for w in notes)
    notes = read_table(path, score="strength", identifiers=["row"]).warnings
    assert any("duplicate" in w and w.endswith(": 1") for w in notes)
    codes = [f"0{i % 9}" for i in range(60)]
    assert any("leading zeros" in w for w in read_with(tmp_path, "zip", codes).warnings)
    empty = read_with(tmp_path, "later", [""] * 60)
    assert len(empty) == 60
    assert empty.column("later").kind == "constant"
    assert any("'later' has no values" in w for w in empty.warnings)


@pytest.mark.parametrize(
    ("labelled", "message"),
    [(0, "no row has a value.*at least 20"), (19, "only 19 of 60 .*at least 20")],
)
def test_too_few_labels(tmp_path: Path, labelled: int, message: str) -> None:
    path = write(tmp_path / "t.csv", rows(labelled=labelled))
    with pytest.raises(UserError, match=message):
        read_table(path, score="strength")


def test_nothing_to_design_or_learn(tmp_path: Path) -> None:
    constant = [["a", "b", "score"], *(["1", "x", str(i)] for i in range(30))]
    with pytest.raises(UserError, match="nothing to design"):
        read_table(write(tmp_path / "a.csv", constant))
    same = [["a", "score"], *([str(i), "5"] for i in range(30))]
    with pytest.raises(UserError, match=r"same value \(5\) in all 30"):
        read_table(write(tmp_path / "b.csv", same))
    sparse = [["a", "b", "score"], *([str(i), "", "1"] for i in range(29)), ["", "2", "1"]]
    with pytest.raises(UserError, match=r"every row has an empty feature cell.*'b'.*29 of 30"):
        read_table(write(tmp_path / "c.csv", sparse))
    blanks = [["a b score"], *([f"{i} {i} {i}"] for i in range(30))]
    with pytest.raises(UserError, match="Only one column was found"):
        read_table(write(tmp_path / "d.csv", blanks))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which column.*--score.*width"),
        ({"score": "strenght"}, "no column 'strenght'; did you mean 'strength'"),
        ({"score": "strength", "identifiers": ["Site2"]}, "--id Site2.*did you mean 'site'"),
        ({"score": "strength", "identifiers": ["strength"]}, "is the score"),
        ({"score": "strength", "categorical": ["x"]}, "--categorical x.*no column"),
        (
            {"score": "strength", "categorical": ["site"], "identifiers": ["site"]},
            "both --id and --categorical",
        ),
        ({"score": "material"}, "is the score, but row 1"),
    ],
)
def test_options_that_name_columns(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(path, **options)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (["width=0:40"], {"width": (0.0, 40.0)}),
        (["width=:40", "layers=2:"], {"width": (-np.inf, 40.0), "layers": (2.0, np.inf)}),
        (["width= -1e1 : 5.5 "], {"width": (-10.0, 5.5)}),
        (["layers=1.5:3.5"], {"layers": (2.0, 3.0)}),
        ({"width": (None, 3)}, {"width": (-np.inf, 3.0)}),
    ],
)
def test_bounds_are_understood(path: Path, bounds: Any, expected: dict[str, Any]) -> None:
    assert read_table(path, score="strength", bounds=bounds).bounds == expected


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (["width"], "NAME=VALUE"),
        (["width=40"], "LOW:HIGH"),
        (["width=:"], "LOW:HIGH"),
        (["width=a:3"], "'a' is not a number"),
        (["width=nan:3"], "not finite"),
        (["width=4:3"], "range is empty"),
        (["layers=2.2:2.8"], "empty for whole numbers"),
        (["widht=0:1"], "did you mean 'width'"),
        (["material=0:1"], "is a category.*--fixed material=iron"),
        (["strength=0:1"], "is the score; use --aim"),
        (["site=0:1"], "has the value north in every row"),
        (["width=0:1", "width=0:2"], "twice"),
        ({"width": 3}, r"pair \(low, high\)"),
    ],
)
def test_wrong_bounds(path: Path, bounds: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(path, score="strength", bounds=bounds)


def test_fixed_values_are_understood(path: Path) -> None:
    fixed = ["material=Steel", "layers=3", "site=north"]
    assert read_table(path, score="strength", fixed=fixed).fixed == {
        "material": "steel",
        "layers": 3.0,
    }
    far = read_table(path, score="strength", fixed={"width": 99}, bounds=["layers=90:99"])
    assert sum("extrapolations" in w for w in far.warnings) == 2


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (["material"], "NAME=VALUE"),
        (["material=stel"], "not a level.*did you mean 'steel'"),
        (["layers=2.5"], "whole numbers"),
        (["width=wide"], "not a number"),
        (["width=5"], "outside --bounds width=6:7"),
        (["site=south"], "kept so"),
        (["strength=3"], "--aim"),
        (["material=wood", "material=iron"], "twice"),
        (["width=6.5", "layers=2", "material=iron"], "nothing left to design"),
    ],
)
def test_wrong_fixed_values(path: Path, fixed: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(path, score="strength", fixed=fixed, bounds=["width=6:7"])


def test_column_names_may_contain_the_signs_of_the_options(tmp_path: Path) -> None:
    table = with_cell(0, 0, "w=h:d")
    path = write(tmp_path / "t.csv", table)
    found = read_table(path, score="strength", bounds=["w=h:d=0:40"])
    assert found.bounds == {"w=h:d": (0.0, 40.0)}
