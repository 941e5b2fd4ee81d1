r"""GRPO on diffusion: advantages inside groups that share a condition, a ratio that is held in.

.. math:: A_i = \frac{r_i-\mathrm{mean}_{group}}{\mathrm{sd}_{group}},\qquad
          L = -\sum_t\big[\text{surrogate}(\rho_t, A)\big]
              + \beta\sum_t\mathrm{KL}\big(\pi_\theta\|\pi_{base}\big)

The ratio is held in by PPO's clip, or (``trust="kl"``) by leaving out transitions whose kernel has
already moved by more than ``kl_limit`` nats, which needs no noisy ratio: for Gaussian kernels the
divergence is :math:`\|\mu_{old}-\mu_\theta\|^2/2s^2`, exactly.

References: Flow-GRPO (Liu et al., 2025); DanceGRPO (Xue et al., 2025); the exact-divergence mask is
Flow-DPPO's (2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.advantages import group_advantages, replace_failed
from payoff.finetuning.base import Finetuner
from payoff.finetuning.rollouts import Transitions
from payoff.finetuning.run import Run
from payoff.kernels import Kernel


@dataclass
class GRPO(Finetuner):
    """Group-relative policy optimisation."""

    name: ClassVar[str] = "grpo"
    paths: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 240,
        "updates": 12,
        "batch_size": 1024,
        "learning_rate": 3e-4,
    }

    group: int = option(24, "samples that share a condition and are compared with each other")
    scale: str = option("group", "what advantages are divided by: group, round or none")
    trust: str = option("clip", "what holds the ratio in: clip, or kl (exact divergence mask)")
    clip: float = option(0.2, "how far the ratio of densities may move in a round")
    kl_limit: float = option(0.01, "trust=kl: how far a kernel may move in a round, nats")
    beta: float = option(0.0, "weight of the divergence from the base; 0: none")

    def begin(self, run: Run) -> None:
        if self.trust not in ("clip", "kl"):
            raise UserError(f"grpo: trust must be clip or kl, got {self.trust!r}")
        if self.scale not in ("group", "round", "none"):
            raise UserError(f"grpo: scale must be group, round or none, got {self.scale!r}")
        if self.group < 2 or run.per_round < self.group:
            raise UserError(
                f"grpo: a round of {run.per_round} samples holds no whole group of {self.group}: "
                "groups need at least 2 samples; raise per_round or lower group"
            )

    def ready(self, run: Run) -> bool:
        return run.remaining >= self.group

    def play(self, run: Run) -> None:
        path = run.rollout(run.affordable(self.group), self.group)
        advantage = group_advantages(replace_failed(path.rewards), self.group, scale=self.scale)
        old = run.old_policy() if self.trust == "kl" else None
        for batch in path.minibatches(run.batch_size, run.updates, generator=run.generator):
            kernel = run.kernel(batch)
            loss = self._surrogate(kernel, batch, advantage[batch.row], old, run)
            if self.beta:
                with torch.no_grad():
                    reference = run.kernel(batch, run.base)
                loss = loss + self.beta * kernel.kl(reference)
            run.step(loss)

    def _surrogate(
        self, kernel: Kernel, batch: Transitions, advantage: Tensor, old: Denoiser | None, run: Run
    ) -> Tensor:
        log_prob = kernel.log_prob(batch.x_s)
        if old is None:
            return losses.clipped_surrogate(log_prob, batch.log_prob, advantage, self.clip)
        with torch.no_grad():
            moved = run.kernel(batch, old).kl(kernel)
        return losses.kl_masked_surrogate(log_prob, batch.log_prob, advantage, moved, self.kl_limit)
