r"""Adjoint matching: the optimal control by regression on an adjoint of the base process.

Roll-outs with memoryless noise (ancestral: x_0 forgets x_1); then, backwards along each path and
through the **base** model alone, the lean adjoint

.. math:: a_0 = -\nabla r(x_0)/\tau,\qquad
          a_t = \Big(\frac{\partial\mu(x_t)}{\partial x_t}\Big)^\top a_s

and the regression :math:`\|(\mu_\theta(x_t)-\mu(x_t))/\sigma + \sigma a_s\|^2` of the control on
it. One reward gradient a path and one vector-Jacobian product a step; no graph spans two steps, so
memory does not grow with their number beyond the states. In the limit of small steps the fixed
point is p*.

The adjoint carries slopes of the reward, never its values. Of two modes far apart only paths that
end in the gap between them tell which is better, and they are as rare as the gap is empty, so with
finitely many paths the weights of modes are learned badly. Where :math:`x_t` holds more noise than
``switch`` says, while modes are still open, the gradient can be taken from the values instead: that
of DPOK, in the same units and from the same paths,

.. math:: 2\,\Big(-\rho\,A_t + \tfrac12\|(\mu_\theta-\mu)/\sigma\|^2\Big) .

Reference: Adjoint Matching: Fine-tuning Flow and Diffusion Generative Models with Memoryless
Stochastic Optimal Control (Domingo-Enrich, Drozdzal, Karrer, Chen, 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.base import Finetuner
from payoff.finetuning.dpok import kl_advantages
from payoff.finetuning.rollouts import Rollout
from payoff.finetuning.run import Run
from payoff.processes import GaussianProcess

CLIP = 0.2  # how far a ratio of densities may move in a round


@dataclass
class AdjointMatching(Finetuner):
    """Adjoint matching with memoryless noise."""

    name: ClassVar[str] = "adjoint"
    paths: ClassVar[bool] = True
    claims_target: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 250,
        "updates": 12,
        "batch_size": 1024,
        "learning_rate": 1e-3,
    }

    quantile: float = option(
        1.0, "gradients of the reward above this quantile of their norms are left out; 1: none"
    )

    switch: float = option(
        1.0,
        "share of noise in x_t above which values of the reward are learned from in place of its "
        "slopes; 1: never, as published",
    )

    def begin(self, run: Run) -> None:
        if not 0 < self.quantile <= 1:
            raise UserError(f"adjoint: quantile must lie in (0, 1], got {self.quantile}")
        if not 0 <= self.switch <= 1:
            raise UserError(f"adjoint: switch must lie in [0, 1], got {self.switch}")

    def play(self, run: Run) -> None:
        path, start, kept = self._paths(run)
        adjoints = lean_adjoints(run, path, start)
        advantage = kl_advantages(run, path) if self.switch < 1 else None
        for batch in path.minibatches(run.batch_size, run.updates, generator=run.generator):
            kernel = run.kernel(batch)
            with torch.no_grad():
                base = run.kernel(batch, run.base)
            shift = kernel.mean - base.mean  # type: ignore[attr-defined]
            loss = losses.adjoint_matching(shift, base.std, adjoints[batch.step, batch.row])  # type: ignore[attr-defined]
            loss = loss * kept[batch.row]
            if advantage is not None:
                density = kernel.log_prob(batch.x_s)
                own = advantage[batch.step, batch.row]
                gain = losses.clipped_surrogate(density, batch.log_prob, own, CLIP)
                noisy = noise_share(run, batch.t) > self.switch
                loss = torch.where(noisy, 2 * (gain + kernel.kl(base)), loss)
            run.step(loss)

    def _paths(self, run: Run) -> tuple[Rollout, Tensor, Tensor]:
        """(roll-out, −∇r/τ, which rows count); failed rewards and outliers do not."""
        n = run.affordable()
        cond = run.conditions(n)
        path = run.sampler(eta=1.0).rollout(n, cond, generator=run.generator)
        x0 = path.x0.detach().requires_grad_(True)
        rewards = run.score_with_gradient(x0, cond)
        known = ~rewards.isnan()
        (gradient,) = torch.autograd.grad(torch.where(known, rewards, 0.0).sum(), x0)
        norms = gradient.flatten(1).norm(dim=1)
        kept = known & norms.isfinite()
        if self.quantile < 1:
            kept &= norms <= norms[kept].quantile(self.quantile)
        gradient = torch.where(kept.view(-1, *(1,) * (x0.ndim - 1)), gradient, 0.0)
        assert path.log_probs is not None
        found = Rollout(path.x0, rewards.detach(), cond, path.times, path.states, path.log_probs)
        return found, -gradient / run.target.temperature, kept.to(x0.dtype)


def noise_share(run: Run, t: Tensor) -> Tensor:
    r"""The share of noise in the variance of x_t.

    :math:`\sigma^2/(\alpha^2\sigma_d^2+\sigma^2)` at times t (B,).
    """
    alpha, sigma = cast(GaussianProcess, run.base.process).schedule(t)
    return sigma**2 / ((alpha * run.sigma_data) ** 2 + sigma**2)


def lean_adjoints(run: Run, path: Rollout, start: Tensor) -> Tensor:
    """The adjoint at the end x_s of every transition, (N, n, ...); ``start`` is that at x_0."""
    rows = torch.arange(len(path), device=start.device)
    adjoint, found = start, []
    for step in reversed(range(path.steps)):
        found.append(adjoint)
        batch = path.at(torch.full_like(rows, step), rows)
        batch.x_t = batch.x_t.detach().requires_grad_(True)
        mean = run.kernel(batch, run.base).mean  # type: ignore[attr-defined]
        (adjoint,) = torch.autograd.grad(mean, batch.x_t, adjoint)
    return torch.stack(found[::-1])
