"""The laws of a value, an estimate of V_t(x_t) = log E[exp(r(x_0)/τ) | x_t]."""

from __future__ import annotations

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
    rounding,
    skipped,
    verdict,
)
from payoff.checks.inputs import random_states, touched
from payoff.errors import UserError
from payoff.problems import MixtureProblem, Problem
from payoff.processes import GaussianProcess
from payoff.targets import Target
from payoff.values import Value

F64 = torch.float64
ROWS = 6


class ValueSubject:
    """A value of a problem whose exact value is known.

    ``part`` is a class or function called with the problem (a Target), here the two modes in one
    dimension; or a finished value, which is compared with closed forms if its own ``target`` is a
    Problem.
    """

    def __init__(self, part: Any, shape: Any, seed: int, budget: Budget) -> None:
        self.seed, self.budget = seed, budget
        self.problem: Problem | None = None
        target: Any = getattr(part, "target", None)
        if isinstance(part, Value):
            self.value = part
            self.problem = target if isinstance(target, Problem) else None
        else:
            self.problem = target = MixtureProblem.two_modes(dtype=F64)
            self.value = part(target)
        if not isinstance(self.value, Value):
            raise UserError(
                f"it makes a {type(self.value).__name__}: derive it from payoff.values.Value"
            )
        g = generator(seed)
        self.t = torch.linspace(0.1, 0.9, ROWS, dtype=F64)
        if self.problem is not None:
            self.x = self.problem.base.sample_t(ROWS, self.t, generator=g)
        else:
            own = tuple(shape) if shape is not None else getattr(self.value, "shape", None)
            if own is None:
                raise UserError("give the shape of one row with --shape, for instance --shape 18")
            process = target.denoiser.process if isinstance(target, Target) else GaussianProcess()
            x0 = torch.randn((ROWS, *own), generator=g, dtype=F64)
            self.x = process.corrupt(process.space.project(x0), self.t, generator=g)
        if isinstance(self.value, torch.nn.Module):
            dtype = next((p.dtype for p in self.value.parameters()), F64)
            self.x, self.t = self.x.to(dtype), self.t.to(dtype)
        self.y = torch.empty(0)

    def __call__(self, x: Tensor, t: Tensor, seed: int | None = None) -> Tensor:
        self.budget.spend()
        return self.value(x, t, generator=generator(self.seed if seed is None else seed))

    def draws(self) -> bool:
        """Whether it uses its generator, so that a row's number depends on the draws."""
        return not torch.equal(self(self.x, self.t, self.seed + 1).detach(), self.y)


def one_number_a_row(s: ValueSubject) -> Outcome:
    """Shape (B,), finite."""
    s.y = s(s.x, s.t).detach()
    if s.y.shape != (ROWS,):
        return fails(f"shape {tuple(s.y.shape)} for {ROWS} rows")
    return verdict(bool(s.y.isfinite().all()), f"({ROWS},), {s.y.dtype}")


def same_twice(s: ValueSubject) -> Outcome:
    """The same generator gives the same value, and the global state is left alone."""
    before = random_states()
    gap = difference(s(s.x, s.t).detach(), s.y)
    moved = touched(before)
    if moved:
        return fails(f"it draws from the global state of {', '.join(moved)}")
    return verdict(gap <= rounding(s.y), f"relative difference {gap:.1e}")


def rows_alone(s: ValueSubject) -> Outcome:
    """A row has the same value alone, and with a time of shape ()."""
    if s.draws():
        return skipped("it draws, and a batch shares one generator")
    alone = torch.cat([s(s.x[i : i + 1], s.t[i : i + 1]).detach() for i in range(ROWS)])
    single = torch.cat([s(s.x[i : i + 1], s.t[i]).detach() for i in range(ROWS)])
    gaps = difference(alone, s.y), difference(single, s.y)
    return verdict(
        max(gaps) <= rounding(s.y),
        f"relative difference alone {gaps[0]:.1e}, with one time {gaps[1]:.1e}",
    )


def exact_if_claimed(s: ValueSubject) -> Outcome:
    """Against the closed form; a value that does not claim to be exact shows its error."""
    if s.problem is None:
        return skipped("its target has no closed form; give a class or function of a target")
    exact = s.problem.value()(s.x.to(F64), s.t.to(F64))
    off = s.y.double() - exact
    text = f"off by {float(off.abs().max()):.2g} nats at most, {float(off.mean()):+.2g} on average"
    right = bool((off.abs() <= 1e-6 * (1 + exact.abs())).all())
    if s.value.exact:
        return verdict(right, text)
    if right:
        return remark(f"{text}, and it is not declared exact", "set exact = True")
    return holds(f"{text}; it does not claim to be exact")


def end_is_the_reward(s: ValueSubject) -> Outcome:
    """At t = 0 the value is the reward over τ, up to the noise that is left there."""
    if s.problem is None:
        return skipped("its target has no closed form; give a class or function of a target")
    x = s.problem.sample_base(ROWS, generator=generator(s.seed)).to(s.x.dtype)
    t = torch.zeros(ROWS, dtype=s.t.dtype)
    found = s(x, t).detach().double()
    exact = s.problem.reward(x) / s.problem.temperature
    off = float((found - exact.double()).abs().max())
    text = f"V_0 − r/τ is {off:.2g} at most"
    if off < 0.05:
        return holds(text)
    return remark(text, "fine before a fit; afterwards it should be small")


def declared_gradient(s: ValueSubject) -> Outcome:
    """Autograd against central differences along one random direction a row."""
    if not s.value.differentiable:
        return holds("no gradient is claimed")
    x = s.x.clone().requires_grad_(True)
    with torch.enable_grad():
        y = s(x, s.t)
    if not y.requires_grad:
        return fails("differentiable is True, and no gradient reaches x_t")
    (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    if gradient is None:
        return fails("differentiable is True, and no gradient reaches x_t")
    way = torch.randn(x.shape, generator=generator(s.seed + 3), dtype=F64).to(x)
    step = 1e-5 if x.dtype == F64 else 1e-2
    with torch.no_grad():
        slope = (s(s.x + step * way, s.t) - s(s.x - step * way, s.t)) / (2 * step)
    gap = difference((gradient * way).flatten(1).sum(1), slope)
    allowed = 1e-4 if x.dtype == F64 else 5e-2
    return verdict(gap <= allowed, f"autograd and differences differ by {gap:.1e} of the slope")


TWICE = "the same generator gives the same value"
LAWS: tuple[Law[ValueSubject], ...] = (
    Law("one number a row", one_number_a_row, "return shape (B,)", gate=True),
    Law(TWICE, same_twice, "draw from the generator that is passed, and from nothing else"),
    Law(
        "a row does not depend on its batch",
        rows_alone,
        "no statistics over the batch axis; t may be () or (B,)",
        needs=(TWICE,),
    ),
    Law("exact where it claims to be", exact_if_claimed, "set exact = False, or correct it"),
    Law("it ends at the reward", end_is_the_reward),
    Law(
        "the declared gradient is right",
        declared_gradient,
        "compute in torch without no_grad; or set differentiable = False",
        needs=(TWICE,),
    ),
)
