"""The laws of a sampler, measured on laws whose exact denoiser is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
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
    skipped,
    verdict,
)
from payoff.checks.inputs import global_seed, random_states, touched
from payoff.denoisers import Denoiser
from payoff.kernels import Kernel
from payoff.problems import GaussianMixture, MixtureProblem
from payoff.processes import GaussianProcess
from payoff.samplers import GRIDS, Sampler
from payoff.schedules import Cosine, LogLinear, Schedule

F64 = torch.float64
MEAN, VARIANCE = 0.7, 0.3
STEPS = (40, 80, 160)
ROWS = 5
DRAWS = 4000


class Counted(Denoiser):
    """A denoiser that counts its calls."""

    def __init__(self, inner: Denoiser, budget: Budget) -> None:
        super().__init__()
        self.inner, self.process, self.budget, self.calls = inner, inner.process, budget, 0

    def forward(self, x_t, t, cond=None):
        self.budget.spend()
        self.calls += 1
        return self.inner(x_t, t, cond)


class SamplerSubject:
    """A sampler's class, or a function (denoiser, shape, steps) that makes one."""

    def __init__(self, part: Callable[..., Sampler], seed: int, budget: Budget) -> None:
        self.part, self.seed, self.budget = part, seed, budget
        self.process = GaussianProcess(schedule=Cosine(-6.0, 6.0))
        self.modes = MixtureProblem.two_modes(self.process, dtype=F64).denoiser

    def make(self, steps: int, law: Denoiser | None = None, grid: str = "time") -> Any:
        """The sampler of a one-dimensional law; by default the mixture of two modes."""
        denoiser = Counted(self.modes if law is None else law, self.budget)
        if grid == "time":
            return self.part(denoiser, (1,), steps)
        return self.part(denoiser, (1,), steps, grid=grid)


def draws_samples(s: SamplerSubject) -> Outcome:
    """The number asked for, finite, in the denoiser's dtype; none for zero."""
    sampler = s.make(6)
    if not isinstance(sampler, Sampler):
        return fails(
            f"it makes a {type(sampler).__name__}", "derive it from payoff.samplers.Sampler"
        )
    x = sampler.sample(ROWS, generator=generator(s.seed))
    if tuple(x.shape) != (ROWS, 1):
        return fails(f"shape {tuple(x.shape)} for {ROWS} samples of shape (1,)")
    if sampler.sample(0).shape != (0, 1):
        return fails("sample(0) is not empty")
    single = MixtureProblem.two_modes(s.process).base
    y = s.make(6, single).sample(ROWS, generator=generator(s.seed))
    if x.dtype != F64 or y.dtype != torch.float32:
        return fails(f"a float64 denoiser gives {x.dtype}, a float32 one {y.dtype}")
    return verdict(bool(x.isfinite().all()), f"{tuple(x.shape)}, in the denoiser's dtype")


