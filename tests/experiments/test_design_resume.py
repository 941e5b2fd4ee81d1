"""Interrupted, killed, out of disk: what is finished is kept, and the end result is the same."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from design_runs import call, config, files, table, words

from payoff.errors import UserError
from payoff.experiments.design import design
from payoff.experiments.design.model import _fit_config
from payoff.experiments.interrupts import held_back

PROGRAM = [sys.executable, "-m", "payoff"]
LONG = ("--steps", "1100", "--quiet")
TEMPORARY = ".tmp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    table().write_csv(folder / "boards.csv")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """The designs of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *words("boards.csv", "whole", "--quiet")) == 0
    return (folder / "whole/designs.csv").read_bytes()


def interrupting(target: str, at: int, number: signal.Signals) -> Iterator[None]:
    """Patch a function so that its ``at``-th call sends a signal to this process first."""
    module, _, name = target.rpartition(".")
    seen = 0

    with pytest.MonkeyPatch.context() as patch:
        try:
            owner = importlib.import_module(module)
        except ModuleNotFoundError:
            package, _, cls = module.rpartition(".")
            owner = getattr(importlib.import_module(package), cls)
        original = getattr(owner, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            nonlocal seen
            seen += 1
            if seen == at:
                signal.raise_signal(number)
            return original(*args, **kwargs)

        patch.setattr(owner, name, wrapped)
        yield


DESIGN = "payoff.experiments.design"


@pytest.mark.parametrize(
    ("target", "at", "number"),
    [
        (f"{DESIGN}.model.fit_reward", 1, signal.SIGINT),
        (f"{DESIGN}.model._noisy", 1, signal.SIGINT),
        (f"{DESIGN}.model._noisy", 57, signal.SIGINT),
        (f"{DESIGN}.model._noisy", 93, signal.SIGTERM),
        (f"{DESIGN}.model.save_pretrained", 1, signal.SIGTERM),
        (f"{DESIGN}.aims.Proposer.draw", 2, signal.SIGTERM),
        (f"{DESIGN}.aims.Proposer.draw", 4, signal.SIGINT),
        (f"{DESIGN}.run.sweep_frame", 1, signal.SIGINT),
    ],
    ids=lambda v: v.rpartition(".")[2] if isinstance(v, str) else str(v),
)
def test_a_signal_leaves_a_run_that_can_be_continued(
    target: str,
    at: int,
    number: signal.Signals,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of a training step too: it is held back until the step is whole."""
    out = tmp_path / "run"
    stopped = interrupting(target, at, number)
    next(stopped)
    assert call(monkeypatch, *words("boards.csv", out, "--quiet")) == 130
    stopped.close()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    told = said.partition("continue with: ")[2].strip()
    assert not (out / "run.json").exists()
    assert not (out / "designs.csv").exists()
    assert not [f for f in files(out) if f.endswith(TEMPORARY)]
    if target.endswith("_noisy"):
        kept = torch.load(out / "state/training.pt", weights_only=True)
        assert kept["step"] == -(-at // 10) * 10  # at most ten steps later
    program, *command = shlex.split(told)
    assert program == "payoff"
    assert call(monkeypatch, *command) == 0
    assert (out / "designs.csv").read_bytes() == whole
    assert not (out / "state").exists()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


def test_killed_outright_it_loses_little(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 after the first checkpoint: it is whole, and the end result is the same."""
    out = tmp_path / "run"
    command = words("boards.csv", out, *LONG)
    with subprocess.Popen([*PROGRAM, *command], text=True) as process:
        wait_for(out / "state/training.pt", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert torch.load(out / "state/training.pt", weights_only=True)["step"] >= 500
    assert call(monkeypatch, *command, "--resume") == 0
    assert call(monkeypatch, *words("boards.csv", tmp_path / "whole", *LONG)) == 0
    designs = [(tmp_path / name / "designs.csv").read_bytes() for name in ("run", "whole")]
    assert designs[0] == designs[1]


def test_a_checkpoint_at_least_every_500_steps() -> None:
    assert _fit_config(config(steps=4000)).checkpoint_every <= 500


def test_ctrl_c_on_the_program_itself(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [*PROGRAM, *words("boards.csv", out, "--steps", "100000", "--quiet")]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        wait_for(out / "state/fitted.json", process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("payoff: stopped; continue with: payoff design")
    assert "Traceback" not in said
    assert (out / "state/training.pt").exists()


def test_resuming_asks_for_the_same_options_and_the_same_table(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table().write_csv("other.csv")
    out = tmp_path / "run"
    stopped = interrupting(f"{DESIGN}.model._noisy", 5, signal.SIGINT)
    next(stopped)
    assert call(monkeypatch, *words("other.csv", out, "--quiet")) == 130
    stopped.close()
    before = {f: (out / f).read_bytes() for f in files(out) if (out / f).is_file()}
    assert call(monkeypatch, *words("other.csv", out, "--seed", "1", "--resume")) == 2
    assert "it was started with seed = 0, now it is 1" in capsys.readouterr().err
    assert call(monkeypatch, *words("other.csv", out)) == 2
    assert "already holds an unfinished run" in capsys.readouterr().err
    table(seed=1).write_csv("other.csv")
    assert call(monkeypatch, *words("other.csv", out, "--resume")) == 2
    assert "the table has changed since it was started" in capsys.readouterr().err
    assert {f: (out / f).read_bytes() for f in files(out) if (out / f).is_file()} == before


def test_a_finished_run_is_kept(
    folder: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --overwrite nothing changes; --resume has nothing to do; --overwrite replaces it."""
    run = folder / "whole"
    made = (run / "run.json").stat().st_mtime_ns
    assert call(monkeypatch, *words("boards.csv", "whole")) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert call(monkeypatch, *words("boards.csv", "whole", "--resume")) == 0
    assert "finished already" in capsys.readouterr().err
    assert (run / "run.json").stat().st_mtime_ns == made
    (run / "notes.txt").write_text("mine")
    assert call(monkeypatch, *words("boards.csv", "whole", "--overwrite", "--quiet")) == 0
    assert (run / "run.json").stat().st_mtime_ns > made
    assert (run / "designs.csv").read_bytes() == whole
    assert (run / "notes.txt").read_text() == "mine"


def failing(at: int) -> Callable[..., None]:
    """``os.replace`` with no space left on the device from its ``at``-th call on."""
    original, seen = os.replace, 0

    def replace(*args: str) -> None:
        nonlocal seen
        seen += 1
        if seen >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])
        original(*args)

    return replace


def test_a_full_disk_leaves_nothing_half_written(
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever file is the one that does not fit any more, and with space the run continues."""
    for at in (1, 2, 4, 6, 8, 10, 11, 13):
        out = tmp_path / f"run-{at}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing(at))
            code = call(monkeypatch, *words("boards.csv", out, "--quiet"))
        said = capsys.readouterr().err
        assert code == 2
        assert "No space left on device" in said.splitlines()[-1]
        assert "Traceback" not in said
        left = files(out) if out.exists() else set()
        assert not [f for f in left if f.endswith(TEMPORARY)], at
        for name in (f for f in left if f.endswith(".json")):
            json.loads((out / name).read_text())
        if at in (4, 11):
            assert call(monkeypatch, *words("boards.csv", out, "--resume", "--quiet")) == 0
            assert (out / "designs.csv").read_bytes() == whole
            capsys.readouterr()


def test_a_full_disk_while_libraries_write(tmp_path: Path) -> None:
    """Errors of writers in other languages are told from mistakes in the program."""

    def saved(self: object, path: Path) -> None:
        (path / "model.safetensors").write_text("half of the wei")
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    def broken(self: object, path: Path) -> None:
        raise RuntimeError("something else")

    target = "payoff.experiments.design.model.save_pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, lambda denoiser, path, metadata: saved(denoiser, path))
        with pytest.raises(UserError, match=r"cannot write to .*No space left.*--resume"):
            design(config(steps=10), tmp_path / "full", quiet=True)
        patch.setattr(target, lambda denoiser, path, metadata: broken(denoiser, path))
        with pytest.raises(RuntimeError, match="something else"):
            design(config(steps=10), tmp_path / "bug", quiet=True)
    assert not any("safetensors" in f for f in files(tmp_path / "full") if "state" not in f)


def test_precision_64_survives_a_restart(tmp_path: Path) -> None:
    """The model is read back in double precision, so that resuming changes nothing."""
    options = {"precision": 64, "steps": 60}
    straight = design(config(**options), tmp_path / "straight", quiet=True)
    stopped = interrupting(f"{DESIGN}.run.sweep", 1, signal.SIGINT)
    next(stopped)
    with pytest.raises(KeyboardInterrupt):
        design(config(**options), tmp_path / "resumed", quiet=True)
    stopped.close()
    resumed = design(config(**options), tmp_path / "resumed", resume=True, quiet=True)
    assert isinstance(resumed, pl.DataFrame)
    assert straight.equals(resumed)


@pytest.mark.parametrize("reward", ["ridge", "ensemble"])
def test_a_learned_score_survives_a_restart(reward: str, tmp_path: Path) -> None:
    """Read back, it predicts the same to the last digit, so that the labels are the same."""
    straight = design(config(reward=reward), tmp_path / "straight", quiet=True)
    stopped = interrupting(f"{DESIGN}.run.train_model", 1, signal.SIGINT)
    next(stopped)
    with pytest.raises(KeyboardInterrupt):
        design(config(reward=reward), tmp_path / "resumed", quiet=True)
    stopped.close()
    resumed = design(config(reward=reward), tmp_path / "resumed", resume=True, quiet=True)
    assert straight.equals(resumed)
    folders = [tmp_path / name / "model/model.safetensors" for name in ("straight", "resumed")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_a_signal_waits_for_the_question() -> None:
    reached: list[str] = []

    def block() -> None:
        with held_back() as ask:
            ask()
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
            ask()
            reached.append("after the question")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_nobody_asked_for_comes_at_the_end() -> None:
    def block() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()


def test_other_threads_are_left_alone() -> None:
    failed: list[BaseException] = []

    def block() -> None:
        try:
            with held_back() as ask:
                ask()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert not failed
