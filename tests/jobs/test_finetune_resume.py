"""Interrupted and killed: the end result is the same, and no design is paid for twice."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from command_line import call
from design_cases import files
from tuning_cases import paid, stopped_at, words, write

PROGRAM = [sys.executable, "-m", "payoff"]
MODULE = "boards_to_resume"
LOAD = f"{MODULE}:load"
JOB = "payoff.jobs.finetune.job"
TIMES = ("seconds", "reward_seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume-finetune")
    write(folder, MODULE)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "calls.txt").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, object], list[str]]:
    """The results of a run that nothing interrupted, and what it paid for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        (folder / "calls.txt").unlink(missing_ok=True)
        assert call(patch, *words("finetune", LOAD, "whole", "--quiet")) == 0
    return results(folder / "whole"), sorted(paid(folder))


def results(out: Path) -> dict[str, object]:
    """Everything that a resumed run must have in common with an uninterrupted one."""
    found: dict[str, object] = {
        name: (out / name).read_bytes()
        for name in ("designs.csv", "base_designs.csv", "model/model.safetensors")
    }
    found["history"] = pl.read_csv(out / "history.csv").drop(TIMES).to_dicts()
    return found


@pytest.mark.parametrize(
    ("target", "at", "number"),
    [
        ("payoff.jobs.tilt.train_model", 1, signal.SIGINT),
        (f"{JOB}.find_temperature", 1, signal.SIGTERM),
        ("payoff.finetuning.run.Run.samples", 1, signal.SIGINT),
        ("payoff.finetuning.run.Run.step", 8, signal.SIGINT),
        ("payoff.finetuning.run.Run.measure", 3, signal.SIGTERM),
        ("payoff.finetuning.run.Run.save", 2, signal.SIGINT),
        ("payoff.rewards.ledger.Ledger.record", 5, signal.SIGINT),
        (f"{JOB}.Tilt.score_base", 1, signal.SIGINT),
        (f"{JOB}.history_table", 1, signal.SIGTERM),
    ],
    ids=lambda v: v.rpartition(".")[2] if isinstance(v, str) else str(v),
)
def test_a_signal_leaves_a_run_that_can_be_continued(
    target: str,
    at: int,
    number: signal.Signals,
    whole: tuple[dict[str, object], list[str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    (folder / "calls.txt").unlink(missing_ok=True)
    with stopped_at(target, at, number):
        assert call(monkeypatch, *words("finetune", LOAD, out, "--quiet")) == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert not (out / "run.json").exists()
    assert not (out / "designs.csv").exists()
    program, *command = shlex.split(said.partition("continue with: ")[2].strip())
    assert program == "payoff"
    assert call(monkeypatch, *command) == 0
    expected, calls = whole
    assert results(out) == expected
    asked = sorted(paid(folder))
    if target.endswith("record"):  # the block that was in flight had no time to be written down
        assert set(asked) == set(calls)
        assert len(asked) - len(calls) <= 16
    else:
        assert asked == calls
    assert not [f for f in files(out) if f.endswith(".tmp") or "state" in f]


def test_killed_outright_it_pays_for_nothing_twice(
    whole: tuple[dict[str, object], list[str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 in the middle of learning: at most the block in flight is asked for again."""
    out = tmp_path / "run"
    command = words("finetune", LOAD, out, "--quiet")
    with subprocess.Popen([*PROGRAM, *command], text=True) as process:
        for _ in range(600):
            if (out / "state/tuning.pt").exists():
                break
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert call(monkeypatch, *command, "--resume") == 0
    assert results(out) == whole[0]
    asked = paid(folder)
    assert set(asked) == set(whole[1])
    assert len(asked) - len(set(asked)) <= 64


def test_a_finished_run_stays_and_another_request_is_refused(
    whole: tuple[dict[str, object], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words("finetune", LOAD, "whole")) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert call(monkeypatch, *words("finetune", LOAD, "whole", "--resume")) == 0
    assert "finished already" in capsys.readouterr().err
    assert call(monkeypatch, *words("finetune", LOAD, "whole", "--calls", "400", "--resume")) == 2
    assert "it was started with calls = 200, now it is 400" in capsys.readouterr().err
    # replaced, and nothing is paid for: the ledger is kept
    assert call(monkeypatch, *words("finetune", LOAD, "whole", "--overwrite", "--quiet")) == 0
    assert results(Path("whole")) == whole[0]
    assert not paid(Path())
