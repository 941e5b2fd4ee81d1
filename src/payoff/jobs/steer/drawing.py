r"""Designs drawn in batches: two at a time, so that the reward works while the network does.

Batch b has its own random numbers, :math:`\text{seed}_b = f(\text{seed}, b)`, its own instance of
the method and its own counters. So its designs do not depend on which batch was faster, on the
number of workers, or on where an interrupted run goes on. The reward is asked by one batch at a
time: all workers are its, and no design is paid for twice because two batches ask for it at once.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from payoff.denoisers import Counted, Denoiser
from payoff.errors import UserError
from payoff.jobs.model import placed
from payoff.jobs.records import STATE, RunFolder
from payoff.jobs.steer.remarks import Remarks
from payoff.rewards import Metered, Reward
from payoff.steering.base import AllFailed, Steered
from payoff.targets import Target

STATES = 4096  # that a batch may hold at once
PARTS = 4  # batches that a run is cut into, if they fit
FLIGHT = 2  # batches under way at once, if there are workers
TOGETHER = ("classifier", "fast-direct")  # what one design costs teaches them about all others
STREAMS = 7919  # between the seeds of two batches

Make = Callable[[Target], Steered]


class Stopped(Exception):
    """The end of a batch because another one failed, or the user stopped the run."""


class Stop:
    """A stop flag, shared by all copies of its owner."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        if self.asked:
            raise Stopped

    def __deepcopy__(self, memory: Any) -> Stop:
        return self


class _InTurn(Reward):
    """A reward that several threads ask one after another."""

    def __init__(
        self, reward: Reward, turn: Any, stop: Stop, on_calls: Callable[[int], None]
    ) -> None:
        self.reward, self.turn, self.stop, self.on_calls = reward, turn, stop, on_calls
        self.differentiable = reward.differentiable

    def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        with self.turn:
            self.stop.check()
            found = self.reward(x, cond)
            self.on_calls(len(x))
        return found


class _Watched(Counted):
    """Counts, and ends a batch that is no longer wanted."""

    def __init__(self, base: Denoiser, stop: Stop) -> None:
        super().__init__(base)
        self.stop = stop

    def forward(self, x_t, t, cond=None):
        self.stop.check()
        return super().forward(x_t, t, cond)


@dataclass
class Batch:
    """Designs that were drawn together.

    Attributes:
        number: its place, from 0.
        size: how many designs.
        calls: reward calls.
        failed: of them, those without an answer.
        network: evaluations of the base model.
        backward: of them, those that were differentiated.
        seconds: from its begin to its end, waiting for others included.
        reward_seconds: of them, those that the reward took, its turn waited for.
        summary: what the method reports.
        warnings: what it warned of.
    """

    number: int
    size: int
    calls: int = 0
    failed: int = 0
    network: int = 0
    backward: int = 0
    seconds: float = 0.0
    reward_seconds: float = 0.0
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


Piece = tuple[Batch, Tensor, dict[str, Tensor]]
"""A finished batch: its counts, its samples (size, ...) and their conditions."""


