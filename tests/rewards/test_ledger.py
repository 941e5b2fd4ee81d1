from __future__ import annotations

import ast
import math
import multiprocessing
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import payoff.rewards
import payoff.rewards.ledger as ledger_module
from payoff.errors import UserError
from payoff.rewards import Reward
from payoff.rewards.ledger import Entry, Ledger
from payoff.rewards.remembered import Remembered

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("the tests with several processes fork", allow_module_level=True)
FORK = multiprocessing.get_context("fork")
Tensor = torch.Tensor


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", timeout=5.0)


# What is kept


@pytest.mark.parametrize("anywhere", [False, True], ids=["on-conflict", "standard-sql"])
def test_what_gives_way_to_what(
    ledger: Ledger, anywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if anywhere:
        monkeypatch.setattr(ledger_module, "_insert", ledger_module._insert_anywhere)
    kinds = {
        "one": Entry(1.0),
        "two": Entry(2.0),
        "failed": Entry(math.nan, error="failed"),
        "later": Entry(math.nan, error="later"),
        "raised": Entry(math.nan, error="raised", raised=True),
    }
    for old in kinds:
        for new in kinds:
            key = f"{old} {new}"
            ledger.record("r", "1", {key: kinds[old], f"{key} only": kinds[old]})
            ledger.record("r", "1", {key: kinds[new]})
            found = ledger.lookup("r", "1", [key]).get(key)
            done = [k for k in (old, new) if k in ("one", "two")]
            failed = [k for k in (old, new) if k in ("failed", "later")]
            if done:
                assert found == kinds[done[0]], "the first number stays"
            elif failed:
                assert found is not None
                assert found.error == failed[-1], "the last failure stays"
            else:
                assert found is None
    assert Ledger(str(ledger.place)).count() == len(ledger) == 24 + 20


# Processes


class Paid(Reward):
    """Answers x + noise, and writes every design to a file once it is paid for."""

    def __init__(self, log: Path, seed: int = 0, seconds: float = 0.0) -> None:
        self.log, self.random, self.seconds = log, random.Random(seed), seconds

    def __call__(self, x: Tensor, cond: object = None) -> Tensor:
        time.sleep(self.seconds)
        with open(self.log, "ab", buffering=0) as file:
            file.write("".join(f"{int(i)}\n" for i in x[:, 0].tolist()).encode())
        return x[:, 0] + self.random.random()


def paid(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def join(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.join(20)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
        process.join()
    assert not alive, "a process hangs"


def check_writers(url: str | Path, folder: Path, processes: int = 4, designs: int = 24) -> None:
    """Processes that ask for the same designs at the same time all get the same valid answers."""
    start, results = FORK.Barrier(processes), FORK.SimpleQueue()
    log = folder / "paid"

    def work(seed: int) -> None:
        order = torch.randperm(designs, generator=torch.Generator().manual_seed(seed))
        start.wait(10)
        with Ledger(url, timeout=20.0) as ledger:
            remembered = Remembered(Paid(log, seed, 0.001), ledger, "noisy", batch_size=3)
            for some in order.split(7):
                remembered(some.double()[:, None])
            answers = remembered(torch.arange(designs).double()[:, None])
            results.put((answers.tolist(), remembered.fresh, remembered.hits))

    crew = [FORK.Process(target=work, args=(seed,)) for seed in range(processes)]
    for process in crew:
        process.start()
    join(crew)
    assert [process.exitcode for process in crew] == [0] * processes
    answers, fresh, hits = zip(*[results.get() for _ in crew], strict=True)
    assert all(a == answers[0] for a in answers), "all return the answer that stayed"
    assert all(i <= a < i + 1 for i, a in enumerate(answers[0]))
    assert len(Ledger(url)) == designs
    assert sum(fresh) == len(paid(log)) >= designs
    assert sum(fresh) + sum(hits) == 2 * designs * processes


def check_kill(url: str | Path, folder: Path, after: int, seconds: float) -> None:
    """A killed process loses the call in flight and nothing else."""
    log, designs = folder / "paid", torch.arange(after + 400).double()[:, None]

    def work() -> None:
        Remembered(Paid(log, 0, seconds), Ledger(url), "slow", batch_size=1)(designs)

    process = FORK.Process(target=work)
    process.start()
    deadline = time.monotonic() + 10
    while len(paid(log)) < after and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.0005)
    assert process.is_alive(), "killed too late to show anything"
    process.kill()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    time.sleep(0.1)  # a server may still be committing what the dead process sent
    spent = paid(log)
    assert len(spent) >= after
    ledger = Ledger(url)
    kept = len(ledger)
    assert len(spent) - 1 <= kept <= len(spent)
    resumed = Remembered(Paid(log, 1), ledger, "slow")
    some = designs[: len(spent) + 5]
    answers = resumed(some)
    assert bool(((answers >= some[:, 0]) & (answers < some[:, 0] + 1)).all())
    assert paid(log)[len(spent) :] == list(range(kept, len(some))), "only what is missing"
    assert (resumed.fresh, resumed.hits) == (len(some) - kept, kept)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    check_writers(tmp_path / "ledger.db", tmp_path)


@pytest.mark.parametrize(("after", "seconds"), [(1, 0.01), (4, 0.0), (9, 0.0), (15, 0.001)])
def test_a_killed_process_loses_only_the_call_in_flight(
    tmp_path: Path, after: int, seconds: float
) -> None:
    check_kill(tmp_path / "ledger.db", tmp_path, after, seconds)


def test_a_ledger_survives_a_fork_and_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger("ledger.db")
    ledger.record("r", "1", {"a": Entry(1.0)})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    child = FORK.Process(target=lambda: ledger.record("r", "1", {"b": Entry(2.0)}))
    child.start()
    join([child])
    assert ledger.lookup("r", "1", ["a", "b"])["b"].value == 2.0
    assert not list((tmp_path / "elsewhere").iterdir())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Ledger("~/ledger.db")) == 2


# Files, URLs and what is said about them


def damaged(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record("r", "1", {f"{i:064}": Entry(float(i)) for i in range(2000)})
    data = bytearray(path.read_bytes())
    for start in range(3 * 4096, len(data), 2 * 4096):
        data[start : start + 512] = b"\xa5" * 512
    path.write_bytes(data)


def of_something_else(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE bookmarks (url)")


def of_another_shape(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE payoff_reward_calls (design)")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_text("a,b\n1,2\n" * 999), "not an SQLite file. Give another path"),
        (damaged, "damaged. Move it away and save what is left"),
        (of_something_else, "holds bookmarks. Give another file"),
        (of_another_shape, "has no reward, version, state and more. Give another database"),
        (lambda path: path.mkdir(), "is a folder: give a file"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "ledger.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError, match=says) as told:
        Ledger(path)
    assert str(path) in str(told.value)
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_places_that_hold_no_ledger(tmp_path: Path) -> None:
    for place, says in (
        (tmp_path / "missing" / "ledger.db", "there is no folder"),
        ("", "empty name"),
        ("sqlite://", "in memory is lost"),
        (":memory:", "in memory is lost"),
        ("sqlite:///file::memory:?mode=memory&uri=true", "in memory is lost"),
        ("nosuch://host/db", "there is no database 'nosuch'"),
        ("postgresql+asyncpg://host/db", "asyncpg"),
    ):
        with pytest.raises(UserError, match=says):
            Ledger(place)
    empty = tmp_path / "empty.db"
    empty.touch()
    assert len(Ledger(f"sqlite:///{empty}")) == 0, "an empty file is taken"
    assert bool(Ledger(empty))


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, module, package in (
        ("postgresql://u:hunter2@localhost/db", "psycopg", r"psycopg\[binary\]"),
        ("mysql+pymysql://u:hunter2@localhost/db", "pymysql", "pymysql"),
    ):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(UserError, match=f"pip install '{package}'") as told:
            Ledger(url)
        assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@localhost:1/db",
        "postgresql://u@localhost:1/db?password=hunter2",
        "postgresql://u:hunter2@localhost:1/db?hunter2=hunter2",
        "postgresql://u:hunter2@no.such.host.invalid/db",
        "postgresql://u:x@hunter2@localhost:1/db",
        "postgresql://u:hunter2@localhost:port/db",
        "://u:hunter2@localhost",
        "nosuch://u:hunter2@localhost/db",
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UserError) as told:
        Ledger(url, timeout=0.1)
    shown = [str(told.value), repr(told.value), str(told.value.__cause__)]
    assert not any("hunter2" in text for text in shown), shown
    assert told.value.__context__ is None or told.value.__suppress_context__


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as writer:
        writer.record("r", "1", {"a": Entry(1.0)})
        reader = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true")
        assert reader.lookup("r", "1", ["a"])["a"].value == 1.0
        with pytest.raises(UserError, match=r"cannot be written: .*readonly.* Change the rights"):
            reader.record("r", "1", {"b": Entry(1.0)})


def test_a_lock_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, timeout=0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert len(ledger) == 0, "readers do not wait for a writer"
    with pytest.raises(UserError, match=r"locked. Another process holds it"):
        ledger.record("r", "1", {"a": Entry(1.0)})
    holder.execute("COMMIT")
    ledger.record("r", "1", {"a": Entry(1.0)})
    holder.close()


def test_a_closed_ledger_says_so(ledger: Ledger) -> None:
    with ledger:
        ledger.record("r", "1", {})
    with pytest.raises(ValueError, match="closed"):
        len(ledger)
    ledger.close()


def test_sqlite_waits_neither_for_readers_nor_trusts_the_power(ledger: Ledger) -> None:
    with ledger._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 5000


def test_the_database_library_is_imported_late() -> None:
    folder = Path(payoff.rewards.__file__).parent
    for name in ("database.py", "ledger.py", "remembered.py"):
        tree = ast.parse((folder / name).read_text())
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert top
        assert not any("sqlalchemy" in ast.unparse(node) for node in top)
