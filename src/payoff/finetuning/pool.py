r"""All scored samples of a run, re-weighted to the law that is learned from next.

Round j of a tempered run draws from a model of :math:`p\,e^{\beta_j r}/Z_j`. The pool keeps them
all, and weighs them as draws from the mixture of those laws, so that an old call still counts.

Under a condition c the laws are :math:`p(x|c)\,e^{\beta_j r}/Z_j(c)`: what is asked for is not
tilted. So samples of one condition are weighed among themselves and keep their share of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from payoff.finetuning.advantages import (
    mixture_log_weights,
    next_inverse_temperature,
    replace_failed,
)
from payoff.finetuning.rollouts import Samples, drawn_rows, rows_of
from payoff.metrics.weights import effective_sample_size
from payoff.spaces import Condition

OF_ONE_CONDITION = 100
"""Samples that tell the Z of their own condition; of rarer ones all have one Z together."""


@dataclass
class Pool:
    """Scored samples of laws with known inverse temperatures.

    Attributes:
        inverse: β of the law that the model has been brought to; 0 is the base.
        inverses, counts: β and number of samples of every round.
    """

    inverse: float = 0.0
    inverses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    x0: Tensor | None = None
    rewards: Tensor | None = None
    cond: Condition | None = None

    def add(self, samples: Samples, inverse: float) -> None:
        """Keep the samples of a model at β = ``inverse``."""
        self.inverses.append(inverse)
        self.counts.append(len(samples))
        if self.x0 is None or self.rewards is None:
            self.x0, self.rewards, self.cond = samples.x0, samples.rewards, samples.cond
            return
        self.x0 = torch.cat([self.x0, samples.x0])
        self.rewards = torch.cat([self.rewards, samples.rewards])
        if self.cond is not None and samples.cond is not None:
            self.cond = {k: torch.cat([v, samples.cond[k]]) for k, v in self.cond.items()}

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def known(self) -> Tensor:
        """Rewards (n,) in double precision, failed ones as bad as the worst."""
        assert self.rewards is not None
        return replace_failed(self.rewards).double()

    def conditions(self) -> list[tuple[Tensor, list[int]]]:
        """Row numbers of the samples of every condition, and how many of them a round drew.

        Those of rare conditions are taken together.
        """
        if not self.cond or not len(self):
            return [(torch.arange(len(self)), self.counts)]
        asked = [v.reshape(len(self), -1).double() for v in self.cond.values()]
        which = torch.unique(torch.cat(asked, 1), dim=0, return_inverse=True)[1]
        rare = which.bincount() < OF_ONE_CONDITION
        which = torch.where(rare[which], len(rare), which)
        groups = [torch.nonzero(which == label).flatten().cpu() for label in which.unique()]
        rounds = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        return [(g, rounds[g].bincount(minlength=len(self.counts)).tolist()) for g in groups]

    def log_weights(self, inverse: float) -> Tensor:
        """Log-weights (n,) of the samples for the tilt at β, in double precision."""
        return self._weighed(inverse, self.conditions())

    def _weighed(self, inverse: float, groups: Sequence[tuple[Tensor, list[int]]]) -> Tensor:
        known = self.known
        found = torch.empty_like(known)
        for rows, counts in groups:
            rows = rows.to(known.device)
            inverses = [beta for beta, n in zip(self.inverses, counts, strict=True) if n]
            counts = [n for n in counts if n]
            weights = mixture_log_weights(known[rows], inverses, counts, inverse)
            found[rows] = weights + math.log(len(rows) / len(known))
        return found

    def advance(self, last: float, share: float, rounds: int = 1) -> float:
        """Move ``inverse`` on towards ``last`` as far as the effective samples allow.

        With ``rounds`` to come, this one included, it moves by no more than an even part of the
        way: small tilts are learned with less noise than large ones.
        """
        if self.inverse < last:
            now = self.log_weights(self.inverse)
            part = last if rounds <= 1 else self.inverse + (last - self.inverse) / rounds
            self.inverse = next_inverse_temperature(self.known, now, self.inverse, part, share)
        return self.inverse

    def inverse_of(self, mean: float, last: float) -> float:
        """The β in [0, last] at which the samples kept so far have this mean reward.

        Of those that have one: what stands for a failure is the worst reward of all, and how many
        fail would say more of the mean than how good the others are. The mean grows with β, its
        slope being the variance: found by bisection.
        """
        assert self.rewards is not None
        low, high, groups = 0.0, last, self.conditions()
        known, there_is = self.known, ~self.rewards.isnan()
        for _ in range(40):
            middle = 0.5 * (low + high)
            weights = self._weighed(middle, groups).exp() * there_is
            there = float((weights * known).sum() / weights.sum())
            low, high = (middle, high) if there < mean else (low, middle)
        return 0.5 * (low + high)

    def step_weights(self, before: float, gap: float) -> Tensor:
        """Weights (n,) of the tilt by e^(gap · r), of mean 1 under the law at ``before``."""
        assert self.rewards is not None
        now, weights = self.log_weights(before).softmax(0), gap * self.known
        weights = (weights - weights.max()).exp()
        return (weights / (now * weights).sum()).to(self.rewards.dtype)

    def effective(self, inverse: float) -> float:
        """Effective number of samples at β."""
        return float(effective_sample_size(self.log_weights(inverse)))

    def draw(self, inverse: float, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Row numbers (n,) of draws with replacement from the tilt at β."""
        return drawn_rows(self.log_weights(inverse), n, generator=generator)

    def rows(self, index: Tensor) -> tuple[Tensor, Condition | None]:
        """(x0, cond) of some rows."""
        assert self.x0 is not None
        return self.x0[index], rows_of(self.cond, index)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        cond = None if self.cond is None else dict(self.cond)
        return {**vars(self), "cond": cond}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Pool:
        """The inverse of :meth:`state`; an empty state is an empty pool."""
        return cls(**state)
