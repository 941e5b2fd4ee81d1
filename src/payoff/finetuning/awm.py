r"""AWM: the denoising loss of a sample, weighted by its advantage.

.. math:: L = A\,w(t)\,\|x_0-\hat x_\theta(x_t)\|^2,\qquad x_0\sim\pi_\theta

The denoising loss is an ELBO, so this is a policy gradient whose log-density is that of the clean
sample rather than of a noisy path, with far less variance. With the divergence from the base in
the reward (``kl="reward"``),

.. math:: A = \frac{r(x_0)}\tau - \big[\log\pi_\theta(x_0)-\log p(x_0)\big] - \text{mean},

both log-densities by their ELBOs at the same noise, A is constant exactly when the model is p*,
which is therefore the fixed point. The paper pulls the model to the base in the space of
velocities instead (``kl="velocity"``), and standardises the rewards: its fixed point differs.

Advantages have mean zero, so their loss alone is linear in the clean estimate and has no minimum.
Two pulls give it one, at a full step of :math:`p_{old}e^{A}` (the paper's clip or its pull to a
running average do the same): to the model that drew the samples, which keeps what an early round
got wrong by chance, and to the samples themselves, which mends it.

``control`` takes from the advantage what x_t tells of it, :math:`A-E[A\mid x_t]`, learned by a
small network. That part moves no clean estimate on average; where little noise is left it is
nearly all of A, and all of it would be noise.

References: Advantage Weighted Matching (Xue et al., 2025); the implicit reward
:math:`\log\pi_\theta/p` by ELBOs as in Diffusion-DPO (Wallace et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
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
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.spaces import Condition
from payoff.values.learned import Learned

LEAST = -0.9  # of E[A | x_t] in the curvature of the loss, whose minimum would be lost at -1


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
    proximal: float = option(1.0, "weight of both pulls together: 1 is a full step")
    refresh: float = option(
        0.5, "share of the pull to the samples; the rest is to the model that drew them"
    )
    control: bool = option(True, "vectors: learn what x_t tells of the advantage, and take it off")
    value_steps: int = option(150, "control: optimiser steps a round of that network")
    value_width: int = option(128, "control: its width")
    clip: float = option(
        0.2, "without control: how far exp(old error - new error) may move in a round"
    )

    def begin(self, run: Run) -> None:
        if self.kl not in ("reward", "velocity"):
            raise UserError(f"awm: kl must be reward or velocity, got {self.kl!r}")
        if self.draws < 1 or self.clip <= 0:
            raise UserError("awm: draws must be at least 1 and clip above 0")
        if not 0 <= self.refresh <= 1:
            raise UserError(f"awm: refresh must lie in [0, 1], got {self.refresh}")

    def play(self, run: Run) -> None:
        batch = run.samples(run.affordable())
        advantage = self._advantages(run, batch)
        vectors = isinstance(run.policy.process, GaussianProcess) and len(run.shape) == 1
        known = self._known(run, batch, advantage) if self.control and vectors else None
        old = run.old_policy()
        for index in shuffled(len(batch) * 4, run.batch_size, run.updates, generator=run.generator):
            rows = (index % len(batch)).to(batch.x0.device)
            run.step(self._loss(run, old, batch.rows(rows), advantage[rows], known))

    def _advantages(self, run: Run, batch: Samples) -> Tensor:
        rewards = replace_failed(batch.rewards)
        if self.kl == "velocity":
            return standardise(rewards)
        soft = rewards / run.target.temperature - log_density_gain(run, batch, self.draws)
        # one scale for all: as in dpok it changes no fixed point
        scale = (rewards / run.target.temperature).std(correction=0).clamp(min=1.0)
        return (soft - soft.mean()) / scale

    def _known(self, run: Run, batch: Samples, advantage: Tensor) -> Learned:
        """E[A | x_t] of the samples of this round."""

        def make() -> Learned:
            net = ResidualMLP(run.shape[0], self.value_width, 2)
            value = Learned(net, run.target, "mean", sigma_data=run.sigma_data)
            return value.to(run.trainable[0])

        value = run.keep("value", make).requires_grad_(True)
        value.fit(
            batch.x0,
            batch.cond,
            scores=advantage.to(batch.x0.dtype),
            steps=self.value_steps,
            generator=run.generator,
        )
        return value.requires_grad_(False)

    def _loss(
        self,
        run: Run,
        old: Denoiser,
        rows: tuple[Tensor, Condition | None],
        advantage: Tensor,
        known: Learned | None,
    ) -> Tensor:
        process, (x0, cond), d = run.policy.process, rows, run.sigma_data
        t, x_t = run.noised(x0, cond)
        new = run.policy(x_t, t, cond)
        with torch.no_grad():
            earlier = old(x_t, t, cond)
        error = losses.denoising_error(new, x0, process, t, cond, d)
        if known is None:
            before = losses.denoising_error(earlier, x0, process, t, cond, d)
            loss = losses.clipped_surrogate(-error, -before, advantage, self.clip)
        else:
            with torch.no_grad():
                told = known(x_t, t, cond)
            curve, excess = told.clamp(min=LEAST), advantage - told
            loss = losses.controlled_error(new, earlier, x0, curve, excess, process, cond, d)
        stay = losses.apart(new, earlier, process, cond, d)
        loss = loss + self.proximal * (self.refresh * error + (1 - self.refresh) * stay)
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
    for x_t, t in _noised(run, x0, cond, draws):
        ours = losses.elbo_error(run.policy(x_t, t, cond), x0, process, t, cond)
        total += losses.elbo_error(run.base(x_t, t, cond), x0, process, t, cond) - ours
    return total / draws


def _noised(
    run: Run, x0: Tensor, cond: Condition | None, draws: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_t, t) ``draws`` times; a noise and its opposite in turn, which halves the variance."""
    process = run.policy.process
    paired = isinstance(process, GaussianProcess) and draws % 2 == 0
    levels = draws // 2 if paired else draws
    # every sample sees levels from all over the range: its draws are spread, not independent
    first = losses.draw_times(process, len(x0) * levels, like=x0, generator=run.generator)
    where = run.generator.device
    for level in first.sort().values.view(levels, len(x0)):
        t = level[torch.randperm(len(x0), generator=run.generator, device=where).to(level.device)]
        if not paired:
            yield process.corrupt(x0, t, cond, generator=run.generator), t
            continue
        assert isinstance(process, GaussianProcess)
        x_t, noise = process.corrupt_with_noise(x0, t, cond, generator=run.generator)
        yield x_t, t
        yield process.corrupt_with_noise(x0, t, cond, noise=-noise)[0], t
