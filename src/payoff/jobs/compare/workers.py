"""Runs the cells, several at a time, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from payoff.errors import UserError
from payoff.jobs.compare.cell import LOG, RESULT, run_cell

GRACE = 20.0  # seconds that stopped processes get to end
PAUSE = 0.2


def run_cells(
    folders: Sequence[Path], workers: int, done: Callable[[Path], None]
) -> dict[Path, str]:
    """Run every cell that has no result yet; returns the errors by folder.

    Args:
        folders: of the cells, in the order to begin them.
        workers: how many at a time; 0: one after another in this process.
        done: called as each one ends.
    """
    errors: dict[Path, str] = {}
    waiting = [folder for folder in folders if not (folder / RESULT).exists()]
    if workers == 0:
        for folder in waiting:
            try:
                run_cell(folder)
            except UserError as error:
                errors[folder] = str(error)
            done(folder)
        return errors
    running: dict[subprocess.Popen, Path] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                folder = waiting.pop(0)
                running[_begin(folder)] = folder
            for process in [p for p in running if p.poll() is not None]:
                folder = running.pop(process)
                if not (folder / RESULT).exists():
                    errors[folder] = _last_words(folder, process.returncode)
                done(folder)
            time.sleep(PAUSE)
    except BaseException:
        _stop(list(running))
        raise
    return errors


def _begin(folder: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "payoff.jobs.compare.cell", str(folder)]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / LOG).open("ab") as log:
        # a session of its own: Ctrl-C comes here, and we tell the others
        return subprocess.Popen(
            [*program, str(os.getpid())],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **one},
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask the processes to end, and end those that do not."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(folder: Path, code: int) -> str:
    """The last line that a process left, or the signal that ended it."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line for line in reversed(lines) if line.strip()), "")
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (f" after «{said}»" if said else "")
    return said.removeprefix("payoff: ") or f"exit code {code}"


def results_of(folder: Path) -> list[dict]:
    """The rows of a finished cell.

    Raises:
        UserError: its file is damaged.
    """
    path = folder / RESULT
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}; delete it to run the cell again") from error
