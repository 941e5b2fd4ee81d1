r"""TDS, the twisted diffusion sampler: particles that are drawn where the value rises.

.. math::
    q(x_s\mid x_t) = \mathcal N\big(\mu(x_t) + \lambda_t s^2\,\nabla_{x_t}V_t(x_t),\ s^2I\big),
    \qquad
    \log w \mathrel{+}= \log\frac{p(x_s\mid x_t)}{q(x_s\mid x_t)}
        + \lambda_sV_s(x_s) - \lambda_tV_t(x_t) .

μ and s² are mean and variance of the base's kernel; to first order q is the kernel of the tilted
law. The gradient is that of the value which weighs the particle, and is selected with it.

A gradient is taken at checks only; between two of them particles are drawn from the base. A
gradient that is not finite (a failed reward) does not move its particle.

Reference: Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu, Trippe,
Naesseth, Blei, Cunningham, 2023).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.kernels import GaussianKernel, Kernel
from payoff.spaces import Condition, Tokens, expand_to
from payoff.steering.base import Cost
from payoff.steering.particles import Particles
from payoff.steering.population import Population, mapped
from payoff.values import Value


@dataclass(eq=False)
class TDS(Particles):
    """``tds``: needs a differentiable value, and a differentiable reward unless the value is given.

    ``proposal`` is shifted in its turn.

    Raises:
        UserError: the value has no gradient.
    """

    name: ClassVar[str] = "tds"
    needs_gradient: ClassVar[bool] = True
    tokens: ClassVar[bool] = False

    every: int = option(1, "steps between checks: values, their gradients and resampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.judge.differentiable:
            raise UserError(
                f"{self.name} needs the gradient of its value, and {type(self.judge).__name__} has "
                "none here: use smc, or a value that is differentiable"
            )
        # one that does not read the prediction (exact, learned) needs no pass back through the base
        self._through_base = type(self.judge).given is not Value.given

    def cost(self) -> Cost:
        """As for ``smc``; every value that reads the prediction is differentiated."""
        cost = super().cost()
        share = 1 if self.keep == "all" else self.particles
        extra = share * self.checks if self._through_base else 0
        return dataclasses.replace(cost, backward=cost.backward + extra)

    def _look(self, population, t, cond, check, generator):  # type: ignore[no-untyped-def]
        if not check:
            return super()._look(population, t, cond, False, generator)
        if not self._through_base:
            population.prediction = self.denoiser(population.states, t, cond)
        with torch.enable_grad():
            x = population.states.detach().requires_grad_(True)
            if self._through_base:
                prediction = self.denoiser(x, t, cond)
                value = self.judge.given(prediction, x, t, cond, generator=generator)
                population.prediction = mapped(prediction, Tensor.detach)
            else:
                value = self.judge(x, t, cond, generator=generator)
            if not value.requires_grad:
                raise UserError(
                    f"{self.name}: {type(self.judge).__name__} returned a value without a graph "
                    "although it says that it is differentiable"
                )
            (gradient,) = torch.autograd.grad(value.sum(), x)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        population.gradient = self.denoiser.process.space.project(gradient, cond)
        return value

    def _propose(
        self,
        population: Population,
        base: Kernel,
        t: Tensor,
        s: Tensor,
        cond: Condition | None,
        strength: float,
    ) -> Kernel | None:
        start = super()._propose(population, base, t, s, cond, strength)
        if population.gradient is None:
            return start
        start = base if start is None else start
        assert isinstance(start, GaussianKernel)
        assert start.std is not None
        shift = expand_to(strength * start.std * start.std, start.mean) * population.gradient
        return dataclasses.replace(start, mean=start.mean + shift)

    def _check(self) -> None:
        if isinstance(self.target.denoiser.process.space, Tokens):
            raise UserError(f"{self.name} works on real vectors only, not on token sequences")
        # a value that is given brings its own gradient: the reward need not have one
        if isinstance(self.value, Value):
            self._check_options()
        else:
            super()._check()
