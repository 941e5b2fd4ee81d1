r"""The value by roll-outs,
:math:`\hat V = \log\frac1n\sum_i e^{r(x_0^{(i)})/\tau},\ x_0^{(i)}\sim p(x_0\mid x_t)`.

The mean inside is unbiased for :math:`e^{V}` (up to the sampler's own error); its logarithm is
biased down by about :math:`\mathrm{Var}(w)/(2n\,E[w]^2)`, w the exponentials. The bias falls as
1/n, but where the reward's spread is several τ a few rare roll-outs carry the mean, and n has to be
of the order of :math:`e^{\mathrm{KL}(p^*\|p)}` before anything is seen at all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.samplers import Ancestral, Sampler
from payoff.spaces import Condition
from payoff.targets import Target
from payoff.values.base import Value


class MonteCarlo(Value):
    """Log-mean-exp of rewards of roll-outs.

    Costs ``draws * steps`` denoiser calls and ``draws`` reward calls a row. A roll-out whose reward
    failed (NaN) is left out; a row where all failed is NaN.

    Args:
        target: base, reward and temperature.
        draws: n, roll-outs a row.
        steps: transitions of each roll-out, from t to 0.
        sampler: a Sampler class that draws from p(x_0 | x_t); it must be stochastic.
        batch_size: roll-outs made at once, whatever the number of rows.
    """

    def __init__(
        self,
        target: Target,
        draws: int = 16,
        steps: int = 20,
        sampler: type[Sampler] = Ancestral,
        batch_size: int = 4096,
    ) -> None:
        if draws < 1 or batch_size < 1:
            raise ValueError(f"draws and batch_size must be at least 1: {draws}, {batch_size}")
        self.target, self.draws, self.steps = target, draws, steps
        self.sampler, self.batch_size = sampler, batch_size

    def __call__(self, x_t, t, cond=None, *, generator=None) -> Tensor:
        return self.estimate(x_t, t, cond, generator=generator)[0]

    @torch.no_grad()
    def estimate(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(value, standard error), both (B,); the error by the delta method, inf for one draw."""
        logs = self._scores(x_t, t, cond, generator).view(len(x_t), self.draws)
        failed = logs.isnan()
        count = (~failed).sum(1)
        logs = logs.masked_fill(failed, -math.inf)
        top = logs.amax(1, keepdim=True).clamp(min=torch.finfo(logs.dtype).min)
        weights = (logs - top).exp()
        mean = weights.sum(1) / count
        off = torch.where(failed, 0.0, weights - mean.unsqueeze(1))
        variance = off.square().sum(1) / (count - 1)
        value = torch.where(count > 0, mean.log() + top[:, 0], math.nan)
        error = torch.where(count > 1, (variance / count).sqrt() / mean, math.inf)
        return value, error

    def _scores(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """r/τ of every roll-out, (B * draws,), row by row."""
        walk = self.sampler(self.target.denoiser, tuple(x_t.shape[1:]), self.steps)
        rows = torch.arange(len(x_t), device=x_t.device).repeat_interleave(self.draws)
        times = t.expand(len(x_t))
        parts = []
        for chosen in rows.split(self.batch_size):
            part = None if cond is None else {k: v[chosen] for k, v in cond.items()}
            x0 = walk.finish(x_t[chosen], times[chosen], part, generator=generator)
            parts.append(self.target.reward(x0, part) / self.target.temperature)
        return torch.cat(parts)
