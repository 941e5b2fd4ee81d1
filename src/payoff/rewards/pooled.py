r"""A black-box reward in processes of its own, so that the network can work meanwhile.

.. math:: r_{\text{pooled}}(x_1, \dots, x_n) = (r(x_1, \dots, x_c),\ r(x_{c+1}, \dots), \dots)

Rows are cut into chunks, every chunk is evaluated by one of W processes, and the answers come back
in the order asked for. What can go wrong with somebody else's simulator costs no more than it must:

==============================  =============================================================
the worker is killed            its chunk is given, row by row, to a fresh one; a row that
                                takes that one along too is NaN, with a warning
a chunk takes too long          its worker is ended, its rows are NaN, with a warning
the reward raises               :class:`WorkerError` here, with the worker's own traceback
this process ends, or is killed the workers end too
==============================  =============================================================
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from multiprocessing import connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from payoff.errors import UserError
from payoff.naming import load_named
from payoff.rewards.base import Cond, Reward, checked_rows

PART = 0.05  # seconds that a chunk should take: long against the way there, short against a batch
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STARTING = threading.Lock()


class WorkerError(RuntimeError):
    """The reward raised in a worker, or could not be made there."""


class Lost(UserWarning):
    """Rows without an answer because their worker died or took too long."""


class Pooled(Reward):
    """A reward evaluated by ``workers`` processes at once; its answers carry no gradient.

    Several threads may call it at the same time. The workers start with the object and end with
    :meth:`close`, with the ``with`` block, or with this process. They ignore Ctrl-C, which is for
    this process to handle, and compute with one thread each.

    An answer must not depend on the other rows of its batch. A reward whose last digit does is the
    same to that digit only.

    Args:
        reward: what is evaluated, as something that can be pickled: called with x and cond. Or the
            name of a function, ``"module:function"``, that makes it in the worker.
        arguments: what that function is called with.
        workers: number of processes.
        chunk: rows at a time; None: as many as take a twentieth of a second.
        timeout: seconds that a chunk may take; None: as long as it needs.

    Attributes:
        failure: what the first failed evaluation said, if the reward keeps that as its ``failure``.
        lost: rows that are NaN because their worker died or took too long.

    Raises:
        WorkerError: the reward raised, or could not be made.
    """

    def __init__(
        self,
        reward: Callable[..., Any] | str,
        *arguments: Any,
        workers: int = 2,
        chunk: int | None = None,
        timeout: float | None = None,
    ) -> None:
        if workers < 1:
            raise UserError(f"a pool needs at least 1 worker, got {workers}")
        if chunk is not None and chunk < 1:
            raise UserError(f"a chunk has at least 1 row, got {chunk}")
        if timeout is not None and not timeout > 0:
            raise UserError(f"the time limit of a chunk must be above 0 seconds, got {timeout:g}")
        self.source = (reward, arguments)
        self.workers, self.chunk, self.timeout = workers, chunk, timeout
        self.failure: str | None = None
        self.lost = 0
        self._seconds: float | None = None  # a row takes
        self._closed = False
        self._tasks: queue.SimpleQueue[tuple[Any, Future] | None] = queue.SimpleQueue()
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if self._closed:
            raise ValueError("the pool is closed")
        if not len(x):
            return x.new_empty(0, dtype=torch.get_default_dtype())
        parts = self._submit(_plain(x), {n: _plain(c) for n, c in cond.items()} if cond else None)
        # an interrupt ends the wait; the chunks go on until the pool is closed
        found = torch.cat([torch.as_tensor(part.result()) for _, part in parts])
        return checked_rows(found.to(x.device), x, self)

    def _submit(self, x: Any, cond: Any) -> list[tuple[range, Future]]:
        """Put rows into the queue, chunk by chunk; returns their places and their answers."""
        parts: list[tuple[range, Future]] = []
        first = 0
        while first < len(x):
            rows = slice(first, min(len(x), first + self._size(len(x))))
            some = None if cond is None else {name: c[rows] for name, c in cond.items()}
            parts.append((range(first, rows.stop), Future()))
            self._tasks.put(((x[rows], some), parts[-1][1]))
            first = rows.stop
        return parts

    def _lost(self, rows: int, why: str) -> Any:
        """The answers of rows that were lost."""
        return torch.full((rows,), math.nan)

    def _joined(self, parts: list[Any]) -> Any:
        """The answers of rows that were asked for one by one."""
        return torch.cat(parts)

    def close(self) -> None:
        """End the workers, whatever they are doing; calls that wait raise."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for worker in running:
            worker.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(10.0)
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[1].set_exception(WorkerError("the pool was closed"))

    def __enter__(self) -> Pooled:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _size(self, rows: int) -> int:
        share = math.ceil(rows / self.workers)
        if self.chunk is not None:
            return self.chunk
        if self._seconds is None:
            return math.ceil(share / 4)
        return max(1, min(share, round(PART / max(self._seconds, 1e-9))))

    def _serve(self) -> None:
        """One worker's life, and its successors'."""
        worker: _Worker | None = None
        with contextlib.suppress(WorkerError):  # the first call says what is wrong
            worker = self._fresh()
        while (task := self._tasks.get()) is not None:
            (x, cond), future = task
            try:
                if self._closed:
                    raise WorkerError("the pool was closed")
                worker = self._fresh() if worker is None else worker
                values, worker = self._answers(worker, x, cond)
                future.set_result(values)
            except BaseException as error:
                if worker is not None and not worker.alive:
                    self._forget(worker)
                    worker = None
                future.set_exception(error)
        if worker is not None:
            self._forget(worker)

    def _answers(self, worker: _Worker, x: Any, cond: Any) -> tuple[Any, _Worker]:
        """The values of a chunk, and the worker that is alive afterwards."""
        began = time.perf_counter()
        try:
            values = self._ask(worker, x, cond)
            self._seconds = (time.perf_counter() - began) / len(x)
            return values, worker
        except _Late:
            why = f"took longer than {self.timeout:g} s for {len(x)} rows"
            return self._lose(len(x), why), self._instead(worker)
        except _Died as died:
            worker, said = self._instead(worker), str(died)
        # the second time row by row: whichever it is that kills, it shall not cost the others
        found = []
        for i in range(len(x)):
            own = None if cond is None else {name: c[i : i + 1] for name, c in cond.items()}
            try:
                found.append(self._ask(worker, x[i : i + 1], own))
            except (_Died, _Late) as error:
                late = isinstance(error, _Late)
                told = f"took longer than {self.timeout:g} s" if late else f"{error}, twice"
                found.append(self._lose(1, f"{told} (first: {said})" if late else told))
                worker = self._instead(worker)
        return self._joined(found), worker

    def _ask(self, worker: _Worker, x: Any, cond: Any) -> Any:
        values, failure = worker.ask((x, cond), self.timeout)
        self.failure = self.failure or failure
        return values

    def _lose(self, rows: int, why: str) -> Any:
        """Count and warn of lost rows; their answers."""
        with self._lock:
            self.lost += rows
        many = "a row" if rows == 1 else f"{rows} rows"
        warnings.warn(f"{many} of the reward counted as failed: its worker {why}", Lost, 2)
        return self._lost(rows, f"its worker {why}")

    def _instead(self, worker: _Worker) -> _Worker:
        self._forget(worker)
        return self._fresh()

    def _fresh(self) -> _Worker:
        worker = _Worker(self.source)
        with self._lock:
            closed = self._closed
            self._running.add(worker)
        if closed:
            worker.kill()
        try:
            worker.wait_until_ready()
        except WorkerError:
            self._forget(worker)
            raise
        return worker

    def _forget(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._running.discard(worker)


class PooledObjects(Pooled):
    """The same for a function of sequences of objects, which gives one answer an object.

    Args:
        make: name of a function ``module:function`` that makes the function of objects in the
            worker. It is called with a sequence of objects and None or ``{"part": (n,)}``, the part
            of a combined reward. An answer is (value, reason of a failure or None, whether there is
            no answer because it raised).
        arguments: what that function is called with.
        more: as for :class:`Pooled`.
    """

    def stream(
        self, objects: Sequence[Any], part: int | None = None
    ) -> Iterator[tuple[Sequence[int], list[tuple[float, str | None, bool]]]]:
        """Yield places among the objects with their answers, in the order in which they arrive.

        Args:
            objects: things that can be pickled, in a sequence whose slices are sequences.
            part: of a combined reward, its place; None: the whole.

        Raises:
            WorkerError: the reward could not be made, or the pool was closed.
        """
        if self._closed:
            raise ValueError("the pool is closed")
        cond = None if part is None else {"part": np.full(len(objects), part)}
        places = {future: rows for rows, future in self._submit(objects, cond)}
        for future in as_completed(places):
            yield places[future], future.result()

    def _lost(self, rows: int, why: str) -> Any:
        return [(math.nan, why, True)] * rows

    def _joined(self, parts: list[Any]) -> Any:
        return [answer for part in parts for answer in part]


class _Died(Exception):
    """The worker is gone."""


class _Late(Exception):
    """The worker did not answer in time."""


class _Worker:
    """A process with a pipe to it."""

    def __init__(self, source: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, source), daemon=True)
        with _STARTING, _inherited(), _main_module(source):
            self.process.start()
        other.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def wait_until_ready(self) -> None:
        try:
            ready, told, trace = self.pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(f"a worker {self.ended()} while it was starting") from None
        if not ready:
            raise _told(f"the reward could not be made in a worker: {told}", trace)

    def ask(self, rows: Any, timeout: float | None) -> tuple[Any, str | None]:
        try:
            self.pipe.send(tuple(_arrays(part) for part in rows))
            if not self.pipe.poll(timeout):
                raise _Late
            answered, found, more = self.pipe.recv()
        except (EOFError, OSError):
            raise _Died(self.ended()) from None
        if not answered:
            raise _told(f"the reward raised {found}", more)
        return (torch.from_numpy(found) if isinstance(found, np.ndarray) else found), more

    def ended(self) -> str:
        self.process.join(5.0)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10.0)


