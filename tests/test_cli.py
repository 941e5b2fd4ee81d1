"""The commands as a user types them: what they say, what they leave and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from jobs.command_line import call
from jobs.command_line import design_words as words
from jobs.design_cases import DESIGN, files, table
from payoff import __version__

PROGRAM = [sys.executable, "-m", "payoff"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and one finished run of it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    table().write_csv(folder / "boards.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *words("boards.csv", "runs/first")) == 0
    return folder


def test_help_needs_no_torch() -> None:
    """--help answers at once, since nothing heavy is imported before a command runs."""
    code = "import sys, payoff.cli; sys.exit(any(m in sys.modules for m in ('torch', 'polars')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("command", [["--help"], ["design", "--help"], ["sample", "--help"]])
def test_help(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *command) == 0
    assert "Usage" in capsys.readouterr().out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == f"payoff {__version__}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["desing", "x.csv"], "Did you mean 'design'"),
        (["design", "x.csv", "--scor", "y"], "--score"),
        (["design", "x.csv", "--count", "ten"], "--count"),
        (["design"], "Missing argument"),
    ],
)
def test_mistyped_commands(
    command: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *command) == 2
    said = capsys.readouterr().err
    assert said.startswith("payoff: ")
    assert message in said
    assert "Traceback" not in said


def test_a_run_says_what_it_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert call(monkeypatch, *words("boards.csv", "runs/told", "--seed", "3")) == 0
    said = capsys.readouterr()
    assert "boards: 240 designs, 60 of them with a score" in said.err
    columns = "width (number), holes (whole number), wood (category)"
    assert f"maximizing load; designs of {columns}" in said.err
    assert "rank correlation" in said.err
    assert "12 designs: predicted load" in said.err
    assert said.out.splitlines() == [
        f"designs: {(folder / 'runs/told/designs.csv').resolve()} (12)",
        f"report: {(folder / 'runs/told/report.html').resolve()}",
    ]


def test_quiet_still_warns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    table().with_columns(plant=pl.lit("north")).write_csv("constant.csv")
    assert call(monkeypatch, *words("constant.csv", "runs/quiet", "--quiet")) == 0
    said = capsys.readouterr().err.splitlines()
    assert "warning: constant columns are kept as they are: plant=north" in said
    assert all(line.startswith("warning: ") for line in said)


def test_a_preset_gives_way_to_what_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where an option repeats the ordinary default."""
    monkeypatch.chdir(folder)
    given = ["design", "boards.csv", "--score", "load", "--id", "name", "--preset", "toy"]
    given += ["--regressor", "ridge", "--depth", "3", "--count", "5", "--out", "runs/preset"]
    assert call(monkeypatch, *given) == 0
    used = json.loads((folder / "runs/preset/run.json").read_text())["config"]
    assert used["depth"] == 3  # the default, asked for
    assert used["steps"] == 150  # the preset's


def test_the_record_holds_the_command_that_makes_it_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    record = json.loads((folder / "runs/first/run.json").read_text())
    program, *command = record["command"]
    assert program == "payoff"
    command[command.index("--out") + 1] = "runs/again"
    assert call(monkeypatch, *command) == 0
    made = [(folder / f"runs/{name}/designs.csv").read_bytes() for name in ("first", "again")]
    assert made[0] == made[1]


def test_without_out_a_run_gets_a_name_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [w for w in words(folder / "boards.csv", "x") if w not in ("--out", "x")]
    assert call(monkeypatch, *given) == 0
    assert call(monkeypatch, *given) == 0
    assert (tmp_path / "runs/boards/run.json").exists()
    assert (tmp_path / "runs/boards-2/run.json").exists()


def test_report_is_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folder / "runs/first/report.html"
    page.unlink()
    assert call(monkeypatch, "report", str(folder / "runs/first")) == 0
    assert capsys.readouterr().out.strip() == f"report: {page.resolve()}"
    assert page.stat().st_size > 1e5


def test_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished, unfinished and damaged runs, each on its line."""
    for name, kept in (("begun", "request.json"), ("broken", "run.json")):
        (folder / "runs" / name).mkdir()
        (folder / "runs" / name / kept).write_text("{}")
    assert call(monkeypatch, "list", str(folder / "runs")) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = [line for line in lines if "first" in line]
    assert "boards: 12 designs, maximize load, aim" in first
    assert any("begun" in line and "unfinished" in line for line in lines)
    assert any("broken" in line and "damaged" in line for line in lines)
    empty = folder / "empty"
    empty.mkdir()
    assert call(monkeypatch, "list", str(empty)) == 0
    assert "no runs" in capsys.readouterr().out


def test_sample_to_the_terminal_and_to_a_file(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = str(folder / "runs/first")
    assert call(monkeypatch, "sample", run, "--count", "5", "--quiet") == 0
    shown = capsys.readouterr().out
    frame = pl.read_csv(shown.encode())
    assert frame.height == 5
    assert frame.columns[:3] == DESIGN
    out = tmp_path / "more.csv"
    assert call(monkeypatch, "sample", run, "--count", "5", "--out", str(out)) == 0
    assert out.read_text() == shown
    assert files(tmp_path) == {"more.csv"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--aim", "nan"], "--aim must be a finite number"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--out", "nowhere/more.csv"], "there is no folder nowhere"),
        (["--out", "."], "is a folder"),
    ],
)
def test_sample_refuses_before_it_works(
    more: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "sample", str(folder / "runs/first"), *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sample", "report", "list"])
def test_a_missing_folder_is_named(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, command, str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    """``payoff sample RUN | head -1``: no traceback."""
    command = [*PROGRAM, "sample", str(folder / "runs/first"), "--count", "300", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
