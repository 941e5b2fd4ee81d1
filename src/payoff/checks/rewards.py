"""The laws of a reward: a pure map from a batch to one number a row, NaN for a failure."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import torch
from torch import Tensor, nn

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
    told,
    verdict,
)
from payoff.checks.inputs import (
    Cond,
    Inputs,
    find_inputs,
    global_seed,
    random_states,
    take,
    touched,
)
from payoff.errors import UserError
from payoff.rewards import Reward

ROWS = 4


class RewardSubject:
    """A reward with inputs that it takes, and its answer to them.

    Attributes:
        claims: whether it says to be differentiable; None for a plain function, which says nothing.
        x, cond: rows in float32 (or tokens), and what they were before the first call.
    """

    def __init__(self, part: Any, shape: Any, tokens: int | None, seed: int, budget: Budget):
        self.part, self.budget, self.seed = part, budget, seed
        self.claims: bool | None = part.differentiable if isinstance(part, Reward) else None
        try:
            inspect.signature(part).bind(None, None)
        except TypeError:
            raise UserError(
                "a reward is called with the rows and their condition: write it as "
                "def reward(x, cond=None). A function of a table of designs is an oracle, not a "
                "reward: give it to payoff design as --oracle"
            ) from None
        except ValueError:
            pass  # a built-in without a signature
        self.inputs: Inputs = find_inputs(self, part, shape, tokens, seed)
        self.x, self.cond = self.inputs.draw(ROWS)
        self.before = self.x.clone()
        self.states = random_states()
        self.answer: Any = None

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Any:
        self.budget.spend(len(x))
        return self.part(x, cond)

    @property
    def y(self) -> Tensor:
        """The answer to x, once it is known to be one number a row."""
        return self.answer.detach()


def one_number_a_row(s: RewardSubject) -> Outcome:
    """A tensor (B,) that is not NaN throughout."""
    s.answer = s(s.x, s.cond)
    if not isinstance(s.answer, Tensor):
        return fails(
            f"it returned {type(s.answer).__name__}",
            "return a tensor: torch.as_tensor(scores).to(x) makes one of a list or an array",
        )
    if s.answer.shape != (ROWS,):
        shape = tuple(s.answer.shape)
        wanted = "sum or average over the other axes"
        if shape == (ROWS, 1):
            wanted = "squeeze the last axis"
        return fails(f"shape {shape} for {ROWS} rows", f"return shape (B,): {wanted}")
    if s.answer.is_complex() or s.answer.dtype == torch.bool:
        return fails(f"dtype {s.answer.dtype}", "return floating-point numbers: value.to(x.dtype)")
    failed = int(s.answer.isnan().sum())
    if failed == ROWS:
        return fails(
            f"all {ROWS} rows are NaN ({s.inputs})",
            "NaN means failed, and nothing can be tested on failures alone: let the reward scale "
            "its designs so that standard normal rows are typical, or give another --shape",
        )
    return holds(f"{ROWS} rows, {failed} failed; {s.answer.dtype}; {s.inputs}")


def same_twice(s: RewardSubject) -> Outcome:
    """The same rows have the same rewards, whatever the global seed."""
    with global_seed(s.seed + 1):
        again = s(s.before.clone(), s.cond)
    gap = difference(again, s.y)
    return verdict(gap <= rounding(s.y), f"relative difference {gap:.1e}")


def input_unchanged(s: RewardSubject) -> Outcome:
    """The batch that was passed in is the same afterwards."""
    gap = difference(s.x, s.before)
    return verdict(gap == 0, f"relative change {gap:.1e}")


def random_state_untouched(s: RewardSubject) -> Outcome:
    """A call draws nothing from the global generators."""
    before = random_states()
    s(s.before.clone(), s.cond)
    moved = touched(before)
    return verdict(not moved, f"draws from {', '.join(moved)}" if moved else "no draws")


def rows_alone(s: RewardSubject) -> Outcome:
    """A row has the same reward alone, and among the others in another order."""
    x = s.before
    parts = [s(x[i : i + 1].clone(), take(s.cond, slice(i, i + 1))) for i in range(ROWS)]
    if any(p.shape != (1,) for p in parts):
        return fails(f"shape {tuple(parts[0].shape)} for one row", "return shape (1,) for one row")
    order = torch.arange(ROWS).flip(0)
    turned = s(x[order], take(s.cond, order))[order]
    alone, among = difference(torch.cat(parts), s.y), difference(turned, s.y)
    return verdict(
        max(alone, among) <= rounding(s.y),
        f"relative difference alone {alone:.1e}, in another order {among:.1e}",
    )


def empty_batch(s: RewardSubject) -> Outcome:
    """No rows have no rewards."""
    try:
        y = s(s.before[:0], take(s.cond, slice(0, 0)))
    except (Exception, SystemExit) as error:
        return fails(f"it raised {told(error)}")
    return verdict(isinstance(y, Tensor) and y.shape == (0,), f"shape {tuple(y.shape)}")


def float64_input(s: RewardSubject) -> Outcome:
    """Rows in double precision have the same rewards."""
    if s.inputs.tokens is not None:
        return skipped("tokens have no precision")
    y = s(s.before.double(), s.cond)
    gap = difference(y, s.y)
    return verdict(gap < 1e-3, f"relative difference to float32 {gap:.1e}; answers in {y.dtype}")


def failed_row(s: RewardSubject) -> Outcome:
    """A row of NaN spoils no other row, and is best answered by NaN."""
    if s.inputs.tokens is not None:
        return skipped("tokens cannot be NaN")
    x = s.before.clone()
    x[0] = float("nan")
    try:
        y = s(x, s.cond)
    except (Exception, SystemExit) as error:
        return remark(
            f"a NaN row: it raised {told(error)}",
            "one bad design then costs its whole batch; answer NaN for that row",
        )
    gap = difference(y[1:], s.y[1:])
    if gap > rounding(s.y):
        return fails(
            f"a NaN in row 1 changes the other rows by {gap:.1e}", "let rows stay by themselves"
        )
    if not bool(y[0].isnan()):
        return remark(
            f"a NaN row scores {float(y[0].detach()):.4g}",
            "a failure should be NaN; a number can be mistaken for a design",
        )
    return holds("a NaN row is NaN, the others are as before")


def declared_gradient(s: RewardSubject) -> Outcome:
    """Autograd against central differences along one random direction a row, in float64."""
    if s.inputs.tokens is not None:
        return skipped("tokens have no gradient")
    x = s.before.double().requires_grad_(True)
    try:
        with torch.enable_grad():
            y = s(x, s.cond)
    except Exception:
        if s.claims:
            raise
        return _without_gradient(s)  # numpy, for one, refuses rows that ask for a gradient
    usable = ~y.detach().isnan()
    if not y.requires_grad:
        return _without_gradient(s)
    (gradient,) = torch.autograd.grad(y[usable].sum(), x, allow_unused=True)
    if gradient is None:
        return _without_gradient(s)
    way = torch.randn(x.shape, generator=generator(s.seed + 3), dtype=torch.float64)
    if s.cond is not None:  # padding stays empty
        way = way * s.cond["mask"].reshape(*way.shape[:2], *(1,) * (way.ndim - 2))
    slope = (gradient * way).flatten(1).sum(1)[usable]
    worst, measured = torch.inf, slope
    for step, allowed in ((1e-5, 1e-4), (1e-3, 3e-2)):  # the second for rewards inside float32
        with torch.no_grad():
            up, down = s(x + step * way, s.cond), s(x - step * way, s.cond)
        measured = ((up.double() - down.double()) / (2 * step))[usable]
        worst = difference(slope, measured) if bool(measured.any() | slope.any()) else 0.0
        if worst <= allowed:
            break
    else:
        return _wrong_gradient(s, worst)
    if not bool(slope.any()) and bool(s.y[~s.y.isnan()].diff().any()):
        return remark(
            "the gradient is zero on every row although the reward varies",
            "steps and roundings have no slope: gradient methods stand still on them",
        )
    text = f"autograd and differences agree to {worst:.1e}"
    if s.claims:
        return holds(text)
    todo = "differentiable = True" if s.claims is False else "FunctionReward(f)"
    return remark(f"{text}, and it is not declared", f"{todo} opens it to gradient methods")


def _without_gradient(s: RewardSubject) -> Outcome:
    if s.claims:
        return fails(
            "differentiable is True, and no gradient reaches x",
            "compute in torch without detach, numpy or item; or set differentiable = False",
        )
    if s.claims is None:
        return remark("no gradient reaches x", "wrap it as FunctionReward(f, differentiable=False)")
    return holds("no gradient, and none is claimed")


def _wrong_gradient(s: RewardSubject, worst: float) -> Outcome:
    text = f"autograd and differences disagree by {worst:.1e} of the slope"
    if s.claims:
        return fails(text, "correct the backward pass, or set differentiable = False")
    if s.claims is None:
        return remark(text, "wrap it as FunctionReward(f, differentiable=False)")
    return holds(f"{text}, and none is claimed")


def varies(s: RewardSubject) -> Outcome:
    """Different rows have different rewards."""
    y = s.y[~s.y.isnan()].double()
    spread = float(y.max() - y.min())
    if spread > 0:
        return holds(f"from {float(y.min()):.4g} to {float(y.max()):.4g}")
    return remark(
        f"{len(y)} random rows all score {float(y[0]):.4g}",
        "methods learn from differences: check that designs reach the part where it varies",
    )


def follows_device(s: RewardSubject) -> Outcome:
    """On torch's meta device a tensor that does not follow its input is an error."""
    part = copy.deepcopy(s.part).to("meta") if isinstance(s.part, nn.Module) else s.part
    s.budget.spend(len(s.before))
    cond = None if s.cond is None else {k: v.to("meta") for k, v in s.cond.items()}
    try:
        y = part(s.before.to("meta"), cond)
    except (Exception, SystemExit) as error:
        if "device" not in str(error):
            return skipped(f"cannot be told without a second device: {type(error).__name__}")
        return remark(
            f"tensors on a device of their own: {str(error).splitlines()[0][:100]}",
            "make new tensors with x.new_tensor(...) or .to(x); before NumPy, x.cpu()",
        )
    if isinstance(y, Tensor) and y.device.type == "meta":
        return holds("the answer is where the input is")
    return remark("the answer is not on the input's device", "return value.to(x.device)")


