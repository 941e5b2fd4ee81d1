r"""DiffusionNFT: learn from good samples and against bad ones, in the forward process.

With a chance :math:`\omega=\mathrm{clip}(A/2A_{max}+\tfrac12,0,1)` that a sample is a good one and
a lagging copy of the model that draws the samples,

.. math:: \hat x^+ = \beta\hat x_\theta + (1-\beta)\hat x_{old},\quad
          \hat x^- = (1+\beta)\hat x_{old} - \beta\hat x_\theta,\quad
          L = \tfrac1\beta\big[\omega\|\hat x^+-x_0\|^2 + (1-\omega)\|\hat x^--x_0\|^2\big]
              + \lambda\|\hat x_\theta-\hat x_{base}\|^2 .

Any sampler will do, no density is needed. Each round improves on the one before; the fixed point is
no tilt of the base at a temperature that could be chosen, so the method does not claim p*.

Reference: DiffusionNFT: Online Diffusion Reinforcement with Forward Process (Zheng et al., 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.advantages import optimality, replace_failed, standardise
from payoff.finetuning.base import Finetuner
from payoff.finetuning.rollouts import Samples, shuffled
from payoff.finetuning.run import Run


@dataclass
class NFT(Finetuner):
    """Negative-aware fine-tuning."""

    name: ClassVar[str] = "nft"
    defaults: ClassVar = {
        "per_round": 250,
        "updates": 12,
        "batch_size": 512,
        "learning_rate": 3e-4,
    }

    beta: float = option(1.0, "how far the two estimates lean on the new model")
    weight_base: float = option(1e-4, "weight of the distance from the base")
    lag: float = option(0.9, "decay of the copy that draws the samples")
    advantage_clip: float = option(5.0, "advantage, in sd, at which a sample counts as surely good")
    eta: float = option(1.0, "noise of the sampler: 1 ancestral, 0 deterministic")

    def begin(self, run: Run) -> None:
        if self.beta <= 0 or self.advantage_clip <= 0:
            raise UserError("nft: beta and advantage_clip must be above 0")
        if not 0 <= self.lag < 1 or not 0 <= self.eta <= 1:
            raise UserError("nft: lag must lie in [0, 1) and eta in [0, 1]")

    def play(self, run: Run) -> None:
        old = run.old_policy(refresh=False)
        batch = run.samples(run.affordable(), old, self.eta)
        advantage = standardise(replace_failed(batch.rewards), self.advantage_clip)
        chance = optimality(advantage, self.advantage_clip)
        for index in shuffled(len(batch) * 4, run.batch_size, run.updates, generator=run.generator):
            run.step(self._loss(run, batch, chance, (index % len(batch)).to(batch.x0.device)))
        with torch.no_grad():
            for slow, fast in zip(old.parameters(), run.policy.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.lag)

    def _loss(self, run: Run, batch: Samples, chance: Tensor, index: Tensor) -> Tensor:
        process, (x0, cond) = run.policy.process, batch.rows(index)
        t, x_t = run.noised(x0, cond)
        with torch.no_grad():
            old, base = run.old_policy(refresh=False)(x_t, t, cond).x0, run.base(x_t, t, cond).x0
        new = run.policy(x_t, t, cond)
        towards, away = losses.mixed_estimates(new.x0, old, self.beta)
        gain = losses.edm_weight(new, run.sigma_data)
        space = process.space  # type: ignore[attr-defined]

        def error(estimate: Tensor, goal: Tensor) -> Tensor:
            square = space.project(estimate - goal, cond).flatten(1).square().sum(1)
            return gain * square / space.dof(x0, cond)

        good = chance[index] * error(towards, x0) + (1 - chance[index]) * error(away, x0)
        return good / self.beta + self.weight_base * error(new.x0, base)
