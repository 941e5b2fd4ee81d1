r"""Resampling: K numbers of ancestors from K weights, for many populations at once.

Every scheme is unbiased: with :math:`N_i` the number of offspring of particle i and normalised
weights w,

.. math:: E[N_i] = K\,w_i .

Masses (P, K) need not sum to one; w are their shares. Where a row's sum is not a positive number,
its ancestors mean nothing and may be out of range. The schemes differ in the variance of N_i:

============= ==================================== ==========================================
scheme        points in [0, 1)                     offspring
============= ==================================== ==========================================
`systematic`  (i + u)/K, one u                     floor or ceiling of K w, nothing else
`stratified`  (i + u_i)/K                          within 2 of K w
`residual`    floor(K w) copies, the rest at random at least floor(K w)
`multinomial` K independent uniforms               binomial, the widest
============= ==================================== ==========================================

Reference: Comparison of Resampling Schemes for Particle Filtering (Douc, Cappé, Moulines, 2005).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def normalised(log_mass: Tensor) -> Tensor:
    """Weights (P, K) that sum to one; a row without any mass (all −inf) is uniform."""
    top = log_mass.amax(1, keepdim=True).clamp(min=torch.finfo(log_mass.dtype).min)
    mass = (log_mass - top).exp()
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass / total, 1.0 / log_mass.shape[1])


def systematic(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ancestors (P, K), ascending, from masses (P, K): one random number a row.

    Reference: Monte Carlo Filter and Smoother for Non-Gaussian Nonlinear State Space Models
    (Kitagawa, 1996).
    """
    return _strata(mass, _uniform(mass, 1, generator))


def stratified(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ancestors (P, K), ascending: one random number in every K-th part of [0, 1)."""
    return _strata(mass, _uniform(mass, mass.shape[1], generator))


def multinomial(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ancestors (P, K), independent of each other."""
    return _find(mass, _scattered(mass, mass.shape[1], generator))


def residual(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ancestors (P, K): floor(K w) copies of each, the rest multinomial in what is left over."""
    k = mass.shape[1]
    expected = k * mass / mass.sum(1, keepdim=True)
    copies = expected.floor()
    filled = copies.cumsum(1)
    slots = _starts(k, 1.0, mass.device, mass.dtype).expand_as(mass).contiguous()
    certain = torch.searchsorted(filled, slots, right=True).clamp(max=k - 1)
    # where nothing is left over no slot asks for it, and any masses will do
    left = (expected - copies).clamp(min=0)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, 1.0)
    rest = _find(left, _scattered(mass, k, generator))
    return torch.where(slots < filled[:, -1:], certain, rest)


Scheme = Callable[[Tensor, torch.Generator | None], Tensor]
SCHEMES: dict[str, Scheme] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}


def pick(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One particle of each population, with probability proportional to its mass: (P,)."""
    return _find(mass, _scattered(mass, 1, generator))[:, 0]


def shuffled(index: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each row of index (P, K) in random order.

    Sorted ancestors are right as a set and wrong as a sequence: the first of them favours the
    first particles.
    """
    like = torch.empty((), dtype=torch.float32, device=index.device).expand_as(index)
    order = _uniform(like, index.shape[1], generator).argsort(1)
    return index.gather(1, order)


def _strata(mass: Tensor, u: Tensor) -> Tensor:
    """One point in every K-th part of [0, 1), u (P, 1) or (P, K) of the way through it."""
    k = mass.shape[1]
    share = _below_one(mass) / k
    return _find(mass, torch.add(_starts(k, share, mass.device, mass.dtype), u, alpha=share))


def _scattered(mass: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Points anywhere in [0, 1), independent of each other: (P, count)."""
    return _uniform(mass, count, generator) * _below_one(mass)


def _find(mass: Tensor, points: Tensor) -> Tensor:
    """The particle whose piece of [0, 1) a point falls on; one of mass zero has no piece.

    The points lie below :func:`_below_one`. Where there is no mass the answer means nothing.
    """
    cumulative = mass.cumsum(1)
    return torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True)


def _below_one(mass: Tensor) -> float:
    """A number so far below one that its product with a total mass is not rounded to the total.

    A point there is past the end of the last piece.
    """
    return 1 - 2 * torch.finfo(mass.dtype).eps


@functools.lru_cache(maxsize=32)
def _starts(k: int, share: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """0, ``share``, 2 ``share`` …, (k,). Made anew it would cost as much as the search."""
    return torch.arange(k, device=device, dtype=dtype) * share


def _uniform(mass: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Uniform draws (P, count) for masses (P, K), made where the generator lives."""
    where = mass.device if generator is None else generator.device
    u = torch.rand((len(mass), count), generator=generator, device=where, dtype=mass.dtype)
    return u if where == mass.device else u.to(mass.device)
