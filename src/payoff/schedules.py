r"""Noise schedules: how much signal and how much noise there is at time t.

Time runs from t = 0 (data) to t = 1 (noise), and

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon , \qquad
          \lambda_t = \log(\alpha_t^2 / \sigma_t^2) .

Every schedule is strictly decreasing in :math:`\lambda`, finite at both ends and invertible:
``schedule.time(schedule.log_snr(t)) == t``. Kernels and samplers only ever see
:math:`(\alpha, \sigma, \lambda)`, so two schedules with the same range of :math:`\lambda` differ in
where the steps are put and in nothing else (Variational Diffusion Models, Kingma et al., 2021).

Masked tokens have no :math:`\sigma`; their schedule gives the probability that a token is kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus
from torch.utils.weak import WeakTensorKeyDictionary

from payoff.spaces import Scalar


class Schedule(ABC):
    """t in [0, 1] -> (alpha, sigma). Everything is elementwise in t, of any shape.

    A subclass defines :meth:`time` and at least one of :meth:`_levels` and :meth:`_log_snr`.
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`(\alpha_t, \sigma_t)`."""
        known = _TABLE.get(t)
        return self._levels(t) if known is None or known[0] is not self else known[1][:2]

    def log_snr(self, t: Tensor) -> Tensor:
        r""":math:`\lambda_t = \log(\alpha_t^2/\sigma_t^2)`, strictly decreasing in t."""
        known = _TABLE.get(t)
        return self._log_snr(t) if known is None or known[0] is not self else known[1][2]

    def levels(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        r""":math:`(\alpha_t, \sigma_t, \lambda_t)`, as plain numbers where t was tabulated.

        Arithmetic on plain numbers costs nothing beside a network, on a CPU or a GPU; the same on
        tensors of one element costs as much as a small network.
        """
        known = _TABLE.get(t)
        if known is not None and known[0] is self:
            return known[2]
        alpha, sigma = self._levels(t)
        return alpha, sigma, self._log_snr(t)

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        r"""The t at which :math:`\lambda_t` equals ``log_snr``: the inverse of :meth:`log_snr`."""

    def tabulate(self, times: Tensor) -> list[Tensor]:
        """The entries of ``times`` (N, ...) with their levels computed here, all at once.

        A sampler asks for the levels of the same few times again and again. The returned tensors
        must not be changed in place.
        """
        tensors = (*self._levels(times), self._log_snr(times))
        numbers = [v.tolist() for v in tensors] if times.ndim == 1 else tensors
        entries = list(times.unbind())
        for i, t in enumerate(entries):
            _TABLE[t] = (self, tuple(v[i] for v in tensors), tuple(v[i] for v in numbers))
        return entries

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # variance preserving unless a subclass says otherwise
        log_snr = self._log_snr(t)
        return torch.exp(0.5 * logsigmoid(log_snr)), torch.exp(0.5 * logsigmoid(-log_snr))

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha, sigma = self._levels(t)
        return 2 * (torch.log(alpha) - torch.log(sigma))

    def config(self) -> dict[str, float]:
        """The constructor's arguments, for saving."""
        return asdict(self)  # type: ignore[call-overload]


# Keyed by the identity of a scalar, and forgotten with it
_TABLE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Variance preserving, :math:`\alpha_t = \cos\phi_t,\ \sigma_t = \sin\phi_t`, φ linear in t.

    The angle runs between the two values that give ``log_snr_max`` (t = 0) and ``log_snr_min``
    (t = 1), so nothing is infinite. The default leaves 0.1 % of noise at t = 0 and of signal at 1.

    Reference: Improved Denoising Diffusion Probabilistic Models (Nichol, Dhariwal, 2021); the
    truncation by angle follows Simple Diffusion (Hoogeboom, Heek, Salimans, 2023).
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0

    def __post_init__(self) -> None:
        _increasing("log_snr_min", self.log_snr_min, "log_snr_max", self.log_snr_max)

    @cached_property
    def _ends(self) -> tuple[float, float, float]:
        """The angle at t = 0, π/2 minus the angle at t = 1, and the span between them."""
        start = math.atan(math.exp(-self.log_snr_max / 2))
        co_end = math.atan(math.exp(self.log_snr_min / 2))
        return start, co_end, math.pi / 2 - co_end - start

    def _levels(self, t):
        start, co_end, span = self._ends
        # cos φ from the complement of φ: an angle close to π/2 has lost the digits that matter
        return torch.sin(co_end + (1 - t) * span), torch.sin(start + t * span)

    def time(self, log_snr):
        start, co_end, span = self._ends
        near = (torch.atan(torch.exp(-log_snr / 2)) - start) / span
        far = 1 - (torch.atan(torch.exp(log_snr / 2)) - co_end) / span
        return torch.where(log_snr >= 0, near, far)


