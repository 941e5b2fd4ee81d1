"""Interrupted, killed, out of disk: what is finished is kept, and the end result is the same."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from design_cases import (
    BOARDS,
    FAST,
    KINDS,
    OPTIONS,
    boards,
    files,
    interrupting,
    molecules,
    program,
    run,
    source_of,
    table,
    with_polygons,
)

from payoff.domains.vectors.domain import Vectors
from payoff.errors import UserError
from payoff.jobs.base import Interrupted, start
from payoff.jobs.design.job import Design
from payoff.jobs.fitting import fit_config
from payoff.jobs.interrupts import defer_interrupts

TEMPORARY = ".tmp"
JOB, FITTING = "payoff.jobs.design", "payoff.jobs.fitting"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sources of all kinds."""
    folder = tmp_path_factory.mktemp("resume")
    for kind in KINDS:
        source_of(kind, folder)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with_polygons(monkeypatch)


SOURCES = {"vectors": "boards.csv", "molecules": "mine.csv", "polygons": "hexagons.polygons"}
_WHOLE: dict[str, bytes] = {}


def whole(kind: str, folder: Path) -> bytes:
    """The designs of a run that nothing interrupted."""
    if kind not in _WHOLE:
        run(SOURCES[kind], folder / f"whole-{kind}", OPTIONS[kind])
        _WHOLE[kind] = (folder / f"whole-{kind}" / "designs.csv").read_bytes()
    return _WHOLE[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("target", "at", "number"),
    [
        (f"{JOB}.score.fit_reward", 1, signal.SIGINT),
        (f"{FITTING}._noisy", 1, signal.SIGINT),
        (f"{FITTING}._noisy", 7, signal.SIGINT),
        ("payoff.jobs.model.save_pretrained", 1, signal.SIGINT),
        (f"{JOB}.aims.AimSampler.draw", 2, signal.SIGINT),
        (f"{JOB}.job.sweep_table", 1, signal.SIGINT),
    ],
    ids=lambda v: v.rpartition(".")[2] if isinstance(v, str) else str(v),
)
def test_a_signal_leaves_a_run_that_can_be_continued(
    target: str, at: int, number: signal.Signals, kind: str, folder: Path, tmp_path: Path
) -> None:
    """In the middle of a training step too: it is held back until the step is whole."""
    expected, out = whole(kind, folder), tmp_path / "run"
    stopped = interrupting(target, at, number)
    next(stopped)
    with pytest.raises(Interrupted) as said:
        run(SOURCES[kind], out, OPTIONS[kind])
    stopped.close()
    assert not (out / "run.json").exists()
    assert not (out / "designs.csv").exists()
    assert not [f for f in files(out) if f.endswith(TEMPORARY)]
    if target.endswith("_noisy"):
        assert (out / "state/training.pt").exists()
    assert said.value.words[:3] == ["payoff", "design", SOURCES[kind]]
    assert said.value.words[-1] == "--resume"
    run(SOURCES[kind], out, OPTIONS[kind], resume=True)
    assert (out / "designs.csv").read_bytes() == expected
    assert not (out / "state").exists()


def test_a_signal_in_training_keeps_the_last_whole_step(tmp_path: Path) -> None:
    stopped = interrupting(f"{FITTING}._noisy", 57, signal.SIGINT)
    next(stopped)
    with pytest.raises(Interrupted):
        boards(tmp_path / "run")
    stopped.close()
    kept = torch.load(tmp_path / "run/state/training.pt", weights_only=True)
    assert kept["step"] == 60  # at most ten steps later


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


