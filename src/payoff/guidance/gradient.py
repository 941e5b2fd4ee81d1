r"""Gradient guidance that keeps the data's subspace: a linear reward, asked for as a label.

At a point z the reward is taken for linear, :math:`r(x)\approx g^\top x` with
:math:`g=\nabla r(z)`, and a value :math:`y=g^\top z+\delta` is asked for, as if
:math:`y = g^\top x_0+\nu\xi` had been seen. The look-ahead guide is the score of that label,

.. math::
    G(x_t) = \frac{(y-g^\top\hat x_0)\,\nabla_{x_t}(g^\top\hat x_0)}{\nu^2+s_t^2},\qquad
    s_t^2 = \frac{\sigma^2}{\alpha}\,g^\top\nabla_{x_t}(g^\top\hat x_0)\ \text{(gaussian)}\quad
    \text{or}\quad \frac{\sigma^2}{\alpha^2}\,\|\nabla_{x_t}(g^\top\hat x_0)\|^2
    \ \text{(published)}

that is :math:`-\beta_t\nabla_{x_t}(y-g^\top\hat x_0)^2` with the paper's β. For data on a subspace
the Jacobian of :math:`\hat x_0` maps into it, so G lies in it whatever g is; the naive guide
:math:`\propto(y-g^\top\hat x_0)\,g` leaves it. :math:`s_t^2` is the posterior variance of
:math:`g^\top x_0`: the first form is right for every Gaussian base, so that the guided law is then
exactly :math:`p(x_0\mid y)`; the second for isotropic ones with α² + σ² = 1.

Algorithm 1 repeats: sample, linearise at the mean of the samples, ask for more. For a Gaussian base
with mean m and covariance Σ the mean of the samples is
:math:`m+\Sigma g\,(y-g^\top m)/(g^\top\Sigma g+\nu^2)`, and a fixed point z has

.. math:: \nabla r(z) = \lambda\,\Sigma^{-1}(z-m),\qquad \lambda=\nu^2/\delta :

the maximum of :math:`r(x)-\tfrac\lambda2\|x-m\|^2_{\Sigma^{-1}}`. With :math:`\delta=\nu^2/\tau`
that is the mode of p*. The spread of the samples is not that of p*: along g it is that of a label
with noise ν.

Reference: Gradient Guidance for Diffusion Models: An Optimization Perspective (Guo, Yuan, Yang,
Chen, Wang, 2024). The gaussian variance and the value of δ are derived here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance.base import gaussian_process, leaf, slope, usable, usable_rows
from payoff.predictions import Prediction
from payoff.processes import GaussianProcess
from payoff.spaces import Condition, Space, expand_to

VARIANCES = ("gaussian", "published")
FORMS = ("look-ahead", "naive")


class LookAhead(Denoiser):
    r"""A denoiser guided towards :math:`g^\top x_0 = y`, each row by its own g and y.

    Reads ``cond["direction"]`` (B, ...), g in the shape of x, and ``cond["aim"]`` (B,), y; the base
    does not see them. A direction of zeros leaves the row unguided. One forward and one backward
    pass of the base a call (``naive``: no backward pass), and no reward call.

    Args:
        base: what is guided.
        noise: ν > 0, of the label, in the reward's units.
        form: ``look-ahead``, or ``naive``, which leaves the data's subspace.
        variance: ``gaussian`` or ``published``.

    Raises:
        UserError: tokens, or an impossible option.
    """

    process: GaussianProcess
    exact = False

    def __init__(
        self,
        base: Denoiser,
        noise: float,
        form: str = "look-ahead",
        variance: str = "gaussian",
    ) -> None:
        super().__init__()
        self.process = gaussian_process(base, "gradient guidance")
        if not noise > 0:
            raise UserError(f"the label's noise must be positive, got {noise}")
        if form not in FORMS or variance not in VARIANCES:
            raise UserError(
                f"form must be one of {', '.join(FORMS)} and variance one of "
                f"{', '.join(VARIANCES)}: got {form!r} and {variance!r}"
            )
        self.base, self.noise, self.form, self.variance = base, noise, form, variance
        if hasattr(base, "shape"):
            self.shape = base.shape

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        if cond is None or "direction" not in cond or "aim" not in cond:
            raise ValueError('gradient guidance needs cond["direction"] and cond["aim"]')
        own: Condition | None
        own = {k: v for k, v in cond.items() if k not in ("direction", "aim")} or None
        keep, ahead = torch.is_grad_enabled(), self.form == "look-ahead"
        with torch.inference_mode(False), torch.enable_grad():
            x, t, own = leaf(x_t, keep), usable(t), usable_rows(own)
            g, y = usable(cond["direction"]).to(x), usable(cond["aim"]).to(x)
            with torch.set_grad_enabled(keep or ahead):
                before = self.base(x, t, own)
                seen = (g * before.x0).flatten(1).sum(1)
                ascent = slope(seen, x, keep) if ahead else g
        x0, seen = (before.x0, seen) if keep else (before.x0.detach(), seen.detach())
        gain = self._gain(g, ascent, before) * (y - seen)
        move = self.process.space.project(expand_to(gain, x0) * ascent, own)
        return Prediction(x0 + move, x_t, before.alpha, before.sigma)

    def _gain(self, g: Tensor, ascent: Tensor, before: Prediction) -> Tensor:
        """What the residual (B,) times the ascent is multiplied by to move the clean estimate."""
        alpha, h = before.alpha, before.sigma**2
        if self.form == "naive":
            # the score's factor α / (ν² + h‖g‖²), and h / α from score to clean estimate
            return h / (self.noise**2 + h * g.flatten(1).square().sum(1))
        if self.variance == "gaussian":
            spread = (h / alpha) * (g * ascent).flatten(1).sum(1).clamp(min=0)
        else:
            spread = h / alpha**2 * ascent.flatten(1).square().sum(1)
        return (h / alpha) / (self.noise**2 + spread)


def asked(
    reward: Callable[[Tensor, Condition | None], Tensor],
    points: Tensor,
    rise: float,
    space: Space,
    cond: Condition | None = None,
) -> tuple[Condition, Tensor]:
    """(condition for :class:`LookAhead`, rewards (m,)) at points z (m, ...); y = g·z + ``rise``.

    One reward call with its gradient a point. Where it fails the direction is zero and the reward
    NaN: the row is drawn unguided.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z, cond = leaf(points, False), usable_rows(cond)
        rewards = reward(z, cond)
        g = space.project(slope(rewards, z), cond)
    rewards = rewards.detach()
    known = g.flatten(1).isfinite().all(1) & rewards.isfinite()
    g = torch.where(expand_to(known, g), g, 0.0)
    aim = (g * z.detach()).flatten(1).sum(1) + rise
    return {**(cond or {}), "direction": g, "aim": aim}, torch.where(known, rewards, torch.nan)
