r"""The value by draws around the clean estimate: one network call, n reward calls.

.. math:: \hat V_t = \log\frac1n\sum_i e^{r(x_0^{(i)})/\tau},\qquad
          x_0^{(i)}\sim\mathcal N(\hat x_0, v_t I),\quad
          v_t = \frac{\sigma_t^2\sigma_d^2}{\alpha_t^2\sigma_d^2+\sigma_t^2}

The Gaussian is the posterior of data that are normal with deviation σ_d; for masked tokens every
hidden position is drawn from the prediction by itself, as if positions did not depend on each
other. Both are wrong where the posterior has modes, so the estimate is biased, less so than the
plug-in; with n = 1 and tokens it is the only one-call value there is.

References: Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al.,
2023) for vectors; Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
Value-Based Decoding (Li et al., 2024) for tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.predictions import Prediction, TokenPrediction
from payoff.processes import GaussianProcess, MaskProcess
from payoff.spaces import expand_to
from payoff.targets import Target
from payoff.values.base import Value


class Posterior(Value):
    """Log-mean-exp of rewards around the clean estimate.

    Failed draws (NaN) are left out; a row where all failed is NaN.

    Args:
        target: base, reward and temperature.
        draws: n, reward calls a row.
        sigma_data: σ_d, standard deviation of the data per coordinate, in the data's units.
    """

    def __init__(self, target: Target, draws: int = 1, sigma_data: float = 1.0) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        self.target, self.draws, self.sigma_data = target, draws, sigma_data
        vectors = isinstance(target.denoiser.process, GaussianProcess)
        self.differentiable = vectors and target.reward.differentiable

    def __call__(self, x_t, t, cond=None, *, generator=None) -> Tensor:
        prediction = self.target.denoiser(x_t, t, cond)
        return self.given(prediction, x_t, t, cond, generator=generator)

    def given(self, prediction, x_t, t, cond=None, *, generator=None) -> Tensor:
        """The same from a prediction."""
        n = self.draws
        rows = torch.arange(len(x_t), device=x_t.device).repeat_interleave(n)
        part = None if cond is None else {k: v[rows] for k, v in cond.items()}
        x0 = self._draw(prediction, x_t, t, rows, part, generator)
        logs = (self.target.reward(x0, part) / self.target.temperature).view(-1, n)
        known = ~logs.isnan()
        total = torch.where(known, logs, -math.inf).logsumexp(1)
        count = known.sum(1)
        return torch.where(count > 0, total - count.clamp(min=1).log(), math.nan)

    def _draw(self, prediction, x_t, t, rows, part, generator):  # type: ignore[no-untyped-def]
        process = self.target.denoiser.process
        if isinstance(prediction, TokenPrediction):
            assert isinstance(process, MaskProcess)
            probs = prediction.log_probs.exp()[rows].flatten(0, 1)
            where = generator.device if generator is not None else probs.device
            drawn = torch.multinomial(probs.to(where), 1, generator=generator).to(x_t.device)
            hidden = x_t == process.space.mask_token
            return torch.where(hidden[rows], drawn.view(len(rows), -1), x_t[rows])
        assert isinstance(prediction, Prediction)
        assert isinstance(process, GaussianProcess)
        alpha, sigma = process.schedule(t)
        d = self.sigma_data
        width = sigma * d * torch.rsqrt(torch.as_tensor((alpha * d) ** 2 + sigma**2))
        x0 = prediction.x0[rows]
        noise = process.space.noise(tuple(x0.shape), part, like=x0, generator=generator)
        wide = expand_to(width.expand(len(x_t))[rows], x0)
        return x0 + wide * noise