def test_killed_outright_it_loses_little(tmp_path: Path) -> None:
    """kill -9 after the first checkpoint: it is whole, and the end result is the same."""
    out, given = tmp_path / "run", {**BOARDS, "steps": 1100}
    with subprocess.Popen(program("boards.csv", out, given), text=True) as process:
        wait_for(out / "state/training.pt", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert torch.load(out / "state/training.pt", weights_only=True)["step"] >= 500
    run("boards.csv", out, given, resume=True)
    run("boards.csv", tmp_path / "whole", given)
    designs = [(tmp_path / name / "designs.csv").read_bytes() for name in ("run", "whole")]
    assert designs[0] == designs[1]


def test_a_checkpoint_at_least_every_500_steps(tmp_path: Path) -> None:
    domain = Vectors.read(table(), _table_options(), "load").domain
    assert fit_config(domain, 0, steps=4000).checkpoint_every <= 500


def _table_options() -> Any:
    from payoff.domains.vectors.kind import TableOptions

    return TableOptions(identifiers=["name"])


def test_ctrl_c_on_the_process_itself(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = program("boards.csv", out, {**BOARDS, "steps": 100000})
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        wait_for(out / "state/fitted.json", process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("payoff design")
    assert "Traceback" not in said
    assert (out / "state/training.pt").exists()


@pytest.mark.parametrize("kind", ["vectors", "molecules"])
def test_resuming_asks_for_the_same_options_and_the_same_data(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    out, options = tmp_path / "run", OPTIONS[kind]
    stopped = interrupting(f"{FITTING}._noisy", 5, signal.SIGINT)
    next(stopped)
    with pytest.raises(Interrupted):
        run(source, out, options)
    stopped.close()
    before = {f: (out / f).read_bytes() for f in files(out) if (out / f).is_file()}
    with pytest.raises(UserError, match="it was started with seed = 0, now it is 1"):
        run(source, out, {**options, "seed": 1}, resume=True)
    with pytest.raises(UserError, match="already holds an unfinished run"):
        run(source, out, options)
    (table(seed=1) if kind == "vectors" else molecules(labelled_every=2)).write_csv(source)
    with pytest.raises(UserError, match="the table has changed since it was started"):
        run(source, out, options, resume=True)
    assert {f: (out / f).read_bytes() for f in files(out) if (out / f).is_file()} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_is_kept(kind: str, folder: Path, tmp_path: Path) -> None:
    """Without --overwrite nothing changes; --resume has nothing to do; --overwrite replaces it."""
    out, source, options = tmp_path / "run", SOURCES[kind], OPTIONS[kind]
    run(source, out, options)
    made = (out / "run.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="already holds a finished run"):
        run(source, out, options)
    outcome, _ = start(Design, source, {**FAST, **options}, out=out, resume=True, quiet=True)
    assert outcome is None
    assert (out / "run.json").stat().st_mtime_ns == made
    (out / "notes.txt").write_text("mine")
    run(source, out, options, overwrite=True)
    assert (out / "run.json").stat().st_mtime_ns > made
    assert (out / "designs.csv").read_bytes() == whole(kind, folder)
    assert (out / "notes.txt").read_text() == "mine"


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_nothing_half_written(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is the one that does not fit any more, and with space the run continues."""
    expected = whole(kind, folder)
    for at in (1, 2, 4, 6, 8, 10, 11, 13) if kind == "vectors" else (3, 9, 13):
        out = tmp_path / f"run-{at}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing(at))
            with pytest.raises(UserError, match="No space left on device"):
                run(SOURCES[kind], out, OPTIONS[kind])
        left = files(out) if out.exists() else set()
        assert not [f for f in left if f.endswith(TEMPORARY)], at
        assert "run.json" not in left
        for name in (f for f in left if f.endswith(".json")):
            json.loads((out / name).read_text())
        if at in (4, 9, 11):
            run(SOURCES[kind], out, OPTIONS[kind], resume=True)
            assert (out / "designs.csv").read_bytes() == expected


def test_a_full_disk_while_libraries_write(tmp_path: Path) -> None:
    """Errors of writers in other languages are told from mistakes in the program."""

    def saved(denoiser: object, path: Path, metadata: object) -> None:
        (path / "model.safetensors").write_text("half of the wei")
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    def broken(denoiser: object, path: Path, metadata: object) -> None:
        raise RuntimeError("something else")

    target = "payoff.jobs.model.save_pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, saved)
        with pytest.raises(UserError, match=r"cannot write to .*No space left.*--resume"):
            boards(tmp_path / "full", steps=10)
        patch.setattr(target, broken)
        with pytest.raises(RuntimeError, match="something else"):
            boards(tmp_path / "bug", steps=10)
    assert not any("safetensors" in f for f in files(tmp_path / "full") if "state" not in f)


def test_precision_64_survives_a_restart(tmp_path: Path) -> None:
    """The model is read back in double precision, so that resuming changes nothing."""
    options = {"precision": 64, "steps": 60}
    straight = boards(tmp_path / "straight", **options)
    stopped = interrupting(f"{JOB}.job.sweep", 1, signal.SIGINT)
    next(stopped)
    with pytest.raises(Interrupted):
        boards(tmp_path / "resumed", **options)
    stopped.close()
    assert straight.equals(boards(tmp_path / "resumed", resume=True, **options))


@pytest.mark.parametrize("regressor", ["ridge", "ensemble"])
def test_a_learned_score_survives_a_restart(regressor: str, tmp_path: Path) -> None:
    """Read back, it predicts the same to the last digit, so that the labels are the same."""
    straight = boards(tmp_path / "straight", regressor=regressor)
    stopped = interrupting(f"{JOB}.job.train_conditioner", 1, signal.SIGINT)
    next(stopped)
    with pytest.raises(Interrupted):
        boards(tmp_path / "resumed", regressor=regressor)
    stopped.close()
    assert straight.equals(boards(tmp_path / "resumed", regressor=regressor, resume=True))
    folders = [tmp_path / name / "model/model.safetensors" for name in ("straight", "resumed")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_a_signal_waits_for_the_question() -> None:
    reached: list[str] = []

    def block() -> None:
        with defer_interrupts() as ask:
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
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()


def test_other_threads_are_left_alone() -> None:
    failed: list[BaseException] = []

    def block() -> None:
        try:
            with defer_interrupts() as ask:
                ask()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert not failed
