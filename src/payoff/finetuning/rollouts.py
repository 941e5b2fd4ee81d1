"""What a round learns from: scored samples, and scored paths that are stored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from payoff.spaces import Condition


@dataclass
class Samples:
    """Clean samples with their rewards.

    Attributes:
        x0: (n, ...).
        rewards: (n,), NaN = failed.
        cond: n rows, or None.
    """

    x0: Tensor
    rewards: Tensor
    cond: Condition | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def rows(self, index: Tensor) -> tuple[Tensor, Condition | None]:
        """(x0, cond) of some rows."""
        return self.x0[index], rows_of(self.cond, index)


@dataclass
class Rollout(Samples):
    """Whole paths of the policy that drew them.

    Attributes:
        times: (N+1,) from 1 down to 0.
        states: (N+1, n, ...); the last ones are x0.
        log_probs: (N, n), log-density of each transition under the kernel it was drawn from.
    """

    times: Tensor = None  # type: ignore[assignment]
    states: Tensor = None  # type: ignore[assignment]
    log_probs: Tensor = None  # type: ignore[assignment]

    @property
    def steps(self) -> int:
        """The number of transitions N of a path."""
        return len(self.times) - 1

    def at(self, step: Tensor, row: Tensor) -> Transitions:
        """The transitions number ``step`` (B,) of the paths ``row`` (B,)."""
        return Transitions(
            x_t=self.states[step, row],
            t=self.times[step],
            s=self.times[step + 1],
            x_s=self.states[step + 1, row],
            log_prob=self.log_probs[step, row],
            step=step,
            row=row,
            cond=rows_of(self.cond, row),
        )

    def minibatches(
        self, size: int, count: int, *, generator: torch.Generator | None = None
    ) -> Iterator[Transitions]:
        """``count`` batches of ``size`` transitions; all are visited before any comes again."""
        total = self.steps * len(self)
        for index in shuffled(total, size, count, generator=generator):
            index = index.to(self.states.device)
            yield self.at(index // len(self), index % len(self))


@dataclass
class Transitions:
    """A batch of transitions x_t -> x_s with the density they were drawn with."""

    x_t: Tensor
    t: Tensor
    s: Tensor
    x_s: Tensor
    log_prob: Tensor
    step: Tensor
    row: Tensor
    cond: Condition | None


def shuffled(
    total: int, size: int, count: int, *, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """``count`` index batches of ``size`` from permutations of 0 … total − 1, one after another."""
    size = min(size, total)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(count):
        if len(order) < size:
            device = generator.device if generator is not None else None
            fresh = torch.randperm(total, generator=generator, device=device).cpu()
            order = torch.cat([order, fresh])
        yield order[:size]
        order = order[size:]


def drawn_rows(log_weights: Tensor, n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Row numbers (n,), drawn with replacement by weights e^log_weights (m,)."""
    weights = log_weights.softmax(0)
    where = generator.device if generator is not None else weights.device
    picked = torch.multinomial(weights.to(where), n, replacement=True, generator=generator)
    return picked.to(weights.device)


def rows_of(cond: Condition | None, index: Tensor) -> Condition | None:
    """The rows ``index`` of every condition."""
    return None if cond is None else {name: value[index] for name, value in cond.items()}
