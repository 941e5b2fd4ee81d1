r"""One reverse transition :math:`q(x_s \mid x_t)` as an object, with its true density.

Steering re-weights by ratios of these densities and fine-tuning differentiates them, so there is
one place where a density is computed. :meth:`Kernel.log_prob` **sums** over the degrees of freedom,
in float32 or better: a mean over dimensions is not a density, and importance weights built from it
are wrong. A loss that wants a mean divides by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from payoff.spaces import Condition, Euclidean, Scalar, Space, Tokens, expand_to


class Kernel(ABC):
    """A distribution over the next state, one per sample of the batch."""

    deterministic: bool = False

    @abstractmethod
    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """A draw of shape (B, ...) that is differentiable in the kernel's parameters."""

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """A draw of shape (B, ...), without gradient."""
        if not torch.is_grad_enabled():  # a sampling loop: the switch would cost as much as a draw
            return self.rsample(generator=generator)
        with torch.no_grad():
            return self.rsample(generator=generator)

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (or log-probability) of ``x`` (B, ...) summed over its dimensions: (B,)."""

    @abstractmethod
    def kl(self, other: Kernel) -> Tensor:
        """KL(self ‖ other) of each sample, shape (B,), in nats, in closed form."""


@dataclass
class GaussianKernel(Kernel):
    r""":math:`\mathcal N(\mu, s^2 I)` on a space, with one standard deviation per sample.

    .. math:: \log q(x) = -\frac{\|x-\mu\|^2}{2s^2} - k\log s - \frac k2\log 2\pi ,

    where k is the space's number of degrees of freedom: padding and the centre of mass do not
    count.

    Attributes:
        mean: (B, ...).
        std: a number, () or (B,), positive; None for a point, which can be sampled but has no
            density.
        space, cond: where it lives; ``cond`` carries the mask of ragged sets.
    """

    mean: Tensor
    std: Scalar | None
    space: Space = field(default_factory=Euclidean)
    cond: Condition | None = None

    @property
    def deterministic(self) -> bool:  # type: ignore[override]
        """Whether the kernel is a point."""
        return self.std is None

    def rsample(self, *, generator=None):
        if self.std is None:
            return self.mean
        noise = self.space.noise(
            tuple(self.mean.shape), self.cond, like=self.mean, generator=generator
        )
        return self.mean + expand_to(self.std, self.mean) * noise

    def log_prob(self, x):
        if x.shape != self.mean.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, the kernel {tuple(self.mean.shape)}")
        std = self._density_std()
        square = self._square(x.to(std.dtype) - self.mean.to(std.dtype))
        dof = self.space.dof(self.mean, self.cond).to(std.dtype)
        return -square / (2 * std**2) - dof * (torch.log(std) + 0.5 * math.log(2 * math.pi))

    def kl(self, other):
        if not isinstance(other, GaussianKernel):
            raise TypeError(f"no closed-form KL between GaussianKernel and {type(other).__name__}")
        mine, theirs = self._density_std(), other._density_std()
        square = self._square(self.mean.to(mine.dtype) - other.mean.to(mine.dtype))
        ratio = (mine / theirs) ** 2
        dof = self.space.dof(self.mean, self.cond).to(mine.dtype)
        return square / (2 * theirs**2) + 0.5 * dof * (ratio - 1 - torch.log(ratio))

    def _square(self, difference: Tensor) -> Tensor:
        # Projecting first makes a point outside the space (off-centre, padding) count only as far
        # as it differs inside the space, which is what a density on the space means.
        return self.space.project(difference, self.cond).flatten(1).square().sum(1)

    def _density_std(self) -> Tensor:
        if self.std is None:
            raise ValueError(
                "a deterministic kernel has no density: sample with eta > 0, or give the process a "
                "noise_floor"
            )
        wide = torch.promote_types(self.mean.dtype, torch.float32)
        # a plain number would become single precision
        number = None if isinstance(self.std, Tensor) else wide
        std = torch.as_tensor(self.std, dtype=number, device=self.mean.device)
        return std.to(torch.promote_types(std.dtype, wide)).expand(self.mean.shape[0])


@dataclass
class CategoricalKernel(Kernel):
    r"""Independent categorical laws, one per position: :math:`\prod_\ell \mathrm{Cat}(p_\ell)`.

    Attributes:
        log_probs: (B, L, V') normalised log-probabilities; −inf marks what cannot happen. For an
            absorbing process V' = vocabulary + 1, the last entry being the mask token.
        space: the token space, for its numbering.
    """

    log_probs: Tensor
    space: Tokens

    def rsample(self, *, generator=None):
        """A draw of token numbers (B, L). It has no useful gradient: integers do not."""
        flat = self.log_probs.detach().exp().flatten(0, 1)
        # a generator works on its own device only, as in draw_noise
        where = generator.device if generator is not None else flat.device
        drawn = torch.multinomial(flat.to(where), 1, generator=generator)
        return drawn.to(flat.device).view(self.log_probs.shape[:2])

    def log_prob(self, x):
        if x.shape != self.log_probs.shape[:2]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (B, L) = {tuple(self.log_probs.shape[:2])}"
            )
        wide = self.log_probs.to(torch.promote_types(self.log_probs.dtype, torch.float32))
        return wide.gather(-1, x.unsqueeze(-1)).squeeze(-1).sum(1)

    def kl(self, other):
        if not isinstance(other, CategoricalKernel):
            raise TypeError(f"no KL between CategoricalKernel and {type(other).__name__}")
        mine = self.log_probs.to(torch.promote_types(self.log_probs.dtype, torch.float32))
        # 0 · log(0/q) = 0, also where q is 0 too
        gap = torch.where(mine > -math.inf, mine - other.log_probs.to(mine.dtype), 0.0)
        return (mine.exp() * gap).sum((-1, -2))
