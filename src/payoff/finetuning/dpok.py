r"""DPOK: policy gradient with the divergence from the base in the objective.

.. math:: \max_\theta\; E_{\pi_\theta}\Big[\frac{r(x_0)}\tau
          - \sum_t \mathrm{KL}\big(\pi_\theta(\cdot|x_t)\,\|\,\pi_{base}(\cdot|x_t)\big)\Big]

whose maximum over all kernels is the reversal of p*. Its gradient has two parts: the divergence at
the states that are visited, and the effect of an action on all that comes after it,

.. math:: \nabla = E\sum_t\Big[\nabla\log\pi_\theta(x_s|x_t)\,
          \Big(\frac{r}\tau - \sum_{s'<s}\mathrm{KL}_{s'} - b_t\Big)
          - \nabla\,\mathrm{KL}_t(\theta)\Big] .

The paper leaves the later divergences out of the return (``to_go=False``); the fixed point is then
not p*, by how much is measured in the page of the method.

Reference: DPOK: Reinforcement Learning for Fine-tuning Text-to-Image Diffusion Models (Fan et al.,
2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.advantages import replace_failed
from payoff.finetuning.base import Finetuner
from payoff.finetuning.rollouts import Rollout
from payoff.finetuning.run import Run


@dataclass
class DPOK(Finetuner):
    """Policy gradient on r/τ minus the divergence from the base."""

    name: ClassVar[str] = "dpok"
    paths: ClassVar[bool] = True
    claims_target: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 250,
        "updates": 12,
        "batch_size": 1024,
        "learning_rate": 3e-4,
    }

    clip: float = option(0.2, "how far the ratio of densities may move in a round")
    to_go: bool = option(True, "count later divergences in the return; false: as in the paper")

    def begin(self, run: Run) -> None:
        if self.clip <= 0:
            raise UserError(f"{self.name}: clip must be above 0, got {self.clip}")

    def play(self, run: Run) -> None:
        path = run.rollout(run.affordable())
        advantage = kl_advantages(run, path, self.to_go)
        # one scale for the whole loss: it changes no fixed point, and makes learning rates of
        # different temperatures comparable
        scale = advantage.square().mean().sqrt().clamp(min=1.0)
        for batch in path.minibatches(run.batch_size, run.updates, generator=run.generator):
            kernel = run.kernel(batch)
            with torch.no_grad():
                reference = run.kernel(batch, run.base)
            gain = losses.clipped_surrogate(
                kernel.log_prob(batch.x_s),
                batch.log_prob,
                advantage[batch.step, batch.row] / scale,
                self.clip,
            )
            run.step(gain + kernel.kl(reference) / scale)


def kl_advantages(run: Run, path: Rollout, to_go: bool = True) -> Tensor:
    """r/τ less the divergences still to come, less the mean over paths: (N, n), nats.

    ``to_go=False`` leaves the divergences out.
    """
    returns = replace_failed(path.rewards) / run.target.temperature
    returns = returns.expand(path.steps, -1)
    if to_go:
        kl = divergences(run, path)
        returns = returns - (kl.sum(0) - kl.cumsum(0))
    return returns - returns.mean(1, keepdim=True)


@torch.no_grad()
def divergences(run: Run, path: Rollout) -> Tensor:
    """KL of the policy's kernel from the base's at every state of the paths: (N, n), nats."""
    rows = torch.arange(len(path), device=path.x0.device)
    parts = []
    for step in range(path.steps):
        batch = path.at(torch.full_like(rows, step), rows)
        parts.append(run.kernel(batch).kl(run.kernel(batch, run.base)))
    return torch.stack(parts)
