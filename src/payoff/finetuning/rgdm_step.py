r"""RGDM on single steps: where a posterior sample is moved to, and the regression on it.

The target of a transition :math:`x_t\to x_s` is :math:`x_0+\bar\delta/a`, or
:math:`\hat x_0(x_t)+\bar\delta/a` if the model's own estimate is shifted (the same on average,
without the noise of the datum).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from payoff.finetuning import losses
from payoff.finetuning import neighbourhood as near
from payoff.finetuning.advantages import replace_failed
from payoff.finetuning.pool import Pool
from payoff.finetuning.rollouts import Samples, drawn_rows, rows_of, shuffled
from payoff.finetuning.run import Run
from payoff.predictions import Prediction
from payoff.spaces import Condition, expand_to
from payoff.values.feasible import Feasible
from payoff.values.learned import Learned
from payoff.values.networks import value_network

if TYPE_CHECKING:
    from payoff.finetuning.rgdm import RGDM

CLEAN = 4096  # base samples drawn where there are no data
WALK = 0.7  # share of the rounds that walk by plan; the rate of the others is small
FAILED = 0.02  # share of known rewards that a failure is better than, where a value is learned
GROWTH, LARGEST_GAIN = 2.0, 10.0  # of the gain: from one round to the next, and in all


Valued = Callable[..., Tensor]
"""A value, called as value(x, t, cond); :class:`~payoff.values.base.Value` is one."""


@dataclass
class Draft:
    """Posterior samples before they are shifted.

    Attributes:
        x0, x_t, x_s: clean, noisy and less noisy samples (B, ...).
        t, s: their times (B,).
        weight: a, weight of x0 in the mean of the reverse kernel, (B,).
        std: the kernel's standard deviation, (B,).
    """

    x0: Tensor
    x_t: Tensor
    x_s: Tensor
    t: Tensor
    s: Tensor
    weight: Tensor
    std: Tensor
    cond: Condition | None


def play_reward(method: RGDM, run: Run) -> None:
    """A round in which the reward itself scores drafts (``score`` = x0hat or noisy)."""
    n = max(1, run.affordable() // method.cost())
    x0, cond = clean(run, n)
    draft = drafts(method, run, x0, cond)
    move = shifted(method, run, draft, None)
    kept = run.memory.get("targets", [])
    fresh = [draft.x_t, draft.t, _goal(method, run, draft, move), draft.x0]
    parts = [torch.cat([a, b]) for a, b in zip(kept, fresh, strict=True)] if kept else fresh
    run.memory["targets"] = parts
    if cond is not None:
        before = run.memory.get("target_cond")
        rows = dict(cond)
        run.memory["target_cond"] = (
            rows if before is None else {k: torch.cat([before[k], v]) for k, v in rows.items()}
        )
    _regress(method, run)


def _regress(method: RGDM, run: Run) -> None:
    x_t, t, goal, x0 = run.memory["targets"]
    conds = run.memory.get("target_cond")
    for index in shuffled(len(x_t), run.batch_size, run.updates, generator=run.generator):
        index = index.to(x_t.device)
        step_on(method, run, x_t[index], t[index], goal[index], x0[index], rows_of(conds, index))


def play_value(method: RGDM, run: Run) -> None:
    """A round in which samples are scored, a value is learned from them, and drafts follow it.

    The value is that of the next tempered tilt, relative to the law that the pool stands for now:
    :math:`V = \\log E[e^{(\\beta'-\\beta)r}|x_s]`. Its reward calls are the samples alone.
    """
    pool, last = Pool.of_state(run.memory.get("pool", {})), 1 / run.target.temperature
    samples, rounds = run.samples(run.affordable()), run.rounds
    if method.catch_up:
        rounds = math.ceil(WALK * rounds)
        _catch_up(method, run, pool, samples)
    before = pool.inverse
    pool.add(samples, before)
    pool.advance(last, method.share, rounds - run.round)
    gap = pool.inverse - before
    run.memory["pool"] = pool.state()
    law = pool.log_weights(before)
    asked = gap * run.memory.get("gain", 1.0)
    value = learned_value(method, run, pool, law, asked) if gap > 0 else None
    run.old_policy()
    for _ in range(run.updates):
        x0, cond = pool.rows(drawn_rows(law, run.batch_size, generator=run.generator))
        draft = drafts(method, run, x0, cond)
        move = torch.zeros_like(x0) if value is None else shifted(method, run, draft, value)
        goal = _goal(method, run, draft, move)
        step_on(method, run, draft.x_t, draft.t, goal, x0, cond)


def _catch_up(method: RGDM, run: Run, pool: Pool, samples: Samples) -> None:
    """Find out how far the model has come, and what its value's slope has to be multiplied by.

    A value that is learned from few samples is too flat, and a model learns a part of a tilt only.
    So the model's β is the one that explains the mean reward of its samples, not the plan's, and
    the gain of the next tilt grows by what was asked for over what was reached.
    """
    gain, began = run.memory.get("gain", method.gain), (pool.inverses or [pool.inverse])[-1]
    asked = pool.inverse - began  # by the last round
    if asked:
        mean = float(samples.rewards.nanmean())
        pool.inverse = pool.inverse_of(mean, 1 / run.target.temperature)
        least, most = 1 / GROWTH, GROWTH
        gain *= min(most, max(least, asked / max(pool.inverse - began, asked / most)))
    run.memory["gain"] = min(LARGEST_GAIN, max(1.0, gain))


def play_known(method: RGDM, run: Run) -> None:
    """A round that follows a value of the whole tilt, from the base, without a reward call."""
    assert method.value is not None
    run.reward.meter.rows += run.affordable()
    for _ in range(run.updates):
        x0, cond = clean(run, run.batch_size)
        draft = drafts(method, run, x0, cond)
        goal = _goal(method, run, draft, shifted(method, run, draft, method.value))
        step_on(method, run, draft.x_t, draft.t, goal, x0, cond)


def clean(run: Run, n: int) -> tuple[Tensor, Condition | None]:
    """N clean samples: rows of the data if there are any, else of a stock drawn from the base."""
    if run.data is None and "clean" not in run.memory:
        cond = run.conditions(CLEAN)
        x = run.sampler(run.base).sample(CLEAN, cond, generator=run.generator).clone()
        run.memory["clean"] = [x, None if cond is None else dict(cond)]
    x, cond = (run.data, run.cond) if run.data is not None else run.memory["clean"]
    where = run.generator.device
    rows = torch.randint(len(x), (n,), generator=run.generator, device=where).to(x.device)
    return x[rows], rows_of(cond, rows) if cond is not None and len(x) else None


def steps_shifted(method: RGDM, run: Run) -> tuple[int, int]:
    """The first of the sampler's steps that is shifted, and the one after the last of them."""
    starts = run.sampler().times(torch.device("cpu"), torch.float64)[:-1]
    return int((starts > method.latest).sum()), int((starts >= method.earliest).sum())


