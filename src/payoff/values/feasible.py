r"""The value of a reward that not every sample has, and the chance to have one, in one network.

A sample without a score (no molecule, a simulation that did not converge) has no place in the
pay-off law, :math:`p^*(x)\propto p(x)\,1[\text{scored}]\,e^{r(x)/\tau}`. Its value splits,

.. math:: V_t(x_t) = \log P(\text{scored}\mid x_t)
                   + \log E[e^{r/\tau}\mid x_t, \text{scored}] .

The second term is learned from the scored samples alone, the first from all by logistic
regression, by the same network. Any number in place of the missing scores would mix the two: a
moderate one asks for too little, an extreme one makes the regression spend itself on failures.

Reference: the probability of feasibility beside the gain is that of Bayesian Optimization with
Inequality Constraints (Gardner, Kusner, Xu, Weinberger, Cunningham, 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from payoff.spaces import Condition
from payoff.targets import Target
from payoff.values.learned import Learned, summed


class Feasible(Learned):
    """A :class:`Learned` value that tells the chance of a score apart from the score.

    Args:
        net: any network of the library with two outputs or more. Every second one belongs to the
            chance: each half is summed and divided by √(its number).
        target, objective, sigma_data: as in :class:`Learned`.

    Shapes: x_t (B, ...), t () or (B,) -> (B,).

    Raises:
        ValueError: the network has a single output (when it is called), or the objective is not
            known.
    """

    log_odds: Tensor

    def __init__(
        self, net: nn.Module, target: Target, objective: str = "soft", sigma_data: float = 1.0
    ) -> None:
        super().__init__(net, target, objective, sigma_data)
        self.register_buffer("log_odds", torch.zeros(()))

    def parts(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor]:
        """The value of the scored (B,) in nats, and the log-odds (B,) of a score."""
        out = self._outputs(x_t, t, cond)
        if out.shape[1] < 2:
            raise ValueError("one output cannot tell a score and the chance to have one")
        return self.offset + summed(out[:, 0::2]), self.log_odds + summed(out[:, 1::2])

    def weighed(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        reward: float = 1.0,
        chance: float = 1.0,
    ) -> Tensor:
        """``reward`` times the value of the scored plus ``chance`` times log P(scored), (B,)."""
        scored, log_odds = self.parts(x_t, t, cond)
        return reward * scored + chance * functional.logsigmoid(log_odds)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value (B,) in nats, both terms."""
        return self.weighed(x_t, t, cond)

    def _losses(self, x_t: Tensor, score: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """The loss (B,) of both; a score r/τ (B,) is NaN where there is none."""
        reward, log_odds = self.parts(x_t, t, cond)
        scored = ~score.isnan()
        # both losses of a gap of zero are zero, and so are their slopes
        fit = self._error(torch.where(scored, score - reward, 0.0))
        missed = functional.binary_cross_entropy_with_logits(
            log_odds, scored.to(log_odds), reduction="none"
        )
        return fit + missed

    def _learned_from(self, score: Tensor) -> Tensor:
        return torch.ones_like(score, dtype=torch.bool)

    def _start_at(self, scores: Tensor, weights: Tensor) -> None:
        """The best constants, the chance kept off 0 and 1 by half a sample."""
        scored = ~scores.isnan()
        super()._start_at(scores[scored], weights[scored] / weights[scored].sum())
        least = 0.5 / len(scores)
        chance = float(weights[scored].sum())
        self.log_odds.copy_(torch.tensor(chance).clamp(least, 1 - least).logit())
