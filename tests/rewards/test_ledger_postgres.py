"""The ledger in PostgreSQL: a cluster of its own, on a socket in a temporary folder, no TCP."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ledger import check_kill, check_writers

from payoff.errors import UserError
from payoff.rewards import FunctionReward
from payoff.rewards.ledger import Entry, Ledger
from payoff.rewards.remembered import Remembered

pytest.importorskip("psycopg")


def binary(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    path = shutil.which(name) or (str(found[0]) if found else None)
    if path is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return path


def owner() -> dict[str, Any]:
    """Options of a subprocess that PostgreSQL agrees to run in: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")


class Cluster:
    """A server in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.owner = folder, folder / "data", owner()
        if self.owner:
            os.chown(folder, self.owner["user"], self.owner["group"])
        options = ("-A", "trust", "-U", "payoff", "-E", "UTF8", "--locale=C", "-N")
        self.run("initdb", "-D", str(self.data), *options)

    @property
    def url(self) -> str:
        return f"postgresql://payoff:hunter2@/postgres?host={self.folder}"

    def run(self, name: str, *arguments: str) -> None:
        with open(self.folder / "log", "ab") as log:  # no pipe: the server would hold it open
            done = subprocess.run(
                [binary(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                timeout=60,
                **self.owner,
            )
        if done.returncode and name == "pg_ctl" and arguments[-1] == "stop":
            raise RuntimeError(f"the server in {self.folder} does not stop")
        if done.returncode:
            said = (self.folder / "log").read_text(errors="replace")[-2000:]
            pytest.skip(f"{name} does not work here: {said}")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.run("pg_ctl", "-D", str(self.data), "-w", "-t", "30", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-t", "30", "-m", "immediate", "stop")

    @property
    def running(self) -> bool:
        return (self.data / "postmaster.pid").exists()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="payoff-"))  # short: a socket's path has a limit
    server = None
    try:
        server = Cluster(folder)
        server.start()
        yield server
    finally:
        try:
            if server is not None and server.running:
                server.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    with Ledger(cluster.url) as ledger, ledger._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE payoff_reward_calls")
    return cluster


def test_answers_are_kept_bit_for_bit(empty: Cluster) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**63), 2**63 - 1, (500,), generator=generator)
    extreme = [5e-324, -2.2e-308, 1.7976931348623157e308, torch.inf, -torch.inf, 0.1, -0.0]
    extreme.append(torch.nan)
    answers = torch.cat([bits.view(torch.float64), torch.tensor(extreme, dtype=torch.float64)])
    expected = (answers + 0.0)[~answers.isnan()].view(torch.int64)
    x = torch.arange(len(answers))[:, None]
    right = Remembered(FunctionReward(lambda x, c: answers[x[:, 0]]), Ledger(empty.url), "r", "é")
    wrong = Remembered(FunctionReward(lambda x, c: 1 / 0), Ledger(empty.url), "r", "é")
    for reward in (right, wrong):
        values = reward(x)
        assert values.isnan().equal(answers.isnan())
        assert values[~values.isnan()].view(torch.int64).equal(expected)
    assert len(right.ledger) == len(answers)


def test_an_error_is_noted_and_gives_way(empty: Cluster) -> None:
    ledger = Ledger(empty.url)
    ledger.record("r", "1", {"a": Entry(torch.nan, error="a\0b", raised=True)})
    assert ledger.lookup("r", "1", ["a"]) == {}
    ledger.record("r", "1", {"a": Entry(torch.nan, error="NaN")})
    ledger.record("r", "1", {"a": Entry(torch.nan, error="again", raised=True)})
    assert ledger.lookup("r", "1", ["a"])["a"].error == "NaN"
    for value in (1.0, 2.0):
        ledger.record("r", "1", {"a": Entry(value)})
    assert ledger.lookup("r", "1", ["a"])["a"].value == 1.0


def test_several_processes_write_at_once(empty: Cluster, tmp_path: Path) -> None:
    check_writers(empty.url, tmp_path)


@pytest.mark.parametrize("after", [1, 6])
def test_a_killed_process_loses_only_the_call_in_flight(
    empty: Cluster, tmp_path: Path, after: int
) -> None:
    check_kill(empty.url, tmp_path, after, 0.0)


def test_a_server_that_is_away_for_a_moment_is_waited_for(empty: Cluster) -> None:
    ledger = Ledger(empty.url, timeout=30.0)
    ledger.record("r", "1", {"a": Entry(1.0)})
    empty.stop()
    with pytest.raises(UserError, match="cannot be opened"):
        Ledger(empty.url)  # the first contact is not patient
    later = threading.Thread(target=lambda: (time.sleep(0.3), empty.start()))
    later.start()
    ledger.record("r", "1", {"b": Entry(2.0)})
    later.join()
    assert len(ledger) == 2


def test_messages_hide_the_password(cluster: Cluster) -> None:
    assert "hunter2" not in repr(Ledger(cluster.url))
    missing = cluster.url.replace("/postgres?", "/missing?")
    with pytest.raises(UserError, match=r'"missing" does not exist') as told:
        Ledger(missing)
    assert "hunter2" not in str(told.value)
    assert "payoff:***@" in str(told.value)
