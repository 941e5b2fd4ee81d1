r"""The value as a network, regressed on noised samples.

Draw clean :math:`x_0\sim p`, score it, corrupt it to :math:`x_t`, and fit
:math:`v(x_t, t)` to :math:`y=r(x_0)/\tau`. Two losses:

============== ============================== ====================================================
objective      loss                           minimiser
============== ============================== ====================================================
``soft``       :math:`e^{y-v}-(y-v)-1`        :math:`\log E[e^{y}\mid x_t]`, the value itself
``mean``       :math:`(y-v)^2`                :math:`E[y\mid x_t]`, below it by Jensen's inequality
============== ============================== ====================================================

``soft`` is consistent, and the harder to fit the smaller τ: a few samples carry the exponential.
``mean`` is its second-order expansion, right for large τ.

References: the exponential loss is the Itakura-Saito divergence of :math:`e^y` from :math:`e^v`;
regressed values for guidance are in Derivative-Free Guidance in Continuous and Discrete Diffusion
Models with Soft Value-Based Decoding (Li et al., 2024).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from payoff.spaces import Condition
from payoff.targets import Target
from payoff.values.base import Value
from payoff.values.fitting import Progress, descend
from payoff.values.inputs import network_inputs

OBJECTIVES = ("soft", "mean")


def summed(outputs: Tensor) -> Tensor:
    """The sum (B,) of a network's outputs (B, n) over √n: as large as one of them."""
    return outputs.sum(1) / math.sqrt(outputs.shape[1])


class Learned(nn.Module, Value):
    """v(x_t, t) = offset + sum of the network's outputs / √(their number).

    Args:
        net: any network ``net(x, noise_level, cond) -> (B, ...)`` of the library; its outputs are
            summed, so one that denoises can be reused.
        target: base, reward and temperature. Only its process is used at inference.
        objective: ``soft`` or ``mean``.
        sigma_data: standard deviation of the data per coordinate, to scale the input.

    Shapes: x_t (B, ...), t () or (B,) -> (B,).
    """

    differentiable = True
    offset: Tensor

    def __init__(
        self, net: nn.Module, target: Target, objective: str = "soft", sigma_data: float = 1.0
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}: one of {', '.join(OBJECTIVES)}")
        self.net, self.objective, self.sigma_data = net, objective, sigma_data
        # a Target is no Module, and its denoiser is not a part of this network
        self.target = target
        self.register_buffer("offset", torch.zeros(()))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value (B,) in nats."""
        return self.offset + summed(self._outputs(x_t, t, cond))

    def _outputs(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """What the network says of noisy samples (B, outputs)."""
        x, level = network_inputs(self.target.denoiser.process, x_t, t, self.sigma_data)
        return self.net(x, level, cond).flatten(1)

    def loss(
        self,
        x0: Tensor,
        score: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss (B,) of clean x0 (B, ...) with score r/τ (B,) at times t (B,)."""
        x_t = self.target.denoiser.process.corrupt(x0, t, cond, generator=generator)
        return self._losses(x_t, score, t, cond)

    def _losses(self, x_t: Tensor, score: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """The loss (B,) of noisy samples x_t (B, ...)."""
        return self._error(score - self(x_t, t, cond))

    def _error(self, gap: Tensor) -> Tensor:
        """The objective's loss (B,) of y − v."""
        return gap.square() if self.objective == "mean" else torch.expm1(gap) - gap

    def fit(
        self,
        x0: Tensor,
        cond: Condition | None = None,
        *,
        scores: Tensor | None = None,
        log_weights: Tensor | None = None,
        steps: int = 1000,
        batch_size: int = 256,
        rate: float = 2e-3,
        latest: float = 1.0,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Learned:
        """Fit to clean samples x0 (n, ...), each scored once.

        Adam with a cosine rate from ``rate`` to 0. Samples whose reward failed (NaN) are left out.

        Args:
            x0: (n, ...), of the base model unless there are weights.
            cond: their conditions.
            scores: r/τ (n,) where they are known already; else the target's reward is called.
            log_weights: (n,) for samples of another law than the base.
            steps: of the optimiser.
            batch_size: samples a step.
            rate: the first learning rate.
            latest: the noise level t up to which it is fitted; beyond, nothing is known.
            generator: of batches, times and noise.
            progress: called as progress(step, loss) now and then.

        Raises ValueError when every score is NaN.
        """
        score = self._scores(x0, cond) if scores is None else scores
        rows = torch.nonzero(self._learned_from(score))[:, 0]
        if bool(score.isnan().all()):
            raise ValueError("every reward evaluation failed (NaN): there is nothing to fit to")
        logs = torch.zeros_like(score) if log_weights is None else log_weights
        weights = logs[rows].double().softmax(0)
        self._start_at(score[rows].double(), weights)
        where = generator.device if generator is not None else x0.device

        def loss() -> Tensor:
            pick = torch.multinomial(weights.to(where), batch_size, True, generator=generator)
            batch = rows[pick.to(rows.device)]
            t = torch.rand(batch_size, generator=generator, device=where).to(x0.device)
            t = (latest * t).to(score.dtype)
            part = None if cond is None else {k: v[batch] for k, v in cond.items()}
            return self.loss(x0[batch], score[batch], t, part, generator=generator).mean()

        descend(self, loss, steps, rate, progress)
        return self

    def _learned_from(self, score: Tensor) -> Tensor:
        """Which samples say something (n,)."""
        return ~score.isnan()

    def _start_at(self, scores: Tensor, weights: Tensor) -> None:
        """The best constant as the offset."""
        soft = (scores + weights.log()).logsumexp(0)
        self.offset.copy_(soft if self.objective == "soft" else (weights * scores).sum())

    @torch.no_grad()
    def _scores(self, x0: Tensor, cond: Condition | None, batch_size: int = 4096) -> Tensor:
        parts = []
        for rows in torch.arange(len(x0), device=x0.device).split(batch_size):
            part = None if cond is None else {k: v[rows] for k, v in cond.items()}
            parts.append(self.target.reward(x0[rows], part) / self.target.temperature)
        return torch.cat(parts)
