"""Objects drawn at an aim, judged, and the choice of the aim.

An object is judged as the user will get it. Its pessimistic score is the prediction minus
``pessimism`` standard deviations. An object that its kind refuses, or outside the data's support,
does not count. How large an object is drawn is taken from the data too: from the hundredth of the
objects whose predicted scores are nearest to the aim, an estimate of :math:`p(n\\mid y)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from payoff.domains.base import Data, join, select
from payoff.jobs.design.conditioners import Conditioner
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.score import LearnedScore, Look
from payoff.jobs.machine import matmul_precision
from payoff.jobs.model import placed
from payoff.jobs.progress import Reporter
from payoff.samplers import SAMPLERS, Sampler, stochastic

BLOCK = 1000  # designs selected at a time: what is drawn for them fits in memory, whatever is asked
MIN_DRAWN = 25  # designs' worth of samples drawn at least: the best of a handful is no choice
MAX_EXTRA_ROUNDS = 20  # blocks drawn beyond what should do, before fewer designs are accepted
MAX_EMPTY_ROUNDS = 3  # blocks in a row without one new design: there are no more to be found
NEAREST, MIN_NEAREST = 0.01, 50  # share of the data that sizes are taken from; rows at least
BEYOND = 2.5  # standard deviations above the best prediction that the largest aim lies
SMALLEST_GAP = 1e-6  # the same design twice differs by rounding
UNSUPPORTED = "outside the data's support"


@dataclass
class Draws:
    """Objects drawn at one aim, judged.

    Attributes:
        objects: None where a sample stands for none.
        look: predictions and support, in the user's unit and direction.
        low: the pessimistic score, higher is better (n,).
        reasons: why the kind refuses an object; None: it is valid.
        refused: why an object does not count, "" for one that does (n,).
        identities: of the objects that count, None for others.
        shift: mean squared length of the samples over their number of coordinates; 1 for whitened
            data. NaN where samples are no plain vectors.
    """

    objects: Sequence[Any]
    look: Look
    low: Tensor
    reasons: list[str | None]
    refused: npt.NDArray[np.object_]
    identities: list[str | None]
    shift: float

    @property
    def counts(self) -> npt.NDArray[np.bool_]:
        """Objects that count (n,)."""
        return np.asarray(self.refused == "", dtype=bool)

    def rejected(self) -> dict[str, int]:
        """Refused objects by reason."""
        reasons, counts = np.unique(self.refused[self.refused != ""], return_counts=True)
        return {str(r): int(c) for r, c in zip(reasons, counts, strict=True)}

    def select(self, rows: Sequence[int]) -> Draws:
        """The objects at these places, in this order."""
        at, look = torch.as_tensor(rows, dtype=torch.long), self.look
        parts = (look.places[at], look.mean[at], look.std[at], look.support[at])
        return Draws(
            select(self.objects, list(rows)),
            Look(*parts),
            self.low[at],
            [self.reasons[i] for i in rows],
            self.refused[at.numpy()],
            [self.identities[i] for i in rows],
            self.shift,
        )


def joined(parts: Sequence[Draws]) -> Draws:
    """Several draws as one."""
    if len(parts) == 1:
        return parts[0]
    looks = [part.look for part in parts]
    names = ("places", "mean", "std", "support")
    return Draws(
        join([part.objects for part in parts]),
        Look(*(torch.cat([getattr(look, name) for look in looks]) for name in names)),
        torch.cat([part.low for part in parts]),
        [why for part in parts for why in part.reasons],
        np.concatenate([part.refused for part in parts]),
        [text for part in parts for text in part.identities],
        parts[0].shift,
    )


@dataclass
class Aim:
    """One aim of the sweep.

    Attributes:
        aim: the score asked for, in the user's unit.
        draws: the objects drawn.
        kept: places among these that would be proposed.
        value: mean pessimistic score of those, higher is better; −inf if they are too few.
    """

    aim: float
    draws: Draws
    kept: list[int]
    value: float


@dataclass
class AimSampler:
    """Draws objects at an aim, and judges them.

    Attributes:
        by: the model and its label.
        score: the learned score.
        data: what was learned from; its domain tells sizes and identities.
        predicted: predicted scores of the data (n,), in the user's unit and direction.
        job: the options.
        network_calls, reward_calls: evaluations so far.
    """

    by: Conditioner
    score: LearnedScore
    data: Data
    predicted: Tensor
    job: DesignOptions
    network_calls: int = field(default=0, init=False)
    reward_calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.domain = self.data.domain
        self.like = self.by.model.like
        steps = self.job.sampler_steps
        denoiser, shape = self.by.denoiser(self.job.guidance), self.domain.shape
        self.sampler: Sampler = (
            stochastic(denoiser, shape, steps, self.job.sampler_noise)
            if self.job.sampler is None
            else SAMPLERS[self.job.sampler](denoiser, shape, steps)
        )

    @property
    def sign(self) -> float:
        """+1 where a higher score is better, −1 where a lower one is."""
        return self.job.sign

    def draw(
        self,
        aim: float,
        n: int,
        generator: torch.Generator,
        advance: Callable[[int], None] | None = None,
    ) -> Draws:
        """Draw n objects at an aim (in the user's unit) and judge them."""
        rows = near(self.predicted, aim)
        parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        size = self.domain.batch
        with matmul_precision(self.job.matmul_precision):
            for first in range(0, n, size):
                some = min(size, n - first)
                parts.append(self._samples(aim, some, rows, generator))
                if advance is not None:
                    advance(first + some)
        z = torch.cat([z for z, _ in parts])
        cond = {name: torch.cat([c[name] for _, c in parts]) for name in parts[0][1]}
        each = self.sampler.calls_per_step * self.by.evaluations(self.job.guidance)
        self.network_calls += n * self.sampler.steps * each
        return self.judge(self.domain.decode(z, cond), _shift(z, cond))

    def _samples(
        self, aim: float, n: int, rows: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cond = self.domain.conditions(n, rows, generator)
        shape, most = self.domain.shape, 0
        if "mask" in cond:  # no more rows than the largest set has
            most = int(cond["mask"].sum(1).max())
            cond["mask"], shape = cond["mask"][:, :most], (most, *shape[1:])
        given = placed(self.by.given(cond, aim, n), self.like)
        self.sampler.shape = shape
        z = self.sampler.sample(n, given, generator=generator).clone()
        if most and (missing := self.domain.shape[0] - most):
            z = pad(z, (0, 0) * (z.ndim - 2) + (0, missing))
            given["mask"] = pad(given["mask"], (0, missing))
        return z, given

    def judge(self, objects: Sequence[Any], shift: float = float("nan")) -> Draws:
        """Predictions, support and reasons to refuse."""
        look = self.score.look(objects)
        self.reward_calls += len(objects)
        reasons = self.domain.impossible(objects)
        refused = np.full(len(objects), "", dtype=object)
        refused[(look.support > self.job.support).numpy()] = UNSUPPORTED
        for i, why in enumerate(reasons):
            if why is not None:
                refused[i] = why
        identities: list[str | None] = [None] * len(objects)
        fine = np.flatnonzero(refused == "").tolist()
        if fine:
            for i, text in zip(fine, self.domain.identities(select(objects, fine)), strict=True):
                identities[i] = text
        low = self.sign * look.mean - self.job.pessimism * look.std
        return Draws(objects, look, low, reasons, refused, identities, shift)

    def rank(self, draws: Draws) -> Tensor:
        """A number (n,) by which designs are ordered, the largest first."""
        if self.job.order == "nearest" and self.job.aim is not None:
            return -(draws.look.mean - self.job.aim).abs()
        return draws.low

    def select(
        self, draws: Draws, count: int, taken: Sequence[Draws] = (), rank: Tensor | None = None
    ) -> list[int]:
        """Places of the ``count`` first ones that count, differ and keep apart from each other.

        Args:
            draws: what to choose from.
            count: most places.
            taken: designs that they must differ and keep apart from as well.
            rank: (n,) by which they are ordered; default: :meth:`rank`.
        """
        seen = {text for part in taken for text in part.identities}
        different = []
        for i in np.flatnonzero(draws.counts).tolist():
            if draws.identities[i] not in seen:
                seen.add(draws.identities[i])
                different.append(i)
        rank = self.rank(draws) if rank is None else rank
        accepted = torch.tensor(different, dtype=torch.long)
        order = accepted[rank[accepted].argsort(descending=True, stable=True)]
        if not self.job.diversity:
            return list(order[:count].tolist())
        return self._apart(draws, order, count, taken)

    def _apart(self, draws: Draws, order: Tensor, count: int, taken: Sequence[Draws]) -> list[int]:
        """The first places of an order that keep apart in the support's coordinates."""
        support = self.score.support
        least = max(self.job.diversity * support.spacing, SMALLEST_GAP)
        places = support.coordinates(draws.look.places[order])
        free = torch.ones(len(order), dtype=torch.bool)
        for part in taken:
            for some in part.look.places.split(BLOCK):
                others = support.coordinates(some)
                # matrix products would lose the digits of small distances
                gaps = torch.cdist(places, others, compute_mode="donot_use_mm_for_euclid_dist")
                free &= gaps.amin(dim=1) > least if len(others) else True
        kept: list[int] = []
        for i in range(len(order)):
            if not free[i]:
                continue
            kept.append(i)
            if len(kept) == count:
                break
            gap = torch.linalg.vector_norm(places - places[i], dim=1)
            free &= gap > least
        return list(order[kept].tolist())


def near(predicted: Tensor, aim: float) -> Tensor:
    """Rows of the data whose predicted scores (n,) are nearest to the aim."""
    count = min(len(predicted), max(MIN_NEAREST, round(NEAREST * len(predicted))))
    return (predicted - aim).abs().argsort(stable=True)[:count]


def aims_of(sampler: AimSampler) -> list[float]:
    """The aims of a sweep, higher is better: from the better half of the data to well beyond the
    best.
    """
    location, spread = sampler.sign * sampler.by.location, abs(sampler.by.spread)
    best = float((sampler.sign * sampler.predicted).max())
    top = (best - location) / spread + BEYOND
    return [location + spread * float(a) for a in np.linspace(min(1.0, top), top, sampler.job.aims)]


def sweep(sampler: AimSampler, reporter: Reporter, generator: torch.Generator) -> list[Aim]:
    """Every aim, judged by the designs that it gives."""
    job, found = sampler.job, []
    count = job.per_aim
    aims = aims_of(sampler)
    with reporter.bar("trying aims", len(aims)) as advance:
        advance(0)
        for i, higher in enumerate(aims):
            aim = sampler.sign * higher
            draws = sampler.draw(aim, job.oversample * max(count, MIN_DRAWN), generator)
            kept = sampler.select(draws, count, rank=draws.low)
            enough = len(kept) >= job.needed
            value = float(draws.low[kept].mean()) if enough else float("-inf")
            found.append(Aim(aim, draws, kept, value))
            advance(i + 1)
    return found


def choose(aims: Sequence[Aim]) -> tuple[Aim, str]:
    """The aim whose designs have the best pessimistic score, and a sentence on why."""
    best = max(aims, key=lambda a: (a.value, len(a.kept)))
    if best.value == float("-inf"):
        reason = (
            "no aim gave enough different designs inside the data's support; this one gave the "
            f"most ({len(best.kept)})"
        )
    elif best is aims[-1]:
        reason = "the pessimistic score still rises at the largest aim tried"
    else:
        reason = "the pessimistic score of the designs peaks here"
    return best, reason


def propose(
    sampler: AimSampler, aim: float, reporter: Reporter, generator: torch.Generator
) -> tuple[Draws, int, dict[str, int]]:
    """Fresh designs at the aim: (designs in order, number drawn, refusals by reason).

    They are drawn anew rather than taken from the sweep, so that choosing the aim and choosing the
    designs do not share their luck.
    """
    count = sampler.job.count
    with reporter.bar("drawing designs", count) as advance:
        advance(0)
        if sampler.job.keep_refused:
            draws = sampler.draw(aim, count, generator, advance)
            return draws.select(_listed(sampler, draws)), count, draws.rejected()
        return _accepted(sampler, aim, generator, advance)


def _accepted(
    sampler: AimSampler, aim: float, generator: torch.Generator, advance: Callable[[int], None]
) -> tuple[Draws, int, dict[str, int]]:
    """Blocks of samples until enough of them count."""
    job = sampler.job
    block = min(BLOCK, max(job.count, MIN_DRAWN))
    kept: list[Draws] = []
    refusals: dict[str, int] = {}
    drawn = empty = have = 0
    for _ in range(MAX_EXTRA_ROUNDS + 2 * (job.count // BLOCK)):
        draws = sampler.draw(aim, job.oversample * block, generator)
        drawn += len(draws.objects)
        for reason, n in draws.rejected().items():
            refusals[reason] = refusals.get(reason, 0) + n
        chosen = sampler.select(draws, min(block, job.count - have), kept)
        kept.append(draws.select(chosen))
        have += len(chosen)
        advance(have)
        empty = 0 if chosen else empty + 1
        if have == job.count or empty == MAX_EMPTY_ROUNDS:
            break
    merged = joined(kept)
    order = sampler.rank(merged).argsort(descending=True, stable=True)
    return merged.select(order.tolist()), drawn, refusals


def _listed(sampler: AimSampler, draws: Draws) -> list[int]:
    """All places: those that count first, then the other valid ones, each by rank."""
    rank = sampler.rank(draws).nan_to_num(nan=float("-inf")).tolist()
    counts = draws.counts

    def place(i: int) -> tuple[bool, bool, float]:
        return not counts[i], draws.reasons[i] is not None, -rank[i]

    return sorted(range(len(draws.objects)), key=place)


def _shift(z: Tensor, cond: dict[str, Tensor]) -> float:
    """Mean squared coordinate of plain vectors; NaN for sets and tokens."""
    if "mask" in cond or not z.is_floating_point():
        return float("nan")
    return float(z.float().square().mean())
