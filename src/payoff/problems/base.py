r"""Targets whose answer is known.

A :class:`Law` is a distribution of clean samples of which everything is known under its process: a
draw, the noisy marginal :math:`p_t`, and the exact denoiser (it *is* a Denoiser). A
:class:`Tiltable` law also knows, for the rewards of its kind, its tilt
:math:`p^*\propto p\,e^{r/\tau}`, which is a law again, and the normaliser Z. From the two laws
follows all the rest:

.. math::
    V_t(x_t) = \log E[e^{r(x_0)/\tau}\mid x_t] = \log Z + \log p^*_t(x_t) - \log p_t(x_t), \qquad
    \mathrm{KL}(p^*\|p) = E_{p^*}[r]/\tau - \log Z .

The first identity holds because p* and p share the corruption:
:math:`p^*_t(x_t) = \int p(x_0)e^{r(x_0)/\tau}q(x_t\mid x_0)\,dx_0/Z`.

Quantities are returned as tensors of shape (); for a law whose samples differ in size (``cond``
carries a mask) they have shape (B,), one per condition row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.rewards.base import Reward
from payoff.spaces import Condition
from payoff.targets import Target, checked_temperature
from payoff.values.base import Value

ROOM = 1e6  # how far from a problem's temperature its frontier is looked for, as a factor


class Law(Denoiser):
    """A distribution of clean samples with its exact denoiser.

    It has buffers and no parameters, so ``.to(device)`` and ``.double()`` move all of it.

    Attributes:
        shape: the shape of one sample, without the batch axis.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def sample(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent clean samples (n, ...); ``cond`` has n rows where it is needed."""

    @abstractmethod
    def log_prob_t(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """The natural log p_t(x) of noisy samples x (B, ...) at t, () or (B,): shape (B,)."""

    def sample_t(
        self,
        n: int,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws (n, ...) of x_t at t, () or (n,): a clean sample, corrupted."""
        x0 = self.sample(n, cond, generator=generator)
        return self.process.corrupt(x0, t, cond, generator=generator)


class Tiltable(Law):
    """A law that is closed under the tilt by a family of rewards.

    Attributes:
        continuous: whether its samples are real vectors, so that a gradient in x_t has a meaning.
    """

    continuous: ClassVar[bool] = True

    @abstractmethod
    def tilt(self, reward: Reward, temperature: float) -> Tiltable:
        """The law ∝ p · exp(reward / temperature)."""

    @abstractmethod
    def log_partition(
        self, reward: Reward, temperature: float, cond: Condition | None = None
    ) -> Tensor:
        """The log-normaliser log Z = log E_p[exp(reward / temperature)]."""

    @abstractmethod
    def expected(self, reward: Reward, cond: Condition | None = None) -> Tensor:
        """E_p[reward]."""

    def log_ratio(
        self, tilted: Tiltable, x: Tensor, t: Tensor, cond: Condition | None = None
    ) -> Tensor:
        """The log-density log p*_t(x) − log p_t(x) against a tilt of this law, shape (B,)."""
        return tilted.log_prob_t(x, t, cond) - self.log_prob_t(x, t, cond)


class ExactValue(Value):
    r""":math:`V_t = \log Z + \log p^*_t - \log p_t`, up to rounding."""

    exact = True
    differentiable = True

    def __init__(self, base: Tiltable, reward: Reward, temperature: float) -> None:
        self.base, self.reward, self.temperature = base, reward, temperature
        self.tilted = base.tilt(reward, temperature)
        self.differentiable = base.continuous

    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        log_z = self.base.log_partition(self.reward, self.temperature, cond)
        return log_z + self.base.log_ratio(self.tilted, x_t, t, cond)


class Problem(Target):
    """A target with a closed-form answer at every temperature.

    Methods that take ``temperature`` use the problem's own when it is left out.

    Attributes:
        denoiser: the base law, itself the exact denoiser.
    """

    denoiser: Tiltable

    def __init__(self, base: Tiltable, reward: Reward, temperature: float = 1.0) -> None:
        super().__init__(base, reward, temperature)
        base.tilt(reward, self.temperature)  # an impossible tilt is an error here, not later

    @property
    def base(self) -> Tiltable:
        """The base law p; the same object as ``denoiser``."""
        return self.denoiser

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.base.shape

    def tilted(self, temperature: float | None = None) -> Tiltable:
        """The law p*, with its own exact denoiser."""
        return self.base.tilt(self.reward, self._tau(temperature))

    def value(self, temperature: float | None = None) -> Value:
        """The exact soft value."""
        return ExactValue(self.base, self.reward, self._tau(temperature))

    def sample_base(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Clean draws (n, ...) of p."""
        return self.base.sample(n, cond, generator=generator)

    def sample_target(
        self,
        n: int,
        cond: Condition | None = None,
        *,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Clean draws (n, ...) of p*."""
        return self.tilted(temperature).sample(n, cond, generator=generator)

    def log_partition(
        self, temperature: float | None = None, cond: Condition | None = None
    ) -> Tensor:
        """The natural logarithm of Z."""
        return self.base.log_partition(self.reward, self._tau(temperature), cond)

    def base_reward(self, cond: Condition | None = None) -> Tensor:
        """E_p[r]."""
        return self.base.expected(self.reward, cond)

    def target_reward(
        self, temperature: float | None = None, cond: Condition | None = None
    ) -> Tensor:
        """E_{p*}[r]."""
        return self.tilted(temperature).expected(self.reward, cond)

    def kl(self, temperature: float | None = None, cond: Condition | None = None) -> Tensor:
        """KL(p* ‖ p) in nats."""
        tau = self._tau(temperature)
        return self.target_reward(tau, cond) / tau - self.log_partition(tau, cond)

    def frontier(
        self, temperatures: Iterable[float], cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """(reward, KL) of p* at each temperature: no law has more reward at the same KL."""
        taus = list(temperatures)
        rewards = torch.stack([self.target_reward(tau, cond) for tau in taus])
        return rewards, torch.stack([self.kl(tau, cond) for tau in taus])

    def frontier_gain(self, kl: float) -> float | None:
        """The most mean reward above the base's that any law has at this divergence, nats.

        That of the tilt with KL(p* ‖ p) = ``kl``, by bisection on the temperature; None where no
        temperature within a factor of a million of the problem's own reaches it. At extreme
        temperatures large terms cancel: ask a problem in double precision.
        """
        middle, room = math.log(self.temperature), math.log(ROOM)
        low, high = middle - room, middle + room  # low temperature, large divergence
        try:
            if not float(self.kl(math.exp(low))) >= kl >= float(self.kl(math.exp(high))):
                return None
            for _ in range(60):
                between = 0.5 * (low + high)
                far = float(self.kl(math.exp(between))) > kl
                low, high = (between, high) if far else (low, between)
        except ValueError:  # the reward cannot be normalised at such a temperature
            return None
        return float(self.target_reward(math.exp(0.5 * (low + high))) - self.base_reward())

    def _tau(self, temperature: float | None) -> float:
        return self.temperature if temperature is None else checked_temperature(temperature)
