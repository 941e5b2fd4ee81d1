"""Every fine-tuning method on problems with a closed-form answer, against the exact frontier.

The frontier is {(KL(p*_τ ‖ p), E_{p*_τ}[r])}: at its divergence no law has more reward. A method's
final model is drawn with many steps, and so is the base, by the same noise. Its divergence is that
of its paths, which bounds that of its samples from above, so its share of the frontier's gain is
not overstated.

    python benchmarks/finetuning_frontier.py                    # all, 3 seeds, writes JSON and SVG
    python benchmarks/finetuning_frontier.py --toy              # seconds, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from payoff.denoisers import Corrected, Denoiser
from payoff.finetuning import METHODS, RGDM, FinetuneConfig, Finetuner, Monitor
from payoff.metrics import Estimate, paths
from payoff.nets import ResidualMLP
from payoff.problems import GaussianSubspace, MixtureProblem, Problem, TokenChain
from payoff.processes import GaussianProcess
from payoff.samplers import DDIM
from payoff.schedules import Cosine
from payoff.targets import Target

PROCESS = GaussianProcess(schedule=Cosine(-8.0, 10.0))
STEPS, FINE = 50, 400  # of the sampler while tuning, and while measuring


@dataclass(frozen=True)
class Entry:
    """One row of the table: a method with its options and what it may spend."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    claims: bool = False  # whether its fixed point is p*
    tokens: dict[str, Any] | None = None  # applies to tokens, there with these changes of config
    token_options: dict[str, Any] = field(default_factory=dict)  # and of options

    def build(self, problem: Problem) -> Finetuner:
        if self.method == "rgdm exact":
            return RGDM.of_value(problem.value(), **self.options)
        return METHODS[self.method](**self.options)


def policy(calls: int, **more: Any) -> dict[str, Any]:
    return {"calls": calls, "per_round": 1000, "updates": 10, "batch_size": 5000, **more}


FAST = {"learning_rate": 2e-3}
ENTRIES = (
    Entry(
        "RGDM, exact value",
        "rgdm exact",
        {},
        {"calls": 1000, "per_round": 1000, "updates": 1500, "sampler_steps": 100},
        True,
    ),
    Entry(
        "RGDM, learned value",
        "rgdm",
        {"objective": "soft", "value_steps": 1500, "value_width": 64, "radius": 1.0},
        {"calls": 50_000, "per_round": 12_500, "updates": 250, "sampler_steps": 100},
        True,
    ),
    Entry(
        "RGDM, samples",
        "rgdm",
        {"level": "sample", "control": True},
        {"calls": 80_000, "per_round": 20_000, "updates": 400, "batch_size": 1024},
        True,
        {"updates": 2000, "learning_rate": 2e-3},
    ),
    Entry(
        "RWR, one round",
        "rwr",
        {"control": True},
        {"calls": 40_000, "per_round": 40_000, "updates": 1500, "batch_size": 1024},
        True,
        {"updates": 4000, "learning_rate": 2e-3},
    ),
    Entry("DPOK", "dpok", {}, policy(60_000, **FAST), True, {"updates": 20, "ema_decay": 0.99}),
    Entry(
        "Adjoint matching",
        "adjoint",
        {},
        policy(40_000, updates=60, batch_size=2048, ema_decay=0.998),
        True,
    ),
    Entry(
        "Adjoint matching, values above a tenth of noise",
        "adjoint",
        {"switch": 0.1},
        policy(60_000, **FAST),
        True,
    ),
    Entry(
        "AWM, KL in the reward",
        "awm",
        {},
        policy(80_000, per_round=2000, updates=30, batch_size=2048, ema_decay=0.99),
        True,
        {"updates": 120, "batch_size": 4096, "ema_decay": 0.995},
        {"draws": 32},
    ),
    Entry("DRaFT with KL", "draft", {"kl": True}, {"calls": 40_000, "per_round": 1024}, True),
    Entry(
        "RWR, 5 rounds, not tempered",
        "rwr",
        {"tempered": False},
        {"calls": 20_000, "per_round": 4000},
    ),
    Entry(
        "RGDM, r at the clean estimate",
        "rgdm",
        {"score": "x0hat", "proposal": "gaussian", "radius": 1.0},
        {"calls": 20_000, "per_round": 4000},
    ),
    Entry(
        "RGDM, literal: r at x_s, candidates in a ball of 0.5",
        "rgdm",
        {"score": "noisy", "shift": "candidates", "proposal": "ball"},
        {"calls": 64_000, "per_round": 16_000},
    ),
    Entry("DPOK as published", "dpok", {"to_go": False}, policy(60_000, **FAST)),
    Entry("AWM, KL in velocities", "awm", {"kl": "velocity"}, policy(40_000, batch_size=2048)),
    Entry("DDPO", "ddpo", {}, policy(30_000), tokens={}),
    Entry("GRPO", "grpo", {"group": 20}, policy(30_000), tokens={}),
    Entry(
        "GRPO, KL mask and β = 1",
        "grpo",
        {"group": 20, "trust": "kl", "beta": 1.0, "scale": "none"},
        policy(60_000, **FAST),
    ),
    Entry("NFT", "nft", {}, policy(30_000, batch_size=2048)),
    Entry("DRaFT", "draft", {}, {"calls": 10_000, "per_round": 1024}),
    Entry(
        "DPO, 8 draws",
        "dpo",
        {},
        {"calls": 20_000, "per_round": 10_000, "updates": 400},
        tokens={},
    ),
)
ABLATION = tuple(
    Entry(
        f"{told}, radius {radius:g}",
        "rgdm",
        {"radius": radius, **options},
        {"calls": 12_000, "per_round": 1200, "updates": 100},
    )
    for told, options in (
        ("V, kernel", {}),
        ("clean estimate, Gaussian", {"score": "x0hat", "proposal": "gaussian"}),
        ("x_s, Gaussian", {"score": "noisy", "proposal": "gaussian"}),
        (
            "clean estimate, 16 candidates in a ball",
            {"score": "x0hat", "shift": "candidates", "proposal": "ball"},
        ),
        (
            "x_s, best of 16 in a ball",
            {"score": "noisy", "shift": "candidates", "proposal": "ball", "choice": "argmax"},
        ),
    )
    for radius in (0.1, 0.25, 0.5, 1.0)
)