def _told(text: str, trace: str) -> WorkerError:
    error = WorkerError(text)
    error.add_note(trace)
    return error


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """What a worker inherits: Ctrl-C held back until it ignores it, one thread for everything."""
    lacking = [name for name in ONE_THREAD if name not in os.environ]
    mask = getattr(signal, "pthread_sigmask", None)
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    os.environ.update(dict.fromkeys(lacking, "1"))
    try:
        yield
    finally:
        for name in lacking:
            os.environ.pop(name, None)
        if mask:
            mask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_module(source: Any) -> Iterator[None]:
    """Keep a worker from running the user's script again, unless it needs a function of it.

    A new process imports the script that was started, to find what was defined in it. A script
    that is not guarded by ``if __name__ == "__main__"`` would start its runs again there.
    """
    main = sys.modules["__main__"]
    if b"__main__" in pickle.dumps(source) or not hasattr(main, "__file__"):
        yield
        return
    spec, file = getattr(main, "__spec__", None), main.__file__
    main.__spec__ = None
    del main.__file__
    try:
        yield
    finally:
        main.__spec__, main.__file__ = spec, file


def _plain(rows: Tensor) -> Tensor:
    return rows.detach().cpu()


def _arrays(part: Any) -> Any:
    """Tensors as arrays: these are copied into the pipe and leave no shared memory behind."""
    if isinstance(part, Tensor):
        return (part.float() if part.dtype == torch.bfloat16 else part).contiguous().numpy()
    return {name: _arrays(c) for name, c in part.items()} if isinstance(part, dict) else part


def _tensors(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: torch.from_numpy(c) for name, c in part.items()}
    return torch.from_numpy(part) if isinstance(part, np.ndarray) else part


def _work(pipe: connection.Connection, source: Any) -> None:
    """The worker: make the reward, then answer until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    reward, arguments = source
    try:
        if isinstance(reward, str):
            make = load_named(reward, reward, "MODULE:FUNCTION", "lab:make", lambda *_: "")
            reward = make(*arguments)
        pipe.send((True, None, None))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}", traceback.format_exc()))
        return
    with contextlib.suppress(EOFError, OSError):  # the other side has gone
        while True:
            x, cond = (_tensors(part) for part in pipe.recv())
            pipe.send(_answer(reward, x, cond))


def _answer(reward: Any, x: Any, cond: Cond | None) -> tuple[bool, Any, str | None]:
    try:
        if not isinstance(x, Tensor):
            return True, reward(x, cond), None
        with torch.no_grad():
            value = checked_rows(reward(x, cond), x, reward)
        value = value.cpu().float() if value.dtype == torch.bfloat16 else value.cpu()
        return True, value.numpy(), getattr(reward, "failure", None)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}", traceback.format_exc()


def _follow() -> None:
    """End with the process that started this one, even in the middle of a row."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
