r"""What is believed about the clean sample behind a noisy one, in any of its spellings.

For :math:`x_t = \alpha x_0 + \sigma\varepsilon`

======== ============================= ======================================================
name     meaning, as E[· | x_t]        :math:`\hat x_0` from it
======== ============================= ======================================================
x0       x0                            itself
noise    ε                             :math:`(x_t-\sigma\hat\varepsilon)/\alpha`
velocity αε − σ x0                     :math:`(\alpha x_t-\sigma\hat v)/(\alpha^2+\sigma^2)`
flow     ε − x0                        :math:`(x_t-\sigma\hat u)/(\alpha+\sigma)`
score    :math:`\nabla\log p_t(x_t)`   :math:`(x_t+\sigma^2\hat s)/\alpha`
======== ============================= ======================================================

They all carry the same information, so a :class:`Prediction` stores the clean estimate and
derives the rest. For tokens the prediction is a categorical law per position
(:class:`TokenPrediction`).

References: Tweedie's Formula and Selection Bias (Efron, 2011) links score and mean; the velocity is
from Progressive Distillation (Salimans, Ho, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from payoff.spaces import Scalar, expand_to

SPELLINGS = ("x0", "noise", "velocity", "flow", "score")


@dataclass(frozen=True)
class Prediction:
    """The clean estimate at one noise level and its other spellings.

    Attributes:
        x0: the clean estimate (B, ...).
        x_t: the noisy sample it was made from (B, ...).
        alpha, sigma: signal and noise scale: a number, () or (B,).
    """

    x0: Tensor
    x_t: Tensor
    alpha: Scalar
    sigma: Scalar

    @classmethod
    def of(
        cls, spelling: str, value: Tensor, x_t: Tensor, alpha: Scalar, sigma: Scalar
    ) -> Prediction:
        """Make a prediction from any spelling of :data:`SPELLINGS`.

        >>> x_t, alpha, sigma = torch.ones(2, 3), torch.tensor(0.6), torch.tensor(0.8)
        >>> p = Prediction.of("noise", torch.zeros(2, 3), x_t, alpha, sigma)
        >>> bool(torch.allclose(p.x0, x_t / 0.6))
        True
        """
        if value.shape != x_t.shape:
            raise ValueError(
                f"the network returned shape {tuple(value.shape)} for x_t of shape "
                f"{tuple(x_t.shape)}: they must be equal"
            )
        a, s = expand_to(alpha, x_t), expand_to(sigma, x_t)
        if spelling == "x0":
            x0 = value
        elif spelling == "noise":
            x0 = (x_t - s * value) / a
        elif spelling == "velocity":
            x0 = (a * x_t - s * value) / (a**2 + s**2)
        elif spelling == "flow":
            x0 = (x_t - s * value) / (a + s)
        elif spelling == "score":
            x0 = (x_t + s**2 * value) / a
        else:
            raise ValueError(
                f"unknown spelling {spelling!r}: expected one of {', '.join(SPELLINGS)}"
            )
        return cls(x0, x_t, alpha, sigma)

    @property
    def noise(self) -> Tensor:
        r""":math:`\hat\varepsilon = (x_t - \alpha\hat x_0)/\sigma`."""
        return (self.x_t - expand_to(self.alpha, self.x_t) * self.x0) / expand_to(
            self.sigma, self.x_t
        )

    @property
    def score(self) -> Tensor:
        r""":math:`\hat s = -\hat\varepsilon/\sigma`."""
        return -self.noise / expand_to(self.sigma, self.x_t)

    @property
    def velocity(self) -> Tensor:
        r""":math:`\hat v = \alpha\hat\varepsilon - \sigma\hat x_0`."""
        a, s = expand_to(self.alpha, self.x_t), expand_to(self.sigma, self.x_t)
        return a * self.noise - s * self.x0

    @property
    def flow(self) -> Tensor:
        r""":math:`\hat u = \hat\varepsilon - \hat x_0`."""
        return self.noise - self.x0


@dataclass(frozen=True)
class TokenPrediction:
    """A categorical law over the clean token at every position.

    Attributes:
        log_probs: (B, L, V), normalised. At positions that are already decided, a point mass.
        x_t: the partly masked tokens (B, L) it was made from.
    """

    log_probs: Tensor
    x_t: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, x_t: Tensor, mask_token: int) -> TokenPrediction:
        """Normalise logits (B, L, V), and keep the tokens that are already decided."""
        if logits.shape[:2] != x_t.shape:
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}, expected (B, L, V) with (B, L) = "
                f"{tuple(x_t.shape)}"
            )
        log_probs = logits.log_softmax(-1)
        known = torch.full_like(log_probs, float("-inf"))
        known.scatter_(-1, x_t.clamp(max=logits.shape[-1] - 1).unsqueeze(-1), 0.0)
        decided = (x_t != mask_token).unsqueeze(-1)
        return cls(torch.where(decided, known, log_probs), x_t)
