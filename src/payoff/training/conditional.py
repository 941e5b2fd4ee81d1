r"""Label drop-out: one network for :math:`p(x\mid y)` and :math:`p(x)`.

With several labels :math:`y_1 \ldots y_k` it is one network for :math:`p(x\mid y_S)`, S being any
subset of them.

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


def drop_columns(
    cond: Condition, rate: float, alone: float, *, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    r"""``cond`` with flags ``label_known`` (B, k) that tell a random subset S of each row's labels.

    The number of labels that are told is drawn first, then which ones, all sets of that number
    being as likely:

    .. math:: P(|S|=0) = d, \qquad
              P(|S|=m) = (1-d)\Big[a\,[m=1] + \tfrac{1-a}{k}\Big],\quad m = 1, \ldots, k .

    One label is what is mostly asked for, so it has a share of its own. Every other number is as
    frequent as the next: with independent coin tosses one would seldom see all or one of many.

    Args:
        cond: with ``label`` (B, k).
        rate: d, the share of rows that are told nothing.
        alone: a, the share of the others that are told exactly one for certain.
        generator: of the draws.
    """
    label = cond["label"]
    rows, columns = label.shape
    told, kind = torch.rand(2, rows, generator=generator, device=generator.device)
    count = torch.randint(1, columns + 1, (rows,), generator=generator, device=generator.device)
    count = torch.where(kind < alone, 1, count) * (told >= rate)
    place = torch.rand(rows, columns, generator=generator, device=generator.device)
    kept = place.argsort(1).argsort(1) < count.unsqueeze(1)
    return {**cond, "label_known": kept.to(label)}
