r"""Training-free guidance: one family, its members differ by switches.

.. math::
    \tilde f_t(x) &= \log\tfrac1n\sum_i e^{r(x+w_t\varepsilon_i)/\tau} \\
    \hat x_0 &\leftarrow \hat x_0
        + \rho_t\,\frac{\sigma_t^2}{\alpha_t}\,\nabla_{x_t}\tilde f_t(\hat x_0(x_t)) + \Delta_0 \\
    \Delta_0 &= \text{sum of } m \text{ moves } \mu_t\,v_t\,\nabla_x\tilde f_t(x)
        \text{ from } x=\hat x_0\text{ on},\qquad
    v_t = \frac{\sigma_t^2\sigma_d^2}{\alpha_t^2\sigma_d^2+\sigma_t^2}

ρ is a gradient through the network (DPS, LGD, FreeDoM, the forward part of UGD), μ one at the clean
estimate alone (MPGD, the backward part of UGD), w smooths the reward by n draws (LGD). Recurrence,
the fourth switch, belongs to the sampler: :class:`~payoff.guidance.Recurrent`.

Both strengths are in natural units. For data that are normal with deviation σ_d the posterior
covariance is :math:`v_tI=(\sigma^2/\alpha)\,\partial\hat x_0/\partial x_t`, so ρ = 1 and μ = 1 are
the same move there, and the right one where the reward is linear; together they would guide twice,
so the presets that have both take one half of each.

The published algorithm works on a chain with unitless strengths: the next state moves by
:math:`\Delta_t\sqrt{\bar\alpha_{t-1}/\bar\alpha_t}+\sqrt{\bar\alpha_{t-1}}\Delta_0`, the noise
estimate left as it was, so its total grows with the number of steps; μ multiplies the bare
gradient, and schedules are the chain's α_t (increase) and β_t (decrease), scaled to mean 1. Here
the clean estimate moves and the noise estimate with it, which has a limit of many steps, and
schedules are the shares of signal and of noise, α²/(α²+σ²) and σ²/(α²+σ²), scaled to mean 1 over t.
Every member is biased.

References: TFG: Unified Training-Free Guidance for Diffusion Models (Ye et al., 2024); Manifold
Preserving Guided Diffusion (He et al., 2023); Universal Guidance for Diffusion Models (Bansal et
al., 2023); FreeDoM (Yu et al., 2023); and those of :mod:`payoff.guidance.base`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance.base import Guided, leaf, slope, usable, usable_rows
from payoff.predictions import Prediction
from payoff.spaces import Condition, Scalar, expand_to
from payoff.targets import Target
from payoff.values.posterior import Posterior

SCHEDULES = ("constant", "increase", "decrease")
SMOOTHINGS = ("posterior", "decrease", "constant")

PRESETS: dict[str, dict[str, Any]] = {
    "dps": {"rho": 1.0},
    "lgd": {"rho": 1.0, "draws": 4, "width": 1.0, "smoothing": "posterior"},
    "mpgd": {"rho": 0.0, "mu": 1.0},
    "universal": {"rho": 0.5, "mu": 0.5},
    "freedom": {"rho": 1.0},
    "tfg": {
        **{"rho": 0.5, "mu": 0.5, "draws": 4, "width": 0.01},
        **{"rho_schedule": "increase", "mu_schedule": "increase", "smoothing": "decrease"},
    },
}


class Smoothed(Posterior):
    r"""A reward averaged over a Gaussian of width :math:`w_t` around the clean estimate.

    ``posterior``: :math:`w\sqrt{v_t}`; ``decrease``: :math:`w\,\sigma/\sqrt{\alpha^2+\sigma^2}`;
    ``constant``: w.
    """

    def __init__(
        self,
        target: Target,
        draws: int = 1,
        width: float = 0.0,
        smoothing: str = "posterior",
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__(target, draws, sigma_data)
        if smoothing not in SMOOTHINGS:
            raise UserError(f"smoothing must be one of {', '.join(SMOOTHINGS)}, got {smoothing!r}")
        if width < 0:
            raise UserError(f"width must not be negative, got {width}")
        self.scale, self.smoothing = width, smoothing

    def width(self, t: Tensor) -> Scalar:
        """The deviation of the draws at t."""
        if self.scale == 0 or self.smoothing == "constant":
            return self.scale
        if self.smoothing == "posterior":
            return self.scale * super().width(t)
        alpha, sigma = self.target.denoiser.process.schedule(t)  # type: ignore[attr-defined]
        return self.scale * sigma * torch.rsqrt(alpha**2 + sigma**2)


class TrainingFree(Guided):
    """The family; :data:`PRESETS` names its members.

    A call takes ``draws`` reward calls for ρ and ``draws * iterations`` for μ, where these are not
    zero; one forward pass of the base and, for ρ, one backward pass. Without smoothing one call
    does what ``draws`` would.

    Args:
        base: what is guided.
        target: reward and temperature, and the base's process.
        rho: strength of the gradient through the network.
        mu: strength of a move at the clean estimate.
        iterations: m, moves at the clean estimate.
        draws: n, points the reward is averaged over.
        width: their deviation, in units of ``smoothing``; 0 for the estimate itself.
        smoothing: ``posterior``, ``decrease`` or ``constant``.
        rho_schedule, mu_schedule: ``constant``, ``increase`` (towards the data) or ``decrease``.
        sigma_data: σ_d, standard deviation of the data per coordinate.
        normalise, limit, generator: as for :class:`~payoff.guidance.Guided`; of ρ's move.

    Raises:
        UserError: tokens, a reward without a gradient, an impossible option.
    """

    def __init__(
        self,
        base: Denoiser,
        target: Target,
        *,
        rho: float = 1.0,
        mu: float = 0.0,
        iterations: int = 1,
        draws: int = 1,
        width: float = 0.0,
        smoothing: str = "posterior",
        rho_schedule: str = "constant",
        mu_schedule: str = "constant",
        sigma_data: float = 1.0,
        normalise: str = "none",
        limit: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        smooth = Smoothed(target, draws if width else 1, width, smoothing, sigma_data)
        super().__init__(base, smooth, rho, normalise=normalise, limit=limit, generator=generator)
        for name, schedule in (("rho_schedule", rho_schedule), ("mu_schedule", mu_schedule)):
            if schedule not in SCHEDULES:
                raise UserError(f"{name} must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        if iterations < 0 or rho < 0 or mu < 0 or not sigma_data > 0:
            raise UserError(
                "rho, mu and iterations must not be negative and sigma_data must be positive: got "
                f"{rho}, {mu}, {iterations} and {sigma_data}"
            )
        self.smooth, self.mu, self.iterations = smooth, mu, iterations if mu else 0
        self.sigma_data = sigma_data
        self.rho_schedule, self.mu_schedule = rho_schedule, mu_schedule
        self._means = {name: self._mean(name) for name in SCHEDULES}

    @classmethod
    def preset(cls, name: str, base: Denoiser, target: Target, **options: Any) -> TrainingFree:
        """A member by name, with options changed."""
        if name not in PRESETS:
            raise UserError(f"there is no preset {name!r}: one of {', '.join(PRESETS)}")
        return cls(base, target, **{**PRESETS[name], **options})

    @property
    def reward_calls(self) -> int:
        """Reward calls a row and call."""
        return self.smooth.draws * ((1 if self.scale else 0) + self.iterations)

    def strength(self, t: Tensor) -> float | Tensor:
        """ρ_t."""
        return self._at(self.scale, self.rho_schedule, t)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        if self.scale:
            before, move = self._guide(x_t, t, cond)
            x0 = before.x0 + move
        else:
            before = self.base(x_t, t, cond)
            x0 = before.x0
        if self.iterations:
            # from the base's estimate on, not from the one that ρ has moved
            x0 = x0 + self._ascent(before.x0, usable(t), usable_rows(cond))
        return Prediction(x0, x_t, before.alpha, before.sigma)

    def _ascent(self, x0: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """Δ_0: the sum of the moves from x0 (B, ...) on."""
        keep = torch.is_grad_enabled()
        space = self.process.space
        with torch.inference_mode(False), torch.enable_grad():
            start = x = leaf(x0, keep)
            alpha, sigma = self.process.schedule(t)
            d = self.sigma_data
            gain = (sigma * d) ** 2 / ((alpha * d) ** 2 + sigma**2)
            gain = expand_to(gain * self._at(self.mu, self.mu_schedule, t), x)
            for _ in range(self.iterations):
                if not keep:
                    x = leaf(x, keep)
                value = self.smooth.around(x, t, cond, generator=self.generator)
                gradient = self._known(slope(value, x, keep), value)
                x = x + gain * space.project(gradient, cond)
            moved = x - start
        return moved if keep else moved.detach()

    def _at(self, size: float, schedule: str, t: Tensor) -> float | Tensor:
        if schedule == "constant":
            return size
        return size / self._means[schedule] * self._share(schedule, t)

    def _share(self, schedule: str, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        part = alpha if schedule == "increase" else sigma
        return part**2 / (alpha**2 + sigma**2)

    def _mean(self, schedule: str) -> float:
        """The mean of a schedule over t."""
        if schedule == "constant":
            return 1.0
        middle = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        return float(self._share(schedule, middle).mean())

    def extra_repr(self) -> str:
        return f"rho={self.scale:g}, mu={self.mu:g}, iterations={self.iterations}"
