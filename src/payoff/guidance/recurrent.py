r"""Recurrence, or time travel: every step is taken, undone with fresh noise, and taken again.

.. math:: x_s\sim q(x_s\mid x_t),\qquad
          x_t \leftarrow \frac{\alpha_t}{\alpha_s}x_s
          + \sqrt{\sigma_t^2-\tfrac{\alpha_t^2}{\alpha_s^2}\sigma_s^2}\;\varepsilon,\qquad
          \text{n times, the last without the second line.}

Both moves keep the marginals of a right denoiser, so of an unguided or exactly guided model
recurrence changes nothing in the limit of many steps. With a biased guide it takes the state
closer to what that guide holds for equilibrium at this noise level: more reward, and not p*.

References: RePaint: Inpainting using Denoising Diffusion Probabilistic Models (Lugmayr et al.,
2022); Universal Guidance for Diffusion Models (Bansal et al., 2023); FreeDoM: Training-Free
Energy-Guided Conditional Diffusion Model (Yu et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from payoff.errors import UserError
from payoff.guidance.base import gaussian_process
from payoff.kernels import Kernel
from payoff.processes import GaussianProcess
from payoff.samplers import Sampler
from payoff.spaces import Condition, expand_to


class Recurrent(Sampler):
    """A sampler that takes every step ``repeats`` times.

    Args:
        inner: the sampler whose steps are repeated; one without a memory of earlier steps.
        repeats: n ≥ 1; 1 is the inner sampler.
        window: noise levels t (from, to) between which a step is repeated, ends included; FreeDoM
            repeats in the middle stage only.

    The kernel of a repeated step can be sampled and has no density, so there are no roll-outs with
    densities. Raises UserError for tokens, or an impossible option.
    """

    order = 1

    def __init__(
        self, inner: Sampler, repeats: int = 1, window: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__(inner.denoiser, inner.shape, inner.steps, inner.grid)
        gaussian_process(inner.denoiser, "recurrence")
        if repeats < 1:
            raise UserError(f"repeats must be at least 1, got {repeats}")
        if not 0 <= window[0] <= window[1] <= 1:
            raise UserError(f"window must be two noise levels in order, in [0, 1]: got {window}")
        self.inner, self.repeats, self.window = inner, repeats, window

    def step(self, x_t, t, s, cond, memory):
        kernel = self.inner.step(x_t, t, s, cond, memory)
        if self.repeats == 1 or not self.repeats_at(t):
            return kernel

        def again(x: Tensor) -> Kernel:
            return self.inner.step(x, t, s, cond, memory)

        process = self.denoiser.process
        assert isinstance(process, GaussianProcess)
        return RepeatedKernel(kernel, again, self.repeats, process, t, s, cond)

    def visits(self) -> int:
        """Denoiser calls a sample: steps, the repeated ones as often as they are taken."""
        grid = self.times(torch.device("cpu"), torch.float64)[:-1]
        repeated = sum(self.repeats_at(t) for t in grid)
        return self.inner.calls_per_step * (self.steps + (self.repeats - 1) * repeated)

    def repeats_at(self, t: Tensor) -> bool:
        """Whether a step that starts at t is repeated."""
        first = float(t.flatten()[0])  # rows of one batch share a grid, but for where it starts
        return self.window[0] - 1e-6 <= first <= self.window[1] + 1e-6


@dataclass
class RepeatedKernel(Kernel):
    """A step that is undone and taken again before it is drawn. It can be sampled and no more."""

    inner: Kernel
    again: Callable[[Tensor], Kernel]
    repeats: int
    process: GaussianProcess
    t: Tensor
    s: Tensor
    cond: Condition | None = None
    deterministic = True  # in that it has no density

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """The last of ``repeats`` draws."""
        x = self.inner.rsample(generator=generator)
        for _ in range(self.repeats - 1):
            back = renoised(self.process, x, self.s, self.t, self.cond, generator=generator)
            x = self.again(back).rsample(generator=generator)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Not known: the states in between are not kept."""
        raise ValueError("a repeated step has no density")

    def kl(self, other: Kernel) -> Tensor:
        """Not known, as the density."""
        raise ValueError("a repeated step has no density")


def renoised(
    process: GaussianProcess,
    x_s: Tensor,
    s: Tensor,
    t: Tensor,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A draw of the forward process from x_s (B, ...) at s to t > s."""
    alpha_s, sigma_s, _ = process.schedule.levels(s)
    alpha_t, sigma_t, _ = process.schedule.levels(t)
    kept = alpha_t / alpha_s
    width = torch.as_tensor(sigma_t**2 - (kept * sigma_s) ** 2).clamp(min=0).sqrt().to(x_s)
    noise = process.space.noise(tuple(x_s.shape), cond, like=x_s, generator=generator)
    return expand_to(kept, x_s) * x_s + expand_to(width, x_s) * noise
