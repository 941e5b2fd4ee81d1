"""What the particle engine costs on top of its network and its reward.

    python benchmarks/steering_speed.py [--rounds 15] [--out speed.json]

A residual MLP of three blocks of width 256 on vectors of 18 numbers, as for airfoils, and 1,024
particles: as one population, and as 64 of 16. Network and reward are timed inside of the run, every
call of them; the rest of the processor's time is the engine's own. Printed are medians over rounds.
For methods that differentiate, the backward pass (of network and reward) counts as the network's.
Beside the methods stands the base's own sampler, whose kernels and noise the engine needs as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from payoff.denoisers import Denoiser, NetDenoiser
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.samplers import Ancestral
from payoff.steering.das import DAS
from payoff.steering.fk import FeynmanKac
from payoff.steering.particles import Particles
from payoff.steering.tds import TDS
from payoff.steering.vasr import VASR
from payoff.targets import Target

DIM, ROWS = 18, 1024
METHODS = (
    (Particles, 1),
    (Particles, 5),
    (FeynmanKac, 1),
    (FeynmanKac, 10),
    (VASR, 1),
    (TDS, 1),
    (DAS, 1),
)
# processor time: other processes on the machine do not count; run it on one thread
now = time.thread_time


class Clock:
    """Seconds spent inside of something."""

    def __init__(self) -> None:
        self.seconds = 0.0


class Timed(Denoiser):
    """A denoiser whose calls are timed."""

    def __init__(self, base: Denoiser, clock: Clock) -> None:
        super().__init__()
        self.base, self.process, self.clock = base, base.process, clock

    def forward(self, x_t, t, cond=None):
        start = now()
        found = self.base(x_t, t, cond)
        self.clock.seconds += now() - start
        return found


def backward_timed(clock: Clock) -> None:
    """Count the time inside of torch.autograd.grad too."""
    grad = torch.autograd.grad

    def timed(*args, **options):
        start = now()
        found = grad(*args, **options)
        clock.seconds += now() - start
        return found

    torch.autograd.grad = timed


def cases(target: Target, steps: int) -> dict[str, tuple[object, int]]:
    """Name -> (sampler, samples to ask for)."""
    found: dict[str, tuple[object, int]] = {
        "base sampler": (Ancestral(target.denoiser, (DIM,), steps), ROWS)
    }
    for particles in (ROWS, 16):
        for cls, every in METHODS:
            name = f"{cls.name}, a check every {every}, {ROWS // particles} x {particles}"
            method = cls(target, (DIM,), steps, particles=particles, every=every)
            found[name] = (method, ROWS // particles)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ResidualMLP(DIM, width=256, depth=3).eval().requires_grad_(False)
    inside, scored = Clock(), Clock()

    def score(x, cond):
        start = now()
        found = -(x * x).sum(1)
        scored.seconds += now() - start
        return found

    backward_timed(inside)
    denoiser = Timed(NetDenoiser(net, GaussianProcess()), inside)
    target = Target(denoiser, FunctionReward(score), temperature=20.0)
    rows = []
    for name, (method, n) in cases(target, args.steps).items():
        totals, networks, shares = [], [], []
        for turn in range(args.rounds + 1):
            inside.seconds = scored.seconds = 0.0
            start = now()
            method.sample(n, generator=torch.Generator().manual_seed(turn), batch_size=ROWS)
            total = now() - start
            if turn:  # the first one warms up
                totals.append(total)
                networks.append(inside.seconds)
                shares.append((total - inside.seconds - scored.seconds) / inside.seconds)
        row = {
            "method": name,
            "seconds": statistics.median(totals),
            "network seconds": statistics.median(networks),
            "engine / network": statistics.median(shares),
        }
        rows.append(row)
        print(f"{name:42s} {row['seconds']:.3f} s  network {row['network seconds']:.3f} s  "
              f"engine {100 * row['engine / network']:.1f} % of it")  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps({"steps": args.steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