@dataclass(frozen=True)
class LinearBeta(Schedule):
    r"""Variance preserving with a linear rate, :math:`\alpha_t^2 = \exp(-\int_0^{\tau}\beta)`.

    :math:`\beta(\tau) = \beta_0 + (\beta_1-\beta_0)\tau` and
    :math:`\tau = \epsilon + (1-\epsilon) t`, so that some noise is left at t = 0.
    With ``beta_min == beta_max`` this is the Ornstein-Uhlenbeck process
    :math:`dX = -\tfrac12\beta X\,dt + \sqrt\beta\,dW`.

    Reference: Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel, 2020); continuous form in
    Score-Based Generative Modeling through SDEs (Song et al., 2021).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must lie in (0, 1), got {self.epsilon}")

    def _log_snr(self, t):
        tau = self.epsilon + (1 - self.epsilon) * t
        rate = self.beta_min * tau + 0.5 * (self.beta_max - self.beta_min) * tau**2
        return -torch.log(torch.expm1(rate))

    def time(self, log_snr):
        rate, slope = softplus(-log_snr), self.beta_max - self.beta_min
        # the root of slope/2 τ² + beta_min τ = rate in the form that is stable for slope -> 0
        tau = 2 * rate / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * rate))
        return (tau - self.epsilon) / (1 - self.epsilon)


@dataclass(frozen=True)
class Flow(Schedule):
    r"""The straight path of rectified flow, :math:`\alpha = 1-\tau,\ \sigma = \tau`.

    :math:`\tau = \epsilon + (1-2\epsilon) t` keeps both ends finite.

    Reference: Flow Straight and Fast (Liu, Gong, Liu, 2022); Flow Matching for Generative Modeling
    (Lipman et al., 2022).
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 0.5:
            raise ValueError(f"epsilon must lie in (0, 0.5), got {self.epsilon}")

    def _levels(self, t):
        # 1 - τ loses nothing here, and the time from the other end keeps alpha exact near t = 1
        span = 1 - 2 * self.epsilon
        return self.epsilon + span * (1 - t), self.epsilon + span * t

    def time(self, log_snr):
        return (torch.sigmoid(-log_snr / 2) - self.epsilon) / (1 - 2 * self.epsilon)


@dataclass(frozen=True)
class Karras(Schedule):
    r"""Variance exploding, :math:`\alpha = 1`, with σ spaced as in EDM.

    .. math:: \sigma_t = \bigl(\sigma_{\min}^{1/\rho}
              + t(\sigma_{\max}^{1/\rho}-\sigma_{\min}^{1/\rho})\bigr)^\rho .

    Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al.,
    2022), equation 5, whose defaults these are.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _increasing("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        if self.sigma_min <= 0 or self.rho <= 0:
            raise ValueError(f"sigma_min and rho must be positive: {self.sigma_min}, {self.rho}")

    def _levels(self, t):
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def _log_snr(self, t):
        return -2 * torch.log(self._levels(t)[1])

    def time(self, log_snr):
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (torch.exp(-log_snr / (2 * self.rho)) - low) / (high - low)


@dataclass(frozen=True)
class LogLinear(Schedule):
    r"""Variance preserving with :math:`\lambda` linear in t: even steps in log-SNR.

    Reference: Variational Diffusion Models (Kingma, Salimans, Poole, Ho, 2021).
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0

    def __post_init__(self) -> None:
        _increasing("log_snr_min", self.log_snr_min, "log_snr_max", self.log_snr_max)

    def _log_snr(self, t):
        return self.log_snr_max + t * (self.log_snr_min - self.log_snr_max)

    def time(self, log_snr):
        return (log_snr - self.log_snr_max) / (self.log_snr_min - self.log_snr_max)


@dataclass(frozen=True)
class Sinh(Schedule):
    r"""Variance preserving with the steps where the sample is decided,

    .. math:: \lambda_t = c + w\sinh\bigl(b + t(a-b)\bigr), \qquad
              \text{density of even steps in } t \;\propto\; 1/\sqrt{1+((\lambda-c)/w)^2} ,

    a and b such that the ends are ``log_snr_min`` and ``log_snr_max``: within w of the centre c the
    steps are close, far from it they grow in proportion to the distance. A large w is
    :class:`LogLinear`. Both directions are in closed form.
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0
    centre: float = 0.0
    width: float = 3.0

    def __post_init__(self) -> None:
        _increasing("log_snr_min", self.log_snr_min, "log_snr_max", self.log_snr_max)
        if self.width <= 0:
            raise ValueError(f"width must be positive, got {self.width}")

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The argument of sinh at t = 0 and t = 1."""
        ends = (self.log_snr_max, self.log_snr_min)
        clean, noisy = (math.asinh((end - self.centre) / self.width) for end in ends)
        return clean, noisy

    def _log_snr(self, t):
        clean, noisy = self._ends
        return self.centre + self.width * torch.sinh(clean + t * (noisy - clean))

    def time(self, log_snr):
        clean, noisy = self._ends
        return (torch.asinh((log_snr - self.centre) / self.width) - clean) / (noisy - clean)


class KeepSchedule(ABC):
    """t in [0, 1] -> the probability that a token is still itself (not masked) at time t."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """Probability of being kept: 1 at t = 0, 0 at t = 1, decreasing."""

    @abstractmethod
    def time(self, keep: Tensor) -> Tensor:
        """The inverse of :meth:`__call__`."""

    def config(self) -> dict[str, float]:
        """The constructor's arguments, for saving."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class LinearKeep(KeepSchedule):
    """Keep with probability 1 − t.

    Reference: Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024).
    """

    def __call__(self, t):
        return 1 - t

    def time(self, keep):
        return 1 - keep


@dataclass(frozen=True)
class CosineKeep(KeepSchedule):
    r"""Keep with probability :math:`1 - \cos(\tfrac\pi2(1-t))`: unmask few tokens at first.

    Reference: MaskGIT (Chang et al., 2022).
    """

    def __call__(self, t):
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def time(self, keep):
        return 1 - torch.acos(1 - keep) * 2 / math.pi


SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls for cls in (Cosine, LinearBeta, Flow, Karras, LogLinear, Sinh)
}
KEEP_SCHEDULES: dict[str, type[KeepSchedule]] = {c.__name__: c for c in (LinearKeep, CosineKeep)}


def _increasing(low_name: str, low: float, high_name: str, high: float) -> None:
    if not low < high:
        raise ValueError(f"need {low_name} < {high_name}, got {low} and {high}")
