r"""A batch of particle populations as one struct.

P populations of K particles each; every one is an independent approximation of

.. math:: \pi(f) \approx \sum_k w_k f(x_k)\Big/\sum_k w_k .

Whatever belongs to a particle is a field here, and :meth:`Population.take` moves all of them
together: weights, values or gradients that stay behind when states move belong to other particles,
and the mistake does not show in the mean reward. A log-weight has two parts,

.. math:: \log w_k = b_k + \varphi_k .

With :math:`e^{b}` alone the particles stand for the base model's law at their time, whatever was
done to them; the potential φ is borrowed from the end, and exchanged for another at every check.
Weights are never reset: resampling by masses m gives an offspring of particle i the weight
:math:`w_i/(Km_i)`, so the mean weight carries the normaliser,

.. math:: \hat Z = \frac1K\sum_k w_k , \qquad E[\hat Z] = Z .

Where all offspring have one weight, their population's mean, that number is a factor of Ẑ and of
nothing that happens on the way. It is put back at the end, by :meth:`Population.settle`, together
with everything else that is only reported: :class:`History`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from payoff.kernels import Kernel
from payoff.metrics import effective_sample_size

TOGETHER = 64  # checks that are worked through at once


class History:
    """What the checks of a run leave for its end, worked out for many checks at once.

    Beside a small network an operation costs its call and hardly its numbers; so a check only puts
    its tensors here. They are worked through every :data:`TOGETHER` checks, which bounds the memory
    of a long run.

    Attributes:
        log_factor: (P, 1), the logarithms of the mean weights that resampling has set to one.
        resampled: (P, 1), how often each population was resampled.
        norm: (P, 1), the largest Euclidean norm of the weights before resampling; 1/norm² is the
            smallest effective sample size.
        spread: (P, 1), the largest standard deviation of the log-weights on the way.
        answered: (P, 1), values that did not fail.
    """

    def __init__(self, populations: int, particles: int, like: Tensor) -> None:
        zero = like.new_zeros(populations, 1)
        self.log_factor = self.resampled = self.spread = self.answered = zero
        self.norm = zero + particles**-0.5
        self._checks: list[tuple[Tensor, ...]] = []

    def add(self, log_weights: Tensor, norm: Tensor, due: Tensor, good: Tensor) -> None:
        """A check's log-weights before resampling (P, K), the norm of the weights and whether they
        are resampled (P, 1), and which values did not fail (P, K).
        """
        self._checks.append((log_weights, norm, due, good))
        if len(self._checks) == TOGETHER:
            self.work()

    def work(self) -> None:
        """Work through what has been put here."""
        if not self._checks:
            return
        logs, norm, due, good = (torch.stack(part) for part in zip(*self._checks, strict=True))
        self._checks = []
        log_mean = logs.logsumexp(2, keepdim=True) - math.log(logs.shape[2])
        self.log_factor = self.log_factor + torch.where(due, log_mean, 0.0).sum(0)
        self.resampled = self.resampled + due.sum(0)
        # not a number in a population that had no weights: it says nothing about the others
        self.norm = torch.fmax(self.norm, norm.nan_to_num(0.0).amax(0))
        spread = logs.std(2, correction=0, keepdim=True)
        self.spread = torch.fmax(self.spread, spread.nan_to_num(0.0).amax(0))
        self.answered = self.answered + good.sum((0, 2)).unsqueeze(1)


@dataclass
class Population:
    """Particles and all that belongs to them.

    Attributes:
        states: (P * K, ...), population by population.
        log_base: (P, K), b of each particle, not normalised, and until :meth:`settle` without the
            factors in ``history``.
        potential: (P, K), φ of each particle.
        values: (P, K), the last known value in nats, NaN before the first; at the end r/τ.
        seen: (P, K), the running statistic a potential is made from.
        roots: (P, K), the first ancestor of each particle, 0 … K−1.
        slots: (K,), 0 … K−1, and ``first`` (P, 1), the first row of each population.
        history: what the checks leave for the end.
        complete: whether every particle has a known value; None before the first check.
        prediction: the base's prediction at ``states``, None when they have just moved.
        gradient: (P * K, ...), of the value at ``states``; None where it was not asked for.
        base, other: kernels of the next move, of the base and of a proposal if there is one. From
            :meth:`aimed` to :meth:`moved` they stand in for the states.
    """

    states: Tensor
    log_base: Tensor
    potential: Tensor
    values: Tensor
    seen: Tensor
    roots: Tensor
    slots: Tensor
    first: Tensor
    history: History
    complete: bool | None = None
    prediction: Any = None
    gradient: Tensor | None = None
    base: Kernel | None = None
    other: Kernel | None = None

    @classmethod
    def of(cls, states: Tensor, particles: int, seen: float = 0.0) -> Population:
        """Equal weights on states (P * K, ...)."""
        n = len(states) // particles
        real = states.dtype if states.is_floating_point() else torch.get_default_dtype()
        wide = torch.promote_types(real, torch.float32)
        zero = torch.zeros(n, particles, dtype=wide, device=states.device)
        slots = torch.arange(particles, device=states.device)
        first = torch.arange(0, n * particles, particles, device=states.device).unsqueeze(1)
        return cls(
            states, zero, zero, zero + math.nan, zero + seen, slots.expand(n, -1),
            slots=slots, first=first, history=History(n, particles, zero),
        )  # fmt: skip

    @property
    def particles(self) -> Tensor:
        """The states by population, (P, K, ...)."""
        return self.states.unflatten(0, self.log_base.shape)

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the weights (P, K), not normalised: their mean estimates Z."""
        return self.log_base + self.potential

    @property
    def weights(self) -> Tensor:
        """Normalised weights (P, K); uniform where every particle has weight zero."""
        equal = torch.where(self.dead.unsqueeze(1), 0.0, self.log_weights)
        return equal.softmax(1)

    @property
    def ess(self) -> Tensor:
        """The effective sample size, (P,); 0 where every particle has weight zero."""
        return torch.where(self.dead, 0.0, effective_sample_size(self.log_weights))

    @property
    def log_z(self) -> Tensor:
        """The logarithm of Ẑ, (P,). Ẑ is unbiased, its logarithm is low by half its variance."""
        return self.log_weights.logsumexp(1) - math.log(self.log_base.shape[1])

    @property
    def dead(self) -> Tensor:
        """Where every particle has weight zero: (P,) bool."""
        return self.log_weights.amax(1) == -math.inf

    @property
    def ancestors(self) -> Tensor:
        """How many of the first particles have descendants, (P,)."""
        ordered = self.roots.sort(1).values
        return (ordered.diff(dim=1) != 0).sum(1) + 1

    def take(self, index: Tensor, log_weights: Tensor) -> None:
        """Replace particle k of each population by its particle ``index[:, k]``: (P, K).

        ``log_weights`` (P, K) are those of the offspring.
        """
        potential, seen, values = self.potential, self.seen, self.values
        # one population needs no offset
        rows = (index if len(index) == 1 else index + self.first).view(-1)
        # they are often one tensor, and then stay one
        self.potential = potential.gather(1, index)
        self.seen = self.potential if seen is potential else seen.gather(1, index)
        self.values = self.seen if values is seen else values.gather(1, index)
        self.roots = self.roots.gather(1, index)
        self.log_base = log_weights - self.potential

        def follow(x: Tensor) -> Tensor:
            return x.index_select(0, rows)

        if self.base is not None:
            self.base = mapped(self.base, follow)
            self.other = None if self.other is None else mapped(self.other, follow)
            return
        self.states = follow(self.states)
        self.gradient = None if self.gradient is None else follow(self.gradient)
        self.prediction = None if self.prediction is None else mapped(self.prediction, follow)

    def aimed(self, base: Kernel, other: Kernel | None) -> None:
        """The kernels of the next move, in the place of what they were made from.

        The states are gone until they have moved: to ask for them is an error, where those of other
        particles would not be noticed.
        """
        self.base, self.other, self.prediction, self.gradient = base, other, None, None
        del self.states

    def settle(self) -> None:
        """At the end of a run: the weights with all their factors."""
        self.history.work()
        self.log_base = self.log_base + self.history.log_factor

    def moved(self, states: Tensor, log_ratio: Tensor | None = None) -> None:
        """New states (P * K, ...), with log p − log q (P * K,) where they were drawn from q."""
        self.states, self.prediction, self.gradient = states, None, None
        self.base = self.other = None
        if log_ratio is not None:
            self.log_base = self.log_base + log_ratio.view_as(self.log_base)


def mapped(of: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A prediction or kernel with every field that has a row a sample changed; others stay."""
    fields = {f.name: getattr(of, f.name) for f in dataclasses.fields(of)}
    rows = {k: change(v) for k, v in fields.items() if isinstance(v, Tensor) and v.ndim}
    return dataclasses.replace(of, **rows)
