r"""Potentials: what the population is tilted by before it has arrived.

After the check at time t the particles stand for :math:`p\,e^{\varphi}` (over paths), with φ made
from the values seen so far, :math:`V_j` the j-th of them:

============ ============================== ================================================
potential    :math:`\varphi_i`              prefers
============ ============================== ================================================
`difference` :math:`\lambda_i V_i`          what is good now: a weight is the gain
`max`        :math:`\max_{j\le i}V_j`       what has been good at any time
`sum`        :math:`\sum_{j\le i}V_j`       what has been good all the time; the harshest
============ ============================== ================================================

At the end :math:`\varphi = r(x_0)/\tau` whatever the choice, and a weight is changed by
:math:`\varphi_i-\varphi_{i-1}` only. So everything on the way cancels, and each choice is exact for
many particles: it decides how soon the population is thinned out, and so the variance.

λ (tempering) rises from 0 to 1 and holds the selection back while values are unreliable.

The published form of ``max`` and ``sum`` multiplies the weight at *every* check by the whole
running maximum or sum, so that k checks select about k times as hard, and divides it out at the end
(recalled, not checked); here each check adds only what is new.

References: A General Framework for Inference-time Scaling and Steering of Diffusion Models (Singhal
et al., 2025); Test-time Alignment of Diffusion Models without Reward Over-optimization (Kim, Kim,
Park, 2025) for tempering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Potential:
    """A running statistic of the values seen.

    Attributes:
        start: its value before the first check.
        update: (statistic (P, K), value (P, K)) -> statistic (P, K).
    """

    start: float
    update: Callable[[Tensor, Tensor], Tensor]


POTENTIALS: dict[str, Potential] = {
    "difference": Potential(0.0, lambda seen, value: value),
    "max": Potential(-torch.inf, torch.maximum),
    "sum": Potential(0.0, torch.add),
}


def constant(progress: float) -> float:
    """No tempering: 1 at any progress."""
    return 1.0


def geometric(progress: float, gamma: float = 0.008, length: int = 100) -> float:
    r""":math:`\lambda = \min(1, (1+\gamma)^{k}-1)` with k = ``length`` · progress.

    The published schedule counts steps of a run of 100; here k is scaled, so that a run of any
    length is tempered alike. The defaults reach 1 at 87 % of the way.

    >>> round(geometric(0.5), 3), geometric(0.9)
    (0.489, 1.0)
    """
    return min(1.0, (1.0 + gamma) ** (length * progress) - 1.0)
