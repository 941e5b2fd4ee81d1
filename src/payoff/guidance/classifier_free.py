r"""Classifier-free guidance.

.. math:: \hat x_0 = \hat x_0(x_t, y) + w\,[\hat x_0(x_t, y) - \hat x_0(x_t, \varnothing)] .

It aims at :math:`p(x_t\mid y)^{1+w}\,p(x_t)^{-w}` at every noise level separately. These laws are
not the marginals of any one diffusion, so for w > 0 the samples follow **no** stated law: the
method is biased by construction, and RCGDM's theory does not cover it. For w = 0 it is the
conditional model.

Reference: Classifier-Free Diffusion Guidance (Ho, Salimans, 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.predictions import Prediction
from payoff.spaces import Condition


class ClassifierFree(Denoiser):
    """Extrapolate from the unconditional to the conditional prediction.

    Args:
        base: trained with label drop-out; its condition carries ``label``.
        weight: w ≥ 0; 0 costs one evaluation a call, anything else two, made as one batch.
    """

    exact = False

    def __init__(self, base: Denoiser, weight: float) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"the guidance weight must not be negative, got {weight}")
        self.base, self.weight = base, weight
        self.process = base.process

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        if cond is None or "label" not in cond:
            raise ValueError('classifier-free guidance needs cond["label"]')
        if self.weight == 0:
            return self.base(x_t, t, cond)
        known = cond.get("label_known", torch.ones_like(cond["label"][:, 0]))
        both = {k: torch.cat([v, v]) for k, v in cond.items()}
        both["label_known"] = torch.cat([known, torch.zeros_like(known)])
        times = torch.cat([t, t]) if t.ndim else t
        x0 = self.base(torch.cat([x_t, x_t]), times, both).x0
        with_label, without = x0.chunk(2)
        alpha, sigma = self.base.process.schedule(t)  # type: ignore[attr-defined]
        return Prediction(with_label + self.weight * (with_label - without), x_t, alpha, sigma)
