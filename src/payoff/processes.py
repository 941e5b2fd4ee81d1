r"""Corruption of data and its reversal, as kernels.

A process knows its space and its schedule. ``corrupt`` draws :math:`q(x_t\mid x_0)`; ``reverse``
takes an estimate of :math:`x_0` and returns :math:`q(x_s\mid x_t)` as a
:class:`~payoff.kernels.Kernel`, which every sampler, particle method and policy gradient shares.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from payoff.kernels import CategoricalKernel, GaussianKernel, Kernel
from payoff.predictions import Prediction, TokenPrediction
from payoff.schedules import Cosine, KeepSchedule, LinearKeep, Schedule
from payoff.spaces import Condition, Euclidean, Scalar, Space, Tokens, expand_to


class Process(ABC):
    """A forward corruption and the reverse kernels that an estimate of x0 implies."""

    space: Space

    @abstractmethod
    def prior(
        self,
        shape: tuple[int, ...],
        cond: Condition | None = None,
        *,
        like: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws of x_1 of ``shape`` (B, ...), the law at t = 1 with the data's trace left out."""

    @abstractmethod
    def corrupt(
        self,
        x0: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A draw of x_t given clean x0 (B, ...) at times t, () or (B,)."""

    @abstractmethod
    def reverse(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        prediction: Any,
        eta: float = 1.0,
        cond: Condition | None = None,
    ) -> Kernel:
        """q(x_s | x_t) for s < t, with x0 replaced by the prediction."""


@dataclass(frozen=True)
class GaussianProcess(Process):
    r""":math:`x_t = \alpha_t x_0 + \sigma_t\varepsilon` on a linear space.

    The reverse kernel interpolates between DDPM (``eta`` = 1) and DDIM (``eta`` = 0), and goes on
    to more noise than DDPM's (``eta`` > 1):

    .. math::
        s^2 = \begin{cases} \eta^2\,\sigma_s^2\,(1 - e^{\lambda_t-\lambda_s}) & \eta\le 1 \\
                            \sigma_s^2\,(1 - e^{\eta^2(\lambda_t-\lambda_s)}) & \eta\ge 1
              \end{cases} , \qquad
        \mu = \alpha_s\hat x_0 + \sqrt{\sigma_s^2 - s^2}\;\hat\varepsilon .

    With ``eta`` = 1 this is the exact posterior :math:`q(x_s\mid x_t,\hat x_0)`. Each ``eta`` is
    the reverse-time equation with :math:`\eta` times the noise and keeps every marginal of an exact
    denoiser as the steps grow; more noise forgets more of the errors of a learned one.

    Attributes:
        space: where x lives.
        schedule: the noise schedule.
        noise_floor: smallest standard deviation of a reverse kernel. Towards t = 0 the exact one
            vanishes and nearly all variance of a policy gradient sits in that last transition; a
            floor such as 0.01 removes it at the price of that much noise in the samples.

    References: Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel, 2020); Denoising
    Diffusion Implicit Models (Song, Meng, Ermon, 2021), equation 16; for ``eta`` > 1 SA-Solver (Xue
    et al., 2023), whose first-order step with constant noise this is.
    """

    space: Space = field(default_factory=Euclidean)
    schedule: Schedule = field(default_factory=Cosine)
    noise_floor: float = 0.0

    def prior(self, shape, cond=None, *, like=None, generator=None):
        noise = self.space.noise(shape, cond, like=like, generator=generator)
        return noise * self.schedule(torch.ones((), dtype=noise.dtype, device=noise.device))[1]

    def corrupt(self, x0, t, cond=None, *, generator=None):
        return self.corrupt_with_noise(x0, t, cond, generator=generator)[0]

    def corrupt_with_noise(
        self,
        x0: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(x_t, ε): as :meth:`corrupt`, with the noise that was used or is to be used."""
        if noise is None:
            noise = self.space.noise(tuple(x0.shape), cond, like=x0, generator=generator)
        alpha, sigma = self.schedule(t)
        return expand_to(alpha, x0) * x0 + expand_to(sigma, x0) * noise, noise

    def marginal(self, x0: Tensor, t: Tensor, cond: Condition | None = None) -> GaussianKernel:
        """The law q(x_t | x0) itself."""
        alpha, sigma = self.schedule(t)
        return GaussianKernel(expand_to(alpha, x0) * x0, sigma, self.space, cond)

    def coefficients(self, t: Tensor, s: Tensor, eta: float = 1.0) -> tuple[Scalar, Scalar, Scalar]:
        """(a, b, std) with the reverse mean ``a * x0 + b * x_t``; elementwise in t and s."""
        on_x0, on_x, std = self._coefficients(t, s, eta)
        return on_x0, on_x, 0 * on_x if std is None else std

    def reverse(self, x_t, t, s, prediction: Prediction, eta=1.0, cond=None):
        on_x0, on_x, std = self._coefficients(t, s, eta)
        mean = expand_to(on_x, x_t) * x_t + expand_to(on_x0, x_t) * prediction.x0
        return GaussianKernel(mean, std, self.space, cond)

    def _coefficients(
        self, t: Tensor, s: Tensor, eta: float
    ) -> tuple[Scalar, Scalar, Scalar | None]:
        alpha_t, sigma_t, _ = self.schedule.levels(t)
        alpha_s, sigma_s, _ = self.schedule.levels(s)
        if eta == 0 and not self.noise_floor:
            kept = sigma_s / sigma_t
            return alpha_s - kept * alpha_t, kept, None
        # SNR_t / SNR_s ≤ 1; the posterior's variance is σ_s² (1 - it)
        ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
        share = eta * eta * (1 - ratio * ratio) if eta <= 1 else 1 - (ratio * ratio) ** (eta * eta)
        std = sigma_s * _root(share)
        kept = _root(sigma_s * sigma_s - std * std) / sigma_t
        if self.noise_floor:
            std = torch.as_tensor(std).clamp(min=self.noise_floor)
            room = torch.as_tensor(sigma_s * sigma_s - std * std)
            kept = room.clamp(min=0).sqrt() / sigma_t
        return alpha_s - kept * alpha_t, kept, std


