r"""The laws of a fine-tuning method, on the smallest problem whose answer is known.

Base :math:`\mathcal N(0,1)`, reward r(x) = x, temperature 1. A network that starts at zero output
is the exact denoiser of the base, so nothing has to be trained first. A sampler with few steps
draws :math:`\mathcal N(0, v)` instead, with v in closed form, and every law q obeys

.. math:: E_q[x] \le \sqrt{2 v\,\mathrm{KL}(q\,\|\,\mathcal N(0, v))} ,

which is the frontier: no method lies above it. The KL of paths, which is what can be measured, is
larger still.
"""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.checks.findings import (
    Budget,
    Law,
    Outcome,
    difference,
    fails,
    generator,
    holds,
    remark,
    verdict,
)
from payoff.checks.inputs import global_seed, random_states, touched
from payoff.checks.samplers import propagate
from payoff.denoisers import Denoiser, NetDenoiser
from payoff.finetuning.base import Finetuner
from payoff.finetuning.config import FinetuneConfig
from payoff.finetuning.monitor import Monitor
from payoff.metrics import Estimate
from payoff.metrics.paths import paths
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.rewards import Reward
from payoff.samplers import DDIM
from payoff.schedules import Cosine
from payoff.targets import Target

CALLS, STEPS, DRAWS = 3000, 10, 4000


class First(Reward):
    """r(x) = x, counted."""

    differentiable = True

    def __init__(self, budget: Budget) -> None:
        self.budget, self.rows = budget, 0

    def __call__(self, x: Tensor, cond: Any = None) -> Tensor:
        self.budget.spend(len(x))
        self.rows += len(x)
        return x[:, 0]


class Interrupted(BaseException):
    """Raised between two rounds, as Ctrl-C is."""


class MethodSubject:
    """A method, and what a run of it left behind."""

    def __init__(self, part: Finetuner, seed: int, budget: Budget) -> None:
        self.part, self.seed, self.budget = part, seed, budget
        with global_seed(seed):
            net = ResidualMLP(1, width=32, depth=1)
        self.base = NetDenoiser(net, GaussianProcess(schedule=Cosine(-4.0, 4.0)))
        self.before = {k: v.clone() for k, v in self.base.state_dict().items()}
        self.data = torch.randn(256, 1, generator=generator(seed))
        self.monitor, self.rows = Monitor(), 0
        self.result: Any = None
        self.moved: list[str] = []

    def config(self, calls: int, **options: Any) -> FinetuneConfig:
        """A small run."""
        small = {"sampler_steps": STEPS, "evaluate": 64, "seed": self.seed, **options}
        return FinetuneConfig(calls=calls, **small)

    def fit(self, config: FinetuneConfig, **options: Any) -> tuple[Any, First]:
        """One run from the base, and the reward it was given."""
        reward = First(self.budget)
        target = Target(self.base, reward, 1.0)
        part = copy.deepcopy(self.part)
        return part.fit(target, config, data=self.data, **options), reward

    def drawn(self, denoiser: Denoiser) -> tuple[Estimate, Estimate]:
        """Mean reward of its samples, and the KL of its paths to the base, each with its error."""
        start = NetDenoiser(copy.deepcopy(self.base.net), self.base.process)
        start.load_state_dict(self.before)
        tuned, base = (DDIM(d, (1,), STEPS, eta=1.0) for d in (denoiser, start))
        with torch.no_grad():
            x, kl = paths(tuned, base, DRAWS, None, generator=generator(self.seed + 1))
        return Estimate.of(x[:, 0]), Estimate.of(kl)

    def variance(self) -> float:
        """v, of what the base's sampler draws."""
        exact = NetDenoiser(_Zero(), self.base.process)
        sampler = DDIM(exact, (1,), STEPS, eta=1.0)
        sigma = self.base.process.schedule(torch.ones((), dtype=torch.float64))[1]
        return float(propagate(sampler, torch.zeros(1).double(), sigma**2)[1])


class _Zero(torch.nn.Module):
    def forward(self, x: Tensor, level: Tensor, cond: Any = None) -> Tensor:
        return torch.zeros_like(x)


def gives_a_denoiser(s: MethodSubject) -> Outcome:
    """It returns a new denoiser and keeps a history."""
    states = random_states()
    s.result, reward = s.fit(s.config(CALLS), monitor=s.monitor)
    s.moved, s.rows = touched(states), reward.rows
    if not isinstance(s.result, Denoiser):
        return fails(f"it returned {type(s.result).__name__}", "return a Denoiser")
    rounds = [e.get("round") for e in s.monitor.history]
    if not rounds or rounds[0] != 0:
        return fails("the history does not begin with round 0, the base")
    return holds(f"{len(rounds) - 1} rounds")


