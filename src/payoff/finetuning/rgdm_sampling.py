r"""RGDM's shift once more, at sampling: :math:`x_s\sim\pi_\theta`, then :math:`x_s+\delta(x_s)`.

The paper seems to shift in sampling as it does in training. After training has learned the shift
this tilts a second time, so with a value of the whole tilt the result is beyond p*; how far is
measured in the page of the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.finetuning import neighbourhood as near
from payoff.kernels import GaussianKernel, Kernel
from payoff.samplers import DDIM
from payoff.spaces import Condition

Score = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""score(x_s, s, cond) -> r/τ (B,): a value, or a reward at x_s or at a clean estimate of it."""


@dataclass
class ShiftedKernel(Kernel):
    """A kernel whose draws are moved by a function of the draw. It can be sampled and no more."""

    inner: Kernel
    move: Callable[[Tensor, torch.Generator | None], Tensor]
    deterministic = True  # in that it has no density

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """A draw of the inner kernel, moved."""
        x = self.inner.rsample(generator=generator)
        return x + self.move(x, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Not known: the move of a draw has no closed-form density."""
        raise ValueError("a shifted kernel has no density")

    def kl(self, other: Kernel) -> Tensor:
        """Not known, as the density."""
        raise ValueError("a shifted kernel has no density")


class ShiftedSampler(DDIM):
    r"""Ancestral sampling whose every draw is moved by the pay-off law around it.

    Args:
        denoiser: what to sample from.
        shape: of one sample.
        score: r/τ of less noisy samples; see :data:`Score`.
        steps, grid: as for every sampler.
        radius: ρ, in the step's standard deviation.
        proposal: ``gaussian``, ``ball`` or ``kernel``; see :class:`payoff.finetuning.RGDM`.
        shift: ``gradient`` of the score, ``candidates`` or ``zeroth-order``.
        choice: ``soft``, ``sampled`` or ``argmax``.
        candidates: how many.

    Reference: a reconstruction of Towards Controllable Diffusion Models via Reward-Guided
    Exploration (Zhang, Xu, 2023).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        score: Score,
        steps: int = 50,
        grid: str = "time",
        *,
        radius: float = 0.5,
        proposal: str = "kernel",
        shift: str = "gradient",
        choice: str = "soft",
        candidates: int = 16,
    ) -> None:
        super().__init__(denoiser, shape, steps, grid, eta=1.0)
        if shift not in near.SHIFTS or proposal not in near.PROPOSALS:
            raise ValueError(f"unknown shift {shift!r} or proposal {proposal!r}")
        self.score, self.radius, self.proposal = score, radius, proposal
        self.shift, self.choice, self.candidates = shift, choice, candidates

    def step(self, x_t, t, s, cond, memory):
        kernel = super().step(x_t, t, s, cond, memory)
        assert isinstance(kernel, GaussianKernel)
        assert kernel.std is not None
        std = torch.as_tensor(kernel.std).to(x_t).expand(len(x_t))

        def move(x: Tensor, generator: torch.Generator | None) -> Tensor:
            return self._move(x, s, std, cond, generator)

        return ShiftedKernel(kernel, move)

    def _move(
        self,
        x: Tensor,
        s: Tensor,
        std: Tensor,
        cond: Condition | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        def gradient() -> Tensor:
            # inference mode would forbid the gradient that is needed here
            with torch.inference_mode(False), torch.enable_grad():
                here, level = x.clone().requires_grad_(True), s.clone()
                (found,) = torch.autograd.grad(self.score(here, level, cond).sum(), here)
            return found

        return near.shift(
            self,
            x,
            std,
            gradient,
            lambda ends: torch.stack([self.score(end, s, cond) for end in ends]),
            self.denoiser.process.space,  # type: ignore[arg-type]
            cond,
            generator=generator,
        )
