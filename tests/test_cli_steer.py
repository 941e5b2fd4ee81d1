"""``payoff steer`` as a user types it: what it says, what it leaves and how it ends."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.command_line import call
from jobs.design_cases import DESIGN, files, interrupting
from jobs.tuning_cases import write

MODULE = "boards_steered_by_hand"
LOAD = f"{MODULE}:load"
FAST: dict[str, Any] = {
    **{"base-width": 32, "base-depth": 1, "base-steps": 60, "sampler-steps": 5},
    **{"count": 8, "calls": 100},
}


def words(out: str | Path, *more: str) -> list[str]:
    flags = [w for k, v in FAST.items() for w in (f"--{k}", str(v))]
    given = ["steer", "boards.csv", "--reward", LOAD, "--method", "best-of-n", "--out", str(out)]
    return [*given, *flags, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished run of it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli-steer")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert call(patch, *words("runs/first", "--held-out", LOAD)) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "steer", "--help") == 0
    said = capsys.readouterr().out
    assert "--particles" in said
    assert "--workers" in said


def test_a_run_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("runs/told", "--base", "runs/first", "--particles", "4", "--set", "choice=argmax")
    assert call(monkeypatch, *given, "--temperature", "2") == 0
    said = capsys.readouterr()
    assert f"best-of-n on {LOAD}" in said.err
    assert "temperature 2" in said.err
    assert "4 reward calls and 20 network evaluations a design, 32 calls for all" in said.err
    assert "8 designs: load" in said.err
    told = Path("runs/told").absolute()
    assert said.out.splitlines()[:2] == [
        f"designs: {told / 'designs.csv'} (8)",
        f"history: {told / 'history.csv'}",
    ]
    record = json.loads(Path("runs/told/run.json").read_text())
    assert record["method"]["options"]["choice"] == "argmax"
    assert record["calls"]["spent"] == 32
    assert files(Path("runs/told")) >= {"designs.csv", "history.csv", "report.html", "run.json"}


def test_the_record_holds_the_command_that_makes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program, *command = json.loads(Path("runs/first/run.json").read_text())["command"]
    assert program == "payoff"
    command[command.index("--out") + 1] = "runs/again"
    assert call(monkeypatch, *command, "--quiet") == 0
    made = [Path(f"runs/{name}/designs.csv").read_bytes() for name in ("first", "again")]
    assert made[0] == made[1]
    assert pl.read_csv("runs/first/designs.csv").columns == [
        *DESIGN, "score", "held_out", "valid", "support",
    ]  # fmt: skip


def test_stopped_by_hand_it_names_what_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patched = interrupting("payoff.jobs.steer.drawing.BatchedSteering._draw", 2, signal.SIGTERM)
    next(patched)
    try:
        given = words("runs/stopped", "--held-out", LOAD, "--quiet")
        assert call(monkeypatch, *given) == 130
    finally:
        patched.close()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    program, *command = shlex.split(said.partition("continue with: ")[2].strip())
    assert program == "payoff"
    assert call(monkeypatch, *command) == 0
    made = [Path(f"runs/{name}/designs.csv").read_bytes() for name in ("first", "stopped")]
    assert made[0] == made[1]


def test_the_list_and_no_more_samples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "list") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "runs/first " in x]
    assert "boards: best-of-n with" in line
    assert call(monkeypatch, "sample", "runs/first") == 2
    assert "more of them cost reward calls" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "best"], "did you mean 'best-of-n'"),
        (["--set", "candidate=1"], "did you mean 'candidates'"),
        (["--particles", "0"], "--particles must be at least 1"),
        (["--method", "tds"], "is a black box"),
        (["--reward", "nowhere:load"], "--reward nowhere:load: there is no module 'nowhere'"),
        (["--preset", "big"], "--preset big: choose one of default, toy"),
        (["--partcles", "3"], "--particles"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    more: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words("runs/wrong", *more)) == 2
    said = capsys.readouterr().err
    assert said.startswith("payoff: ")
    assert message in said
    assert "Traceback" not in said
    assert not Path("runs/wrong").exists()