def drafts(method: RGDM, run: Run, x0: Tensor, cond: Condition | None) -> Draft:
    """x_t and a posterior sample x_s of clean samples, at random steps of the sampler's grid."""
    process, n = run.policy.process, len(x0)
    times = run.sampler().times(x0.device, x0.dtype)
    where = run.generator.device
    step = torch.randint(*steps_shifted(method, run), (n,), generator=run.generator, device=where)
    step = step.to(x0.device)
    t, s = times[step], times[step + 1]
    x_t = process.corrupt(x0, t, cond, generator=run.generator)
    alpha, sigma = process.schedule(t)  # type: ignore[attr-defined]
    posterior = process.reverse(x_t, t, s, Prediction(x0, x_t, alpha, sigma), 1.0, cond)
    x_s = posterior.sample(generator=run.generator)
    weight, _, std = process.coefficients(t, s)  # type: ignore[attr-defined]
    return Draft(x0, x_t, x_s, t, s, torch.as_tensor(weight), torch.as_tensor(std), cond)


def shifted(method: RGDM, run: Run, draft: Draft, value: Valued | None) -> Tensor:
    """The shift δ̄ (B, ...) of the drafts, by the method's options."""
    return near.shift(
        method,
        draft.x_s,
        draft.std,
        lambda: _gradient(method, run, draft, value),
        lambda ends: _scores(method, run, ends, draft, value),
        run.policy.process.space,  # type: ignore[arg-type]
        draft.cond,
        generator=run.generator,
    )


