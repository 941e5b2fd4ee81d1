"""What each method of the airfoil benchmark proposes, from the labels and nothing else.

Every method gets an :class:`Evidence`: the table of one finished ``payoff design`` run with its
labels, and the score learned on them. The judge is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from payoff.jobs.design.aims import AimSampler
from payoff.jobs.design.reopen import reopen

INNER = 0.01  # share of the rows cut off at either end of every column for the inner box


@dataclass(frozen=True)
class Effort:
    """How hard the other methods try: fixed beforehand, since no label says what is enough.

    20 steps of 0.05 move a column by at most one standard deviation, 200 run to convergence. Greedy
    expected improvement takes the larger part of the benchmark's time as it is.
    """

    ascent_steps: int = 200
    ascent_short: int = 20
    ascent_rate: float = 0.05
    fit_steps: int = 200
    ei_samples: int = 64
    ei_restarts: int = 4
    ei_raw: int = 256
    ei_steps: int = 50
    ts_restarts: int = 4
    ts_raw: int = 2048


TOY = Effort(10, 2, 0.05, 10, 8, 1, 4, 3, 2, 32)


@dataclass
class Evidence:
    """What may be known when designs are proposed.

    Attributes:
        sampler: of the finished run: model, learned score, support, and the domain's geometry.
        x: encoded rows of the data (n, D), float64, standardised columns.
        labels: (n,) noisy scores, NaN = unlabelled.
        predicted: (n,) learned score of every row.
        count: number of designs to propose.
        draws: diffusion samples that the run spent on its sweep and its designs.
        seed: of everything random.
        effort: see :class:`Effort`.
    """

    sampler: AimSampler
    x: Tensor
    labels: Tensor
    predicted: Tensor
    count: int
    draws: int
    seed: int
    effort: Effort

    @classmethod
    def of(cls, run: Path, count: int, network_calls: int, seed: int, effort: Effort) -> Evidence:
        """The evidence of a finished run that took so many network calls."""
        sampler, _ = reopen(run)
        calls = sampler.sampler.steps * sampler.sampler.calls_per_step
        draws = network_calls // (calls * sampler.by.evaluations(sampler.job.guidance))
        # the score keeps all rows of so small a table, in order
        x, labels = sampler.score.rows.double(), sampler.data.labels
        assert labels is not None
        predicted = sampler.predicted
        return cls(sampler, x, labels, predicted, count, draws, seed, effort)

    def box(self, inner: bool = False) -> Tensor:
        """Column ranges of the data (2, D); of its inner 98 % if ``inner``."""
        cut = INNER if inner else 0.0
        return torch.stack([self.x.quantile(cut, dim=0), self.x.quantile(1 - cut, dim=0)])

    def best_rows(self) -> Tensor:
        """The ``count`` rows of highest predicted score (count, D), best first."""
        return self.x[self.predicted.argsort(descending=True, stable=True)[: self.count]]


Method = Callable[[Evidence], Tensor]


def measured(evidence: Evidence) -> Tensor:
    """The labelled rows of highest measured score (a reference: no learning at all)."""
    scores = evidence.labels.nan_to_num(-torch.inf)
    count = min(evidence.count, int(evidence.labels.isfinite().sum()))
    return evidence.x[scores.argsort(descending=True, stable=True)[:count]]


def rows(evidence: Evidence) -> Tensor:
    """The rows of the table, labelled or not, of highest predicted score."""
    return evidence.best_rows()


def ascent(evidence: Evidence, *, short: bool = False, pessimism: float = 0.0) -> Tensor:
    """Adam on the learned score (minus ``pessimism`` sd) from the best rows, inside the box."""
    effort, reward = evidence.effort, evidence.sampler.score.regressor
    low, high = evidence.box()
    x = evidence.best_rows().clamp(low, high).requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=effort.ascent_rate)
    for _ in range(effort.ascent_short if short else effort.ascent_steps):
        optimiser.zero_grad()
        mean, std = reward.predict(x)
        (pessimism * std - mean).sum().backward()
        optimiser.step()
        with torch.no_grad():
            x.clamp_(low, high)
    return x.detach()


def pessimistic_ascent(evidence: Evidence, *, short: bool = False) -> Tensor:
    """Ascent on the very objective that ``payoff design`` ranks its samples by."""
    return ascent(evidence, short=short, pessimism=evidence.sampler.job.pessimism)


def best_of_n(evidence: Evidence) -> Tensor:
    """As many unconditional samples of the same model as payoff drew, then payoff's selection."""
    sampler, n = evidence.sampler, evidence.draws
    generator = torch.Generator().manual_seed(evidence.seed + 3)
    cond = {
        "label": sampler.by.label(sampler.by.location, n).to(sampler.like),
        "label_known": torch.zeros(n).to(sampler.like),
    }
    z = sampler.sampler.sample(n, cond, generator=generator)
    draws = sampler.judge(sampler.domain.decode(z, {}))
    return draws.look.places[sampler.select(draws, evidence.count)].double()


def _botorch(name: str, evidence: Evidence, **options: bool) -> Tensor:
    import airfoil_botorch  # beside this file; a benchmark-only dependency, loaded when asked for

    chosen: Callable[..., Tensor] = getattr(airfoil_botorch, name)
    return chosen(evidence, **options)


PAYOFF = "payoff"
EI, TS, TS_ROWS = "expected_improvement", "thompson_sampling", "thompson_sampling_rows"
METHODS: dict[str, tuple[str, Method | None]] = {
    PAYOFF: ("**payoff design**, automatic aim", None),
    "best-of-n": ("best of n from the unconditional model", best_of_n),
    "labelled": ("data: labelled rows, best measured", measured),
    "rows": ("data: rows, best predicted", rows),
    "ascent": ("ascent on the score", ascent),
    "ascent-short": ("ascent, a tenth of the steps", partial(ascent, short=True)),
    "ascent-pessimistic": ("ascent on score − k sd", pessimistic_ascent),
    "ascent-pessimistic-short": (
        "ascent on score − k sd, a tenth of the steps",
        partial(pessimistic_ascent, short=True),
    ),
    "ei": ("GP + expected improvement", partial(_botorch, EI)),
    "ei-inner": ("GP + expected improvement, inner box", partial(_botorch, EI, inner=True)),
    "ts": ("GP + Thompson sampling", partial(_botorch, TS)),
    "ts-inner": ("GP + Thompson sampling, inner box", partial(_botorch, TS, inner=True)),
    "ts-rows": ("GP + Thompson sampling, among the rows", partial(_botorch, TS_ROWS)),
}
"""Name on the command line -> (name in the table, what proposes); None: read from the run."""
NEEDS_BOTORCH = ("ei", "ei-inner", "ts", "ts-inner", "ts-rows")
LEARNS_NOTHING = ("labelled", *NEEDS_BOTORCH)  # of payoff: they do not wait for its learned score
