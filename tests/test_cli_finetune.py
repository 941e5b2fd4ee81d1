"""``payoff finetune`` as a user types it: what it says, what it leaves and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from jobs.command_line import call
from jobs.design_cases import DESIGN, files
from jobs.tuning_cases import words, write

MODULE = "boards_of_the_line"
LOAD = f"{MODULE}:load"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished run of it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli-finetune")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert call(patch, *words("finetune", LOAD, "runs/first")) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("command", ["finetune", "compare"])
def test_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, command, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_a_run_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(
        "finetune", LOAD, "runs/told", "--seed", "3", "--set", "share=0.25", "--held-out", LOAD
    )
    assert call(monkeypatch, *given) == 0
    said = capsys.readouterr()
    assert "boards: 240 rows; designs of width (number), holes (whole number)" in said.err
    assert f"rwr on {LOAD}; {LOAD} is held out" in said.err
    assert "0.1 sd of 50 base samples' load" in said.err
    assert "10 designs: load" in said.err
    told = Path("runs/told").absolute()
    assert said.out.splitlines()[:2] == [
        f"designs: {told / 'designs.csv'} (10)",
        f"history: {told / 'history.csv'}",
    ]
    record = json.loads(Path("runs/told/run.json").read_text())
    assert record["method"]["options"]["share"] == 0.25
    assert record["seed"] == 3


def test_the_record_holds_the_command_that_makes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program, *command = json.loads(Path("runs/first/run.json").read_text())["command"]
    assert program == "payoff"
    command[command.index("--out") + 1] = "runs/again"
    assert call(monkeypatch, *command) == 0
    made = [Path(f"runs/{name}/designs.csv").read_bytes() for name in ("first", "again")]
    assert made[0] == made[1]


def test_a_preset_gives_way_to_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["finetune", "boards.csv", "--reward", LOAD, "--method", "rwr", "--preset", "toy"]
    given += ["--updates", "3", "--calls", "80", "--base-depth", "3", "--base-steps", "30"]
    assert call(monkeypatch, *given, "--out", "runs/preset", "--quiet") == 0
    used = json.loads(Path("runs/preset/run.json").read_text())["config"]
    assert used["base_depth"] == 3  # the default, asked for
    assert used["calls"] == 80
    assert used["base_width"] == 32  # the preset's


def test_more_designs_and_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more.csv"
    assert call(monkeypatch, "sample", "runs/first", "--count", "7", "--out", str(out)) == 0
    assert pl.read_csv(out).columns == [*DESIGN, "support"]
    assert files(tmp_path) == {"more.csv"}
    assert call(monkeypatch, "list") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "runs/first " in x]
    assert "boards: rwr with 200 reward calls, maximize load" in line


def test_without_out_a_run_gets_a_name_of_its_own(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = words("finetune", LOAD, "x", "--calls", "60", "--base-steps", "20", "--quiet")
    given = [w for w in given if w not in ("--out", "x")]
    given[1] = str(folder / "boards.csv")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *given) == 0
    assert (tmp_path / "runs/boards-rwr/run.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "rwt"], "--method rwt: there is no such method, did you mean 'rwr'"),
        (["--set", "shares=1"], "rwr has no option 'shares', did you mean 'share'"),
        (["--calls", "-5"], "--calls -5 is too few"),
        (["--preset", "big"], "--preset big: choose one of default, toy"),
        (["--reward", "nowhere:load"], "--reward nowhere:load: there is no module 'nowhere'"),
        (["--held-out", f"{MODULE}:lod"], "--held-out"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--method", "draft"], "is a black box"),
        (["--bounds", "width=70:60"], "the range is empty"),
        (["--evaluat", "20"], "--evaluate"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    more: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words("finetune", LOAD, "runs/wrong", *more)) == 2
    said = capsys.readouterr().err
    assert said.startswith("payoff: ")
    assert message in said
    assert "Traceback" not in said
    assert not Path("runs/wrong").exists()
