r"""DDPO: the reverse process as a policy, its reward at the end, PPO on every transition.

.. math:: L = -\sum_t \min\big(\rho_t A,\ \mathrm{clip}(\rho_t, 1\pm\epsilon)A\big),\qquad
          \rho_t = \frac{\pi_\theta(x_s\mid x_t)}{\pi_{old}(x_s\mid x_t)}

A is the standardised reward of the path. Nothing holds the model to the base: the fixed point is
the reward's maximum, and when to stop is a matter of the budget and of ``max_kl``.

Reference: Training Diffusion Models with Reinforcement Learning (Black, Janner, Du, Kostrikov,
Levine, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.advantages import replace_failed, standardise
from payoff.finetuning.base import Finetuner
from payoff.finetuning.run import Run


@dataclass
class DDPO(Finetuner):
    """Denoising diffusion policy optimisation with a clipped ratio."""

    name: ClassVar[str] = "ddpo"
    paths: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 250,
        "updates": 12,
        "batch_size": 1024,
        "learning_rate": 3e-4,
    }

    clip: float = option(0.2, "how far the ratio of densities may move in a round")
    advantage_clip: float = option(5.0, "largest advantage, in standard deviations; 0: no limit")

    def begin(self, run: Run) -> None:
        if self.clip <= 0:
            raise UserError(f"{self.name}: clip must be above 0, got {self.clip}")

    def play(self, run: Run) -> None:
        path = run.rollout(run.affordable())
        advantage = standardise(replace_failed(path.rewards), self.advantage_clip)
        for batch in path.minibatches(run.batch_size, run.updates, generator=run.generator):
            log_prob = run.kernel(batch).log_prob(batch.x_s)
            run.step(
                losses.clipped_surrogate(log_prob, batch.log_prob, advantage[batch.row], self.clip)
            )
