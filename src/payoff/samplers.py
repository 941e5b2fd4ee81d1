r"""The sampling loop, once, and the steps that fit into it.

A sampler walks a grid of times 1 = t_0 > … > t_N = 0. Between two of them it asks for a
:class:`~payoff.kernels.Kernel` and draws from it; a deterministic method's kernel is a point. Each
class declares its ``order``: the global error against the exact law falls as ``steps ** -order``,
in the weak sense where there is noise, and the tests measure it.

Samples are produced in batches that fit: :meth:`Sampler.stream` yields them one by one, so memory
does not grow with the number asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.kernels import GaussianKernel, Kernel
from payoff.processes import GaussianProcess, Process
from payoff.schedules import Schedule
from payoff.spaces import Condition, Scalar, expand_to

GRIDS = ("time", "log_snr")


@dataclass
class Trajectory:
    """A roll-out, with what is needed to revisit its transitions.

    Attributes:
        times: (N+1,) from 1 down to 0.
        states: (N+1, B, ...); ``states[0]`` is the prior draw, ``states[-1]`` the sample.
        log_probs: (N, B), log-density of each transition under the kernel it was drawn from; None
            for deterministic samplers.
    """

    times: Tensor
    states: Tensor
    log_probs: Tensor | None

    @property
    def x0(self) -> Tensor:
        """The final samples (B, ...)."""
        return self.states[-1]


class Sampler(ABC):
    """Draws samples from a denoiser.

    Args:
        denoiser: what to sample from.
        shape: the shape of one sample, without the batch axis.
        steps: number of transitions; one network call each unless the class says otherwise.
        grid: ``time`` (even steps in t: the schedule decides) or ``log_snr`` (even in log-SNR).
    """

    order: ClassVar[int]
    calls_per_step: ClassVar[int] = 1

    def __init__(
        self, denoiser: Denoiser, shape: tuple[int, ...], steps: int = 50, grid: str = "time"
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if grid not in GRIDS:
            raise ValueError(f"unknown grid {grid!r}: expected one of {', '.join(GRIDS)}")
        self.denoiser, self.shape, self.steps, self.grid = denoiser, tuple(shape), steps, grid

    @abstractmethod
    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, cond: Condition | None, memory: dict[str, Any]
    ) -> Kernel:
        """The transition from t to s as a kernel; ``memory`` lives for one trajectory."""

    def times(
        self, device: torch.device, dtype: torch.dtype, first: Tensor | None = None
    ) -> Tensor:
        """The grid from ``first``, () or (B,), 1 by default, down to 0: (steps+1, *first.shape)."""
        first = torch.ones((), device=device, dtype=dtype) if first is None else first.to(dtype)
        fraction = torch.linspace(1, 0, self.steps + 1, device=device, dtype=dtype)
        fraction = fraction.reshape(-1, *(1,) * first.ndim)
        process = self.denoiser.process
        if self.grid == "time":
            return fraction * first
        if not isinstance(process, GaussianProcess):
            raise ValueError("grid='log_snr' needs a Gaussian process; use grid='time'")
        noisy = process.schedule.log_snr(first)
        clean = process.schedule.log_snr(torch.zeros_like(first))
        inner = process.schedule.time(clean + fraction[1:-1] * (noisy - clean))
        return torch.cat([first.unsqueeze(0), inner, torch.zeros_like(first).unsqueeze(0)])

    def tabulated(self, times: Tensor) -> list[Tensor]:
        """The times one by one, those of a Gaussian process with their noise levels at hand."""
        process = self.denoiser.process
        if isinstance(process, GaussianProcess):
            return process.schedule.tabulate(times)
        return list(times.unbind())

    def start(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """``n`` draws of x_1 on the denoiser's device and in its dtype."""
        like = _parameter_of(self.denoiser)
        return self.denoiser.process.prior((n, *self.shape), cond, like=like, generator=generator)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Samples (n, ...). ``cond`` has n rows, or one row that holds for all."""
        parts = self.stream(n, cond, generator=generator, batch_size=batch_size, progress=progress)
        return torch.cat(list(parts)) if n else self.start(0)

    @torch.inference_mode()
    def stream(
        self,
        n: int,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Tensor]:
        """The same samples in batches of at most ``batch_size``; ``progress(k)`` after each."""
        for first in range(0, n, batch_size):
            k = min(batch_size, n - first)
            part = rows_of(cond, first, k, n)
            start = self.start(k, part, generator=generator)
            *_, (final, _) = self._walk(start, part, generator)
            if progress is not None:
                progress(k)
            yield final

    @torch.inference_mode()
    def finish(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples x_0 given x_t (B, ...) at times t, () or (B,), with all ``steps`` from t to 0."""
        times = self.times(x_t.device, _float_of(x_t), t)
        final = x_t
        for state, _ in self._walk(x_t, cond, generator, times):
            final = state
        return final

    def rollout(
        self,
        n: int,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        initial: Tensor | None = None,
    ) -> Trajectory:
        """One batch with all its states, and the log-density of each transition."""
        cond = rows_of(cond, 0, n, n)
        x = self.start(n, cond, generator=generator) if initial is None else initial
        states, log_probs = [x], []
        with torch.no_grad():
            for state, kernel in self._walk(x, cond, generator):
                if not kernel.deterministic:
                    log_probs.append(kernel.log_prob(state))
                states.append(state)
        densities = torch.stack(log_probs) if len(log_probs) == self.steps else None
        return Trajectory(self.times(x.device, _float_of(x)), torch.stack(states), densities)

    def _walk(
        self,
        x: Tensor,
        cond: Condition | None,
        generator: torch.Generator | None,
        times: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Kernel]]:
        times = self.times(x.device, _float_of(x)) if times is None else times
        grid = self.tabulated(times)
        memory: dict[str, Any] = {}
        for i in range(self.steps):
            kernel = self.step(x, grid[i], grid[i + 1], cond, memory)
            x = kernel.sample(generator=generator)
            yield x, kernel


