r"""Gradient guidance in rounds: sample, linearise the reward there, ask for more, sample again.

Algorithm 1 of the reference, with the score frozen. Every sample has its own rounds:

.. math::
    z_0 = \bar x^{(0)},\quad x^{(0)}\sim p,\qquad
    x^{(k+1)}\sim p(x\mid g_k^\top x+\nu\xi = g_k^\top z_k+\delta),\quad g_k=\nabla r(z_k),\qquad
    z_{k+1} = (1-\eta)\,z_k+\eta\,\bar x^{(k+1)}

with the mean over ``batch`` draws. It is biased: the samples sit around the maximum of
:math:`r-\tfrac\lambda2\|x-m\|^2_{\Sigma^{-1}}`, :math:`\lambda=\nu^2/\delta`, with the spread of a
label and not that of p*. The plain iteration (η = 1) converges for a Gaussian base where the
reward's curvature L, in units of Σ, is below λ, and swings without end beyond that; η below
:math:`2/(1+L/\lambda)` damps it [derived].

Reference: Gradient Guidance for Diffusion Models: An Optimization Perspective (Guo et al., 2024).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance import LookAhead
from payoff.guidance.gradient import asked
from payoff.rewards.base import checked_rows
from payoff.spaces import Condition
from payoff.steering.base import CALLER, AllFailed, Cost, Degenerate
from payoff.steering.guided_base import GuidedSampler, drawn


@dataclass(eq=False)
class GradientGuidance(GuidedSampler):
    """Guidance by a linearised reward that keeps the data's subspace; one reward call a round.

    The published simulation takes batch 1, pace 1, noise 0.1 and a rise from 0.05 to 1 in the
    reward's own units. The defaults here follow the temperature: noise τ and rise ν²/τ, which puts
    the fixed point at the mode of p* for a Gaussian base. A round whose reward failed is drawn
    unguided.
    """

    name: ClassVar[str] = "gradient"
    size: ClassVar[str] = "rounds"

    rounds: int = option(10, "rounds: linearisations, each one reward call with its gradient")
    batch: int = option(1, "draws whose mean is linearised at; 1: at the last sample itself")
    pace: float = option(0.5, "share of the way to the new mean that a round goes; published: 1")
    noise: float = option(0.0, "noise of the label, in the reward's units; 0: the temperature")
    rise: float = option(0.0, "reward asked for beyond the last; 0: noise² / temperature")
    form: str = option("look-ahead", "look-ahead, or naive, which leaves the data's subspace")
    variance: str = option("gaussian", "posterior variance of the label: gaussian or published")

    def guided(self) -> Denoiser:
        noise = self.noise or self.target.temperature
        self.ask = self.rise or noise**2 / self.target.temperature
        self.free = self.sampler_of(self.target.denoiser)
        return LookAhead(self.target.denoiser, noise, self.form, self.variance)

    @property
    def rows(self) -> int:
        """States held at once for one sample."""
        return self.batch

    def cost(self) -> Cost:
        guided = self.batch * (self.rounds - 1) + 1
        back = guided if self.form == "look-ahead" else 0
        return Cost(self.rounds, self.steps * (self.batch + guided), self.steps * back)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        space = self.target.denoiser.process.space
        x = drawn(self.free, n * self.batch, repeated(cond, self.batch), generator)
        point = self._mean(x, n)
        for k in range(self.rounds):
            asking, rewards = asked(self._reward, point, self.ask, space, cond)
            self._seen(rewards, point)
            rows = self.batch if k < self.rounds - 1 else 1
            x = drawn(self.sampler, n * rows, repeated(asking, rows), generator)
            point = (1 - self.pace) * point + self.pace * self._mean(x, n)
        return x

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """How many reward calls failed."""
        self._told: list[tuple[int, int]] = []
        with super().reporting():
            yield
        asked_for, failed = (sum(told[i] for told in self._told) for i in (0, 1))
        self.summary["failed"] = failed / max(1, asked_for)
        if failed:
            warnings.warn(
                f"{self.name}: {failed} of {asked_for} reward calls failed (NaN, or a gradient that"
                " is not finite); those samples were drawn unguided in that round",
                Degenerate,
                stacklevel=CALLER,
            )

    def _reward(self, x: Tensor, cond: Condition | None) -> Tensor:
        reward = self.target.reward
        return checked_rows(reward(x, cond), x, reward)  # type: ignore[arg-type]

    def _mean(self, x: Tensor, n: int) -> Tensor:
        return x.view(n, -1, *self.shape).mean(1)

    def _seen(self, rewards: Tensor, point: Tensor) -> None:
        failed = int(rewards.isnan().sum())
        if failed == len(rewards):
            raise AllFailed(
                f"{self.name}: every one of {failed} evaluations of the reward failed (NaN, or a "
                "gradient that is not finite). Check the reward on samples of the base first",
                {"x0": point},
            )
        if hasattr(self, "_told"):
            self._told.append((len(rewards), failed))
        self.summary["reward_at_points"] = float(rewards.nanmean())

    def _check(self) -> None:
        super()._check()
        if self.batch < 1 or not 0 < self.pace <= 1:
            raise UserError(
                f"{self.name}: batch must be at least 1 and pace in (0, 1], got {self.batch} and "
                f"{self.pace}"
            )
        if self.noise < 0 or self.rise < 0:
            raise UserError(
                f"{self.name}: noise and rise must not be negative, got {self.noise} and "
                f"{self.rise}"
            )


def repeated(cond: Condition | None, times: int) -> Condition | None:
    """Every row of the conditions ``times`` times, neighbours of one another."""
    if cond is None or times == 1:
        return cond
    return {k: v.repeat_interleave(times, 0) for k, v in cond.items()}
