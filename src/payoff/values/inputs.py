"""What a network of a value is given for a noisy sample: input of unit size, and a noise level."""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.processes import GaussianProcess, MaskProcess, Process
from payoff.spaces import expand_to


def network_inputs(
    process: Process, x_t: Tensor, t: Tensor, sigma_data: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""(input, noise level (B,)) for x_t (B, ...) at times t, () or (B,).

    Real vectors come as :math:`x_t/\sqrt{\alpha^2\sigma_{data}^2+\sigma^2}` with log-SNR / 8, as
    the denoisers read them, so that a network does not depend on the schedule; tokens as they are,
    with the probability that one is kept.

    Raises:
        TypeError: another kind of process.
    """
    if isinstance(process, GaussianProcess):
        alpha, sigma = process.schedule(t)
        scale = torch.rsqrt((alpha * sigma_data) ** 2 + sigma**2)
        x_t, level = expand_to(scale, x_t) * x_t, process.schedule.log_snr(t) / 8
    elif isinstance(process, MaskProcess):
        level = process.schedule(t)
    else:
        raise TypeError(f"no input scaling is known for {type(process).__name__}")
    return x_t, level.expand(len(x_t))
