"""Every form a table comes in reads the same; every broken form is named with its place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from designs_table import rows, with_cell, with_column, write
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from payoff.domains.vectors import Codec, read_table
from payoff.errors import UserError


@pytest.fixture
def expected(tmp_path: Path) -> pl.DataFrame:
    return read_table(write(tmp_path / "expected.csv", rows()), score="strength").frame


def typed() -> dict[str, list[Any]]:
    header, *body = rows()
    columns = dict(zip(header, map(list, zip(*body, strict=True)), strict=True))
    return {
        "width": [float(v) for v in columns["width"]],
        "layers": [int(v) for v in columns["layers"]],
        "material": columns["material"],
        "site": columns["site"],
        "strength": [float(v) if v else None for v in columns["strength"]],
    }


def as_csv(path: Path, text: str | bytes) -> Path:
    path = path / "designs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_all_text_forms_read_the_same(tmp_path: Path, expected: pl.DataFrame) -> None:
    comma = [[cell.replace(".", ",") for cell in row] for row in rows()]
    quoted = [[f'"{cell}"' if cell else "" for cell in row] for row in rows()]
    spaced = [[f"  {cell} " for cell in row] for row in rows()]
    text = write(tmp_path / "a.csv", rows()).read_text()
    forms = [
        write(tmp_path / "b.tsv", rows(), "\t"),
        write(tmp_path / "c.csv", rows(), ";"),
        write(tmp_path / "d.txt", rows(), "|"),
        write(tmp_path / "e.csv", comma, ";"),
        write(tmp_path / "f.csv", quoted),
        write(tmp_path / "g.csv", spaced),
        write(tmp_path / "h.csv", rows(), encoding="utf-8-sig"),
        write(tmp_path / "i.csv", rows(), "\t", encoding="utf-16"),
    ]
    windows = text.replace("\n", "\r\n") + "\r\n  \r\n,,,,\r\n"
    announced = "sep=;\r\n" + text.replace(",", ";")
    old_mac = text.replace("\n", "\r")
    for name, form in (
        ("j.csv", windows),
        ("k.csv", old_mac),
        ("l.csv", text.rstrip("\n")),
        ("m.csv", announced),
    ):
        (tmp_path / name).write_bytes(form.encode())
        forms.append(tmp_path / name)
    for path in forms:
        assert_frame_equal(read_table(path, score="strength").frame, expected)


def test_all_typed_forms_read_the_same(tmp_path: Path, expected: pl.DataFrame) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pl.DataFrame(typed())
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_parquet(tmp_path / "misnamed.csv")
    nans = {**typed(), "strength": np.array(typed()["strength"], dtype=float)}
    categories = frame.with_columns(pl.col("material").cast(pl.Categorical))
    for source in (
        tmp_path / "a.parquet",
        str(tmp_path / "misnamed.csv"),
        frame,
        categories,
        typed(),
        nans,
        pandas.DataFrame(typed()),
        pandas.DataFrame(typed()).astype({"material": "category", "layers": "int8"}),
    ):
        found = read_table(source, score="strength").frame
        assert_frame_equal(found.with_columns(pl.col("layers").cast(pl.Int64)), expected)


def test_a_quoted_cell_may_hold_separators_and_line_breaks(tmp_path: Path) -> None:
    lines = [",".join(row) for row in rows()]
    lines[5] = lines[5].replace("north", '"the ""old"", wet\nquarry"')
    lines[9] = lines[9].replace("north", "oops,extra")
    with pytest.raises(UserError, match=r"line 11 \(row 9\) has 6 cells"):
        read_table(as_csv(tmp_path, "\n".join(lines)), score="strength")
    lines[9] = ",".join(rows()[9])
    table = read_table(as_csv(tmp_path, "\n".join(lines)), score="strength")
    assert 'the "old", wet\nquarry' in table.column("site").levels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n  \n", "is empty"),
        (b"a,b,score\n", "no rows of data"),
        (b"a,b,score\n1,2\n", r"line 2 \(row 1\) has 2 cells but the header has 3"),
        (b"a,b,score\n\n1,2,3\n1,2,3,4\n", r"line 4 \(row 2\) has 4 cells"),
        (b"a,a,score\n1,2,3\n", "columns 1 and 2 are both called 'a'"),
        (b"a,,score\n1,2,3\n", r"column 2 has no name in the header \(line 1\)"),
        (b"1,2,3\n4,5,6\n", "where the column names should be"),
        (b'a,b,score\n"1,2,3\n4,5,6\n', "line 2 cannot be split.*quotation"),
        (bytes(range(256)) * 20, "binary"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\x1f\x8brest", "gzip"),
        (b"PAR1 broken", "cannot be read as Parquet"),
        ("größe,score\n1,2\n".encode("latin-1"), r"not UTF-8 text: byte 0xf6 in line 1"),
        (b"a,score\n1,2\n\xff,2\n", "line 3"),
    ],
)
def test_broken_files_are_named_with_the_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = as_csv(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_missing_files_folders_and_other_objects(tmp_path: Path) -> None:
    write(tmp_path / "designs.csv", rows())
    with pytest.raises(UserError, match=r"there is no file .*design\.csv.*designs\.csv"):
        read_table(tmp_path / "design.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="not int"):
        read_table(3)
    with pytest.raises(UserError, match="different lengths: 'a' 2, 'score' 1"):
        read_table({"a": [1, 2], "score": [1]})
    with pytest.raises(UserError, match="no columns"):
        read_table({})


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (
            5,
            0,
            "abc",
            r"column 'width' holds numbers, but row 5 \(line 6\) holds 'abc'.*--id width",
        ),
        (5, 0, "NA", r"'NA'.*leave the cell empty"),
        (5, 0, "nan", r"column 'width' holds 'nan' in row 5 \(line 6\).*finite"),
        (5, 0, "-inf", r"'-inf' in row 5"),
        (5, 0, "1e999", r"'1e999' in row 5"),
        (5, 0, "-1e200", r"holds -1e200 in row 5 \(line 6\), too large"),
        (60, 1, "two", r"column 'layers' holds numbers, but row 60 \(line 61\) holds 'two'"),
        (7, 4, "good", r"column 'strength' is the score, but row 7 \(line 8\) holds 'good'"),
        (7, 4, "nan", r"column 'strength' holds 'nan' in row 7.*unlabelled"),
        (7, 4, "?", r"'\?'.*no score, leave the cell empty"),
    ],
)
def test_bad_cells_are_named_with_column_row_and_line(
    tmp_path: Path, row: int, column: int, value: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path / "t.csv", with_cell(row, column, value)), score="strength")


def test_several_bad_cells_are_counted(tmp_path: Path) -> None:
    table = rows()
    for i in (3, 9, 12, 40, 41):
        table[i][0] = "bad"
    with pytest.raises(UserError, match=r"row 3 .*, row 9 .*, row 12 .* and 2 more hold 'bad'"):
        read_table(write(tmp_path / "t.csv", table), score="strength")


def test_decimal_marks_are_never_mixed_or_guessed(tmp_path: Path) -> None:
    table = rows()
    table[4][0] = "9,5"
    with pytest.raises(UserError, match=r"decimal comma in row 4 .*'9,5'.*decimal point in row 1"):
        read_table(write(tmp_path / "t.csv", table, ";"), score="strength")
    table[4][0] = '"1,200"'
    with pytest.raises(UserError, match="without thousands separators"):
        read_table(write(tmp_path / "u.csv", table), score="strength")


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("id", [f"part {i}" for i in range(60)], "looks like an identifier.*--id id"),
        ("day", [f"2024-03-{i % 28 + 1:02d}" for i in range(60)], "holds dates.*--id day"),
        ("day", [f"{i % 28 + 1}/3/24" for i in range(60)], "holds dates"),
        ("at", [f"{i % 24}:30" for i in range(60)], "holds dates or times"),
        ("n", [str(10**17 + i) for i in range(60)], None),
    ],
)
def test_columns_that_cannot_be_features(
    tmp_path: Path, name: str, cells: list[str], message: str | None
) -> None:
    path = write(tmp_path / "t.csv", with_column(name, cells))
    if message is not None:
        with pytest.raises(UserError, match=message):
            read_table(path, score="strength")
    assert name not in [
        c.name for c in read_table(path, score="strength", identifiers=[name]).features
    ]


def test_typed_columns_that_cannot_be_features() -> None:
    import datetime

    days = [datetime.date(2024, 1, 1 + i % 28) for i in range(60)]
    with pytest.raises(UserError, match="column 'day' holds dates"):
        read_table(pl.DataFrame(typed()).with_columns(day=pl.Series(days)), score="strength")
    with pytest.raises(UserError, match=r"integers beyond 2\^53.*--id key"):
        read_table({**typed(), "key": [2**60 + i for i in range(60)]}, score="strength")
    with pytest.raises(UserError, match="column 'shape' holds List"):
        read_table({**typed(), "shape": [[1, 2]] * 60}, score="strength")
    width = [float("nan") if i == 2 else v for i, v in enumerate(typed()["width"])]
    frame = pl.DataFrame(typed()).with_columns(width=pl.Series(width))
    with pytest.raises(UserError, match=r"column 'width' holds 'nan' in row 3;"):
        read_table(frame, score="strength")


def test_a_hundred_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 100_000
    columns = {f"c{i}": random.normal(size=n).round(4) for i in range(10)}
    path = tmp_path / "big.csv"
    pl.DataFrame({**columns, "score": random.normal(size=n)}).write_csv(path)
    start = time.perf_counter()
    table = read_table(path)
    assert time.perf_counter() - start < 5
    assert len(table) == n


EDITS = [b"", b",", b";", b'"', b"\n", b"\r", b"\t", b"nan", b"x", b"-", b"1e400", b"\x00", b"\xe9"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from(EDITS)), max_size=4
    )
)
def test_damaged_files_give_clear_errors_or_usable_tables(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]
) -> None:
    data = "\n".join(",".join(row) for row in rows(40, 25)).encode()
    for place, length, text in edits:
        place %= len(data)
        data = data[:place] + text + data[place + length :]
    path = as_csv(tmp_path_factory.mktemp("damaged"), data)
    try:
        table = read_table(path, score="strength")
    except UserError:
        return
    codec = Codec.fit(table)
    again = codec.decode(codec.encode(table.frame, dtype=torch.float64))
    assert_frame_equal(again, table.frame.select(table.design_columns), rel_tol=1e-9)
