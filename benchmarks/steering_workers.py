"""Wall time of a steering run with a reward as expensive as the network: serial, and in a pool.

The reward computes until it has used the time that one network evaluation of a row takes, measured
at the start, so that serially each takes half of the run. With one worker the network works on one
batch while the reward works on another; on two idle cores the run should take little more than half
the time. It prints one line a number of workers, and whether the designs are the same.

    python benchmarks/steering_workers.py --particles 64 --count 32
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from payoff.denoisers import NetDenoiser
from payoff.jobs.methods import steering_class
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder
from payoff.jobs.steer.drawing import FLIGHT, BatchedSteering
from payoff.jobs.steer.remarks import Remarks
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.rewards import Reward
from payoff.rewards.pooled import Pooled
from payoff.targets import Target

DIM = 18


class Busy(Reward):
    """Minus the squared length of a row, after ``seconds`` of computing or waiting for each."""

    def __init__(self, seconds: float, waits: bool) -> None:
        self.seconds, self.waits = seconds, waits

    def __call__(self, x, cond=None):
        if self.waits:
            time.sleep(self.seconds * len(x))
            return -x.square().sum(1)
        end = time.thread_time() + self.seconds * len(x)  # what it computes, not what it waits
        while time.thread_time() < end:
            torch.randn(64, 64).exp().sum()
        return -x.square().sum(1)


class Evaluation:
    """Seconds of one network evaluation of a row, in batches of ``rows``."""

    def __init__(self, denoiser: NetDenoiser, rows: int, waits: bool) -> None:
        x, t = torch.randn(rows, DIM), torch.tensor(0.5)
        clock = time.perf_counter if waits else time.thread_time
        with torch.no_grad():
            denoiser(x, t)
            began = clock()
            for _ in range(40):
                denoiser(x, t)
        self.seconds = (clock() - began) / 40 / rows


def drawn(target, workers: int, plan: list[int], particles: int, steps: int):
    """(seconds, samples) of one run."""
    cls = steering_class("svdd")  # one reward call a network evaluation: both cost the same
    options = {"candidates": particles, "steps": steps}
    with tempfile.TemporaryDirectory() as place:
        drawing = BatchedSteering(
            target,
            lambda own: cls(own, (DIM,), **options),
            lambda n, generator: {},
            0,
            RunFolder(place, {}),
            Remarks(Reporter(quiet=True)),
            lambda rows: None,
        )
        began = time.perf_counter()
        found = drawing.all(plan, FLIGHT if workers else 1)
        return time.perf_counter() - began, torch.cat([z for _, z, _ in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="the reward waits instead of computing, as for another machine: the overlap alone, "
        "also where the cores are taken",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = NetDenoiser(ResidualMLP(DIM, width=asked.width, depth=3), GaussianProcess())
    net.requires_grad_(False).eval()
    plan = [asked.count // asked.batches] * asked.batches
    rows = plan[0] * asked.particles
    reward = Busy(Evaluation(net, rows, asked.wait).seconds, asked.wait)
    load = Path("/proc/loadavg").read_text().split()[0] if os.path.exists("/proc/loadavg") else "?"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {load}; {rows} rows a batch, "
        f"{1e6 * reward.seconds:.1f} µs a row for the network and as much for the reward"
    )
    serial, expected = drawn(Target(net, reward), 0, plan, asked.particles, asked.steps)
    print(f"0 workers: {serial:.2f} s")
    for workers in (1, 2):
        with Pooled(reward, workers=workers) as pool:
            pool(torch.zeros(workers, DIM))  # they have started
            pooled = drawn(Target(net, pool), workers, plan, asked.particles, asked.steps)
        same = "the same designs" if torch.equal(pooled[1], expected) else "OTHER DESIGNS"
        print(f"{workers} workers: {pooled[0]:.2f} s, {pooled[0] / serial:.2f} of it, {same}")


if __name__ == "__main__":
    main()
