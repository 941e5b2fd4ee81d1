"""Two processes train the model that one trains: the same batches, times, noise and steps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from molecule_models import SMALL, need_qm9
from payoff.domains.molecules import train as training
from payoff.domains.molecules.train import CHECKPOINT, LOG, TrainConfig, train
from payoff.errors import UserError
from payoff.training.checkpoints import load_checkpoint
from payoff.training.processes import ProcessGroup

TWO = """
import sys, torch
from payoff.domains.molecules import train as training
training.split = lambda name, size: torch.arange(48)
from payoff import cli
sys.argv = ["payoff", *sys.argv[1:]]
cli.main()
"""
OPTIONS = {**SMALL, "log_every": 1, "steps": 4, "evaluate_minutes": 0.0, "optimizer": "adamw"}


def words(out: Path, **changes) -> list[str]:
    options = {k: v for k, v in {**OPTIONS, **changes}.items() if k != "compile"}
    flags = [w for k, v in options.items() for w in ("--" + k.replace("_", "-"), str(v))]
    return ["train", "qm9", "--out", str(out), "--no-compile", *flags]


def together(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """``payoff COMMAND`` in two processes, on few molecules."""
    script = folder / "two.py"
    script.write_text(TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launcher += ["--master_addr=127.0.0.1", f"--master_port={port}", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *command], capture_output=True, text=True, timeout=300, env=env
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_qm9()
    done = together(tmp_path, *words(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("after 4 steps") == 1, "one process speaks for both"
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(48))
    train(TrainConfig(**OPTIONS), tmp_path / "one")
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / LOG).read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(logs[1]) == 4
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    # the sums are taken in another order, which is all that may tell them apart
    states = [load_checkpoint(tmp_path / name / CHECKPOINT) for name in ("one", "two")]
    assert torch.equal(states[0]["generator"], states[1]["generator"])
    begun = training.build(TrainConfig(**OPTIONS)).state_dict()
    start, whole, shared = (
        torch.cat([v.flatten().double() for v in weights.values()])
        for weights in (begun, *(state["denoiser"] for state in states))
    )
    moved = float((whole - start).norm())
    assert moved > 0
    assert float((whole - shared).norm()) < 0.02 * moved


@pytest.mark.slow
def test_what_cannot_be_shared_ends_both_with_a_message(tmp_path: Path) -> None:
    need_qm9()
    done = together(tmp_path, *words(tmp_path / "two", batch_size=15))
    assert done.returncode != 0
    assert "batch_size 15 cannot be shared equally by 2 processes" in done.stderr
    assert not (tmp_path / "two").exists()


def test_alone_nothing_is_sent_and_rows_are_all_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = ProcessGroup()
    rows = torch.arange(7)
    assert torch.equal(alone.local_rows(rows), rows)
    loss = torch.tensor(0.5)
    assert alone.average_gradients([], loss, True) == (loss, True)
    alone.check(7)


def test_slices_of_two_make_the_batch() -> None:
    """Every row once, and as many for each."""
    groups = [ProcessGroup(), ProcessGroup()]
    for rank, group in enumerate(groups):
        group.rank, group.world = rank, 2
    rows = torch.arange(8)
    taken = [group.local_rows(rows) for group in groups]
    assert [len(part) for part in taken] == [4, 4]
    assert torch.equal(torch.cat(taken).sort().values, rows)
    with pytest.raises(UserError, match="choose a multiple of 2"):
        groups[0].check(7)
