r"""Label drop-out: one network for :math:`p(x\mid y)` and :math:`p(x)`.

Reference: Classifier-Free Diffusion Guidance (Ho, Salimans, 2022).
"""

from __future__ import annotations

import torch

from payoff.spaces import Condition


def drop_labels(
    cond: Condition, rate: float, *, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """``cond`` with each row's label declared unknown with probability ``rate``.

    The null label is the flag ``label_known`` = 0 and not a value of the label: with standardised
    labels a null of 0 would mean "average", and guidance would push away from the average instead
    of away from "anything".
    """
    label = cond["label"]
    u = torch.rand(label.shape[0], generator=generator, device=generator.device).to(label.device)
    kept = (u >= rate).to(label.dtype)
    return {**cond, "label_known": cond["label_known"] * kept if "label_known" in cond else kept}
