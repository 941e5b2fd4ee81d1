"""Rewards in processes of their own: order, deaths, time limits, errors, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from payoff.errors import UserError
from payoff.rewards.pooled import Lost, Pooled, WorkerError

MODULE = "rewards_of_the_pool"
SOURCE = '''
import os
import signal
import time
from pathlib import Path

import torch


def square(x, cond=None):
    return x.square().sum(1) + (0 if cond is None else cond["shift"][:, 0])


class Shifted:
    def __init__(self, shift):
        self.shift, self.failure = shift, None

    def __call__(self, x, cond=None):
        found = x[:, 0] + self.shift
        self.failure = self.failure or ("below zero" if (found < 0).any() else None)
        return found.where(found >= 0, torch.nan)


def impossible(*arguments):
    raise ValueError("no licence")


class Mortal:
    """Kills its process at a row above ``limit``, ``times`` times."""

    def __init__(self, folder, limit, times):
        self.folder, self.limit, self.times = Path(folder), limit, times

    def __call__(self, x, cond=None):
        if (x[:, 0] > self.limit).any():
            died = len(list(self.folder.glob("death-*")))
            if died < self.times:
                (self.folder / f"death-{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return x[:, 0]


class Slow:
    def __call__(self, x, cond=None):
        time.sleep(float(x[:, 0].max()))
        return x[:, 0]


def fussy(x, cond=None):
    if (x < 0).any():
        raise ValueError("below zero")
    return x[:, 0]


def who(x, cond=None):
    time.sleep(0.05)
    return torch.full((len(x),), float(os.getpid()), dtype=torch.float64)


def threads(x, cond=None):
    return torch.full((len(x),), float(torch.get_num_threads()))


def by_number(*names):
    """A reward that is one of these functions, by the number in its condition."""

    def reward(x, cond=None):
        what = 0 if cond is None else int(cond.pop("what")[0, 0])
        return globals()[names[what]](x, cond or None)

    return reward
'''
SHARED = ("square", "who", "threads", "fussy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pooled")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def made(folder: Path):
    return __import__(MODULE)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Pooled]:
    """Two workers that several tests ask: starting one takes seconds."""
    with Pooled(f"{MODULE}:by_number", *SHARED, workers=2) as pool:
        yield pool


def asking(name: str, rows: int) -> dict[str, torch.Tensor]:
    return {"what": torch.full((rows, 1), SHARED.index(name))}


@pytest.mark.parametrize("chunk", [None, 1, 7, 1000])
def test_the_answers_are_those_of_the_reward_in_order(
    made, shared: Pooled, chunk: int | None
) -> None:
    x = torch.randn(50, 3, dtype=torch.float64)
    cond = {"shift": torch.randn(50, 1, dtype=torch.float64)}
    shared.chunk = chunk
    for _ in range(2):  # the second time the size of a chunk is known
        assert torch.equal(shared(x, cond | asking("square", 50)), made.square(x, cond))
    assert torch.equal(shared(x.requires_grad_(True)), made.square(x).detach())
    assert shared(x[:0]).shape == (0,)
    narrow = x.detach().bfloat16()
    assert torch.equal(shared(narrow), made.square(narrow.float()))
    assert not shared.differentiable
    shared.chunk = None


def test_both_workers_work_with_one_thread_each(shared: Pooled) -> None:
    shared.chunk = 1
    found: set[int] = set()
    for _ in range(100):  # one may still be starting
        found |= {int(v) for v in shared(torch.zeros(8, 1), asking("who", 8))}
        if len(found) == 2:
            break
    shared.chunk = None
    assert len(found) == 2
    assert os.getpid() not in found
    assert shared(torch.zeros(2, 1), asking("threads", 2)).tolist() == [1, 1]


def test_a_factory_and_what_its_reward_says_about_failures(folder: Path) -> None:
    with Pooled(f"{MODULE}:Shifted", 2.0, workers=1) as pool:
        assert pool(torch.tensor([[1.0], [2.0]])).tolist() == [3, 4]
        assert pool.failure is None
        assert pool(torch.tensor([[-3.0], [2.0]])).isnan().tolist() == [True, False]
        assert pool.failure == "below zero"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{MODULE}:impossible", "could not be made in a worker: ValueError: no licence"),
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all'"),
    ],
)
def test_a_reward_that_cannot_be_made_is_told_at_the_first_call(
    folder: Path, name: str, message: str
) -> None:
    with Pooled(name, workers=1) as pool, pytest.raises(WorkerError, match=message):
        pool(torch.zeros(3, 1))


def test_a_killed_worker_costs_nothing_the_first_time(made, tmp_path: Path) -> None:
    x = torch.arange(20.0).unsqueeze(1)
    with (
        warnings.catch_warnings(),
        Pooled(made.Mortal(str(tmp_path), 11.5, 1), workers=1, chunk=5) as pool,
    ):
        warnings.simplefilter("error")
        assert torch.equal(pool(x), x[:, 0])
    assert pool.lost == 0
    assert len(list(tmp_path.glob("death-*"))) == 1


def test_a_row_that_kills_twice_is_lost_alone(made, tmp_path: Path) -> None:
    x = torch.arange(20.0).unsqueeze(1)
    with Pooled(made.Mortal(str(tmp_path), 18.5, 99), workers=1, chunk=5) as pool:
        with pytest.warns(Lost, match="a row of the reward .* was ended by SIGKILL, twice"):
            found = pool(x)
        assert found.isnan().tolist() == [False] * 19 + [True]
        assert torch.equal(found[:19], x[:19, 0])
        assert torch.equal(pool(x[:4]), x[:4, 0]), "the pool goes on"
    assert pool.lost == 1
    assert len(list(tmp_path.glob("death-*"))) == 2


def test_a_worker_killed_from_outside_is_replaced(made) -> None:
    with Pooled(made.who, workers=1, chunk=1) as pool:
        (first,) = pool(torch.zeros(1, 1)).int().tolist()
        os.kill(first, signal.SIGKILL)
        (second,) = pool(torch.zeros(1, 1)).int().tolist()
    assert second != first
    assert not Path(f"/proc/{second}").exists()


def test_a_time_limit_costs_the_chunk(made) -> None:
    x = torch.tensor([[0.0], [0.01], [30.0], [0.0], [0.02]])
    began = time.monotonic()
    with Pooled(made.Slow(), workers=1, chunk=1, timeout=1.0) as pool:
        with pytest.warns(Lost, match="took longer than 1 s for 1 rows"):
            found = pool(x)
        assert found.isnan().tolist() == [False, False, True, False, False]
    assert pool.lost == 1
    assert time.monotonic() - began < 30


def test_an_exception_comes_back_with_its_traceback_and_the_pool_goes_on(shared: Pooled) -> None:
    with pytest.raises(WorkerError, match="the reward raised ValueError: below zero") as info:
        shared(torch.tensor([[-1.0]]), asking("fussy", 1))
    assert "in fussy" in info.value.__notes__[0]
    assert shared(torch.tensor([[2.0]]), asking("fussy", 1)).tolist() == [2]


def test_threads_may_share_a_pool(shared: Pooled) -> None:
    answers: dict[int, torch.Tensor] = {}

    def ask(k: int) -> None:
        answers[k] = shared(torch.full((10, 1), float(k)))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((answers[k] == k * k).all() for k in range(4))


def test_closing_ends_a_call_that_waits(made) -> None:
    pool = Pooled(made.Slow(), workers=1, chunk=1)
    assert pool(torch.zeros(1, 1)).tolist() == [0]
    threading.Timer(0.3, pool.close).start()
    began = time.monotonic()
    with pytest.raises(WorkerError):
        pool(torch.full((3, 1), 60.0))
    assert time.monotonic() - began < 20
    with pytest.raises(ValueError, match="closed"):
        pool(torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "at least 1 worker"), ({"chunk": 0}, "at least 1 row"),
     ({"timeout": 0.0}, "above 0 seconds")],
)  # fmt: skip
def test_impossible_pools_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pooled("a:b", **options)


PROGRAM = """
import sys, torch
from payoff.rewards.pooled import Pooled
if __name__ == "__main__":
    pool = Pooled("rewards_of_the_pool:who_then_slow", workers=1, chunk=1)
    print(int(pool(torch.zeros(1, 1))[0]), flush=True)
    try:
        pool(torch.full((2, 1), 60.0))
    except KeyboardInterrupt:
        pool.close()
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_workers_end_with_this_process(folder: Path, number: int) -> None:
    """Ctrl-C of the whole group, and a kill of the parent alone, in the middle of a row."""
    more = """

def who_then_slow():
    def reward(x, cond=None):
        time.sleep(float(x[0, 0]))
        return who(x)
    return reward
"""
    (folder / f"{MODULE}.py").write_text(SOURCE + more)
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        time.sleep(0.3)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
