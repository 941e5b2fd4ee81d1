r"""Gradient guidance with the score fine-tuned on its own samples.

One round, from points z_k (n, ...) on:

.. math::
    g_k=\nabla r(z_k),\qquad y_k = g_k^\top z_k+\delta,\qquad
    \theta \leftarrow \theta-\eta\nabla\,L_{denoise}(\theta; x^{(k)}),\qquad
    x^{(k+1)}\sim p_\theta(x\mid g_k^\top x+\nu\xi=y_k),\qquad
    z_{k+1} = \bar x^{(k+1)}

Algorithm 2 of the reference: the guide of :class:`payoff.guidance.LookAhead` on a score that
follows its own guided samples. With the score frozen the samples stop at the maximum of
:math:`r-\tfrac\lambda2\|x-m\|^2_{\Sigma^{-1}}`, :math:`\lambda=\nu^2/\delta`; here the mean m
moves along, and nothing ties the model to its base. The fixed point is the maximum of r on the
data's subspace, which the reference reaches at the rate O(1/K) for concave r, up to logarithms; it
is not p*. What is learned from is narrower than the model along g, so variety shrinks from round to
round: watch ``diversity`` and set ``max_kl``.

A reward call is one reward with its gradient. With ``group`` = 1 every sample has its own
linearisation, as in the published simulation; otherwise a call is spent on the mean of ``group``
samples, as in the published algorithm.

Reference: Gradient Guidance for Diffusion Models: An Optimization Perspective (Guo, Yuan, Yang,
Chen, Wang, 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.base import Finetuner
from payoff.finetuning.rollouts import rows_of, shuffled
from payoff.finetuning.run import Run
from payoff.guidance.gradient import FORMS, VARIANCES, LookAhead, asked
from payoff.spaces import Condition

ROUNDS, LEAST_A_ROUND, MOST_A_ROUND = 40, 16, 2500


@dataclass
class GradientGuided(Finetuner):
    """Adaptive gradient guidance: towards the reward's maximum on the data's subspace."""

    name: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 256,
        "updates": 20,
        "batch_size": 256,
        "learning_rate": 1e-3,
    }

    group: int = option(1, "samples whose mean a gradient is taken at; 1: each has its own")
    noise: float = option(0.0, "noise of the label, in the reward's units; 0: the temperature")
    rise: float = option(0.0, "reward asked for beyond the last; 0: noise² / temperature")
    start: int = option(0, "rounds of guidance before the score is fine-tuned")
    form: str = option("look-ahead", "look-ahead, or naive, which leaves the data's subspace")
    variance: str = option("gaussian", "posterior variance of the label: gaussian or published")

    def begin(self, run: Run) -> None:
        if self.form not in FORMS or self.variance not in VARIANCES:
            raise UserError(
                f"gradient: form must be one of {', '.join(FORMS)} and variance one of "
                f"{', '.join(VARIANCES)}, got {self.form!r} and {self.variance!r}"
            )
        if self.group < 1 or self.start < 0 or self.noise < 0 or self.rise < 0:
            raise UserError(
                "gradient: group must be at least 1, and start, noise and rise not negative: got "
                f"{self.group}, {self.start}, {self.noise} and {self.rise}"
            )

    def defaults_for(self, calls: int) -> dict[str, Any]:
        # the number of rounds is what the model's way is made of, whatever the budget
        per_round = min(MOST_A_ROUND, max(LEAST_A_ROUND, math.ceil(calls / ROUNDS)))
        return {**self.defaults, "per_round": per_round}

    def play(self, run: Run) -> None:
        samples, cond = self._samples(run)
        groups = min(run.affordable(), len(samples) // self.group)
        samples = samples[: groups * self.group]
        cond = None if cond is None else {k: v[: len(samples)] for k, v in cond.items()}
        points = samples.view(groups, self.group, *run.shape).mean(1)
        tau, noise = run.target.temperature, self.noise or run.target.temperature
        # a group shares one row of conditions
        own = None if cond is None else {k: v[:: self.group] for k, v in cond.items()}
        space = run.policy.process.space
        rise = self.rise or noise**2 / tau
        asking, _ = asked(run.score_with_gradient, points, rise, space, own)
        if run.round >= self.start:
            self._learn(run, samples, cond)
        guided = LookAhead(run.policy, noise, self.form, self.variance)
        rows = {k: v.repeat_interleave(self.group, 0) for k, v in asking.items()}
        with torch.no_grad():
            drawn = run.sampler(guided).sample(len(samples), rows, generator=run.generator).clone()
        run.memory["samples"], run.memory["cond"] = drawn, cond

    def _samples(self, run: Run) -> tuple[Tensor, Condition | None]:
        """The last guided samples; at first, and where there are too few, the policy's own."""
        n = run.affordable() * self.group
        known = run.memory.get("samples")
        if known is not None and bool(known.isfinite().all()):
            return known[:n], rows_of(run.memory["cond"], torch.arange(min(n, len(known))))
        cond = run.conditions(n, self.group)
        return run.sampler().sample(n, cond, generator=run.generator).clone(), cond

    def _learn(self, run: Run, samples: Tensor, cond: Condition | None) -> None:
        """Denoising on the samples: the library's plain loss."""
        batches = shuffled(len(samples), run.batch_size, run.updates, generator=run.generator)
        for index in batches:
            index = index.to(samples.device)
            x0, part = samples[index], rows_of(cond, index)
            t, x_t = run.noised(x0, part)
            prediction = run.policy(x_t, t, part)
            run.step(
                losses.denoising_error(prediction, x0, run.policy.process, t, part, run.sigma_data)
            )