def stays_in_budget(s: MethodSubject) -> Outcome:
    """No more rows of the reward than allowed, and as many as the history says."""
    told = s.monitor.history[-1].get("calls")
    text = f"{s.rows} of {CALLS} rows; the history says {told}"
    return verdict(s.rows <= CALLS and told == s.rows, text)


def base_stays(s: MethodSubject) -> Outcome:
    """The target's own denoiser is not changed."""
    now = s.base.state_dict()
    moved = [k for k, v in s.before.items() if not torch.equal(v, now[k])]
    s.base.load_state_dict(s.before)  # for the laws that follow
    return verdict(not moved, f"{len(moved)} of {len(now)} tensors changed")


def random_state_stays(s: MethodSubject) -> Outcome:
    """A run leaves the global random state as it was."""
    return verdict(
        not s.moved, f"it moves that of {', '.join(s.moved)}" if s.moved else "untouched"
    )


def improves(s: MethodSubject) -> Outcome:
    """The mean reward of fresh samples rises by more than its error."""
    reward, _ = s.drawn(s.result)
    z = reward.z(0.0)
    return verdict(
        z > 4, f"from 0 to {reward.value:.3f} ± {reward.stderr:.3f}; p* has {s.variance():.3f}"
    )


def below_the_frontier(s: MethodSubject) -> Outcome:
    """Its (reward, KL) does not lie above what is possible at all."""
    reward, kl = s.drawn(s.result)
    v = s.variance()
    bound = math.sqrt(2 * v * max(0.0, kl.value))
    most = math.sqrt(2 * v * max(0.0, kl.value + 4.5 * kl.stderr))
    text = f"reward {reward.value:.3f} at KL {kl.value:.3f} nats, where {bound:.3f} is the most"
    if reward.value - 4.5 * reward.stderr > most:
        return fails(f"{text}: impossible", "the base has changed, or the result's process has")
    if kl.value > 4 * kl.stderr and reward.value < 0.5 * bound:
        return remark(
            f"{text}", "most of the divergence buys nothing: what does the loss leave out?"
        )
    return holds(text)


def history_is_true(s: MethodSubject) -> Outcome:
    """The history's KL of the returned round is that of the returned model."""
    entry = next((e for e in s.monitor.history if e.get("round") == s.monitor.best), None)
    if entry is None or entry.get("kl") is None:
        return fails("the history has no KL for the round that was returned")
    _, kl = s.drawn(s.result)
    error = math.hypot(kl.stderr, entry.get("kl_stderr") or 0.0)
    z = abs(entry["kl"] - kl.value) / max(error, 1e-6)
    return verdict(
        z < 5, f"round {s.monitor.best}: {entry['kl']:.3f} told, {kl.value:.3f} found (z {z:.1f})"
    )


def resumes(s: MethodSubject) -> Outcome:
    """Cut off after its first round and resumed, a run gives what it gives in one piece."""
    rounds = max(e.get("round", 0) for e in s.monitor.history)
    per_round = max(64, min(250, s.rows // max(1, rounds)))
    config = s.config(3 * per_round, per_round=per_round, evaluate=32)

    def cut(entry: dict[str, Any]) -> None:
        raise Interrupted

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        whole, paid = s.fit(config)
        try:
            s.fit(config, checkpoint=path, progress=cut)
            return remark("it calls progress after no round, so it could not be cut off")
        except Interrupted:
            pass
        if not path.exists():
            return fails("no checkpoint is written before progress is called")
        again, rest = s.fit(config, checkpoint=path, resume=True)
    theirs = dict(again.state_dict())
    gap = max(difference(v, theirs[k]) for k, v in whole.state_dict().items())
    text = f"weights differ by {gap:.1e}; {rest.rows} of {paid.rows} rows were paid after the cut"
    if gap > 1e-6:
        return fails(text)
    return verdict(rest.rows < paid.rows or paid.rows <= per_round, text)


BASE = "the base is left as it is"
LAWS: tuple[Law[MethodSubject], ...] = (
    Law("it gives a denoiser and a history", gives_a_denoiser, gate=True),
    Law("no more reward calls than allowed", stays_in_budget, "ask run.affordable() every round"),
    Law(BASE, base_stays, "tune run.policy, a copy"),
    Law("the global random state is left alone", random_state_stays, "draw from run.generator"),
    Law(
        "the reward rises",
        improves,
        "try the sign of the advantage, the learning rate, and updates a round",
    ),
    Law("not above the frontier", below_the_frontier),
    Law("the history tells the truth", history_is_true, "measure the weights that are returned"),
    Law(
        "resuming gives the same result",
        resumes,
        "keep what a method remembers in run.memory, and draw from run.generator",
        needs=(BASE,),
    ),
)