def picklable(s: RewardSubject) -> Outcome:
    """It can be sent to worker processes."""
    try:
        size = len(pickle.dumps(s.part))
    except Exception as error:
        return remark(
            f"{type(error).__name__}: {str(error)[:80]}",
            "to use worker processes, define it at the top of a module: no lambda, no open file",
        )
    return holds(f"{size} bytes")


ROWS_LAW, TWICE = "a row does not depend on its batch", "the same rows score the same twice"
DOUBLE = "double precision is accepted"
LAWS: tuple[Law[RewardSubject], ...] = (
    Law("one number a row", one_number_a_row, gate=True),
    Law(
        "the input is not changed",
        input_unchanged,
        "no in-place operations on x (clamp_, +=, x[...] =): work on x.clone()",
    ),
    Law(
        TWICE,
        same_twice,
        "no draws, counters or caches inside; average a noisy measurement, or fix its seed",
    ),
    Law(
        "the global random state is left alone",
        random_state_untouched,
        "draw from a torch.Generator of your own, seeded from the design",
    ),
    Law(
        ROWS_LAW,
        rows_alone,
        "no mean, rank or normalisation over the batch: fix such constants beforehand",
        needs=(TWICE,),
    ),
    Law("an empty batch is answered", empty_batch, "return x.new_zeros(0) where len(x) is 0"),
    Law(
        DOUBLE,
        float64_input,
        "follow x.dtype: convert constants with .to(x)",
        needs=(TWICE,),
    ),
    Law("a failure is NaN and stays alone", failed_row, needs=(TWICE, ROWS_LAW)),
    Law("the declared gradient is right", declared_gradient, needs=(TWICE, ROWS_LAW, DOUBLE)),
    Law("the reward varies", varies),
    Law("the device is followed", follows_device, strict=False),
    Law("it can be sent to worker processes", picklable, strict=False),
)