def propagate(sampler: Sampler, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0 from those of x_1, for a denoiser that is affine.

    A path at 0, one that starts at 1, and for every step one that is pushed by 1 after it tell all
    gains, also where a step remembers earlier ones.
    """
    times = sampler.times(torch.device("cpu"), F64)
    memory: dict[str, Any] = {}
    x = torch.zeros(len(times) + 1, 1, dtype=F64)
    x[1] = 1.0
    stds = []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        kernel: Any = sampler.step(x, t, s, None, memory)
        std = 0.0 if kernel.std is None else torch.as_tensor(kernel.std, dtype=F64).reshape(-1)[0]
        stds.append(float(std))
        x = kernel.mean.clone()
        x[2 + i] += 1.0
    gain, pushed = x[1, 0] - x[0, 0], x[2:, 0] - x[0, 0]
    noise = (pushed * torch.tensor(stds, dtype=F64)).square().sum()
    return gain * mean + x[0, 0], gain**2 * variance + noise


def order_of(s: SamplerSubject, schedule: Schedule, grid: str) -> tuple[float, float]:
    """(measured order, error at the finest grid) on a Gaussian, without any Monte Carlo."""
    law = GaussianMixture(
        torch.tensor([[MEAN]], dtype=F64),
        torch.tensor([VARIANCE], dtype=F64),
        process=GaussianProcess(schedule=schedule),
    )
    (a1, s1), (a0, s0) = (schedule(torch.tensor(v, dtype=F64)) for v in (1.0, 0.0))
    errors = []
    with torch.no_grad():
        for steps in STEPS:
            sampler = s.make(steps, law, grid)
            mean, variance = propagate(sampler, a1 * MEAN, a1**2 * VARIANCE + s1**2)
            off = float(variance.sqrt() - (a0**2 * VARIANCE + s0**2).sqrt())
            errors.append(math.hypot(float(mean - a0 * MEAN), off))
    return slope(errors), errors[-1]


def declared_order(s: SamplerSubject) -> Outcome:
    """The error falls as steps^-order on every schedule and grid."""
    order = getattr(s.make(2), "order", None)
    if order is None:
        return fails("no order is declared", "set order = 1 (or what it is) on the class")
    found, rounded = {}, False
    for schedule, grid in itertools.product((Cosine(-6.0, 6.0), LogLinear(-6.0, 6.0)), GRIDS):
        try:
            measured, last = order_of(s, schedule, grid)
        except TypeError:
            if grid == "time":
                raise
            continue  # a function of (denoiser, shape, steps) that knows no grid
        except AttributeError as error:
            return skipped(f"its kernels have no mean and std: {error}")
        rounded = rounded or last < 1e-12
        found[f"{type(schedule).__name__}/{grid}"] = measured
    curved = order_on_a_mixture(s)
    if curved is not None:
        found["mixture"] = curved
    text = f"declared {order}, measured " + ", ".join(f"{v:.2f} {k}" for k, v in found.items())
    if rounded:
        return holds(f"exact up to rounding with {STEPS[-1]} steps")
    low, high = min(found.values()), max(found.values())
    if low < order - 0.25:
        return fails(text)
    # on a Gaussian, where the flow is linear, some methods are better than elsewhere
    faster = "; faster than declared, which other laws need not show" if high > order + 0.75 else ""
    return holds(text + faster)


def order_on_a_mixture(s: SamplerSubject) -> float | None:
    """Measured order on a mixture, where the flow is not linear, from n against 2n steps.

    None for a sampler with noise, whose steps have no such difference.
    """
    if s.make(2).rollout(2, generator=generator(s.seed)).log_probs is not None:
        return None
    means, variances = torch.tensor([[-0.8], [0.8]]), torch.tensor([0.3, 0.2])
    # two modes that overlap: between distant ones no number of steps here is asymptotic
    law = GaussianMixture(means.to(F64), variances.to(F64), process=s.process)
    x, one = torch.linspace(-2, 2, 9, dtype=F64).unsqueeze(1), torch.ones((), dtype=F64)
    steps = (*STEPS, 2 * STEPS[-1])
    ends = [s.make(n, law).finish(x, one, generator=generator(s.seed)) for n in steps]
    return slope([float((a - b).abs().max()) for a, b in itertools.pairwise(ends)])


def slope(errors: list[float]) -> float:
    """Minus the slope of log error against log steps."""
    x = torch.tensor(STEPS, dtype=F64).log()
    y = torch.tensor(errors, dtype=F64).clamp(min=1e-300).log()
    x = x - x.mean()
    return float(-(x * y).sum() / (x * x).sum())


def path_of(s: SamplerSubject, steps: int = 6) -> tuple[Sampler, Any]:
    """A sampler and a roll-out of it."""
    sampler = s.make(steps)
    return sampler, sampler.rollout(ROWS, generator=generator(s.seed + 1))


def _walk(sampler: Sampler, path: Any, rows: slice) -> list[Kernel]:
    """The kernels of some rows along a path, with a memory of their own."""
    memory: dict[str, Any] = {}
    kernels = []
    with torch.no_grad():
        for i, (t, s) in enumerate(itertools.pairwise(path.times)):
            kernels.append(sampler.step(path.states[i, rows], t, s, None, memory))
    return kernels


def rows_alone(s: SamplerSubject) -> Outcome:
    """Along the same states a row has the same kernels alone as in the batch."""
    sampler, path = path_of(s)
    whole = _walk(sampler, path, slice(None))
    worst = 0.0
    for i in range(ROWS):
        rows = slice(i, i + 1)
        for n, (one, many) in enumerate(zip(_walk(sampler, path, rows), whole, strict=True)):
            if many.deterministic:
                worst = max(worst, difference(one.sample(), many.sample()[rows]))
                continue
            state = path.states[n + 1]
            worst = max(worst, difference(one.log_prob(state[rows]), many.log_prob(state)[rows]))
    return verdict(worst < 1e-8, f"relative difference {worst:.1e} over {sampler.steps} steps")


def densities_are_the_kernels(s: SamplerSubject) -> Outcome:
    """A roll-out ends where its states end, and its log-densities are its kernels'."""
    sampler, path = path_of(s)
    if path.states.shape[:2] != (sampler.steps + 1, ROWS):
        return fails(f"states of shape {tuple(path.states.shape)} for {sampler.steps} steps")
    if float(path.times[0]) != 1 or float(path.times[-1]) != 0:
        return fails(f"times run from {float(path.times[0]):g} to {float(path.times[-1]):g}")
    kernels = _walk(sampler, path, slice(None))
    if path.log_probs is None:
        points = [k.deterministic for k in kernels]
        if not all(points):
            return fails("kernels have noise, and the roll-out no densities")
        gap = max(difference(k.sample(), path.states[n + 1]) for n, k in enumerate(kernels))
        return verdict(gap < 1e-8, f"deterministic; states off its kernels by {gap:.1e}")
    again = torch.stack([k.log_prob(path.states[n + 1]) for n, k in enumerate(kernels)])
    gap = difference(path.log_probs, again)
    return verdict(gap < 1e-6, f"relative difference {gap:.1e}")


def declared_calls(s: SamplerSubject) -> Outcome:
    """``calls_per_step`` network calls a step."""
    sampler = s.make(10)
    declared = getattr(sampler, "calls_per_step", 1)
    sampler.rollout(2, generator=generator(s.seed))
    found = sampler.denoiser.calls
    return verdict(found == 10 * declared, f"{found} calls in 10 steps, declared {declared} a step")


def one_generator(s: SamplerSubject) -> Outcome:
    """All randomness comes from the generator, and streaming gives the same samples."""
    sampler = s.make(6)
    before = random_states()
    one = sampler.sample(ROWS, generator=generator(s.seed), batch_size=2)
    moved = touched(before)
    if moved:
        return fails(f"sampling draws from the global state of {', '.join(moved)}")
    with global_seed(s.seed + 1):
        two = sampler.sample(ROWS, generator=generator(s.seed), batch_size=2)
    other = sampler.sample(ROWS, generator=generator(s.seed + 1), batch_size=2)
    if not torch.equal(one, two):
        return fails("the same generator gives other samples")
    if torch.equal(one, other):
        return fails("another generator gives the same samples")
    return holds("the same samples for the same generator, and only then")


def batches_fit(s: SamplerSubject) -> Outcome:
    """``stream`` gives batches of at most batch_size, the same rows as ``sample``."""
    sampler, counts = s.make(6), list[int]()
    parts = sampler.stream(10, generator=generator(s.seed), batch_size=4, progress=counts.append)
    parts = list(parts)
    sizes = [len(p) for p in parts]
    if sizes != [4, 4, 2] or counts != sizes:
        return fails(f"10 samples by 4 come as {sizes}, and progress was told {counts}")
    whole = sampler.sample(10, generator=generator(s.seed), batch_size=4)
    return verdict(torch.equal(torch.cat(parts), whole), "10 samples by 4: 4, 4, 2, as in sample()")


def finishes(s: SamplerSubject) -> Outcome:
    """``finish`` takes a time for all rows or one for each, and stays near for a small one."""
    sampler = s.make(8)
    x = s.modes.sample(ROWS, generator=generator(s.seed))
    t = torch.full((), 0.5, dtype=F64)
    one = sampler.finish(x, t, generator=generator(s.seed))
    many = sampler.finish(x, t.expand(ROWS), generator=generator(s.seed))
    gap = difference(one, many)
    start = s.process.corrupt(x, 0.02 * t, generator=generator(s.seed + 1))
    near = sampler.finish(start, 0.02 * t, generator=generator(s.seed))
    moved = float((near - x).abs().max())
    level = float(s.process.schedule(0.02 * t)[1])
    return verdict(
        gap < 1e-8 and moved < 8 * level,
        f"t () against (B,): {gap:.1e}; from t = 0.01 it ends {moved:.2g} from x0 "
        f"(the noise there is {level:.2g})",
    )


def follows_the_law(s: SamplerSubject) -> Outcome:
    """Mean, mean square and weight of a mode, over 4000 samples with 100 steps."""
    sampler = s.make(100)
    x = sampler.sample(DRAWS, generator=generator(s.seed))[:, 0]
    mean, covariance = (v.reshape(()) for v in s.modes.moments())
    right = 0.3  # of the mass is around 3, and all of that is beyond 0.5
    scores = []
    for found, exact, room in (
        (x, mean, 0.02),
        (x.square(), covariance + mean**2, 0.05),
        ((x > 0.5).to(F64), torch.tensor(right), 0.005),
    ):
        error = float(found.std()) / math.sqrt(DRAWS)
        off = max(0.0, abs(float(found.mean() - exact)) - room)  # room for 100 steps
        scores.append(off / error)
    text = f"mean {float(x.mean()):.3f} (exact {float(mean):.3f}), "
    text += f"share of the right mode {float((x > 0.5).double().mean()):.3f} (exact {right})"
    return verdict(max(scores) < 4.5, f"{text}; worst z {max(scores):.1f}")


LAWS: tuple[Law[SamplerSubject], ...] = (
    Law(
        "it draws samples",
        draws_samples,
        "make tensors on the device and in the dtype of x_t",
        gate=True,
    ),
    Law(
        "the declared order is measured",
        declared_order,
        "correct the step, or declare the order that was measured",
    ),
    Law(
        "a row does not depend on its batch",
        rows_alone,
        "no statistics over the batch axis; use payoff.spaces.expand_to for times (B,)",
    ),
    Law(
        "roll-outs carry their kernels' densities",
        densities_are_the_kernels,
        "leave all randomness to the kernel that step returns",
    ),
    Law(
        "the declared number of network calls",
        declared_calls,
        "set calls_per_step to what it is",
    ),
    Law(
        "all randomness comes from the generator",
        one_generator,
        "hand the generator on; leave draws to the kernel that step returns",
    ),
    Law(
        "samples come in batches that fit",
        batches_fit,
        "write step, and leave stream as it is",
        needs=("all randomness comes from the generator",),
    ),
    Law("it finishes from any time", finishes, "use t and s as they are given: () or (B,)"),
    Law(
        "samples follow the exact law",
        follows_the_law,
        "compare with Ancestral on payoff.problems.MixtureProblem.two_modes",
    ),
)