class DDIM(Sampler):
    r"""The reverse kernel of the process: :math:`\eta` = 0 deterministic, 1 DDPM, above 1 noisier.

    Reference: Denoising Diffusion Implicit Models (Song, Meng, Ermon, 2021).
    """

    order = 1

    def __init__(self, denoiser, shape, steps=50, grid="time", eta: float = 0.0) -> None:
        super().__init__(denoiser, shape, steps, grid)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be finite and not negative, got {eta}")
        self.eta = eta

    def step(self, x_t, t, s, cond, memory):
        prediction = self.denoiser(x_t, t, cond)
        return self.denoiser.process.reverse(x_t, t, s, prediction, self.eta, cond)


class Ancestral(DDIM):
    """DDPM's sampler: every transition is the exact posterior given the predicted x0.

    Works for Gaussian processes and for masked tokens.

    Reference: Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel, 2020).
    """

    def __init__(self, denoiser, shape, steps=50, grid="time") -> None:
        super().__init__(denoiser, shape, steps, grid, eta=1.0)


class Heun(Sampler):
    r"""Heun's second-order method for the probability-flow ODE, two network calls a step.

    In :math:`\bar x = x/\alpha,\ \bar\sigma = \sigma/\alpha` the ODE is
    :math:`d\bar x/d\bar\sigma = \hat\varepsilon(\bar x,\bar\sigma)`, nearly constant where noise
    dominates; the trapezoid rule in :math:`\bar\sigma` is therefore safe on any grid.

    Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al.,
    2022), algorithm 1.
    """

    order = 2
    calls_per_step = 2

    def step(self, x_t, t, s, cond, memory):
        schedule = _gaussian(self.denoiser.process).schedule
        alpha_t, sigma_t, _ = _expanded(schedule, t, x_t)
        alpha_s, sigma_s, _ = _expanded(schedule, s, x_t)
        first = self.denoiser(x_t, t, cond).noise
        # α_s (x̄_t + Δσ̄ ε): Euler's guess and, with the mean of both slopes, Heun's step
        on_x, on_noise = alpha_s / alpha_t, sigma_s - alpha_s / alpha_t * sigma_t
        second = self.denoiser(on_x * x_t + on_noise * first, s, cond).noise
        mean = on_x * x_t + (0.5 * on_noise) * (first + second)
        return GaussianKernel(mean, None, self.denoiser.process.space, cond)


