r"""Token sequences short enough to enumerate.

All :math:`V^L` sequences are listed with their probability, and with them the mass of every partly
masked state: that of the sequences that agree with its visible tokens,

.. math:: M(x_t) = \sum_{x_0 \sim x_t} p(x_0), \qquad
    p(x_0^\ell = v\mid x_t) = M(x_t^{\ell\to v}) / M(x_t) ,

whatever t. There are :math:`(V+1)^L` states, so the masses are one table, made by summing over one
position after another, and the exact denoiser is a look-up in it.

**Exact marginals are not an exact sampler.** A reverse step that reveals several positions at once
draws them independently, while the posterior couples them. The kernel's law of any one position is
exact; the joint law is only reached in the limit of many steps, with an error that falls as
1/steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.predictions import TokenPrediction
from payoff.problems.base import Problem, Tiltable
from payoff.processes import MaskProcess
from payoff.rewards.base import Cond, Reward
from payoff.spaces import Tokens

LARGEST = 20_000


class AdditiveReward(Reward):
    r""":math:`r(x) = \sum_\ell R_{\ell, x_\ell}` from a table R (L, V)."""

    def __init__(self, table: Tensor) -> None:
        if table.ndim != 2:
            raise ValueError(f"the table must have shape (L, V), got {tuple(table.shape)}")
        self.table = table

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != len(self.table):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {len(self.table)})")
        table = self.table.to(x.device)
        return table[torch.arange(len(table), device=x.device), x].sum(1)


class TableReward(Reward):
    """Any reward of a sequence, from a table with one entry per sequence, (V,) * L."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.table.ndim:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.table.ndim})")
        return self.table.to(x.device)[x.unbind(1)]


class EnumeratedTokens(Tiltable):
    """A law over all V^L sequences, by its table of log-probabilities.

    Args:
        log_table: shape (V,) * L, up to a constant; −inf is allowed for impossible sequences. A
            state that no possible sequence is compatible with has value NaN and uniform marginals.
        process: a MaskProcess with vocabulary V.

    Raises ValueError when the axes differ, the vocabulary does not fit or there are too many.
    """

    continuous = False
    process: MaskProcess
    log_table: Tensor
    log_masses: Tensor
    sequences: Tensor

    def __init__(self, log_table: Tensor, process: MaskProcess | None = None) -> None:
        super().__init__()
        vocabulary, length = log_table.shape[0], log_table.ndim
        if len(set(log_table.shape)) != 1:
            raise ValueError(f"log_table must have equal axes, got {tuple(log_table.shape)}")
        if log_table.numel() > LARGEST:
            raise ValueError(f"{log_table.numel()} sequences are too many to enumerate ({LARGEST})")
        self.process = MaskProcess(Tokens(vocabulary)) if process is None else process
        if self.process.space.vocabulary != vocabulary:
            raise ValueError(
                f"the process has {self.process.space.vocabulary} tokens, the table {vocabulary}"
            )
        self.shape, self.vocabulary = (length,), vocabulary
        axis = torch.arange(vocabulary, device=log_table.device)
        grid = torch.cartesian_prod(*[axis] * length).reshape(-1, length)
        normal = log_table.flatten().log_softmax(0)
        self.register_buffer("log_table", normal)
        self.register_buffer("log_masses", _log_masses(normal.reshape(log_table.shape)).flatten())
        self.register_buffer("sequences", grid)

    def log_mass(self, x_t: Tensor) -> Tensor:
        """The log-probability of all sequences that agree with x_t (B, L): shape (B,)."""
        return self.log_masses[self._state(x_t)]

    def forward(self, x_t, t, cond=None):
        place = self._places(x_t.device)
        others = self._state(x_t).unsqueeze(1) - x_t * place  # (B, L): with a zero at l
        token = torch.arange(self.vocabulary, device=x_t.device)
        logits = self.log_masses[others.unsqueeze(-1) + place.unsqueeze(-1) * token]
        impossible = logits.amax(-1, keepdim=True) == -math.inf
        return TokenPrediction.of_logits(logits.masked_fill(impossible, 0.0), x_t, self.vocabulary)

    def log_prob_t(self, x, t, cond=None):
        masked = (x == self.vocabulary).sum(1)
        keep = self.process.schedule(t)
        shown = torch.xlogy(x.shape[1] - masked, keep) + torch.xlogy(masked, 1 - keep)
        return self.log_mass(x) + shown.to(self.log_table.dtype)

    def log_ratio(self, tilted, x, t, cond=None):
        """As documented; which positions are masked cancels, also where keep(t) is 0 or 1."""
        return tilted.log_mass(x) - self.log_mass(x)

    def sample(self, n, cond=None, *, generator=None):
        where = generator.device if generator is not None else self.log_table.device
        table = self.log_table.exp().to(where)
        rows = torch.multinomial(table, n, replacement=True, generator=generator)
        return self.sequences[rows.to(self.sequences.device)]

    def tilt(self, reward, temperature):
        tilted = self.log_table + self._rewards(reward) / temperature
        return EnumeratedTokens(tilted.reshape((self.vocabulary,) * self.shape[0]), self.process)

    def log_partition(self, reward, temperature, cond=None):
        return (self.log_table + self._rewards(reward) / temperature).logsumexp(0)

    def expected(self, reward, cond=None):
        p = self.log_table.exp()
        return torch.where(p > 0, p * self._rewards(reward), 0.0).sum()

    def index(self, x: Tensor) -> Tensor:
        """The row of each clean sequence x (B, L) in ``sequences``."""
        place = self.vocabulary ** torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
        return (x * place).sum(1)

    def _rewards(self, reward: Reward) -> Tensor:
        return reward(self.sequences).to(self.log_table)

    def _places(self, device: torch.device) -> Tensor:
        """What a token of each position counts in a state's number, (L,)."""
        return (self.vocabulary + 1) ** torch.arange(self.shape[0] - 1, -1, -1, device=device)

    def _state(self, x_t: Tensor) -> Tensor:
        """The place of each partly masked state x_t (B, L) in ``log_masses``."""
        if x_t.ndim != 2 or x_t.shape[1:] != self.shape:
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}, expected (B, {self.shape[0]})")
        return (x_t * self._places(x_t.device)).sum(1)


