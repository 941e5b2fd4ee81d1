"""Step 4: drawing designs at an aim, judging them, and choosing the aim.

A design is judged as the user will get it: decoded to the table's columns, with limits kept and
integers whole, and encoded again. Its pessimistic score is the prediction minus ``pessimism``
standard deviations; designs outside the data's support or the range of a column, or that their
domain refuses, do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.model import Model
from payoff.experiments.progress import Reporter
from payoff.guidance import ClassifierFree
from payoff.rewards import LearnedReward
from payoff.samplers import SAMPLERS

BLOCK = 1000  # designs selected at a time: what is drawn for them fits in memory, whatever is asked
SWEEP_COUNT = 100  # designs that an aim is judged by
LEAST_DRAWN = 25  # designs' worth of samples drawn at least: the best of a handful is no choice
TENSORS = ("x", "mean", "std", "low", "support")
MOST_ROUNDS = 20  # blocks drawn beyond what should do, before fewer designs are accepted
BARREN_ROUNDS = 3  # blocks in a row without one new design: there are no more to be found
DIGITS = 6  # significant digits of what is written about a design


@dataclass
class Draws:
    """Samples at one aim, judged.

    Attributes:
        x: encoded as the user gets them (n, D).
        mean, std: predicted score and its sd, higher is better (n,).
        low: the pessimistic score (n,).
        support: distance from the data, 1 = the data's own 95 % quantile (n,).
        refused: reason by row, "" for a design that counts (n,).
        shift: mean squared length in model coordinates over their number; 1 for the data.
    """

    x: Tensor
    mean: Tensor
    std: Tensor
    low: Tensor
    support: Tensor
    refused: np.ndarray
    shift: float

    def rejected(self) -> dict[str, int]:
        """Refused samples by reason."""
        reasons, counts = np.unique(self.refused[self.refused != ""], return_counts=True)
        return {str(r): int(c) for r, c in zip(reasons, counts, strict=True)}


@dataclass
class Aim:
    """One aim of the sweep.

    Attributes:
        aim: the score asked for, higher is better.
        draws: what was drawn.
        kept: rows of ``draws`` that would be proposed.
        value: mean pessimistic score of those, −inf if they are fewer than wanted.
    """

    aim: float
    draws: Draws
    kept: Tensor
    value: float


class Proposer:
    """Draws and judges designs of one model."""

    def __init__(self, job: Job, model: Model, reward: LearnedReward, config: DesignConfig) -> None:
        self.job, self.model, self.reward, self.config = job, model, reward, config
        denoiser = model.denoiser
        if config.guidance:
            denoiser = ClassifierFree(denoiser, config.guidance)
        sampler = SAMPLERS[config.sampler]
        self.sampler = sampler(denoiser, (model.dim,), config.sampler_steps)
        self.like = next(model.denoiser.parameters())
        spacing = job.support.spacing
        self.apart = config.diversity * spacing
        self.network_calls = 0
        self.reward_calls = 0

    @cached_property
    def predicted(self) -> Tensor:
        """Predicted scores of the data's own rows (n,), higher is better."""
        return self.reward(self.job.x.double())

    def draw(self, aim: float, n: int, generator: torch.Generator) -> Draws:
        """Draw n samples at the aim (higher is better) and judge them."""
        label = self.model.label(aim).to(self.like)
        z = self.sampler.sample(n, {"label": label}, generator=generator)
        evaluations = self.sampler.calls_per_step * (2 if self.config.guidance else 1)
        self.network_calls += n * self.config.sampler_steps * evaluations
        x = self.job.codec.project(self.model.to_codec(z))
        return self.judge(x, float(z.float().square().mean()))

    def judge(self, x: Tensor, shift: float = float("nan")) -> Draws:
        """Predictions, support and reasons to refuse, for encoded designs."""
        mean, std = self.reward.predict(x.double())
        self.reward_calls += len(x)
        support = self.job.support(x)
        refused = np.full(len(x), "", dtype=object)
        refused[(support > self.config.support).numpy()] = "outside the data's support"
        low, high = self.job.ranges
        refused[((x < low) | (x > high)).any(1).numpy()] = "outside a column's range"
        if self.job.check is not None:
            fine = self.job.check(self.job.codec.decode(x))
            refused[~fine] = f"impossible for {self.job.domain}"
        refused[~x.isfinite().all(1).numpy()] = "not finite"
        return Draws(x, mean, std, mean - self.config.pessimism * std, support, refused, shift)

    def select(self, draws: Draws, count: int, taken: Tensor | None = None) -> Tensor:
        """The ``count`` best accepted rows by pessimistic score that keep apart from each other.

        Args:
            draws: what to choose from.
            count: most rows.
            taken: encoded designs (m, D) that they must keep apart from as well.
        """
        accepted = torch.from_numpy(np.flatnonzero(draws.refused == ""))
        order = accepted[draws.low[accepted].argsort(descending=True, stable=True)]
        places = self.job.support.coordinates(draws.x[order])
        least = max(self.apart, 1e-6)  # the same design twice differs by rounding
        free = torch.ones(len(order), dtype=torch.bool)
        for part in () if taken is None or not len(taken) else taken.split(BLOCK):
            others = self.job.support.coordinates(part)
            # matrix products would lose the digits of small distances
            gaps = torch.cdist(places, others, compute_mode="donot_use_mm_for_euclid_dist")
            free &= gaps.amin(dim=1) > least
        kept: list[int] = []
        for i in range(len(order)):
            if not free[i]:
                continue
            kept.append(i)
            if len(kept) == count:
                break
            gap = torch.linalg.vector_norm(places - places[i], dim=1)
            free &= gap > least
        return order[kept]


