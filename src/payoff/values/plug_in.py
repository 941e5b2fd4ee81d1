r"""The value of the clean estimate, :math:`V_t(x_t)\approx r(\hat x_0(x_t))/\tau`.

One denoiser call, and what most guidance methods use. It replaces the mean of an exponential by the
exponential at the mean, so it is wrong wherever the posterior of :math:`x_0` is wide: at high
noise, and between modes, where :math:`\hat x_0` is a point that never occurs. More compute does
not help.

Reference: Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023).
"""

from __future__ import annotations

from torch import Tensor

from payoff.predictions import Prediction
from payoff.targets import Target
from payoff.values.base import Value


class PlugIn(Value):
    """r(x0_hat) / τ.

    Raises TypeError for tokens: the mean of a categorical law is not a sequence. Use
    :class:`~payoff.values.Posterior` there.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.differentiable = target.reward.differentiable

    def __call__(self, x_t, t, cond=None, *, generator=None) -> Tensor:
        prediction = self.target.denoiser(x_t, t, cond)
        return self.given(prediction, x_t, t, cond, generator=generator)

    def given(self, prediction, x_t, t, cond=None, *, generator=None) -> Tensor:
        """r(x0_hat) / τ of a prediction."""
        if not isinstance(prediction, Prediction):
            raise TypeError(
                "a plug-in value needs a clean estimate, which tokens do not have: use Posterior"
            )
        return self.target.reward(prediction.x0, cond) / self.target.temperature