class TokenMLP(nn.Module):
    """Logits (B, L, V) from tokens (B, L) and a noise level; zero at the start."""

    def __init__(self, length: int, vocabulary: int, width: int = 96) -> None:
        super().__init__()
        self.shape = (length, vocabulary)
        self.embed = nn.Embedding(vocabulary + 1, 16)
        self.body = nn.Sequential(
            nn.Linear(16 * length + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.head = nn.Linear(width, length * vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor, level: torch.Tensor, cond: Any = None) -> torch.Tensor:
        flat = torch.cat([self.embed(x).flatten(1), level.unsqueeze(1)], 1)
        return self.head(self.body(flat)).view(len(x), *self.shape)


def make_problem(name: str, dtype: torch.dtype = torch.float32) -> Problem:
    if name == "mixture":
        return MixtureProblem.two_modes(process=PROCESS, dtype=dtype)
    if name == "subspace":
        return GaussianSubspace.random(8, 4, temperature=0.7, process=PROCESS, dtype=dtype)
    # any reward: one random number a sequence. A network of this size holds 256 of them, not 4,096
    return TokenChain.random(length=4, vocabulary=4, temperature=0.7, dtype=dtype)


def make_model(problem: Problem, seed: int) -> Corrected:
    torch.manual_seed(seed)
    if isinstance(problem, TokenChain):
        length, vocabulary = problem.shape[0], problem.base.process.space.vocabulary
        return Corrected(problem.denoiser, TokenMLP(length, vocabulary))
    _, covariance = problem.base.moments()  # type: ignore[operator]
    sigma = float(covariance.diagonal().mean().sqrt())
    return Corrected(problem.denoiser, ResidualMLP(problem.shape[0], 64, 2), sigma_data=sigma)


def measured(
    problem: Problem, exact: Problem, tuned: Denoiser, base: Denoiser, n: int, seed: int
) -> dict:
    """Reward, divergence and share of the frontier's gain; ``exact`` is in double precision."""
    g = torch.Generator().manual_seed(1000 + seed)
    ours, theirs = (DDIM(d, problem.shape, FINE, eta=1.0) for d in (tuned, base))
    x, divergence = paths(ours, theirs, n, generator=g)
    reward, kl = Estimate.of(problem.reward(x)), Estimate.of(divergence)
    most = exact.frontier_gain(kl.value) if kl.value > 1e-4 else None
    # the base by the same sampler and the same noise: the steps' own error is not the method's
    before = theirs.sample(n, generator=torch.Generator().manual_seed(1000 + seed))
    gain = Estimate.of(problem.reward(x) - problem.reward(before))
    found = {
        "reward": reward.value,
        "reward_stderr": reward.stderr,
        "kl": kl.value,
        "kl_stderr": kl.stderr,
        "share": gain.value / most if most else math.nan,
        "share_stderr": gain.stderr / most if most else math.nan,
    }
    if problem.shape == (1,):
        found["left"] = float((x[:, 0] < 0.5).double().mean())
        found["left_base"] = float((before[:, 0] < 0.5).double().mean())
    if isinstance(problem, GaussianSubspace):
        found["kl_gaussian"] = gaussian_kl(problem, x)
    return found


def gaussian_kl(problem: GaussianSubspace, x: torch.Tensor) -> float:
    """KL from the base of the Gaussian with the samples' moments, inside the subspace."""
    z = (x @ problem.frame).double()
    mean, cov = z.mean(0), torch.cov(z.T)
    base = problem.covariance.double()
    inverse = torch.linalg.inv(base)
    trace = (inverse @ cov).trace() + mean @ inverse @ mean - len(mean)
    return float(0.5 * (trace - torch.logdet(cov) + torch.logdet(base)))


def play(job: tuple[str, Entry, int, bool]) -> dict[str, Any]:
    """One cell of the table."""
    name, entry, seed, toy = job
    torch.set_num_threads(1)
    problem = make_problem(name)
    model = make_model(problem, seed)
    options = dict(entry.config)
    if toy:
        small = {"per_round": 200, "updates": 2, "sampler_steps": 10}
        options |= {"calls": min(options["calls"], 400), **small}
    # a noise floor would be part of what is tuned: the claim is about the process as it is
    options = {"sampler_steps": STEPS, "noise_floor": 0.0, **options}
    config = FinetuneConfig(
        evaluate=300,
        evaluate_every=10,
        keep="last",
        seed=seed,
        **options,
    )
    monitor = Monitor(held_out=problem.reward)
    began = time.perf_counter()
    target = Target(model, problem.reward, problem.temperature)
    tuned = entry.build(problem).fit(target, config, monitor=monitor)
    seconds = time.perf_counter() - began
    exact, n = make_problem(name, torch.float64), 500 if toy else 12_000
    found = measured(problem, exact, tuned, model, n, seed)
    trail = [(h["kl"], h["held_out"]) for h in monitor.history]
    calls = monitor.history[-1]["calls"]
    return {
        "problem": name,
        "label": entry.label,
        "claims": entry.claims,
        "seed": seed,
        "calls": calls,
        "seconds": seconds,
        **found,
        "path": trail,
    }


def jobs(
    problems: list[str], entries: tuple[Entry, ...], seeds: int, only: str | None, toy: bool
) -> Iterator[tuple]:
    """Every cell to be played."""
    for name in problems:
        for entry in entries:
            if name == "chain":
                if entry.tokens is None:
                    continue
                options = {**entry.options, **entry.token_options}
                entry = replace(entry, config={**entry.config, **entry.tokens}, options=options)
            if only is None or only in entry.label:
                for seed in range(seeds if entry.claims else 1):
                    yield name, entry, seed, toy


def table(cells: list[dict[str, Any]], name: str) -> str:
    """One problem as markdown."""
    problem = make_problem(name)
    lines = [
        f"**{name}**: p* has reward {float(problem.target_reward()):.3f} at KL "
        f"{float(problem.kl()):.3f}, the base {float(problem.base_reward()):.3f}.",
        "",
        "| method | claims p* | calls | reward | KL of paths | share of the frontier | left mode |",
        "|---|---|---|---|---|---|---|",
    ]
    for label in dict.fromkeys(c["label"] for c in cells if c["problem"] == name):
        own = [c for c in cells if c["problem"] == name and c["label"] == label]
        left = spread([c["left"] for c in own], 3) if "left" in own[0] else "–"
        lines.append(
            f"| {label} | {'yes' if own[0]['claims'] else 'no'} | {own[0]['calls']:,} | "
            f"{spread([c['reward'] for c in own], 3)} | {spread([c['kl'] for c in own], 3)} | "
            f"{spread([100 * c['share'] for c in own], 1)} % | {left} |"
        )
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return (
        mean
        if len(values) < 2
        else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", default="mixture,subspace,chain")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ablation", action="store_true", help="RGDM's radius and scoring place")
    parser.add_argument("--only", help="part of a row's label")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier.json"))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    seeds = 1 if options.toy else options.seeds
    entries = ABLATION if options.ablation else ENTRIES
    todo = list(jobs(options.problems.split(","), entries, seeds, options.only, options.toy))
    cells: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for cell in pool.map(play, todo):
            cells.append(cell)
            told = f"{cell['problem']:9s} {cell['label']:45s} seed {cell['seed']} "
            told += f"{cell['seconds']:5.0f} s  KL {cell['kl']:.4f}  r {cell['reward']:.4f}  "
            print(told + f"share {100 * cell['share']:.1f} %", flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(cells, indent=1))
    for name in dict.fromkeys(c["problem"] for c in cells):
        print("\n" + table(cells, name))


if __name__ == "__main__":
    main()
