r"""Fast Direct: few black-box queries, a surrogate, and one direction for all the noise.

The designs queried so far give a Gaussian process of the reward. For a chain that arrived at
:math:`x_0=S(z)` its mean is climbed to a target :math:`\hat x` at most a length scale away, and
every noise of the chain is moved the same way and put back to its norm,

.. math:: z_i \leftarrow \|z_i\|\,\frac{z_i + \eta\sqrt{d}\,(\hat x-x_0)/\ell}
          {\|z_i + \eta\sqrt{d}\,(\hat x-x_0)/\ell\|},\qquad i = 0 \dots T ,

so that the sampler sees noise of the usual size; the network needs no gradient. A batch of chains
shares its queries: each learns from all. One direction in all the noises adds up over the steps:
each noise by itself is probable, all together are not, and samples can leave the data.
``summary["alignment"]`` says how far it has come: :math:`(T+1)\|\bar z\|^2/d`, 1 for noise and
T + 1 where all noises are equal.

The surrogate: :math:`k(x,x')=s^2e^{-\|x-x'\|^2/2\ell^2}` on standardised rewards, ℓ the best of
some multiples of the median distance by the marginal likelihood, noise variance 10⁻³ of the
reward's. It knows nothing of masks and symmetries: two clouds that differ by a rotation or by their
size are far apart to it.

**Biased by construction**: it searches for reward, one point a chain, and has no temperature.

The published code [read, not run] starts each round from new noise and replays all rounds so far,
k updates in round k, with :math:`\hat x = x_0+\nabla\mu(x_0)`, ℓ = √d and a step of 80 for images;
it returns the last sample. Here a chain goes on from its best noises, steps are relative to the
length scale and the noise's norm, and the best design scored is returned.

Reference: Fast Direct: Query-Efficient Online Black-box Guidance for Diffusion-model Target
Generation (Tan, Lyu, Tsang, Ong, 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.spaces import expand_to
from payoff.steering.base import Cost
from payoff.steering.noises import draw_noises, play
from payoff.steering.search import Search

MULTIPLES = (0.5, 1.0, 2.0, 4.0)  # of the median distance, tried as length scales
NOISE = 1e-3
KEPT = 1000  # newest queries in the surrogate: its cost is cubic in their number


@dataclass(eq=False)
class FastDirect(Search):
    """Chains that share a surrogate; each returns the best design it has scored.

    ``summary``: ``first`` and ``best``, mean r/τ of a chain's first query and of what it returns;
    ``alignment``, how much the noises of a chain have in common.
    """

    name: ClassVar[str] = "fast-direct"
    tokens: ClassVar[bool] = False
    size: ClassVar[str] = "queries"

    queries: int = option(20, "reward calls a sample, one a round")
    explore: float = option(0.2, "share of the rounds that query plain draws of the base")
    updates: int = option(2, "updates of the noises between two queries")
    rate: float = option(0.1, "η, how far noises move, as a part of their norm")

    @property
    def rows(self) -> int:
        """Noises of one sample."""
        return self.steps + 1

    def cost(self) -> Cost:
        plain = self._plain
        return Cost(self.queries, (plain + (self.queries - plain) * self.updates) * self.steps)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        like = self.start(n, cond)
        grid = self.time_grid(like)
        seen: list[Tensor] = []
        scores: list[Tensor] = []
        best, top, kept, x, z = like, like.new_full((n,), -math.inf), like, like, like
        for i in range(self.queries):
            if i < self._plain:
                z = draw_noises(self.denoiser, like, self.steps, cond, generator=generator)
                x = play(self.denoiser, z, grid, cond)
            else:
                if i == self._plain:
                    x, z = best, kept
                surrogate = Surrogate.fitted(torch.cat(seen), torch.cat(scores))
                for _ in range(self.updates):
                    z = self._turned(z, x, surrogate, cond, generator)
                    x = play(self.denoiser, z, grid, cond)
            score = self.score(x, cond)
            seen.append(x.flatten(1))
            scores.append(score)
            better = score.nan_to_num(-math.inf) > top
            if i == 0:
                best, kept = x, z
                self.note(first=score.nan_to_num(0.0).sum())
            best = torch.where(expand_to(better, x), x, best)
            kept = torch.where(expand_to(better, x), z, kept)
            top = torch.where(better, score, top)
        self.note_failures(top.isneginf(), {"x": torch.stack(seen), "scores": torch.stack(scores)})
        together = len(kept) * kept.mean(0).flatten(1).square().sum(1)
        alignment = together / self.denoiser.process.space.dof(like, cond)
        self.note(best=torch.where(top.isneginf(), 0.0, top).sum(), alignment=alignment.sum())
        return best

    def _turned(self, z, x, surrogate, cond, generator) -> Tensor:  # type: ignore[no-untyped-def]
        """Noises (steps + 1, n, ...) turned to a better design; new ones where none is known."""
        space = self.denoiser.process.space
        fresh = draw_noises(self.denoiser, x, self.steps, cond, generator=generator)
        if surrogate is None:
            return fresh
        way = surrogate.way(x.flatten(1)).view_as(x).to(x)
        way = space.project(way, cond) * expand_to(space.dof(x, cond).sqrt(), x)
        norms = z.flatten(2).norm(dim=2)
        moved = z + self.rate * way
        length = moved.flatten(2).norm(dim=2).clamp(min=1e-12)
        factor = (norms / length).view(*norms.shape, *(1,) * (x.ndim - 1))
        still = expand_to(way.flatten(1).norm(dim=1) < 1e-6, x)
        return torch.where(still, fresh, moved * factor)

    @property
    def _plain(self) -> int:
        """Rounds of plain draws: one at least."""
        return min(self.queries, max(1, round(self.explore * self.queries)))

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.explore <= 1 or self.updates < 1 or self.rate <= 0:
            raise UserError(
                "fast-direct: need explore in [0, 1], updates of at least 1 and a positive rate, "
                f"got {self.explore:g}, {self.updates} and {self.rate:g}"
            )


class Surrogate:
    """The mean of a Gaussian process through (x, y), with standardised y.

    Args:
        x: (N, D) designs.
        weights: (N,), the solution of (K + noise) w = y.
        length: ℓ, in the units of x.
    """

    def __init__(self, x: Tensor, weights: Tensor, length: Tensor) -> None:
        self.x, self.weights, self.length = x, weights, length

    @classmethod
    def fitted(cls, x: Tensor, scores: Tensor) -> Surrogate | None:
        """Through the newest known scores (N,) of x (N, D); None where no two differ."""
        known = ~scores.isnan() & scores.isfinite()
        x, y = x[known][-KEPT:].double(), scores[known][-KEPT:].double()
        if len(y) < 2 or float(y.std()) == 0:
            return None
        y = (y - y.mean()) / y.std()
        square = torch.cdist(x, x).square()
        apart = square[square > 0]
        if not len(apart):
            return None
        typical = apart.median().sqrt()
        found, best = None, torch.tensor(-math.inf)
        for multiple in MULTIPLES:
            length = multiple * typical
            kernel = torch.exp(-square / (2 * length**2))
            kernel = kernel + NOISE * torch.eye(len(y)).to(kernel)
            factor, bad = torch.linalg.cholesky_ex(kernel)
            if bool(bad):
                continue
            weights = torch.cholesky_solve(y.unsqueeze(1), factor)[:, 0]
            # amplitude s² in closed form: the likelihood is maximal at yᵀK⁻¹y / N
            fit = 0.5 * len(y) * torch.log(y @ weights) + factor.diagonal().log().sum()
            if -fit > best:
                found, best = cls(x, weights, length), -fit
        return found

    def mean(self, x: Tensor) -> Tensor:
        """The posterior mean at x (n, D): (n,), in standard deviations of the scores."""
        return self._kernel(x.double()) @ self.weights

    def way(self, x: Tensor, steps: int = 20) -> Tensor:
        """(x̂ − x)/ℓ for x (n, D): gradient ascent on the mean, at most one length scale long."""
        x = x.double()
        at = x
        for _ in range(steps):
            pull = self._kernel(at) * self.weights
            # ℓ² times the gradient
            at = at + 0.2 * (pull @ self.x - pull.sum(1, keepdim=True) * at)
            off = (at - x) / self.length
            at = x + self.length * off / off.norm(dim=1, keepdim=True).clamp(min=1.0)
        return (at - x) / self.length

    def _kernel(self, x: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, self.x).square() / (2 * self.length**2))
