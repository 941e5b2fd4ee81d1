"""The laws of a denoiser: (x_t, t, cond) -> Prediction, with the loss that trains it."""

from __future__ import annotations

import copy
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
from payoff.checks.inputs import (
    Cond,
    Inputs,
    find_inputs,
    global_seed,
    random_states,
    shape_of,
    take,
    touched,
)
from payoff.checks.modules import Training, saved_and_loaded, shaken, trained, unreached
from payoff.denoisers import Denoiser
from payoff.predictions import SPELLINGS, Prediction, TokenPrediction
from payoff.problems import Law as ClosedForm
from payoff.processes import GaussianProcess, MaskProcess

ROWS = 5


class DenoiserSubject:
    """A denoiser, shaken and in eval mode, with noisy rows of its own process."""

    def __init__(self, part: Denoiser, shape: Any, seed: int, budget: Budget) -> None:
        self.raw, self.seed, self.budget = part, seed, budget
        self.denoiser: Denoiser = shaken(part, seed)
        self.process = part.process
        tensors = [v for v in (*part.parameters(), *part.buffers()) if v.is_floating_point()]
        self.dtype = tensors[0].dtype if tensors else torch.float32
        tokens = self.process.space.vocabulary if isinstance(self.process, MaskProcess) else None
        inner = getattr(part, "net", part)
        hint = inner if shape_of(part) is None else part
        self.inputs: Inputs = find_inputs(self._probe, hint, shape, tokens, seed, self.dtype)
        self.t = torch.linspace(0.1, 0.9, ROWS, dtype=self.dtype)
        x0, self.cond = self.inputs.draw(ROWS, self.dtype)
        self.x0 = self.process.space.project(x0, self.cond)
        g = generator(seed + 2)
        self.x_t = self.process.corrupt(self.x0, self.t, self.cond, generator=g)
        self.y: Any = None

    def _probe(self, x: Tensor, cond: Cond | None) -> Any:
        return self(self.process.space.project(x, cond), torch.full((len(x),), 0.5), cond)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Any:
        self.budget.spend()
        with torch.no_grad():
            return self.denoiser(x_t, t.to(self.dtype), cond)

    def loss(self, denoiser: Denoiser, seed: int) -> Tensor:
        """The loss of the clean rows with the noise of ``seed``."""
        self.budget.spend()
        return denoiser.loss(self.x0, self.t, self.cond, generator=generator(seed))


def clean(prediction: Any) -> Tensor:
    """The clean estimate, or the probabilities of tokens."""
    return prediction.x0 if isinstance(prediction, Prediction) else prediction.log_probs.exp()


def gives_a_prediction(s: DenoiserSubject) -> Outcome:
    """The right type and shape, and finite."""
    s.y = s(s.x_t, s.t, s.cond)
    wanted = TokenPrediction if isinstance(s.process, MaskProcess) else Prediction
    if not isinstance(s.y, wanted):
        how = "TokenPrediction.of_logits" if wanted is TokenPrediction else "Prediction.of"
        return fails(
            f"it returned {type(s.y).__name__}, not a {wanted.__name__}", f"return {how}(...)"
        )
    found = clean(s.y)
    shape = tuple(s.x_t.shape) + ((s.inputs.tokens,) if s.inputs.tokens else ())
    if tuple(found.shape) != shape:
        return fails(f"the estimate has shape {tuple(found.shape)}, expected {shape}")
    return verdict(bool(found.isfinite().all()), f"{wanted.__name__} of {shape}; {s.inputs}")


def levels_are_the_schedules(s: DenoiserSubject) -> Outcome:
    """Its alpha, sigma and x_t are those it was asked about; all spellings then agree."""
    if not isinstance(s.process, GaussianProcess):
        total = clean(s.y).sum(-1)
        gap = difference(total, torch.ones_like(total))
        return verdict(gap <= rounding(total), f"probabilities sum to 1 within {gap:.1e}")
    p: Prediction = s.y
    alpha, sigma = s.process.schedule(s.t)
    gaps = [difference(torch.as_tensor(p.alpha).expand(ROWS), alpha)]
    gaps.append(difference(torch.as_tensor(p.sigma).expand(ROWS), sigma))
    gaps.append(difference(p.x_t, s.x_t))
    for name in SPELLINGS:
        again = Prediction.of(name, getattr(p, name), s.x_t, alpha, sigma)
        gaps.append(difference(again.x0, p.x0) / 100)  # noise to x0 loses α/σ of digits
    return verdict(
        max(gaps) <= rounding(p.x0),
        f"alpha off by {gaps[0]:.1e}, sigma {gaps[1]:.1e}, x_t {gaps[2]:.1e}, "
        f"spellings {100 * max(gaps[3:]):.1e}",
    )


def same_twice(s: DenoiserSubject) -> Outcome:
    """Nothing is drawn: the same rows have the same estimate, and the global state stays."""
    before = random_states()
    gap = difference(clean(s(s.x_t, s.t, s.cond)), clean(s.y))
    moved = touched(before)
    if moved:
        return fails(f"a call draws from {', '.join(moved)}")
    return verdict(gap <= rounding(clean(s.y)), f"relative difference {gap:.1e}")


def rows_alone(s: DenoiserSubject) -> Outcome:
    """A row has the same estimate alone and in another order."""
    one = [slice(i, i + 1) for i in range(ROWS)]
    alone = torch.cat([clean(s(s.x_t[i], s.t[i], take(s.cond, i))) for i in one])
    order = torch.arange(ROWS).flip(0)
    turned = clean(s(s.x_t[order], s.t[order], take(s.cond, order)))[order]
    whole = clean(s.y)
    gaps = difference(alone, whole), difference(turned, whole)
    return verdict(
        max(gaps) <= rounding(whole),
        f"relative difference alone {gaps[0]:.1e}, in another order {gaps[1]:.1e}",
    )