def sizes(count: int, rows: int, asked: int = 0) -> list[int]:
    """How many designs each batch has; ``rows`` states are held for one of them."""
    size = asked or min(math.ceil(count / PARTS), max(1, STATES // max(1, rows)))
    return [min(size, count - first) for first in range(0, count, size)]


class BatchedSteering:
    """Draws the batches of a run that are not there yet.

    Args:
        target: base, reward and temperature.
        make: the method on a target: the run's own, whose parts are counted.
        conditions: ``conditions(n, generator)`` gives the conditions of n designs; {} for none.
        seed: of the run.
        folder: where finished batches are kept.
        remarks: where warnings go.
        on_calls: called with the number of reward calls just made.
        give_up: called when the rest is not wanted any more, to end what the reward is doing.
    """

    def __init__(
        self,
        target: Target,
        make: Make,
        conditions: Callable[[int, torch.Generator], dict[str, Tensor]],
        seed: int,
        folder: RunFolder,
        remarks: Remarks,
        on_calls: Callable[[int], None],
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self.give_up = give_up
        self.target, self.make, self.conditions, self.seed = target, make, conditions, seed
        self.folder, self.remarks, self.on_calls = folder, remarks, on_calls
        self.stop, self.turn = Stop(), threading.Lock()

    def all(self, batches: list[int], flight: int) -> list[Piece]:
        """Every batch with its samples (size, d), in order; those that are kept are read.

        Args:
            batches: how many designs each has.
            flight: how many are under way at once; 1: in this thread.
        """
        found: dict[int, Piece] = {}
        for number, size in enumerate(batches):
            kept = self._kept(Batch(number, size))
            if kept is not None:
                found[number] = kept
                self.on_calls(kept[0].calls)
        missing = [Batch(n, size) for n, size in enumerate(batches) if n not in found]
        with self.remarks.listening():
            drawn = self._together(missing, flight) if flight > 1 else map(self._draw, missing)
            for piece in drawn:
                found[piece[0].number] = piece
        return [found[number] for number in range(len(batches))]

    def _together(self, missing: list[Batch], flight: int) -> Iterator[Piece]:
        threads = torch.get_num_threads()
        begin: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (threads,)}
        with ThreadPoolExecutor(flight, "batch", **begin) as executor:
            waiting: set[Future] = {executor.submit(self._draw, batch) for batch in missing}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            except BaseException:
                self.stop.asked = True  # the threads end at their next look at it
                executor.shutdown(wait=False, cancel_futures=True)
                if self.give_up is not None:
                    self.give_up()
                raise

    def _draw(self, batch: Batch) -> Piece:
        began = time.perf_counter()
        network = _Watched(self.target.denoiser, self.stop)
        reward = Metered(_InTurn(self.target.reward, self.turn, self.stop, self.on_calls))
        method = self.make(Target(network, reward, self.target.temperature))
        generator = torch.Generator().manual_seed(self.seed + STREAMS * (batch.number + 1))
        with self.remarks.about(batch.warnings):
            try:
                cond = self.conditions(batch.size, generator)
                z = method.sample(batch.size, cond or None, generator=generator, batch_size=STATES)
            except AllFailed as error:
                raise self._explained(error, batch) from error
        batch.calls, batch.failed = reward.meter.rows, reward.meter.failed
        batch.network, batch.backward = network.rows, network.backward
        batch.summary = {k: v for k, v in method.summary.items() if _plain(v)}
        batch.seconds = time.perf_counter() - began
        batch.reward_seconds = reward.meter.seconds
        self._keep(batch, z, cond)
        return batch, z, cond

    def _keep(self, batch: Batch, z: Tensor, cond: dict[str, Tensor]) -> None:
        with self.folder.replacing(_name(batch)) as path:
            facts = {"batch": json.dumps(asdict(batch))}
            tensors = {"z": z, **{f"cond.{name}": value for name, value in cond.items()}}
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata=facts
            )

    def _kept(self, batch: Batch) -> Piece | None:
        path = self.folder.path / _name(batch)
        if not path.exists():
            return None
        like = next(self.target.denoiser.parameters())
        try:
            with safe_open(str(path), framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                batch = Batch(**json.loads(file.metadata()["batch"]))
        except Exception as error:
            raise UserError(f"{path} is damaged ({error}): delete it to draw it again") from error
        cond = {k.removeprefix("cond."): v for k, v in found.items() if k != "z"}
        return batch, found["z"].to(like.device), placed(cond, like)

    def _explained(self, error: AllFailed, batch: Batch) -> UserError:
        """The same with the place where what the sampler held was written down."""
        tensors = _tensors(error.state)
        if not tensors:
            return UserError(str(error))
        name = f"{STATE}/failed-{batch.number:04d}.safetensors"
        with self.folder.replacing(name) as path:
            save_file(tensors, path)
        return UserError(f"{error}. What it held is in {self.folder.path / name}")


def _name(batch: Batch) -> str:
    return f"{STATE}/batch-{batch.number:04d}.safetensors"


def _plain(value: Any) -> bool:
    return isinstance(value, (str, bool, int, float)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )


def _tensors(state: Any) -> dict[str, Tensor]:
    """The tensors of a state, whatever holds them."""
    named = state if isinstance(state, dict) else getattr(state, "__dict__", {"state": state})
    found = {str(k): v for k, v in named.items() if isinstance(v, Tensor)}
    return {k: v.detach().cpu().contiguous().clone() for k, v in found.items()}