def _scores(method: RGDM, run: Run, ends: Tensor, draft: Draft, value: Valued | None) -> Tensor:
    """r/τ (K, B) of candidates (K, B, ...), by the value, at the clean estimate, or as they are.

    All at once: a batch of which every design fails ends a run.
    """
    k, n = ends.shape[:2]
    x, rows = ends.flatten(0, 1), torch.arange(n, device=ends.device).repeat(k)
    s, cond = draft.s[rows], rows_of(draft.cond, rows)
    with torch.no_grad():
        if value is not None:
            return value(x, s, cond).view(k, n)
        at = run.base(x, s, cond).x0 if method.score == "x0hat" else x
    return (run.score(at, cond) / run.target.temperature).view(k, n)


def _gradient(method: RGDM, run: Run, draft: Draft, value: Valued | None) -> Tensor:
    x = draft.x_s.detach().requires_grad_(True)
    with torch.enable_grad():
        if value is not None:
            scores = value(x, draft.s, draft.cond)
        else:
            at = run.base(x, draft.s, draft.cond).x0 if method.score == "x0hat" else x
            scores = run.score_with_gradient(at, draft.cond) / run.target.temperature
        scores = torch.where(scores.isnan(), 0.0, scores)
        (gradient,) = torch.autograd.grad(scores.sum(), x)
    return run.policy.process.space.project(gradient.nan_to_num(0.0), draft.cond)  # type: ignore[attr-defined]


def _goal(method: RGDM, run: Run, draft: Draft, move: Tensor) -> Tensor:
    """What the clean estimate at x_t is regressed on: x_0 + δ̄/a."""
    start = draft.x0
    if method.anchor == "model":
        model = run.kept.get("old", run.base)
        with torch.no_grad():
            start = model(draft.x_t, draft.t, draft.cond).x0
    return start + move / expand_to(draft.weight, move)


def step_on(
    method: RGDM,
    run: Run,
    x_t: Tensor,
    t: Tensor,
    goal: Tensor,
    x0: Tensor,
    cond: Condition | None,
) -> None:
    """One optimiser step on (1 − λ) · plain + λ · shifted."""
    process, d = run.policy.process, run.sigma_data
    prediction = run.policy(x_t, t, cond)
    loss = method.mix * losses.denoising_error(prediction, goal, process, t, cond, d)
    if method.mix < 1:
        plain = losses.denoising_error(prediction, x0, process, t, cond, d)
        loss = loss + (1 - method.mix) * plain
    run.step(loss)


def learned_value(method: RGDM, run: Run, pool: Pool, law: Tensor, gap: float) -> Valued:
    """V of the tilt by e^(gap · r) of the law whose log-weights in the pool are ``law`` (n,)."""
    assert pool.x0 is not None
    assert pool.rewards is not None
    apart = method.feasible
    rewards = (pool.rewards if apart else replace_failed(pool.rewards, FAILED)).double()

    def make() -> Learned:
        net = value_network(run.base, run.shape, method.value_width, 2 if apart else 1)
        kind = Feasible if apart else Learned
        value = kind(net, run.target, method.objective, sigma_data=run.sigma_data)
        return value.to(run.trainable[0])

    # the mean reward is learned in one unit for all rounds: tilts of any size are multiples of it
    unit = gap
    if method.objective == "mean":
        unit = 1 / (run.target.temperature * run.rounds)
    # kept from round to round: tilts of even size have values that differ little
    value = run.keep("value", make).requires_grad_(True)
    with run.drawing():
        value.fit(
            pool.x0,
            pool.cond,
            scores=(unit * rewards).to(pool.x0.dtype),
            log_weights=law,
            steps=method.value_steps,
            batch_size=run.batch_size,
            rate=method.value_rate,
            latest=method.latest,
            generator=run.generator,
        )
    value.requires_grad_(False)

    def valued(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        with run.drawing():
            if isinstance(value, Feasible):
                return value.weighed(x, t, cond, reward=gap / unit, chance=method.insist)
            return gap / unit * value(x, t, cond)

    return valued
