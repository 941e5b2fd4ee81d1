r"""DNO: climb the reward in the space of all the noise the sampler is given.

A sample is :math:`x_0=S(z)`, z all injected noises, standard normal. Adam ascends

.. math:: \frac{r(S(z))}\tau - \gamma\,P(z),\qquad
          P(z) = -E_\pi[\log p_1(\pi z) + \log p_2(\pi z)]

for each sample by itself. P is the improbability of z as a whole: its numbers are put in random
order π and cut into m rows of k; for standard noise the rows' mean and covariance obey

.. math:: p_1 = 2\exp\!\Big(-\frac{m\|\bar z\|^2}{2k}\Big),\quad
          p_2 = 2\exp\!\Big(-\frac m2\big(\max(\sqrt{1+\|\hat C-I\|}-1-\sqrt{k/m},0)\big)^2\Big),

both cut at 1. Where the noise looks like noise P is zero and has no pull; outside it holds z in the
shell where the sampler was trained (strongly against growth and common shifts, weakly against
shrinking, which :math:`\|\hat C-I\|\le1` bounds). Directions of the ambient space that a centred
or padded sample does not have are filled with fixed noise, so that P sees full standard noise.

The gradient goes through the sampler, each step checkpointed: memory does not grow with the
activations of all steps, and each step is evaluated twice. A black box gets its gradient at
:math:`x_0` from q pairs of probes,

.. math:: \hat g = \frac1q\sum_i\frac{r(x_0+\mu u_i)-r(x_0-\mu u_i)}{2\mu}\,u_i ,

whose mean is :math:`\nabla r` for :math:`\mu\to0`, exactly so for a quadratic reward; the rest of
the way is the network's own. (The published form probes by moving the noises instead, which stays
on the data but costs a path of network evaluations a probe.)

**Biased by construction**: each chain runs to one point. What is left of p* is the spread of the
starts.

Reference: Tuning-Free Alignment of Diffusion Models with Direct Noise Optimization (Tang et al.,
2024). P is as in its code, which draws 100 orders and takes powers of four for k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.spaces import Condition, draw_noise, expand_to
from payoff.steering.base import Cost
from payoff.steering.noises import draw_noises, play
from payoff.steering.search import Search

GRADIENTS = ("auto", "exact", "zeroth-order")


@dataclass(eq=False)
class DNO(Search):
    """Returns each chain's best point: the largest r/τ − γ P it has seen.

    ``summary``: ``first`` and ``last``, mean r/τ before and after; ``norm``, the mean of ‖z‖² over
    its degrees of freedom at the end, 1 for noise; ``improbability``, the mean of P.
    """

    name: ClassVar[str] = "dno"
    tokens: ClassVar[bool] = False
    size: ClassVar[str] = "iterations"

    iterations: int = option(50, "points of a chain, each scored; one less updates")
    rate: float = option(0.01, "learning rate of Adam, in standard deviations of the noise")
    penalty: float = option(1.0, "γ, weight of the noise's improbability against r/τ")
    gradient: str = option("auto", "auto, exact (reward's own) or zeroth-order (probes)")
    probes: int = option(8, "pairs of probes of a zeroth-order gradient")
    radius: float = option(0.02, "μ, how far a probe goes, in the data's units")
    group: int = option(4, "k, numbers in a row of the improbability")
    shuffles: int = option(8, "random orders of it, drawn anew each iteration")

    @property
    def rows(self) -> int:
        """Noises of one sample."""
        return self.steps + 1

    @property
    def exactly(self) -> bool:
        """Whether the reward's own gradient is used."""
        return self.gradient == "exact" or (
            self.gradient == "auto" and self.target.reward.differentiable
        )

    def cost(self) -> Cost:
        updates = self.iterations - 1
        probes = 0 if self.exactly else 2 * self.probes * updates
        network = (2 * updates + 1) * self.steps  # checkpointed: forward, and again when going back
        return Cost(self.iterations + probes, network, updates * self.steps)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        like = self.start(n, cond)
        grid = self.time_grid(like)
        z = draw_noises(self.denoiser, like, self.steps, cond, generator=generator)
        spare = draw_noise(tuple(z.shape), z, generator=generator)
        spare = spare - self._project(spare, cond)
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        best, top, kept = like, torch.full((n,), -math.inf).to(like), z
        first = last = like.new_full((n,), math.nan)
        for i in range(self.iterations):
            final = i == self.iterations - 1
            x, score, slope = self._climb(z, grid, cond, generator, final)
            with torch.enable_grad():
                leaf = z.clone().requires_grad_(not final)
                lost = improbability(leaf + spare, self.group, self.shuffles, generator=generator)
                if not final:
                    slope = slope - self.penalty * torch.autograd.grad(lost.sum(), leaf)[0]
            value = (score - self.penalty * lost.detach()).nan_to_num(-math.inf)
            better = expand_to(value > top, x)
            best, kept = torch.where(better, x, best), torch.where(better, z, kept)
            top = torch.maximum(value, top)
            last = torch.where(better.view(n), score, last)
            if i == 0:
                first, best = score, torch.where(expand_to(top.isinf(), x), x, best)
            if not final:
                # Adam, on ascent
                mean = mean + 0.1 * (slope - mean)
                square = square + 0.001 * (slope.square() - square)
                moment = mean / (1 - 0.9 ** (i + 1))
                step = moment / ((square / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
                z = self._project(z + self.rate * step, cond)
        self.note_failures(top.isneginf(), {"x": best, "noises": kept})
        dof = (self.steps + 1) * self.denoiser.process.space.dof(like, cond)
        lost = improbability(kept + spare, self.group, self.shuffles, generator=generator)
        self.note(
            first=first.nan_to_num(0.0).sum(),
            last=last.nan_to_num(0.0).sum(),
            norm=(kept.square().transpose(0, 1).flatten(1).sum(1) / dof).sum(),
            improbability=lost.sum(),
        )
        return best

    def _climb(
        self,
        z: Tensor,
        grid: list[Tensor],
        cond: Condition | None,
        generator: torch.Generator | None,
        final: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, its r/τ, the gradient of r/τ in z); no gradient at the final point."""
        if final:
            x = play(self.denoiser, z, grid, cond)
            return x, self.score(x, cond), torch.zeros_like(z)
        with torch.enable_grad():
            leaf = z.clone().requires_grad_(True)
            x = play(self.denoiser, leaf, grid, cond, saving=True)
            if self.exactly:
                end = x.detach().requires_grad_(True)
                score = self.score(end, cond)
                known = torch.where(score.isnan(), 0.0, score).sum()
                # a reward may be constant, where everything has failed for instance
                pull = torch.zeros_like(end)
                if known.requires_grad:
                    pull = torch.autograd.grad(known, end)[0]
        if not self.exactly:
            end = x.detach()
            score = self.score(end, cond)
            pull = self.probe(end, cond, generator=generator)
        # a reward that failed, or its gradient, has no say
        pull = pull.nan_to_num(0.0, 0.0, 0.0) * expand_to(~score.isnan(), x)
        return end.detach(), score.detach(), torch.autograd.grad(x, leaf, pull)[0]

    def probe(
        self,
        x: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The zeroth-order gradient of r/τ at clean x (B, ...); a failed pair is left out."""
        total, count = torch.zeros_like(x), torch.zeros(len(x)).to(x)
        for _ in range(self.probes):
            u = self.denoiser.process.space.noise(tuple(x.shape), cond, like=x, generator=generator)
            rise = self.score(x + self.radius * u, cond) - self.score(x - self.radius * u, cond)
            known = ~rise.isnan()
            total = total + expand_to(rise.nan_to_num(0.0) / (2 * self.radius), x) * u
            count = count + known
        return total / expand_to(count.clamp(min=1), x)

    def _project(self, z: Tensor, cond: Condition | None) -> Tensor:
        space = self.denoiser.process.space
        return torch.stack([space.project(part, cond) for part in z.unbind()])

    def _check(self) -> None:
        super()._check()
        if self.gradient not in GRADIENTS:
            raise UserError(f"dno: gradient is {', '.join(GRADIENTS)}, not {self.gradient!r}")
        if self.gradient == "exact" and not self.target.reward.differentiable:
            raise UserError(
                f"dno: {type(self.target.reward).__name__} is not differentiable: use "
                "gradient = zeroth-order"
            )
        if min(self.probes, self.group, self.shuffles) < 1 or self.radius <= 0:
            raise UserError(
                "dno: probes, group and shuffles must be at least 1 and radius positive, got "
                f"{self.probes}, {self.group}, {self.shuffles} and {self.radius:g}"
            )


def improbability(
    z: Tensor, group: int = 4, shuffles: int = 8, *, generator: torch.Generator | None = None
) -> Tensor:
    """P of each sample's noises z (steps + 1, n, ...), in nats: shape (n,), zero for plain noise.

    ``group`` is k; what does not fill a row is left out of that order.
    """
    flat = z.transpose(0, 1).flatten(1)
    k = min(group, flat.shape[1])
    m = flat.shape[1] // k
    where = generator.device if generator is not None else flat.device
    total = flat.new_zeros(len(flat))
    for _ in range(shuffles):
        order = torch.randperm(flat.shape[1], generator=generator, device=where)[: m * k]
        rows = flat[:, order.to(flat.device)].view(-1, m, k)
        mean_square = rows.mean(1).square().sum(1)
        off = rows.mT @ rows / m - torch.eye(k).to(rows)
        spread = torch.linalg.eigvalsh(off).abs().amax(1)
        excess = ((1 + spread).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
        for log_p in (-m * mean_square / (2 * k), -m * excess.square() / 2):
            total = total - (log_p + math.log(2)).clamp(max=0)
    return total / shuffles
