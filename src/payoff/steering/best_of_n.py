r"""Best-of-n: n draws of the base, one of which is kept.

.. math::
    \text{soft:}\quad P(i) = \frac{e^{r(x_i)/\tau}}{\sum_j e^{r(x_j)/\tau}},\qquad
    \text{arg-max:}\quad i = \arg\max_j r(x_j),\quad
    \mathrm{KL}(\text{its law}\,\|\,p) \le \log n - \tfrac{n-1}n .

The soft choice is sampling by importance resampling: its law tends to p* as n grows, with an error
of order :math:`\mathrm{Var}(w)/n` for :math:`w=e^{r/\tau}/Z`. The arg-max does not know τ and has
no limit but the reward's maximum; with a continuous reward its KL is the bound itself.

References: The Calculation of Posterior Distributions by Data Augmentation: Comment (Rubin, 1987)
for the soft choice; Learning to Summarize with Human Feedback (Stiennon et al., 2020), and
Theoretical Guarantees on the Best-of-n Alignment Policy (Beirami et al., 2024), for the divergence.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.steering.base import CALLER, Cost, Degenerate
from payoff.steering.search import CHOICES, Search, gumbel, indexed, known_or_nothing

BLOCK = 1024  # candidates of one sample that are held at once


@dataclass(eq=False)
class BestOfN(Search):
    """Draws n candidates a sample and keeps one. ``exact`` holds for the soft choice only.

    ``summary``: ``ess``, what a sample's n candidates were worth on average; ``log_z`` with its
    error, an unbiased estimate of Z before the logarithm; for the arg-max ``kl_bound``, in nats.
    """

    name: ClassVar[str] = "best-of-n"
    exact: ClassVar[bool] = True
    size: ClassVar[str] = "candidates"

    candidates: int = option(64, "draws of the base a sample is chosen from")
    choice: str = option("soft", "soft (in proportion to exp(r/τ)) or argmax")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice != "soft":
            self.exact = False  # type: ignore[misc]

    @property
    def rows(self) -> int:
        """Candidates held at once for one sample."""
        return min(self.candidates, BLOCK)

    def cost(self) -> Cost:
        return Cost(self.candidates, self.candidates * self.steps)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        best, key = None, None
        total = twice = torch.tensor(-math.inf)
        for first in range(0, self.candidates, BLOCK):
            k = min(BLOCK, self.candidates - first)
            part = indexed(cond, torch.arange(n).repeat_interleave(k))
            x = self.start(n * k, part, generator=generator)
            x = self.advance(x, self.time_grid(x), part, generator)
            logits = known_or_nothing(self.score(x, part)).view(n, k).double()
            soft = self.choice == "soft"
            keys = logits + gumbel(logits, generator=generator) if soft else logits
            top, where = keys.max(1)
            found = x.view(n, k, *self.shape)[torch.arange(n, device=x.device), where]
            if best is None or key is None:
                best, key = found, top
            else:
                better = top > key
                best = torch.where(better.view(n, *(1,) * len(self.shape)), found, best)
                key = torch.where(better, top, key)
            total = torch.logaddexp(total.to(logits), logits.logsumexp(1))
            twice = torch.logaddexp(twice.to(logits), (2 * logits).logsumexp(1))
        assert best is not None
        self.note_failures(total.isneginf(), {"x": best})
        self.note(ess=(2 * total - twice).exp().nan_to_num(0.0).sum())
        self.log_z.append(total - math.log(self.candidates))
        return best

    def report(self) -> dict[str, Any]:
        found = super().report()
        if self.choice == "argmax":
            found["kl_bound"] = math.log(self.candidates) - 1 + 1 / self.candidates
        elif found["ess"] < min(2.0, 0.5 * self.candidates):
            warnings.warn(
                f"best-of-n: {self.candidates} candidates are worth {found['ess']:.2g} on average "
                "(effective sample size), so that the soft choice is hardly more than the arg-max "
                "and the samples are not yet those of the target: raise candidates or the "
                "temperature",
                Degenerate,
                stacklevel=CALLER + 1,
            )
        return found

    def _check(self) -> None:
        super()._check()
        if self.choice not in CHOICES:
            raise UserError(f"best-of-n: choice is soft or argmax, not {self.choice!r}")
