r"""Guidance along a value: the base's score plus the gradient of a soft value.

.. math::
    \nabla\log p^*_t(x_t) = \nabla\log p_t(x_t) + \nabla V_t(x_t)
    \qquad\Longleftrightarrow\qquad
    \hat x_0^* = \hat x_0 + \frac{\sigma_t^2}{\alpha_t}\,\nabla_{x_t}V_t(x_t)

With the exact value this *is* the denoiser of p*, and every sampler of the library draws from p*
with it. What is called a method here is an estimate of the value:

==================== ========================================= ==================================
method               value                                     reward
==================== ========================================= ==================================
classifier guidance  :class:`~payoff.values.Learned` at x_t    black box, scored before sampling
DPS                  :class:`~payoff.values.PlugIn`            differentiable
LGD                  :class:`~payoff.values.Posterior`         differentiable
==================== ========================================= ==================================

An estimate that is biased gives a biased law, whatever the number of steps: more compute does not
bring it to p*.

Where the noise is so strong that a value is flat, or so weak that nothing is left to decide, its
gradient is error and cost; ``interval`` leaves it out there.

References: Diffusion Models Beat GANs on Image Synthesis (Dhariwal, Nichol, 2021) for classifier
guidance; Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023);
Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al., 2023); Applying
Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models
(Kynkäänniemi, Aittala, Karras, Laine, Aila, Lehtinen, 2024) for the interval, there of
classifier-free guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.predictions import Prediction
from payoff.processes import GaussianProcess
from payoff.spaces import Condition, expand_to
from payoff.values.base import Value

NORMALISATIONS = ("none", "residual", "unit")


class Guided(Denoiser):
    r"""A denoiser along the gradient of a value, :math:`\hat x_0+s\,(\sigma^2/\alpha)\nabla V`.

    The base's prediction is made once and handed to the value, so a value of the clean estimate
    costs one forward and one backward pass of the network a call; one of its own network, or an
    exact one, no backward pass of the base at all. The gradient is projected on the space: centred
    clouds stay centred and padding stays zero. A row whose gradient is not finite (a failed reward)
    is not guided in that call; ``failed`` counts them.

    Works inside ``torch.no_grad`` and ``torch.inference_mode``. Where gradients are on, the result
    is differentiable in x_t and in the base's parameters, through second derivatives, so that
    guided denoisers nest.

    Args:
        base: what is guided.
        value: in nats; differentiable. Where it reads a clean estimate it reads that of ``base``.
        scale: s. At 1 the aim is p*; at other scales the law has no name: it is *not* the tilt by
            s·r/τ, whose value is not s·V.
        normalise: ``none``; ``residual`` replaces V by :math:`-\sqrt{-V}`, for least-squares
            rewards :math:`r=-\|y-A(x)\|^2`; ``unit`` moves by
            :math:`s\,(\sigma/\alpha)\,\|\hat\varepsilon\|` in the gradient's direction, whatever
            its length.
        limit: largest root-mean-square move of the clean estimate a coordinate, in the data's
            units; 0 for none.
        interval: (lowest, highest) log-SNR at which the value is looked at; outside the result is
            the base's, and if that holds for the whole batch the value is not called. None for
            everywhere.
        generator: of values that draw; their draws are fresh in every call.

    Attributes:
        exact: whether it is the denoiser of p*: an exact value at scale 1, nothing normalised,
            everywhere.
        calls, failed: rows guided since :meth:`reset`, and of these the failed ones (a tensor).

    Raises:
        UserError: tokens, a value without a gradient, an unknown option.

    The published DPS moves the *next state*, by :math:`-\zeta\,\nabla_{x_t}\rho^2/\rho` with the
    residual :math:`\rho=\|y-A(\hat x_0)\|`; its code by :math:`-\zeta\,\nabla\rho`, half of that,
    with ζ from 0.3 to 1. Both strengths depend on the number of steps. Here x_s moves by the
    weight of :math:`\hat x_0` in the reverse kernel, which makes the limit of many steps that of
    the formula above; ``residual`` keeps their dependence on the residual. ``unit`` with s = 0.02
    is FreeDoM's rule in its code, there with norms over the batch.
    """

    process: GaussianProcess

    def __init__(
        self,
        base: Denoiser,
        value: Value,
        scale: float = 1.0,
        *,
        normalise: str = "none",
        limit: float = 0.0,
        interval: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.process = gaussian_process(base, "guidance")
        if not value.differentiable:
            raise UserError(
                f"guidance needs the gradient of its value, and this {type(value).__name__} has "
                "none: the reward is a black box. Fit a values.Learned to scored samples, or use "
                "a method for black-box rewards, such as smc, svdd or best-of-n"
            )
        if normalise not in NORMALISATIONS:
            raise UserError(
                f"normalise must be one of {', '.join(NORMALISATIONS)}, got {normalise!r}"
            )
        if limit < 0:
            raise UserError(f"limit must not be negative, got {limit}")
        if interval is not None and not interval[0] < interval[1]:
            raise UserError(f"interval must be (lowest, highest) log-SNR, got {interval}")
        self.base, self.value, self.scale = base, value, float(scale)
        self.normalise, self.limit, self.generator = normalise, limit, generator
        self.interval = interval
        if hasattr(base, "shape"):
            self.shape = base.shape
        # a value of the clean estimate needs the base's graph; another would only waste memory
        self._shares = type(value).given is not Value.given
        self.reset()

    @property
    def exact(self) -> bool:
        """Whether this is the denoiser of p*, up to rounding."""
        plain = (
            self.scale == 1 and self.normalise == "none" and not self.limit and not self.interval
        )
        return plain and self.value.exact

    def reset(self) -> None:
        """Count anew."""
        self.calls, self.failed = 0, torch.zeros((), dtype=torch.long)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        before, move = self._guide(x_t, t, cond)
        return Prediction(before.x0 + move, x_t, before.alpha, before.sigma)

    def _guide(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> tuple[Prediction, Tensor]:
        """The base's prediction and the move of its clean estimate (B, ...)."""
        inside = self._inside(t)
        if inside is False:
            before = self.base(x_t, t, cond)
            return before, torch.zeros_like(x_t)
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x, t, cond = leaf(x_t, keep), usable(t), usable_rows(cond)
            with torch.set_grad_enabled(keep or self._shares):
                before = self.base(x, t, cond)
            value = self.value.given(before, x, t, cond, generator=self.generator)
            value = self._levelled(value)
            gradient = self._known(slope(value, x, keep), value)
        if not keep:
            before = Prediction(before.x0.detach(), x_t, before.alpha, before.sigma)
        move = self._move(gradient, before, t, cond)
        return before, move if inside is True else torch.where(expand_to(inside, move), move, 0.0)

    def _inside(self, t: Tensor) -> bool | Tensor:
        """Whether the value is looked at: of all rows alike, or (B,)."""
        if self.interval is None:
            return True
        low, high = self.interval
        level = self.process.schedule.levels(t)[2]  # a number where a sampler tabulated it
        if isinstance(level, float) or level.ndim == 0:
            return low <= float(level) <= high
        return (low <= level) & (level <= high)

    def strength(self, t: Tensor) -> float | Tensor:
        """The scale at t: a number, () or (B,)."""
        return self.scale

    def _levelled(self, value: Tensor) -> Tensor:
        if self.normalise != "residual":
            return value
        if bool((value > 0).any()):
            raise UserError(
                "normalise=residual is for least-squares rewards, which are never positive, and "
                "this value is: use none or unit"
            )
        # its slope at a residual of zero is infinite: the smallest number stands for zero
        return -(-value).clamp(min=torch.finfo(value.dtype).tiny).sqrt()

    def _known(self, gradient: Tensor, value: Tensor) -> Tensor:
        """The gradient, zero in rows where it or the value is no number; these are counted."""
        known = gradient.flatten(1).isfinite().all(1) & value.detach().isfinite()
        self.calls += len(known)
        self.failed = self.failed.to(known.device) + (~known).sum()
        return torch.where(expand_to(known, gradient), gradient, 0.0)

    def _move(
        self, gradient: Tensor, before: Prediction, t: Tensor, cond: Condition | None
    ) -> Tensor:
        """The move of the clean estimate for a gradient in x_t (B, ...)."""
        space = self.process.space
        gradient = space.project(gradient, cond)
        alpha, sigma = expand_to(before.alpha, gradient), expand_to(before.sigma, gradient)
        if self.normalise == "unit":
            noise = norm_of(space.project(before.noise, cond))
            ratio = noise / norm_of(gradient).clamp(min=1e-30)
            move = (sigma / alpha) * expand_to(ratio, gradient) * gradient
        else:
            move = (sigma**2 / alpha) * gradient
        strength = self.strength(t)
        move = move * (strength if isinstance(strength, float) else expand_to(strength, move))
        if not self.limit:
            return move
        size = norm_of(move) / space.dof(move, cond).clamp(min=1).sqrt()
        return move * expand_to((self.limit / size.clamp(min=1e-30)).clamp(max=1.0), move)

    def extra_repr(self) -> str:
        return f"value={type(self.value).__name__}, scale={self.scale:g}"


def gaussian_process(base: Denoiser, what: str) -> GaussianProcess:
    """The base's process, if gradients have a meaning there."""
    if not isinstance(base.process, GaussianProcess):
        raise UserError(f"{what} works on real vectors only, not on token sequences")
    return base.process


def slope(value: Tensor, x: Tensor, keep: bool = False) -> Tensor:
    """The gradient of values (B,) in x (B, ...), row by row; zero where they do not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(value.sum(), x, create_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def leaf(x: Tensor, keep: bool) -> Tensor:
    """Something to differentiate by; with ``keep``, x itself if it has a graph already."""
    if keep and x.requires_grad:
        return x
    return usable(x.detach()).requires_grad_(True)


def usable(x: Tensor) -> Tensor:
    """x, or a copy of it where it was made in inference mode and could not be differentiated."""
    return x.clone() if x.is_inference() else x


def usable_rows(cond: Condition | None) -> Condition | None:
    """The same for conditions."""
    return None if cond is None else {k: usable(v) for k, v in cond.items()}


def norm_of(x: Tensor) -> Tensor:
    """‖x‖ of every row of x (B, ...): (B,)."""
    return x.flatten(1).norm(dim=1)
