r"""The sampler as a function of all the noise it is given: :math:`x_0 = S(z_0, z_1, \dots, z_T)`.

:math:`z_0` becomes the state at t = 1 and :math:`z_i` is the noise of the i-th transition; each is
standard noise of the space. Written so, a sample is a point of a standard normal law, and its
reward a function that can be climbed there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from payoff.denoisers import Denoiser
from payoff.processes import GaussianProcess
from payoff.spaces import Condition, expand_to

# nothing is drawn inside a step, so no generator's state need be kept
CHECKPOINT: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


def draw_noises(
    denoiser: Denoiser,
    like: Tensor,
    steps: int,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """All noises of samples like ``like`` (n, ...): (steps + 1, n, ...)."""
    shape = tuple(like.shape)
    space = denoiser.process.space
    drawn = [space.noise(shape, cond, like=like, generator=generator) for _ in range(steps + 1)]
    return torch.stack(drawn)


def play(
    denoiser: Denoiser,
    noises: Tensor,
    grid: list[Tensor],
    cond: Condition | None = None,
    *,
    saving: bool = False,
) -> Tensor:
    """The clean samples (n, ...) that the ancestral sampler makes of noises (steps + 1, n, ...).

    ``saving``: each step's activations are computed again in the backward pass instead of kept, so
    that memory holds one state a step and the activations of one.
    """
    process = denoiser.process
    assert isinstance(process, GaussianProcess)

    def step(x: Tensor, noise: Tensor, i: int) -> Tensor:
        prediction = denoiser(x, grid[i], cond)
        kernel: Any = process.reverse(x, grid[i], grid[i + 1], prediction, 1.0, cond)
        return kernel.mean + (0.0 if kernel.std is None else expand_to(kernel.std, x)) * noise

    x = noises[0] * process.schedule(grid[0])[1]
    for i in range(len(grid) - 1):
        if saving:
            x = checkpoint(step, x, noises[i + 1], i, **CHECKPOINT)
        else:
            x = step(x, noises[i + 1], i)
    return x
