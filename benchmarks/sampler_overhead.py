"""What a sampling loop costs on top of its network calls, beside azula on the same network.

    pip install --no-deps azula==0.11.1 einops
    python benchmarks/sampler_overhead.py [--threads 1] [--rounds 15]

Both libraries run the same network with EDM preconditioning, the same steps and batch, alternating
within one process in changing order; the network alone is timed in the same rounds on the same
inputs. Printed are medians over the rounds: seconds, and the ratios of times of the same round.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from payoff.denoisers import NetDenoiser
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.samplers import DDIM

CASES = ((64, 128, 2), (512, 256, 4), (2048, 256, 4))  # batch, width, depth


def loops(batch: int, width: int, depth: int, steps: int, eta: float) -> dict[str, Callable]:
    """The network alone, payoff's loop and azula's on the same network and start."""
    torch.manual_seed(0)
    net = ResidualMLP(18, width=width, depth=depth).eval().requires_grad_(False)
    sampler = DDIM(NetDenoiser(net, GaussianProcess()), (18,), steps, eta=eta)
    x, level = torch.randn(batch, 18), torch.zeros(batch)

    def network() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                net(x, level, None)

    runs = {"network": network, "payoff": lambda: sampler.sample(batch, batch_size=batch)}
    try:
        from azula.denoise import KarrasDenoiser
        from azula.noise import CosineSchedule
        from azula.sample import DDIMSampler
    except ImportError:
        return runs

    class Backbone(torch.nn.Module):
        def forward(self, x_t, c_time, **kwargs):
            return net(x_t, c_time.reshape(-1).expand(x_t.shape[0]), None)

    denoiser = KarrasDenoiser(Backbone(), CosineSchedule())
    theirs = DDIMSampler(denoiser, eta=eta, steps=steps, silent=True)

    def azula() -> None:
        with torch.inference_mode():
            theirs(theirs.init((batch, 18)))

    runs["azula"] = azula
    return runs


def measure(runs: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round; the order changes, since what runs first warms the caches."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffle = random.Random(0).sample
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name in shuffle(list(runs), len(runs)):
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of one's time over the other's."""
    pairs = zip(times[over], times[under], strict=True)
    return statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for eta in (0.0, 1.0):
        for batch, width, depth in CASES:
            times = measure(loops(batch, width, depth, args.steps, eta), args.rounds)
            row = {"eta": eta, "batch": batch, "net": f"{depth}x{width}"}
            row |= {name: statistics.median(values) for name, values in times.items()}
            for name in ("payoff", "azula"):
                if name in times:
                    row[f"{name} overhead %"] = 100 * (ratio(times, name, "network") - 1)
            if "azula" in times:
                row["payoff / azula"] = ratio(times, "payoff", "azula")
            rows.append(row)
            shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            print("  ".join(f"{k}: {v}" for k, v in shown.items()))
    if args.out:
        args.out.write_text(json.dumps({"steps": args.steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