def sweep(proposer: Proposer, reporter: Reporter, generator: torch.Generator) -> list[Aim]:
    """Every aim between the better half of the rows and well beyond the best, judged."""
    config = proposer.config
    scale, location = proposer.model.scale, proposer.model.location
    top = (float(proposer.predicted.max()) - location) / scale + 2.5
    aims = [location + scale * float(a) for a in np.linspace(min(1.0, top), top, config.aims)]
    count = min(config.count, SWEEP_COUNT)
    found = []
    with reporter.bar("trying aims", len(aims)) as advance:
        advance(0)
        for i, aim in enumerate(aims):
            draws = proposer.draw(aim, config.oversample * max(count, LEAST_DRAWN), generator)
            kept = proposer.select(draws, count)
            full = len(kept) == count
            value = float(draws.low[kept].mean()) if full else float("-inf")
            found.append(Aim(aim, draws, kept, value))
            advance(i + 1)
    return found


def choose(aims: list[Aim]) -> tuple[Aim, str]:
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
    proposer: Proposer, aim: float, reporter: Reporter, generator: torch.Generator
) -> tuple[Draws, int, dict[str, int]]:
    """Fresh designs at the aim: (kept rows sorted by pessimistic score, number drawn, refusals).

    They are drawn anew rather than taken from the sweep, so that choosing the aim and choosing the
    designs do not share their luck.
    """
    config, count = proposer.config, proposer.config.count
    block = min(BLOCK, max(count, LEAST_DRAWN))
    kept: list[Draws] = []
    drawn, barren = 0, 0
    refusals: dict[str, int] = {}
    with reporter.bar("drawing designs", count) as advance:
        advance(0)
        have = 0
        for _ in range(MOST_ROUNDS + 2 * (count // BLOCK)):
            draws = proposer.draw(aim, config.oversample * block, generator)
            drawn += len(draws.x)
            for reason, n in draws.rejected().items():
                refusals[reason] = refusals.get(reason, 0) + n
            taken = torch.cat([part.x for part in kept]) if kept else None
            kept.append(_rows(draws, proposer.select(draws, min(block, count - have), taken)))
            have += len(kept[-1].x)
            advance(have)
            barren = 0 if len(kept[-1].x) else barren + 1
            if have == count or barren == BARREN_ROUNDS:
                break
    merged = _merge(kept)
    return _rows(merged, merged.low.argsort(descending=True, stable=True)), drawn, refusals


def designs_frame(proposer: Proposer, draws: Draws) -> pl.DataFrame:
    """Designs in the input's own columns and units with what is known about them, best first."""
    job = proposer.job
    frame = job.codec.decode(draws.x)
    half = proposer.reward.half_width(draws.std, beyond=True)
    low, high = draws.mean - half, draws.mean + half
    if job.table.minimize:
        low, high = high, low
    extra = {
        "predicted": job.table.to_score(draws.mean),
        "predicted_low": job.table.to_score(low),
        "predicted_high": job.table.to_score(high),
        "novelty": job.novelty(draws.x),
        "support": draws.support,
    }
    columns = [
        pl.Series(free_name(k, frame), v.double().numpy()).round_sig_figs(DIGITS)
        for k, v in extra.items()
    ]
    return frame.with_columns(columns)


def free_name(name: str, frame: pl.DataFrame) -> str:
    """``name``, with an underscore in front as long as the user's table has a column of it."""
    while name in frame.columns:
        name = "_" + name
    return name


def _rows(draws: Draws, rows: Tensor) -> Draws:
    tensors = {k: getattr(draws, k)[rows] for k in TENSORS}
    return Draws(**tensors, refused=draws.refused[rows.numpy()], shift=draws.shift)


def _merge(parts: list[Draws]) -> Draws:
    if len(parts) == 1:
        return parts[0]
    tensors = {k: torch.cat([getattr(p, k) for p in parts]) for k in TENSORS}
    refused = np.concatenate([p.refused for p in parts])
    return Draws(**tensors, refused=refused, shift=parts[0].shift)
