r"""The value by draws around the clean estimate: one network call, n reward calls.

.. math:: \hat V_t = \log\frac1n\sum_i e^{r(x_0^{(i)})/\tau},\qquad
          x_0^{(i)}\sim\mathcal N(\hat x_0, v_t I),\quad
          v_t = \frac{\sigma_t^2\sigma_d^2}{\alpha_t^2\sigma_d^2+\sigma_t^2}

The Gaussian is the posterior of data that are normal with deviation σ_d in every coordinate: for
such data the mean inside is unbiased, and the value exact as n grows. For masked tokens every
hidden position is drawn from the prediction by itself, as if positions did not depend on each
other; that is right where one position is hidden, or where they are independent. Both are wrong
where the posterior has modes, and there more draws do not help. With few draws the logarithm of a
mean is biased down. With n = 1 and tokens it is the only one-call value there is.

References: Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al.,
2023) for vectors; Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
Value-Based Decoding (Li et al., 2024) for tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.predictions import Prediction, TokenPrediction
from payoff.processes import GaussianProcess
from payoff.spaces import Condition, Scalar, expand_to
from payoff.targets import Target
from payoff.values.base import Value


class Posterior(Value):
    """Log-mean-exp of rewards around the clean estimate.

    Failed draws (NaN) are left out; a row where all failed is NaN. For a differentiable reward of
    vectors the gradient goes through the estimate and not through the noise.

    Args:
        target: base, reward and temperature.
        draws: n, reward calls a row.
        sigma_data: σ_d, standard deviation of the data per coordinate, in the data's units; 0 puts
            every draw on the estimate itself.

    Raises:
        ValueError: fewer than one draw, or a negative deviation.
    """

    def __init__(self, target: Target, draws: int = 1, sigma_data: float = 1.0) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        if not sigma_data >= 0:
            raise ValueError(f"sigma_data must not be negative, got {sigma_data}")
        self.target, self.draws, self.sigma_data = target, draws, sigma_data
        vectors = isinstance(target.denoiser.process, GaussianProcess)
        self.differentiable = vectors and target.reward.differentiable

    def __call__(self, x_t, t, cond=None, *, generator=None) -> Tensor:
        prediction = self.target.denoiser(x_t, t, cond)
        return self.given(prediction, x_t, t, cond, generator=generator)

    def given(self, prediction, x_t, t, cond=None, *, generator=None) -> Tensor:
        """The same from a prediction."""
        if isinstance(prediction, Prediction):
            return self.around(prediction.x0, t, cond, generator=generator)
        rows, part = self._repeated(x_t, cond)
        return self._mean(self._tokens(prediction, x_t, rows, generator), part)

    def around(
        self,
        x0: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value (B,) of clean estimates x0 (B, ...) at the noise level t, () or (B,)."""
        width = self.width(t)
        if isinstance(width, float) and width == 0.0:
            return self.target.reward(x0, cond) / self.target.temperature  # type: ignore[arg-type]
        rows, part = self._repeated(x0, cond)
        x, space = x0[rows], self.target.denoiser.process.space
        noise = space.noise(tuple(x.shape), part, like=x, generator=generator)
        wide = torch.as_tensor(width, dtype=x.dtype, device=x.device).expand(len(x0))[rows]
        return self._mean(x + expand_to(wide, x) * noise, part)

    def width(self, t: Tensor) -> Scalar:
        """The deviation √v_t of the draws at t: a number, () or (B,); 0.0 for a point."""
        if self.sigma_data == 0:
            return 0.0
        process = self.target.denoiser.process
        assert isinstance(process, GaussianProcess)
        alpha, sigma = process.schedule(t)
        d = self.sigma_data
        return sigma * d * torch.rsqrt((alpha * d) ** 2 + sigma**2)

    def _repeated(self, x: Tensor, cond: Condition | None) -> tuple[Tensor, Condition | None]:
        """Each row's number ``draws`` times (B * draws,), and its conditions."""
        rows = torch.arange(len(x), device=x.device).repeat_interleave(self.draws)
        return rows, None if cond is None else {k: v[rows] for k, v in cond.items()}

    def _mean(self, x0: Tensor, cond: Condition | None) -> Tensor:
        """Log-mean-exp of r/τ of draws (B * draws, ...): (B,)."""
        logs = self.target.reward(x0, cond) / self.target.temperature  # type: ignore[arg-type]
        if self.draws == 1:
            return logs
        logs = logs.view(-1, self.draws)
        known = ~logs.isnan()
        count = known.sum(1)
        # a row of nothing but -inf has a gradient that is no number: such a row gets zeros
        some = (count > 0).unsqueeze(1)
        total = torch.where(known, logs, torch.where(some, -math.inf, 0.0).to(logs)).logsumexp(1)
        return torch.where(count > 0, total - count.clamp(min=1).to(logs).log(), math.nan)

    def _tokens(
        self,
        prediction: TokenPrediction,
        x_t: Tensor,
        rows: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Hidden positions drawn one by one from the prediction, decided ones as they are."""
        probs = prediction.log_probs.exp().flatten(0, 1)
        where = generator.device if generator is not None else probs.device
        # one draw of n a position: the probabilities need not be repeated
        drawn = torch.multinomial(probs.to(where), self.draws, True, generator=generator)
        drawn = drawn.to(x_t.device).view(*x_t.shape, self.draws).movedim(-1, 1).flatten(0, 1)
        hidden = x_t == self.target.denoiser.process.space.mask_token  # type: ignore[attr-defined]
        return torch.where(hidden[rows], drawn, x_t[rows])