def _log_masses(log_table: Tensor) -> Tensor:
    """A table (V,) * L with a last entry on every axis, the sum over it: (V + 1,) * L."""
    for axis in range(log_table.ndim):
        both = [log_table, log_table.logsumexp(axis, keepdim=True)]
        log_table = torch.cat(both, dim=axis)
    return log_table


class TokenChain(Problem):
    r"""A Markov chain of tokens with any reward of the sequence.

    .. math:: p(x) = \pi_{x_1}\prod_{\ell>1}P_{x_{\ell-1}x_\ell}

    Args:
        initial: π, (V,).
        transition: P, (V, V), rows sum to one.
        length: L.
        reward: any Reward of clean sequences (B, L); it is evaluated on all V^L of them.
    """

    denoiser: EnumeratedTokens

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        length: int,
        reward: Reward,
        temperature: float = 1.0,
        process: MaskProcess | None = None,
    ) -> None:
        vocabulary = len(initial)
        if initial.shape != (vocabulary,) or transition.shape != (vocabulary, vocabulary):
            raise ValueError(
                f"initial {tuple(initial.shape)} and transition {tuple(transition.shape)} do not "
                "fit: expected (V,) and (V, V)"
            )
        table = initial.log()
        for _ in range(length - 1):
            table = table.unsqueeze(-1) + transition.log()
        super().__init__(EnumeratedTokens(table, process), reward, temperature)

    @classmethod
    def random(
        cls,
        vocabulary: int = 4,
        length: int = 5,
        temperature: float = 1.0,
        process: MaskProcess | None = None,
        *,
        additive: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> TokenChain:
        """A random chain; the reward is a random table over sequences, or over positions."""
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

        initial, transition = draw(vocabulary).softmax(0), draw(vocabulary, vocabulary).softmax(1)
        reward: Reward
        if additive:
            reward = AdditiveReward(draw(length, vocabulary))
        else:
            reward = TableReward(draw(*(vocabulary,) * length))
        return cls(initial, transition, length, reward, temperature, process)