@dataclass(frozen=True)
class MaskProcess(Process):
    r"""Absorbing corruption of tokens: each is masked independently with probability 1 − keep(t).

    The reverse kernel leaves decided tokens alone and reveals a masked one with probability
    :math:`(k_s-k_t)/(1-k_t)`, drawing it from the prediction; otherwise it stays masked.

    Reference: Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024);
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021).
    """

    space: Tokens
    schedule: KeepSchedule = field(default_factory=LinearKeep)

    def prior(self, shape, cond=None, *, like=None, generator=None):
        return self.space.noise(shape, cond, like=like)

    def corrupt(self, x0, t, cond=None, *, generator=None):
        where = generator.device if generator is not None else x0.device
        u = torch.rand(x0.shape, generator=generator, device=where).to(x0.device)
        keep = u < expand_to(self.schedule(t), x0)
        return torch.where(keep, x0, self.space.mask_token)

    def reverse(self, x_t, t, s, prediction: TokenPrediction, eta=1.0, cond=None):
        """As described above. There is no deterministic version: ``eta`` must be 1."""
        if eta != 1.0:
            raise ValueError(f"a masked process has no deterministic reversal: eta = {eta}, not 1")
        keep_t, keep_s = self.schedule(t), self.schedule(s)
        reveal = ((keep_s - keep_t) / (1 - keep_t).clamp(min=1e-12)).clamp(0, 1)
        reveal = expand_to(reveal, x_t).unsqueeze(-1) if reveal.ndim else reveal
        hidden = (x_t == self.space.mask_token).unsqueeze(-1)
        tokens = prediction.log_probs + torch.where(hidden, torch.log(reveal), 0.0)
        stays = torch.where(hidden, torch.log1p(-reveal), -math.inf)
        stays = stays.to(tokens.dtype).expand(*x_t.shape, 1)
        return CategoricalKernel(torch.cat([tokens, stays], dim=-1), self.space)


def _root(square: Scalar) -> Scalar:
    # works on numbers and tensors alike; abs only ever turns a negative rounding error
    return torch.sqrt(square.abs()) if isinstance(square, Tensor) else math.sqrt(abs(square))
