r"""DRaFT: the reward's gradient, through the sampler, into the weights.

.. math:: L = -r(x_0(\theta)),\qquad x_0 \text{ by the sampler, gradients through its last } K
          \text{ steps}

Each step is checkpointed: its activations are computed again in the backward pass, so memory holds
one state a step and the activations of one. ``last=0`` keeps all steps (AlignProp); ``last=K``
the last K; ``kl=True`` adds :math:`\tau\,\mathrm{KL}` of the path, which over all steps is the
objective whose optimum is p* (entropy-regularised control, ELEGANT). Without it the fixed point is
the reward's maximum, and nothing gets there sooner.

References: Directly Fine-Tuning Diffusion Models on Differentiable Rewards (Clark, Vicol, Swersky,
Fleet, 2023); AlignProp (Prabhudesai et al., 2023); Fine-Tuning of Continuous-Time Diffusion Models
as Entropy-Regularized Control (Uehara et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning.base import Finetuner
from payoff.finetuning.run import Run
from payoff.spaces import Condition, expand_to

# evaluation mode: nothing is drawn inside a step, so no generator's state need be kept
CHECKPOINT: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


@dataclass
class DRaFT(Finetuner):
    """Direct reward fine-tuning."""

    name: ClassVar[str] = "draft"
    paths: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 256,
        "updates": 4,
        "learning_rate": 3e-4,
    }

    last: int = option(0, "steps at the end that gradients go through; 0: all of them")
    kl: bool = option(False, "subtract the divergence of the path from the base, weighted by τ")

    def begin(self, run: Run) -> None:
        if self.last < 0 or self.last > run.config.sampler_steps:
            raise UserError(
                f"draft: last must lie between 0 and the {run.config.sampler_steps} steps of the "
                f"sampler, got {self.last}"
            )

    def play(self, run: Run) -> None:
        total = run.affordable()
        parts = torch.arange(total).tensor_split(min(run.updates, total))
        for n in (len(part) for part in parts):
            cond = run.conditions(n)
            x0, divergence = self.sample(run, n, cond)
            if x0.requires_grad:  # a failed reward may have a gradient that is no number
                x0.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))
            rewards = run.score_with_gradient(x0, cond)
            known = ~rewards.isnan()
            loss = divergence[known] - rewards[known] / run.target.temperature
            run.step(loss)

    def sample(self, run: Run, n: int, cond: Condition | None) -> tuple[Tensor, Tensor]:
        """(x0, KL of the path in nats or 0), with gradients in the policy's weights."""
        sampler = run.sampler()
        x = sampler.start(n, cond, generator=run.generator)
        times = sampler.times(x.device, x.dtype)
        first = run.config.sampler_steps - self.last if self.last else 0
        total = torch.zeros(n, device=x.device, dtype=x.dtype)
        for i in range(run.config.sampler_steps):
            t, s = times[i].expand(n), times[i + 1].expand(n)
            noise = run.policy.process.space.noise(  # type: ignore[attr-defined]
                tuple(x.shape), cond, like=x, generator=run.generator
            )
            if i < first:
                with torch.no_grad():
                    x, _ = self._step(run, x, t, s, noise, cond)
                continue
            x, kl = checkpoint(self._step, run, x, t, s, noise, cond, **CHECKPOINT)
            total = total + kl
        return x, total

    def _step(
        self, run: Run, x: Tensor, t: Tensor, s: Tensor, noise: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Tensor]:
        process = run.policy.process
        kernel = process.reverse(x, t, s, run.policy(x, t, cond), 1.0, cond)
        end = kernel.mean + expand_to(kernel.std, x) * noise  # type: ignore[attr-defined]
        if not self.kl:
            return end, torch.zeros_like(t)
        return end, kernel.kl(process.reverse(x, t, s, run.base(x, t, cond), 1.0, cond))