class Multistep(Sampler):
    r"""DPM-Solver++(2M): second order from one network call a step.

    With :math:`h = \tfrac12(\lambda_s-\lambda_t)` and the clean estimates of this and the last
    step,

    .. math::
        x_s = \tfrac{\sigma_s}{\sigma_t}x_t + \alpha_s(1-e^{-h})
              \bigl[(1+\tfrac1{2r})\hat x_0^{(i)} - \tfrac1{2r}\hat x_0^{(i-1)}\bigr],\quad
        r = h_{i-1}/h_i .

    The first step is of first order. Reference: DPM-Solver++ (Lu, Zhou, Bao, Chen, Li, Zhu, 2022).
    """

    order = 2

    def step(self, x_t, t, s, cond, memory):
        process = _gaussian(self.denoiser.process)
        h = 0.5 * (process.schedule.levels(s)[2] - process.schedule.levels(t)[2])
        x0 = estimate = self.denoiser(x_t, t, cond).x0
        if "x0" in memory:
            estimate = x0 + (x0 - memory["x0"]) * expand_to(0.5 * h / memory["h"], x_t)
        memory["x0"], memory["h"] = x0, h
        on_x0, on_x, std = self.coefficients(t, s)
        mean = expand_to(on_x, x_t) * x_t + expand_to(on_x0, x_t) * estimate
        return GaussianKernel(mean, std, process.space, cond)

    def coefficients(self, t: Tensor, s: Tensor) -> tuple[Scalar, Scalar, Scalar | None]:
        """(a, b, std) of the kernel's mean ``a * x0 + b * x_t``; std None: it is a point."""
        alpha_t, sigma_t, _ = _gaussian(self.denoiser.process).schedule.levels(t)
        alpha_s, sigma_s, _ = _gaussian(self.denoiser.process).schedule.levels(s)
        kept = sigma_s / sigma_t  # and α_s e⁻ʰ = α_t σ_s / σ_t
        return alpha_s - kept * alpha_t, kept, None


class NoisyMultistep(Multistep):
    r"""SDE-DPM-Solver++(2M): the clean estimates of :class:`Multistep` in the kernel of DDIM.

    .. math:: x_s \sim \mathcal N\bigl(a\,[(1+\tfrac1{2r})\hat x_0^{(i)}
              - \tfrac1{2r}\hat x_0^{(i-1)}] + b\,x_t,\; s^2\bigr)

    with a, b and s those of the process at :math:`\eta` times DDPM's noise. Of second order in the
    weak sense. Reference: DPM-Solver++ (Lu, Zhou, Bao, Chen, Li, Zhu, 2022), appendix on SDEs.
    """

    def __init__(self, denoiser, shape, steps=50, grid="time", eta: float = 1.0) -> None:
        super().__init__(denoiser, shape, steps, grid)
        if not 0 < eta < math.inf:
            raise ValueError(f"eta must be finite and positive, got {eta}")
        self.eta = eta

    def coefficients(self, t, s):
        return _gaussian(self.denoiser.process).coefficients(t, s, self.eta)


def stochastic(
    denoiser: Denoiser, shape: tuple[int, ...], steps: int, noise: float | None = None
) -> Sampler:
    """DDPM's steps, or :class:`NoisyMultistep` with ``noise`` times their noise."""
    if noise is None:
        return Ancestral(denoiser, shape, steps)
    return NoisyMultistep(denoiser, shape, steps, eta=noise)


SAMPLERS: dict[str, type[Sampler]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "heun": Heun,
    "multistep": Multistep,
    "noisy": NoisyMultistep,
}


def _gaussian(process: Process) -> GaussianProcess:
    if not isinstance(process, GaussianProcess):
        raise ValueError(
            f"this sampler integrates an ODE and needs a Gaussian process, not "
            f"{type(process).__name__}: use Ancestral"
        )
    return process


def _expanded(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Scalar, Scalar, Scalar]:
    """(alpha, sigma, log-SNR) at t, () or (B,), to multiply x (B, ...)."""
    alpha, sigma, log_snr = schedule.levels(t)
    return expand_to(alpha, x), expand_to(sigma, x), expand_to(log_snr, x)


def _float_of(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _parameter_of(denoiser: Denoiser) -> Tensor | None:
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        if tensor.is_floating_point():
            return tensor
    return None


def rows_of(cond: Condition | None, first: int, k: int, n: int) -> Condition | None:
    """Rows first … first + k of a condition of n rows, or of one that holds for all."""
    if cond is None:
        return None
    rows = {}
    for name, value in cond.items():
        if value.shape[0] not in (1, n):
            raise ValueError(
                f'cond["{name}"] has {value.shape[0]} rows for {n} samples: expected 1 or {n}'
            )
        rows[name] = (
            value.expand(k, *value.shape[1:]) if value.shape[0] == 1 else value[first : first + k]
        )
    return rows
