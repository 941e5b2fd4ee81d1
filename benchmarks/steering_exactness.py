"""How far the draws of every steering method are from p*, where p* is known.

    python benchmarks/steering_exactness.py [--out exactness.json] [--particles 4 16 64 256]

A table method x problem x K. One sample a population; for methods without populations K is the
option that sets their cost, such as the n of best-of-n. Columns:

distance    to as many exact draws: W1 in one dimension with a bootstrap error, else the energy
            distance (tokens one-hot) with the error over blocks
mode        the share of draws in one mode (or with one token, or in a small cloud), which a mean
            reward does not show
reward      the mean reward, and how far it is off in standard errors
log Z       log Ẑ less log Z, and in standard errors against the Z of the base's own sampler with
            this number of steps, for which Ẑ is unbiased; particle methods only

Two rows need no method: "exact draws" is the noise of the table, and "base, weighted" what any
exact method converges to with this number of steps. What stays away from both as K grows is biased.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.errors import UserError
from payoff.metrics import Estimate, bootstrap, energy_distance, log_mean_exp, wasserstein
from payoff.problems import CloudProblem, MixtureProblem, Problem, TokenChain
from payoff.samplers import Ancestral
from payoff.spaces import Tokens
from payoff.steering import METHODS
from payoff.steering.base import Degenerate, Steered

# row of the table -> (method, options)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "smc": ("smc", {}),
    "smc, exact value": ("smc", {"value": "exact"}),
    "fk, difference": ("fk", {}),
    "fk, max": ("fk", {"potential": "max"}),
    "fk, sum": ("fk", {"potential": "sum"}),
    "tds": ("tds", {}),
    "das": ("das", {}),
    "vasr": ("vasr", {}),
    "vasr, max form": ("vasr", {"form": "max"}),
    "best-of-n": ("best-of-n", {}),
    "svdd": ("svdd", {}),
    "code": ("code", {}),
    "dps": ("dps", {}),
}


@dataclass
class Case:
    """A problem and one number of its samples that a mean reward hides."""

    problem: Problem
    mode: Callable[[Tensor], Tensor]
    ragged: bool = False

    def cond(self, n: int) -> dict[str, Tensor] | None:
        """Clouds of 3 and of 5 points in turn."""
        if not self.ragged:
            return None
        sizes = torch.where(torch.arange(n) % 2 == 0, 3, 5)
        return {"mask": torch.arange(5) < sizes.unsqueeze(1)}

    def flat(self, x: Tensor) -> Tensor:
        space = self.problem.denoiser.process.space
        if isinstance(space, Tokens):
            return torch.nn.functional.one_hot(x, space.vocabulary).float().flatten(1)
        return x.flatten(1)

    def distance(self, x: Tensor, y: Tensor, g: torch.Generator) -> Estimate:
        x, y = self.flat(x), self.flat(y)
        if x.shape[1] == 1:
            return bootstrap(lambda rows: wasserstein(rows, y[:, 0]), x[:, 0], 30, generator=g)
        order = torch.randperm(len(x), generator=g)
        return energy_distance(x[order], y)

    def log_partition(self) -> float:
        found = self.problem.log_partition(cond=self.cond(2))
        return float(found.double().flatten().logsumexp(0)) - math.log(found.numel())


def cases() -> dict[str, Case]:
    two = MixtureProblem.two_modes()
    sharp = MixtureProblem.two_modes(temperature=0.35)
    plane = MixtureProblem.random(2, 3, temperature=2.0)
    wide = MixtureProblem.random(16, 3, temperature=4.0)
    zero = torch.zeros(())

    def first_mode(problem: MixtureProblem) -> Callable[[Tensor], Tensor]:
        return lambda x: problem.base.responsibilities(x, zero)[:, 0]

    return {
        "two modes": Case(two, lambda x: (x[:, 0] < 0.5).float()),
        "two modes, τ = 0.35": Case(sharp, lambda x: (x[:, 0] < 0.5).float()),
        "mixture, d = 2": Case(plane, first_mode(plane)),
        "mixture, d = 16": Case(wide, first_mode(wide)),
        "masked cloud": Case(
            CloudProblem(5), lambda x: (x.flatten(1).square().sum(1) < 2).float(), ragged=True
        ),
        "token chain": Case(
            TokenChain.random(3, 4, temperature=0.7), lambda x: (x[:, 0] == x[:, 1]).float()
        ),
    }


def measures(case: Case, x: Tensor, exact: Tensor, g: torch.Generator) -> dict[str, Any]:
    """The columns of draws x."""
    reward = Estimate.of(case.problem.reward(x, case.cond(len(x))))
    truth = float(case.problem.target_reward(cond=case.cond(2)).mean())
    return {
        "distance": case.distance(x, exact[: len(x)], g).to_dict(),
        "mode": Estimate.of(case.mode(x)).to_dict(),
        "reward": reward.to_dict(),
        "reward z": reward.z(truth),
    }


def weighted_base(case: Case, steps: int, n: int, g: torch.Generator) -> tuple[Tensor, Estimate]:
    """Draws of the base's own sampler, resampled by exp(r/τ), the limit of every exact method; and
    the logarithm of its normaliser.
    """
    problem, size = case.problem, 200_000
    cond = case.cond(size)
    x = Ancestral(problem.denoiser, problem.shape, steps).sample(size, cond, generator=g)
    logs = (problem.reward(x, cond) / problem.temperature).double()
    turns = 2 if case.ragged else 1
    weights = logs.view(-1, turns).softmax(0)
    rows = torch.stack([torch.multinomial(w, n, True, generator=g) for w in weights.unbind(1)], 1)
    drawn = x[(turns * rows + torch.arange(turns)).flatten()[:n]].clone()
    return drawn, log_mean_exp(logs)


def method(row: str, case: Case, steps: int, k: int) -> Steered:
    name, options = ROWS[row]
    cls = METHODS[name]
    if options.get("value") == "exact":
        options = {**options, "value": case.problem.value()}
    sizes = {} if cls.size == "steps" else {cls.size: k}
    return cls(case.problem, case.problem.shape, steps, **sizes, **options)


def table(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for where, case in cases().items():
        if args.problems and where not in args.problems:
            continue
        g = torch.Generator().manual_seed(0)
        most = args.populations
        exact = case.problem.sample_target(most, case.cond(most), generator=g)
        again = case.problem.sample_target(most, case.cond(most), generator=g)
        head = {"problem": where, "K": None, "n": most}
        yield {**head, "method": "exact draws", **measures(case, again, exact, g)}
        limit, log_z = weighted_base(case, args.steps, most, g)
        yield {**head, "method": "base, weighted", **measures(case, limit, exact, g)}
        for row in args.methods:
            for k in args.particles:
                found = one(row, case, args, k, exact, log_z, g)
                if found is None:
                    break
                yield {"problem": where, **found}
                if found["K"] is None:
                    break


def one(
    row: str,
    case: Case,
    args: argparse.Namespace,
    k: int,
    exact: Tensor,
    log_z: Estimate,
    g: torch.Generator,
) -> dict[str, Any] | None:
    """A row of the table; None where the method does not apply."""
    # large populations are dear, and there need not be as many of them
    n = max(400, min(args.populations, args.populations * 32 // k) // 2 * 2)
    start = time.perf_counter()
    try:
        steered = method(row, case, args.steps, k)
    except (UserError, ModuleNotFoundError) as error:
        print(f"{row}: {str(error).splitlines()[0]}")
        return None
    sized = steered.size != "steps"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Degenerate)
        x = steered.sample(n, case.cond(n), generator=g, batch_size=32_768)
    found = {"method": row, "exact": steered.exact, "K": k if sized else None, "n": n}
    found |= measures(case, x, exact, g)
    found["seconds"] = time.perf_counter() - start
    if "log_z_stderr" in steered.summary:
        own = Estimate(steered.summary["log_z"], steered.summary["log_z_stderr"], n)
        found["log Z bias"] = own.value - case.log_partition()
        found["log Z z"] = own.z(log_z)
        found["ess"] = steered.summary["ess"]
    return found


def shown(row: dict[str, Any]) -> str:
    def pair(name: str) -> str:
        return f"{row[name]['value']:7.3f} ± {row[name]['stderr']:.3f}"

    k = "" if row["K"] is None else str(row["K"])
    log_z = f"{row['log Z bias']:6.3f} ({row['log Z z']:4.1f})" if "log Z z" in row else ""
    return (
        f"{row['problem']:20s} {row['method']:18s} {k:>4s}  {pair('distance')}  {pair('mode')}  "
        f"{pair('reward')} ({row['reward z']:6.1f})  {log_z}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--populations", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--problems", nargs="+", choices=list(cases()))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'problem':20s} {'method':18s} {'K':>4s}  distance         mode             "
          "reward (z)                log Z (z)")  # fmt: skip
    rows = []
    for row in table(args):
        rows.append(row)
        print(shown(row), flush=True)
        if args.out:
            args.out.write_text(json.dumps({"steps": args.steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