def one_time_for_all(s: DenoiserSubject) -> Outcome:
    """A time of shape () is that time for every row."""
    single = clean(s(s.x_t, s.t[2], s.cond))
    many = clean(s(s.x_t, s.t[2].expand(ROWS), s.cond))
    gap = difference(single, many)
    return verdict(gap <= rounding(many), f"t () against t (B,): {gap:.1e}")


def finite_at_the_ends(s: DenoiserSubject) -> Outcome:
    """Finite at t = 0 and t = 1."""
    bad = []
    for time in (0.0, 1.0):
        t = torch.full((ROWS,), time, dtype=s.dtype)
        x = s.process.corrupt(s.x0, t, s.cond, generator=generator(s.seed))
        bad += [] if bool(clean(s(x, t, s.cond)).isfinite().all()) else [f"t = {time:g}"]
    return fails(f"not finite at {' and '.join(bad)}") if bad else holds("t = 0 and t = 1")


def score_is_the_gradient(s: DenoiserSubject) -> Outcome:
    """For a law with a density: its score is the gradient of log p_t."""
    if not (isinstance(s.raw, ClosedForm) and isinstance(s.process, GaussianProcess)):
        return skipped("it states no density")
    s.budget.spend(2)
    x = s.x_t.clone().requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(s.raw.log_prob_t(x, s.t, s.cond).sum(), x)
    gap = difference(s.y.score, s.process.space.project(found, s.cond))
    return verdict(gap <= 10 * rounding(found), f"relative difference {gap:.1e}")


def loss_of_each_row(s: DenoiserSubject) -> Outcome:
    """The loss is one finite number a row."""
    try:
        loss = s.loss(s.denoiser, 1)
    except NotImplementedError:
        return remark("it has no loss", "an exact or wrapped denoiser needs none")
    if loss.shape != (ROWS,):
        return fails(f"shape {tuple(loss.shape)} for {ROWS} rows")
    return verdict(
        bool(loss.isfinite().all()), f"({ROWS},), mean {float(loss.detach().mean()):.3g}"
    )


def loss_draws_from_the_generator(s: DenoiserSubject) -> Outcome:
    """The same generator gives the same loss, another one another, and none is global."""
    if type(s.denoiser).loss is Denoiser.loss:
        return skipped("it has no loss")
    before = random_states()
    one, two, other = (s.loss(s.denoiser, seed).detach() for seed in (1, 1, 2))
    moved = touched(before)
    if moved:
        return fails(f"the loss draws from the global state of {', '.join(moved)}")
    if not torch.equal(one, two):
        return fails("the same generator gives another loss")
    return verdict(not torch.equal(one, other), "the same for the same generator, and only then")


def parameters_are_reached(s: DenoiserSubject) -> Outcome:
    """The gradient of the loss reaches the parameters."""
    if type(s.denoiser).loss is Denoiser.loss or not any(True for _ in s.raw.parameters()):
        return skipped("it has no loss or no parameters")
    denoiser = copy.deepcopy(s.denoiser).train().requires_grad_(True)
    return unreached(denoiser, s.loss(denoiser, 1).mean())


def learns(s: DenoiserSubject) -> Outcome:
    """Training by its own loss brings the clean estimate nearer to the truth."""
    if type(s.denoiser).loss is Denoiser.loss or not any(True for _ in s.raw.parameters()):
        return skipped("it has no loss or no parameters")
    if not isinstance(s.process, GaussianProcess):
        return skipped("only Gaussian processes are trained here")
    denoiser = copy.deepcopy(s.raw).requires_grad_(True)
    with global_seed(s.seed):  # dropout
        return trained(Training(denoiser, s.inputs, s.budget, s.dtype), 0.1)


def can_be_saved(s: DenoiserSubject) -> Outcome:
    """It survives saving and loading."""
    if not any(True for _ in s.raw.parameters()):
        return skipped("it has no parameters")

    def evaluate(denoiser: Any) -> Tensor:
        s.budget.spend()
        with torch.no_grad():
            return clean(denoiser(s.x_t, s.t, s.cond))

    return saved_and_loaded(s.denoiser, evaluate)


TWICE = "the same input gives the same estimate"
LAWS: tuple[Law[DenoiserSubject], ...] = (
    Law("it answers with a prediction", gives_a_prediction, "give finite numbers", gate=True),
    Law(
        "levels and spellings are consistent",
        levels_are_the_schedules,
        "pass alpha and sigma of self.process.schedule.levels(t), in this order, and x_t itself",
    ),
    Law(TWICE, same_twice, "in eval mode no dropout, no draws, no running statistics"),
    Law(
        "a row does not depend on its batch",
        rows_alone,
        "no statistics over the batch axis",
        needs=(TWICE,),
    ),
    Law(
        "one time holds for all rows",
        one_time_for_all,
        "t may be () or (B,): use payoff.spaces.expand_to where it multiplies x",
        needs=(TWICE,),
    ),
    Law("finite at both ends of time", finite_at_the_ends, "divide by nothing that vanishes there"),
    Law(
        "the score is the gradient of the density",
        score_is_the_gradient,
        "one of log_prob_t and forward is wrong",
    ),
    Law("the loss is one number a row", loss_of_each_row, "average over all axes but the first"),
    Law(
        "the loss draws from its generator",
        loss_draws_from_the_generator,
        "hand the generator on: process.corrupt(x0, t, cond, generator=generator)",
    ),
    Law("the parameters can be trained", parameters_are_reached, "give it parameters"),
    Law("it can be saved and loaded", can_be_saved, needs=(TWICE,)),
    # last, since it takes longest
    Law("training improves the estimate", learns, "compare the loss's target with the output"),
)
