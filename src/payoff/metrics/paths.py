r"""What samplers do, measured along their paths.

The divergence of one sampler's path from another's adds up over the transitions,

.. math:: \mathrm{KL}(\text{path}_q\|\text{path}_p)
          = \sum_t E_q\,\mathrm{KL}\big(q(x_s\mid x_t)\,\|\,p(x_s\mid x_t)\big) ,

for a common start. It bounds the KL of the samples from above, and equals it for the exact reversal
of a tilted law, whose path only differs from the base's by a factor of :math:`x_0`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from payoff.metrics.estimate import Estimate
from payoff.rewards.base import Reward
from payoff.samplers import Sampler
from payoff.spaces import Condition


@torch.no_grad()
def path_kl(
    sampler: Sampler,
    base: Sampler,
    n: int,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 4096,
) -> Estimate:
    """KL of the paths of ``sampler`` from those of ``base``, in nats, over n paths.

    The kernels' KL is exact at every state and only the states are drawn, which has far less
    variance than the mean of log-ratios. Both must be stochastic and take the same steps.

    Raises ValueError when the grids differ, or a kernel is deterministic (its KL is infinite).
    """
    return Estimate.of(paths(sampler, base, n, cond, generator=generator, batch_size=batch_size)[1])


@torch.no_grad()
def paths(
    sampler: Sampler,
    base: Sampler,
    n: int,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Samples (n, ...) of ``sampler`` and how far each one's path diverged from the base's, (n,).

    The mean of the second is :func:`path_kl`, which says what is required.
    """
    if (sampler.steps, sampler.grid, sampler.shape) != (base.steps, base.grid, base.shape):
        raise ValueError("both samplers must have the same steps, grid and shape")
    ends, parts = list[Tensor](), list[Tensor]()
    for first in range(0, n, batch_size):
        k = min(batch_size, n - first)
        part = _rows(cond, first, k)
        x = sampler.start(k, part, generator=generator)
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        total, mine, theirs = torch.zeros(k, device=x.device), dict[str, Any](), dict[str, Any]()
        for t, s in itertools.pairwise(sampler.times(x.device, dtype)):
            kernel = sampler.step(x, t, s, part, mine)
            total = total + kernel.kl(base.step(x, t, s, part, theirs))
            x = kernel.sample(generator=generator)
        ends.append(x)
        parts.append(total)
    return torch.cat(ends), torch.cat(parts)


@torch.no_grad()
def mean_reward(
    reward: Reward, x: Tensor, cond: Condition | None = None, *, batch_size: int = 4096
) -> Estimate:
    """E[r] over samples x (n, ...); failed evaluations are left out, see ``n``."""
    parts = []
    for first in range(0, len(x), batch_size):
        rows = _rows(cond, first, min(batch_size, len(x) - first))
        parts.append(reward(x[first : first + batch_size], None if rows is None else dict(rows)))
    return Estimate.of(torch.cat(parts))


def _rows(cond: Condition | None, first: int, k: int) -> Condition | None:
    if cond is None:
        return None
    return {
        name: v.expand(k, *v.shape[1:]) if len(v) == 1 else v[first : first + k]
        for name, v in cond.items()
    }
