r"""AWM: the denoising loss of a sample, weighted by its advantage.

.. math:: L = A\,w(t)\,\|x_0-\hat x_\theta(x_t)\|^2,\qquad x_0\sim\pi_\theta

The denoising loss is an ELBO, so this is a policy gradient whose log-density is that of the clean
sample rather than of a noisy path, with far less variance. With the divergence from the base in
the reward (``kl="reward"``),

.. math:: A = \frac{r(x_0)}\tau - \big[\log\pi_\theta(x_0)-\log p(x_0)\big] - \text{mean},

both log-densities by their ELBOs at the same noise, A is constant exactly when the model is p*,
which is therefore the fixed point. Advantages have mean zero, so their loss alone is linear in the
clean estimate and has no minimum: a distance from the model that drew the samples gives it one, at
a full step of :math:`p_{old}e^{A}` (the paper's clip or its pull to a running average do the same).
The paper pulls the model to the base in the space of
velocities instead (``kl="velocity"``), and standardises the rewards: its fixed point differs.

The weight w(t) is the share of noise in x_t's variance, :math:`\sigma^2/(\alpha^2\sigma_d^2+
\sigma^2)`, times that of the library's own loss: where little noise is left there is next to
nothing to learn, and what the samples say there is chance. Any w > 0 has the same fixed point.

References: Advantage Weighted Matching (Xue et al., 2025); the implicit reward
:math:`\log\pi_\theta/p` by ELBOs as in Diffusion-DPO (Wallace et al., 2023).
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
from payoff.finetuning.advantages import replace_failed, standardise
from payoff.finetuning.base import Finetuner
from payoff.finetuning.rollouts import Samples, shuffled
from payoff.finetuning.run import Run


@dataclass
class AWM(Finetuner):
    """Advantage-weighted matching."""

    name: ClassVar[str] = "awm"
    claims_target: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 250,
        "updates": 12,
        "batch_size": 512,
        "learning_rate": 3e-4,
    }

    kl: str = option("reward", "where the divergence from the base counts: reward or velocity")
    weight_base: float = option(0.1, "kl=velocity: weight of the distance from the base")
    draws: int = option(16, "kl=reward: noise levels a log-density is estimated from")
    proximal: float = option(
        1.0, "weight of the distance from the model that drew the samples: 1 is a full step"
    )
    clip: float = option(0.2, "how far exp(old error - new error) may move in a round")

    def begin(self, run: Run) -> None:
        if self.kl not in ("reward", "velocity"):
            raise UserError(f"awm: kl must be reward or velocity, got {self.kl!r}")
        if self.draws < 1 or self.clip <= 0:
            raise UserError("awm: draws must be at least 1 and clip above 0")

    def play(self, run: Run) -> None:
        batch = run.samples(run.affordable())
        rewards = replace_failed(batch.rewards)
        if self.kl == "velocity":
            advantage = standardise(rewards)
        else:
            gain = log_density_gain(run, batch, self.draws)
            soft = rewards / run.target.temperature - gain
            # one scale for all: as in dpok it changes no fixed point
            scale = (rewards / run.target.temperature).std(correction=0).clamp(min=1.0)
            advantage = (soft - soft.mean()) / scale
        old = run.old_policy()
        for index in shuffled(len(batch) * 4, run.batch_size, run.updates, generator=run.generator):
            run.step(
                self._loss(run, old, batch, advantage, (index % len(batch)).to(batch.x0.device))
            )

    def _loss(
        self, run: Run, old: Denoiser, batch: Samples, advantage: Tensor, index: Tensor
    ) -> Tensor:
        process, (x0, cond) = run.policy.process, batch.rows(index)
        t, x_t = run.noised(x0, cond)
        d = run.sigma_data
        with torch.no_grad():
            earlier = old(x_t, t, cond)
            before = losses.denoising_error(earlier, x0, process, t, cond, d)
        new = run.policy(x_t, t, cond)
        error = losses.denoising_error(new, x0, process, t, cond, d)
        loss = losses.clipped_surrogate(-error, -before, advantage[index], self.clip)
        loss = loss * losses.noise_share(new, d)
        loss = loss + self.proximal * losses.apart(new, earlier, process, cond, d)
        if self.kl == "velocity":
            with torch.no_grad():
                base = run.base(x_t, t, cond)
            loss = loss + self.weight_base * losses.apart(new, base, process, cond, d)
        return loss


@torch.no_grad()
def log_density_gain(run: Run, batch: Samples, draws: int) -> Tensor:
    r""":math:`\log\pi_\theta(x_0)-\log p(x_0)` of every sample, (n,), by ELBOs at shared noise."""
    process, x0, cond = run.policy.process, batch.x0, batch.cond
    total = torch.zeros_like(batch.rewards)
    # every sample sees levels from all over the range: its draws are spread, not independent
    first = losses.draw_times(process, len(x0) * draws, like=x0, generator=run.generator)
    order = first.sort().values.view(draws, len(x0))
    for level in order:
        where = run.generator.device
        t = level[torch.randperm(len(x0), generator=run.generator, device=where).to(level.device)]
        x_t = process.corrupt(x0, t, cond, generator=run.generator)
        ours = losses.elbo_error(run.policy(x_t, t, cond), x0, process, t, cond)
        total += losses.elbo_error(run.base(x_t, t, cond), x0, process, t, cond) - ours
    return total / draws
