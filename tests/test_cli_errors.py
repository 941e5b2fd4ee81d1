"""Every mistake in the input: one message that says what, where and what to do; exit code 2; and
nothing left behind.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from jobs.command_line import call
from jobs.command_line import design_words as words
from jobs.design_cases import files, table


def csv(change: Callable[[pl.DataFrame], pl.DataFrame]) -> bytes:
    """The table as a file, changed."""
    return change(table()).write_csv().encode()


def cell(column: str, text: str, row: int = 3) -> bytes:
    """The table with one cell (row counted from 1) replaced."""
    here = pl.int_range(pl.len()) == row - 1
    return csv(
        lambda t: t.with_columns(
            pl.when(here).then(pl.lit(text)).otherwise(pl.col(column).cast(pl.String)).alias(column)
        )
    )


def relabelled(kept: int, value: float | None = None) -> bytes:
    """The table with ``kept`` labels, all of them ``value`` if one is given."""
    score = pl.col("load") if value is None else pl.lit(value)
    row = pl.int_range(pl.len())
    every = (row % 4 == 0) & (row < 4 * kept)
    return csv(lambda t: t.with_columns(pl.when(every).then(score).alias("load")))


def text(change: Callable[[str], str]) -> bytes:
    return change(table().write_csv()).encode()


LINE = "board 4,31.0,1"

FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("boards.csv is empty", "column names")),
    "blank lines": (b"\n\n \n", ("is empty",)),
    "header only": (b"name,width,holes,wood,load\n", ("no rows of data", "add rows")),
    "binary": (bytes(range(256)) * 20, ("binary file", "CSV")),
    "a workbook": (b"PK\x03\x04" + bytes(200), ("Excel", "save the sheet as CSV")),
    "compressed": (gzip.compress(b"a,b\n1,2\n"), ("compressed", "decompress")),
    "not UTF-8": ("name,größe\n".encode("latin-1"), ("UTF-8", "line 1")),
    "ragged, short": (
        text(lambda s: s.replace(s.splitlines()[5], LINE)),
        ("line 6 (row 5) has 3 cells", "the header has 5"),
    ),
    "ragged, long": (
        text(lambda s: s.replace(s.splitlines()[5], s.splitlines()[5] + ",7")),
        ("line 6 (row 5) has 6 cells", "must be quoted"),
    ),
    "an open quotation mark": (
        text(lambda s: s.replace("board 4,", '"board 4,')),
        ("quotation mark",),
    ),
    "two columns of one name": (
        text(lambda s: s.replace("width", "holes", 1)),
        ("columns 2 and 3 are both called 'holes'", "rename"),
    ),
    "a column without a name": (
        text(lambda s: s.replace("name,", ",", 1)),
        ("column 1 has no name", "give it one"),
    ),
    "numbers for names": (b"1,2,3\n" + b"4,5,6\n" * 30, ("where the column names should be",)),
    "NaN": (cell("width", "nan"), ("'width'", "'nan'", "row 3 (line 4)", "finite")),
    "infinity": (cell("width", "inf"), ("'width'", "'inf'", "row 3 (line 4)", "finite")),
    "NaN as a score": (cell("load", "NaN"), ("'load'", "row 3 (line 4)", "unlabelled")),
    "text in a numeric column": (
        cell("width", "wide"),
        ("column 'width' holds numbers", "row 3 (line 4)", "'wide'", "--categorical width"),
    ),
    "text in the score": (
        cell("load", "good"),
        ("column 'load' is the score", "row 3 (line 4)", "'good'"),
    ),
    "a word for missing": (cell("width", "N/A"), ("row 3 (line 4)", "leave the cell empty")),
    "dates": (
        csv(lambda t: t.with_columns(day=pl.lit("2024-05-06"))),
        ("column 'day'", "dates", "--id day"),
    ),
    "free text": (
        csv(lambda t: t.with_columns(note=pl.col("name") + "!")),
        ("column 'note'", "240 different texts", "--id note"),
    ),
    "only constant columns": (
        csv(lambda t: t.with_columns(width=pl.lit(1), holes=pl.lit(2), wood=pl.lit("oak"))),
        ("no column besides the score", "nothing to design"),
    ),
    "no labelled row": (relabelled(0), ("no row has a value in the score column 'load'", "20")),
    "too few labelled rows": (relabelled(19), ("only 19 of 240", "at least 20", "Measure more")),
    "one score for all": (relabelled(60, 5.0), ("same value (5) in all 60", "right column")),
    "no complete row": (
        csv(
            lambda t: t.with_columns(
                pl.when(pl.col("wood") == "oak").then(pl.col("width")).alias("width"),
                pl.when(pl.col("wood") == "ash").then(pl.col("holes")).alias("holes"),
            )
        ),
        ("every row has an empty feature cell", "fill the cells in"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = FILES[name]
    (tmp_path / "boards.csv").write_bytes(content)
    refused(["design", "boards.csv", "--score", "load", "--id", "name", "--out", "run"], expected)(
        tmp_path, monkeypatch, capsys
    )


SOURCES = {
    "missing": ("bords.csv", ("there is no file bords.csv", "boards.csv")),
    "a folder": (".", ("is a folder",)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_wrong_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, expected = SOURCES[name]
    table().write_csv(tmp_path / "boards.csv")
    refused(words(source, "run"), expected)(tmp_path, monkeypatch, capsys)


OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown score": (["--score", "lod"], ("no column 'lod'", "did you mean 'load'")),
    "unknown identifier": (["--id", "nam"], ("--id nam", "did you mean 'name'")),
    "unknown category": (["--categorical", "woods"], ("--categorical woods", "'wood'")),
    "the score as identifier": (["--id", "load"], ("--id load", "is the score")),
    "identifier and category": (["--categorical", "name"], ("both --id and --categorical",)),
    "unknown fixed column": (["--fixed", "wod=oak"], ("--fixed wod=oak", "did you mean 'wood'")),
    "unknown level": (["--fixed", "wood=oax"], ("--fixed wood=oax", "did you mean 'oak'")),
    "no value": (["--fixed", "wood"], ("--fixed wood", "NAME=VALUE")),
    "text for a number": (["--fixed", "width=big"], ("--fixed width=big", "not a number")),
    "half a hole": (["--fixed", "holes=1.5"], ("--fixed holes=1.5", "whole numbers")),
    "fixed twice": (["--fixed", "wood=oak", "--fixed", "wood=ash"], ("fixed twice",)),
    "all fixed": (
        ["--fixed", "wood=oak", "--fixed", "width=60", "--fixed", "holes=1"],
        ("nothing left to design", "free one"),
    ),
    "fixed out of bounds": (
        ["--fixed", "width=60", "--bounds", "width=0:40"],
        ("--fixed width=60", "outside --bounds width=0:40"),
    ),
    "fixed far from the data": (
        ["--fixed", "width=400"],
        ("--fixed width=400", "support distance", "--support"),
    ),
    "unknown bound": (["--bounds", "with=0:40"], ("--bounds with=0:40", "did you mean 'width'")),
    "no range": (["--bounds", "width=40"], ("--bounds width=40", "LOW:HIGH")),
    "range of text": (["--bounds", "width=a:b"], ("--bounds width=a:b", "not a number")),
    "range upside down": (["--bounds", "width=9:1"], ("the range is empty", "lower number first")),
    "no whole number inside": (["--bounds", "holes=1.2:1.8"], ("empty for whole numbers",)),
    "bounded twice": (["--bounds", "width=0:9", "--bounds", "width=1:9"], ("bounded twice",)),
    "bounded category": (["--bounds", "wood=0:1"], ("is a category", "--fixed wood=ash")),
    "bounded score": (["--bounds", "load=0:1"], ("is the score", "--aim")),
    "bounds far from the data": (
        ["--bounds", "width=400:"],
        ("--bounds width=400: looks", "Loosen"),
    ),
    "unknown preset": (["--preset", "huge"], ("--preset huge", "default, toy")),
    "no design": (["--count", "0"], ("--count must be at least 1",)),
    "aim that is no number": (["--aim", "nan"], ("--aim must be a finite number",)),
    "unknown sampler": (["--sampler", "euler"], ("--sampler euler", "ancestral")),
    "unknown network": (["--architecture", "unet"], ("--architecture unet", "mlp, subspace")),
    "unknown regressor": (["--regressor", "tree"], ("--regressor tree", "ridge")),
    "unknown precision": (["--precision", "16"], ("--precision 16", "32, 64")),
    "no learning": (["--learning-rate", "0"], ("--learning-rate must be above 0",)),
    "all dropped": (["--dropout", "1"], ("--dropout", "below 1")),
    "negative seed": (["--seed", "-1"], ("--seed must not be negative",)),
    "negative support": (["--support", "-1"], ("--support must be above 0",)),
    "meta-nonsense": (["--device", "meta-nonsense"], ("--device meta-nonsense is no device",)),
    "meta": (["--device", "meta"], ("--device meta is no device", "choose cpu")),
    "an absent GPU": (["--device", "cuda:77"], ("--device cuda:77 cannot be used here",)),
    "for airfoils only": (
        ["--labelled", "0.5"],
        ("--labelled does not apply", "it is for airfoils"),
    ),
    "oracle without function": (["--oracle", "lab"], ("MODULE:FUNCTION",)),
    "oracle that is a file": (["--oracle", "lab.py:score"], ("lab:score",)),
    "oracle that is nowhere": (["--oracle", "laboratory:score"], ("no module 'laboratory'",)),
    "unknown function": (["--oracle", "math:srqt"], ("math", "did you mean 'sqrt'")),
    "resume and overwrite": (["--resume", "--overwrite"], ("give one of them",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_option(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more, expected = OPTIONS[name]
    table().write_csv(tmp_path / "boards.csv")
    refused(words("boards.csv", "run", *more), expected)(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("option", ["--score=y", "--id=name", "--categorical=a"])
def test_airfoils_have_a_score_and_columns_of_their_own(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (option.partition("=")[0], "airfoils")
    refused(["design", "airfoils", option, "--out", "run"], expected)(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("kind", ["file", "finished", "unfinished"])
def test_a_folder_that_is_taken(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found out before the table is read, and stays as it is."""
    run = tmp_path / "run"
    if kind == "file":
        run.write_text("mine")
    else:
        run.mkdir()
        (run / "request.json").write_text("{}")
    if kind == "finished":
        (run / "run.json").write_text("{}")
    expected = {
        "file": ("run is a file", "give a folder"),
        "finished": ("already holds a finished run", "--overwrite"),
        "unfinished": ("already holds an unfinished run", "--resume", "--overwrite"),
    }[kind]
    refused(words("not-even-there.csv", "run"), expected)(tmp_path, monkeypatch, capsys)


def test_the_program_itself(tmp_path: Path) -> None:
    """Once as a process: exit code, an empty standard output, one line on standard error."""
    (tmp_path / "boards.csv").write_bytes(cell("width", "wide"))
    command = [sys.executable, "-m", "payoff", *words("boards.csv", "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("payoff: boards.csv: column 'width' holds numbers, but row 3")
    assert files(tmp_path) == {"boards.csv"}


def refused(command: list[str], expected: tuple[str, ...]) -> Callable[..., None]:
    """A check that the command ends with 2, says what is expected and leaves no trace."""

    def check(
        folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(folder)
        before = files(folder)
        assert call(monkeypatch, *command) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("payoff: ")
        assert "Traceback" not in said.err
        for part in expected:
            assert part in said.err
        assert files(folder) == before

    return check
