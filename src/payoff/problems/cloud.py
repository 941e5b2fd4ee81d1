r"""Centred clouds of points with a rotation-invariant law and reward.

A cloud of n points in :math:`\mathbb R^3` with zero centre of mass lives in :math:`k=3(n-1)`
dimensions. Its law is a mixture over the overall scale,

.. math:: p(x) = \sum_j w_j\,\mathcal N_k(x;\,0,\,s_j^2 I) ,

which is invariant to rotation, reflection and the order of the points, and not Gaussian: the
denoiser has to recognise the scale. Under :math:`r=-\tfrac\kappa2\sum_i\|x_i\|^2`

.. math:: \frac1{s_j^{*2}} = \frac1{s_j^2}+\frac\kappa\tau , \qquad
          \log Z_j = -\frac k2\log\!\Big(1+\frac{\kappa s_j^2}\tau\Big) .

The normaliser depends on the number of points, and with it the weights of the tilted law: a density
that counts 3n dimensions instead gets the wrong ones. Sizes come from ``cond["mask"]`` (B, N).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.predictions import Prediction
from payoff.problems.base import Problem, Tiltable
from payoff.problems.quadratic import Radius
from payoff.processes import GaussianProcess
from payoff.rewards.base import Reward
from payoff.spaces import Centered, Condition, expand_to


class ScaleMixture(Tiltable):
    r"""The law :math:`\sum_jw_j(k)\,\mathcal N_k(0,s_j^2I)` on a linear space.

    The weights are :math:`w_j(k)\propto\exp(\ell_j+k\,m_j)`, k the degrees of freedom of the
    sample: that family is closed under the tilt.

    Args:
        scales: (J,) standard deviations.
        log_weights: (J,), up to a constant.
        size: N, the padded number of points.
        process: a Gaussian process; on centred clouds of three coordinates by default.
        log_weights_per_dof: (J,), zero by default.
        channels: coordinates per point.
    """

    process: GaussianProcess
    scales: Tensor
    log_weights: Tensor
    per_dof: Tensor

    def __init__(
        self,
        scales: Tensor,
        log_weights: Tensor,
        size: int,
        process: GaussianProcess | None = None,
        log_weights_per_dof: Tensor | None = None,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.process = GaussianProcess(Centered()) if process is None else process
        per_dof = torch.zeros_like(scales) if log_weights_per_dof is None else log_weights_per_dof
        if scales.ndim != 1 or not scales.shape == log_weights.shape == per_dof.shape:
            raise ValueError(
                "scales, log_weights and log_weights_per_dof must share one shape (J,), got "
                f"{tuple(scales.shape)}, {tuple(log_weights.shape)}, {tuple(per_dof.shape)}"
            )
        if not bool((scales > 0).all()):
            raise ValueError(f"scales must be positive, got {scales.tolist()}")
        self.shape = (size, channels)
        self.register_buffer("scales", scales)
        self.register_buffer("log_weights", log_weights.to(scales))
        self.register_buffer("per_dof", per_dof.to(scales))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.process.schedule(t)
        a, variance, log_joint = self._parts(x_t, t, cond)
        shrink = (log_joint.softmax(1) * a * self.scales**2 / variance).sum(1)
        x0 = expand_to(shrink, x_t) * self.process.space.project(x_t, cond)
        return Prediction(x0, x_t, alpha, sigma)

    def log_prob_t(self, x, t, cond=None):
        return self._parts(x, t, cond)[-1].logsumexp(1)

    def sample(self, n, cond=None, *, generator=None):
        shape = (n, *self.shape)
        weights = self._weights(self._dof(n, cond)).exp().expand(n, -1)
        where = generator.device if generator is not None else weights.device
        j = torch.multinomial(weights.to(where), 1, generator=generator)[:, 0].to(weights.device)
        noise = self.process.space.noise(shape, cond, like=self.scales, generator=generator)
        return expand_to(self.scales[j], noise) * noise

    def tilt(self, reward, temperature):
        gain = self._gain(reward, temperature)
        return ScaleMixture(
            self.scales * torch.exp(-0.5 * gain),
            self.log_weights,
            self.shape[0],
            self.process,
            self.per_dof - 0.5 * gain,
            self.shape[1],
        )

    def log_partition(self, reward, temperature, cond=None):
        """The log-normaliser of each size in ``cond``: (B,), or () without a mask."""
        gain, dof = self._gain(reward, temperature), self._dof(1, cond)
        log_z = (self._weights(dof) - 0.5 * dof.unsqueeze(1) * gain).logsumexp(1)
        return log_z if cond is not None and "mask" in cond else log_z[0]

    def expected(self, reward, cond=None):
        """E[r] of each size in ``cond``: (B,), or () without a mask."""
        dof, stiffness = self._dof(1, cond), self._radius(reward).stiffness
        mean_square = dof * (self._weights(dof).exp() * self.scales**2).sum(1)
        value = -0.5 * stiffness * mean_square
        return value if cond is not None and "mask" in cond else value[0]

    def _parts(self, x: Tensor, t: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, variances, log w_j N_j(x)), the last two of shape (B or 1, J)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.shape})")
        alpha, sigma = self.process.schedule(t)
        a, s = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
        dof = self.process.space.dof(x, cond)
        square = self.process.space.project(x, cond).flatten(1).square().sum(1, keepdim=True)
        variance = (a * self.scales) ** 2 + s**2
        log_joint = -0.5 * (
            square / variance + dof.unsqueeze(1) * torch.log(2 * math.pi * variance)
        )
        return a, variance, log_joint + self._weights(dof)

    def _weights(self, dof: Tensor) -> Tensor:
        """The log-weights log w_j for each number of degrees of freedom: (B, J)."""
        return (self.log_weights + dof.unsqueeze(1) * self.per_dof).log_softmax(1)

    def _dof(self, n: int, cond: Condition | None) -> Tensor:
        rows = len(cond["mask"]) if cond is not None and "mask" in cond else n
        return self.process.space.dof(self.scales.new_zeros(rows, *self.shape), cond)

    def _radius(self, reward: Reward) -> Radius:
        if not isinstance(reward, Radius):
            raise TypeError(f"closed forms need a Radius reward, got {type(reward).__name__}")
        return reward

    def _gain(self, reward: Reward, temperature: float) -> Tensor:
        """log(1 + κ s_j²/τ), shape (J,)."""
        ratio = self._radius(reward).stiffness * self.scales**2 / temperature
        if not bool((ratio > -1).all()):
            raise ValueError(
                f"the reward cannot be normalised at temperature {temperature:g}: it rewards "
                "spread faster than the law decays. Raise the temperature"
            )
        return torch.log1p(ratio)


class CloudProblem(Problem):
    """Centred clouds of up to ``size`` points, with a :class:`Radius` reward.

    Args:
        scales: (J,) standard deviations of a coordinate.
        weights: (J,) positive.
        stiffness: κ of the reward −κ/2 Σ‖x_i‖².
    """

    denoiser: ScaleMixture

    def __init__(
        self,
        size: int = 5,
        scales: Tensor | None = None,
        weights: Tensor | None = None,
        stiffness: float = 1.0,
        temperature: float = 1.0,
        process: GaussianProcess | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        scales = torch.tensor([0.5, 1.5], dtype=dtype) if scales is None else scales
        weights = torch.ones_like(scales) if weights is None else weights
        law = ScaleMixture(scales, weights.log(), size, process)
        super().__init__(law, Radius(stiffness), temperature)
