"""Molecules per second of the molecule network, in training and in sampling.

    python benchmarks/molecule_speed.py [--rounds 5] [--compile]

Training steps (loss, gradient, optimiser, weight average) are timed on random molecules of one
size, for each state space and precision; the settings take turns in changing order within one
process. Times are CPU times: with one thread, other work on the machine counts for less. With
``--compile`` compiled networks take part (one to two minutes each at the start). Sampling is the
default of ``payoff sample``, without placing hydrogens. The last rows are an E(n) graph network of
the size that EDM used on QM9, 9 layers of 256, on all atoms, at EDM's 1,000 steps (timed over ten
of them; every step costs the same). ``ratio`` is ours over theirs.

Reference: E(n) Equivariant Graph Neural Networks (Satorras, Hoogeboom, Welling, 2021), equations 3
to 6, in the form of E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras,
Vignac, Welling, 2022), appendix C: attention on edges, SiLU, dense.
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
from torch import Tensor, nn

from payoff.denoisers import NetDenoiser
from payoff.domains.molecules.config import STEPS
from payoff.domains.molecules.evaluate import noisy, products
from payoff.domains.molecules.train import Run, TrainConfig

NODES = {"united": 9, "all": 18}
EDM, TIMED, EDM_STEPS = "EDM's network", 10, 1000


class GraphNetwork(nn.Module):
    """An E(n) graph network on complete graphs, with the interface of the library's networks."""

    def __init__(self, features: int, width: int = 256, depth: int = 9) -> None:
        super().__init__()

        def two(inputs: int, outputs: int, last: bool = True) -> nn.Sequential:
            layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs)]
            return nn.Sequential(*layers, *([nn.SiLU()] if last else []))

        self.features, self.stem = features, nn.Linear(features + 1, width)
        self.edge = nn.ModuleList(two(2 * width + 2, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, 1) for _ in range(depth))
        self.node = nn.ModuleList(two(2 * width, width, last=False) for _ in range(depth))
        self.move = nn.ModuleList(two(2 * width + 2, 1, last=False) for _ in range(depth))
        self.head = nn.Linear(width, features)

    def forward(self, x: Tensor, noise_level: Tensor, cond=None) -> Tensor:
        r, h = x[..., :3], x[..., 3:]
        batch, n, _ = r.shape
        h = self.stem(torch.cat([h, noise_level.reshape(-1, 1, 1).expand(batch, n, 1)], -1))
        first = (r.unsqueeze(1) - r.unsqueeze(2)).square().sum(-1, keepdim=True)
        start = r
        for edge, gate, node, move in zip(self.edge, self.gate, self.node, self.move, strict=True):
            gap = r.unsqueeze(2) - r.unsqueeze(1)
            square = gap.square().sum(-1, keepdim=True)
            ends = [h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)]
            m = edge(torch.cat([*ends, square, first], -1))
            h = h + node(torch.cat([h, (m * gate(m).sigmoid()).sum(2)], -1))
            ends = [h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)]
            push = move(torch.cat([*ends, square, first], -1))
            r = r + (gap / (square.clamp(min=1e-8).sqrt() + 1) * push).sum(2) / 100
        return torch.cat([r - start, self.head(h)], -1)


def data_of(codec: str, count: int) -> tuple[Tensor, Tensor]:
    """Random centred rows of one size, and their mask."""
    features = {"united": 9, "all": 5}[codec]
    x = torch.randn(count, NODES[codec], 3 + features)
    x[..., :3] -= x[..., :3].mean(1, keepdim=True)
    return x, torch.ones(count, NODES[codec], dtype=torch.bool)


def runs_of(batch: int, compiled: bool) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Training steps and sampling runs by name."""
    steps: dict[str, Callable] = {}
    samples: dict[str, Callable] = {}
    for codec in NODES:
        x, mask = data_of(codec, 4 * batch)
        for precision in ("fp32", "bf16"):
            for fused in (False, True) if compiled else (False,):
                config = TrainConfig(
                    codec=codec, precision=precision, compile=fused, batch_size=batch
                )
                run = Run(config, x, mask, Path())
                steps[f"{codec} {precision}{' compiled' if fused else ''}"] = run.update
        for kind in ("fp32", "bf16"):
            samples[f"{codec} {kind}"] = sampling(run.denoiser, x[:batch], mask[:batch], kind)
    graph = Run(
        TrainConfig(codec="all", compile=False, batch_size=batch, optimizer="adamw"),
        x,
        mask,
        Path(),
    )
    graph.denoiser = NetDenoiser(GraphNetwork(5), graph.denoiser.process)
    for kind in ("fp32", "bf16"):
        rest = (graph.denoiser, x[:batch], mask[:batch], kind)
        samples[f"{EDM} {kind}, 1000 steps"] = sampling(*rest, TIMED)
    return steps, samples


def sampling(
    denoiser: NetDenoiser, x: Tensor, mask: Tensor, kind: str, steps: int = STEPS
) -> Callable:
    """Drawing one batch."""
    sampler = noisy(denoiser, tuple(x.shape[1:]), steps)

    def run() -> None:
        with products(kind):
            sampler.sample(len(x), {"mask": mask}, batch_size=len(x))

    return run


def measure(runs: dict[str, Callable], rounds: int, count: int) -> dict[str, float]:
    """Molecules per second: median over rounds of changing order, after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffle = random.Random(0).sample
    for i in range(rounds + 1):
        for name in shuffle(list(runs), len(runs)):
            start = time.process_time()
            runs[name]()
            if i:
                times[name].append(time.process_time() - start)
    return {name: round(count / statistics.median(t), 1) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps, samples = runs_of(options.batch, options.compile)
    trained = measure(steps, options.rounds, options.batch)
    drawn = measure(samples, max(1, options.rounds // 2), options.batch)
    for name in drawn:
        if name.endswith("1000 steps"):
            drawn[name] = round(drawn[name] * TIMED / EDM_STEPS, 4)
    ratio = {
        kind: round(drawn[f"united {kind}"] / drawn[f"{EDM} {kind}, 1000 steps"])
        for kind in ("fp32", "bf16")
    }
    print(json.dumps({"training": trained, "sampling": drawn, "ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
