r"""Memory and time of a round of fine-tuning, counted by the allocator.

    python benchmarks/finetuning_memory.py
    python benchmarks/finetuning_memory.py --toy

Three statements, each with its table:

1. The peak memory of a round of `draft` (checkpointed) and `adjoint` is flat in the number of
   sampler steps; that of back-propagation through the sampler without checkpoints is not. What
   grows is what is stored of the paths, some steps · batch · dim numbers.
2. A roll-out is stored once: what is left of it is its states and one density a transition. (While
   the list of states becomes one tensor there are two of them for a moment: the peak.)
3. A round of `ddpo` spends its time in the network. Network time is that of the same number of
   calls of the bare network on tensors of the same shapes, forward alone where the round takes no
   gradient and forward and backward where it does, in rounds that alternate with the method's; in
   CPU seconds, since the clock's depend on what else the machine does.

Bytes are those of torch's CPU allocator: the profiler reports every allocation and release, the sum
of them is what a round holds at a moment, and its maximum is the peak. Weights and the weight
average are there before a round begins and do not count; gradients and the optimiser's moments do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from payoff.denoisers import NetDenoiser
from payoff.finetuning import DDPO, AdjointMatching, DRaFT, FinetuneConfig, Finetuner, Monitor
from payoff.finetuning.run import Run
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.targets import Target

MIB = 2**20
FLOAT = 4  # bytes
PROCESS = GaussianProcess(noise_floor=0.05)  # the least noise that tuning has by default
WAYS = ("draft", "adjoint", "draft without checkpoints")


@dataclass
class Size:
    """How large everything is; activations have to outweigh both the states and the weights."""

    dim: int = 4
    width: int = 256
    depth: int = 4
    batch: int = 512
    steps: tuple[int, ...] = (10, 20, 40, 80, 160)
    repeats: int = 7


TOY = Size(width=64, depth=2, batch=256, steps=(5, 10, 20, 40), repeats=1)
LONG = Size(dim=64, width=16, depth=1, batch=1000)  # for roll-outs: states outweigh activations
NETWORKS = ((128, 3), (256, 3), (512, 4))  # width and depth; the second is payoff finetune's own


def run_of(method: Finetuner, size: Size, **options: int) -> Run:
    """What a method works with, on a new network and a reward that costs nothing."""
    torch.manual_seed(0)
    net = ResidualMLP(size.dim, size.width, size.depth)
    reward = FunctionReward(lambda x, cond: x[:, 0])
    config = FinetuneConfig(**{"calls": 10**9, "per_round": size.batch, **options})
    return Run(
        Target(NetDenoiser(net, PROCESS), reward),
        config.filled(method.defaults),
        identity={},
        data=None,
        shape=(size.dim,),
        cond=None,
        monitor=Monitor(),
        checkpoint=None,
    )


def bytes_of(work: Callable[[], object]) -> tuple[int, int]:
    """(peak, left over) of the tensors that ``work`` allocates; its result counts as left over."""
    with profile(profile_memory=True) as profiler:
        kept = work()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del kept
    return peak, now


def round_of(way: str, steps: int, size: Size) -> tuple[int, int]:
    """(peak bytes of a round, bytes that it has to store of its paths)."""
    state = steps * size.batch * size.dim * FLOAT
    if way == "adjoint":
        method: Finetuner = AdjointMatching()
        run = run_of(method, size, sampler_steps=steps, updates=2, batch_size=size.batch)
        # states, a density each, and the adjoints: a list that becomes a tensor
        stored = 3 * state + steps * size.batch * FLOAT
        return bytes_of(lambda: method.play(run))[0], stored
    method = DRaFT()
    run = run_of(method, size, sampler_steps=steps, updates=1, batch_size=size.batch)
    # what a step is computed again from: its state and its noise
    stored = 2 * state
    if way == "draft":
        return bytes_of(lambda: method.play(run))[0], stored
    with mock.patch("payoff.finetuning.draft.checkpoint", straight):
        return bytes_of(lambda: method.play(run))[0], stored


def straight(step: Callable, *inputs: object, **options: bool) -> object:
    """In the place of a checkpoint: everything that the step computes is kept."""
    return step(*inputs)


def rollout(steps: int, size: Size = LONG) -> dict[str, float]:
    """What is left of a scored roll-out, and the most that it takes to make it."""
    run = run_of(DDPO(), size, sampler_steps=steps)
    peak, left = bytes_of(lambda: run.rollout(size.batch))
    states = (steps + 1) * size.batch * size.dim * FLOAT
    densities = steps * size.batch * FLOAT
    return {"steps": steps, "states": states, "densities": densities, "left": left, "peak": peak}


def network_calls(run: Run, size: Size) -> Callable[[], None]:
    """The bare network, called as often and on as many rows as in a round of ddpo."""
    net, config = run.policy.net, run.config

    def rows(n: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n, size.dim), torch.zeros(n)

    drawn, checked, learned = rows(run.per_round), rows(512), rows(run.batch_size)
    transitions = config.sampler_steps * run.per_round
    assert transitions >= max(512, run.batch_size), "batches would be smaller than asked for"

    def work() -> None:
        with torch.no_grad():
            for _ in range(config.sampler_steps):
                net(*drawn, None)
            net(*checked, None)
        for _ in range(run.updates):
            torch.autograd.grad(net(*learned, None).sum(), run.trainable)

    return work


def network_share(size: Size) -> dict[str, float]:
    """CPU seconds of a round of ddpo and of its network calls, medians over rounds."""
    method = DDPO()
    run = run_of(method, size, per_round=250)
    alone = network_calls(run, size)
    method.play(run)
    alone()
    whole, part = [], []
    for _ in range(size.repeats):
        for work, times in ((lambda: method.play(run), whole), (alone, part)):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
    share = statistics.median(a / b for a, b in zip(part, whole, strict=True))
    return {
        "width": size.width,
        "depth": size.depth,
        "round": statistics.median(whole),
        "network": statistics.median(part),
        "share": share,
    }


def tables(found: dict[str, list[dict]]) -> str:
    """The three tables in Markdown."""
    lines = ["| steps | " + " | ".join(f"{way}, MiB (paths)" for way in WAYS) + " |"]
    lines.append("|---|" + "---|" * len(WAYS))
    for row in found["rounds"]:
        cells = [f"{row[way][0] / MIB:.1f} ({row[way][1] / MIB:.2f})" for way in WAYS]
        lines.append(f"| {row['steps']} | " + " | ".join(cells) + " |")
    lines += ["", "| steps | states, MiB | densities, MiB | left, MiB | left / both | peak, MiB |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found["rollouts"]:
        states, densities, left = (row[k] / MIB for k in ("states", "densities", "left"))
        ratio = left / (states + densities)
        cells = [f"{states:.2f}", f"{densities:.2f}", f"{left:.2f}", f"{ratio:.3f}"]
        lines.append(f"| {row['steps']} | {' | '.join(cells)} | {row['peak'] / MIB:.2f} |")
    lines += ["", "| network | round of ddpo, s | network alone, s | share |", "|---|---|---|---|"]
    for row in found["shares"]:
        name = f"{row['depth']} x {row['width']}"
        times = f"{row['round']:.3f} | {row['network']:.3f}"
        lines.append(f"| {name} | {times} | {100 * row['share']:.0f} % |")
    return "\n".join(lines)


def study(size: Size) -> dict[str, list[dict]]:
    """All that is measured, as plain numbers."""
    rounds = []
    for steps in size.steps:
        rounds.append({"steps": steps} | {way: round_of(way, steps, size) for way in WAYS})
    networks = NETWORKS if size.repeats > 1 else NETWORKS[:1]
    shares = [network_share(Size(18, *network, repeats=size.repeats)) for network in networks]
    return {
        "rounds": rounds,
        "rollouts": [rollout(steps) for steps in size.steps],
        "shares": shares,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="a small network, in seconds")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = study(TOY if args.toy else Size())
    print(tables(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
