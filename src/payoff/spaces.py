r"""Where data live: what noise is there, and how many degrees of freedom a point has.

A diffusion process needs three facts about the space its samples live in: how to draw standard
noise in it, how to project onto it, and over how many degrees of freedom a log-density sums. For
points of :math:`\mathbb{R}^D` these are trivial. For a cloud of :math:`n` points of which only the
shape matters (zero centre of mass) the noise has to be centred too, and a density counts
:math:`3(n-1)` dimensions, not :math:`3n`; for tokens there are none to count.

Ragged sets are padded; their boolean mask, shape (B, N), travels as ``cond["mask"]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]
"""What a sample is conditioned on, by name, every tensor with the batch axis first.

Reserved names: ``mask`` (B, N) bool, which members of a padded set exist; ``label`` (B, k) the
value asked for; ``label_known`` (B,) 1 or 0, where 0 is the null label of classifier-free training,
or (B, k), a flag for each column, where the network has such flags.
"""


def draw_noise(
    shape: tuple[int, ...], like: Tensor | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal draws of ``shape`` on the device and in the dtype of ``like``.

    The draws are made where the generator lives, so a CPU generator gives the same numbers
    whichever device the samples are on.
    """
    where = (
        generator.device if generator is not None else (like.device if like is not None else None)
    )
    dtype = like.dtype if like is not None else None
    x = torch.randn(shape, generator=generator, device=where, dtype=dtype)
    return x if like is None else x.to(like.device)


Scalar = Tensor | float
"""A level of noise: a tensor of shape () or (B,), or a plain number that holds for the batch."""


@overload
def expand_to(v: Tensor, x: Tensor) -> Tensor: ...
@overload
def expand_to(v: Scalar, x: Tensor) -> Scalar: ...
def expand_to(v, x):
    """View ``v`` of shape () or (B,) so that it broadcasts against ``x`` of shape (B, ...)."""
    return (
        v if isinstance(v, float) or v.ndim == 0 else v.reshape(v.shape + (1,) * (x.ndim - v.ndim))
    )


class Space(ABC):
    """A linear space with an optional ragged mask.

    Every method takes x of shape (B, ...) and the condition that carries the mask.
    """

    @abstractmethod
    def noise(
        self,
        shape: tuple[int, ...],
        cond: Condition | None = None,
        *,
        like: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Standard noise of ``shape`` (B, ...) with unit variance per degree of freedom."""

    @abstractmethod
    def project(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Orthogonal projection of ``x`` onto the space; the identity on points inside it."""

    @abstractmethod
    def dof(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Degrees of freedom of each sample, shape (B,), float."""


@dataclass(frozen=True)
class Euclidean(Space):
    r""":math:`\mathbb{R}^{D}` of any shape; with a mask, only the members that exist.

    With ``cond["mask"]`` of shape (B, N) samples have shape (B, N, ...) and the padding is zero.
    """

    def noise(self, shape, cond=None, *, like=None, generator=None):
        return self.project(draw_noise(shape, like, generator=generator), cond)

    def project(self, x, cond=None):
        mask = _mask_of(x, cond)
        return x if mask is None else x * _to_members(mask, x)

    def dof(self, x, cond=None):
        mask = _mask_of(x, cond)
        if mask is None:
            return x.new_full((x.shape[0],), x[0].numel() if x.shape[0] else 0)
        per_member = x.shape[2:].numel()
        return mask.sum(1).to(x.dtype) * per_member


@dataclass(frozen=True)
class Centered(Space):
    r"""Sets of points whose centre of mass is zero, :math:`\{x:\sum_i x_i=0\}`.

    Samples have shape (B, N, C). The first ``coordinates`` channels are positions and are centred
    over the members that exist; further channels (atom features) are ordinary coordinates.
    A sample of n members has ``coordinates * (n - 1) + (C - coordinates) * n`` degrees of freedom.

    Reference: Equivariant flows (Köhler, Klein, Noé, 2020); E(3) Equivariant Diffusion for Molecule
    Generation in 3D (Hoogeboom, Satorras, Vignac, Welling, 2022).
    """

    coordinates: int = 3

    def noise(self, shape, cond=None, *, like=None, generator=None):
        return self.project(draw_noise(shape, like, generator=generator), cond)

    def project(self, x, cond=None):
        weight = self._weights(x, cond)
        x = x * weight
        k = min(self.coordinates, x.shape[-1])
        positions = x[..., :k]
        count = weight.sum(1, keepdim=True).clamp(min=1)
        positions = (positions - positions.sum(1, keepdim=True) / count) * weight
        return positions if k == x.shape[-1] else torch.cat([positions, x[..., k:]], dim=-1)

    def dof(self, x, cond=None):
        n = self._weights(x, cond)[..., 0].sum(1)
        k = min(self.coordinates, x.shape[-1])
        return k * (n - 1).clamp(min=0) + (x.shape[-1] - k) * n

    def _weights(self, x: Tensor, cond: Condition | None) -> Tensor:
        if x.ndim != 3:
            raise ValueError(f"Centered expects x of shape (B, N, C), got {tuple(x.shape)}")
        mask = _mask_of(x, cond)
        if mask is None:
            return x.new_ones(x.shape[0], x.shape[1], 1)
        return _to_members(mask, x)


@dataclass(frozen=True)
class Tokens(Space):
    """Sequences of tokens 0 … vocabulary−1; the number ``vocabulary`` itself is the mask token.

    Samples are integer tensors of shape (B, L). There is no Gaussian noise here: "noise" is the
    fully masked sequence, which is what an absorbing process starts from.

    Reference: Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024).
    """

    vocabulary: int

    @property
    def mask_token(self) -> int:
        """The absorbing token's number."""
        return self.vocabulary

    def noise(self, shape, cond=None, *, like=None, generator=None):
        device = None if like is None else like.device
        return torch.full(shape, self.mask_token, dtype=torch.long, device=device)

    def project(self, x, cond=None):
        return x

    def dof(self, x, cond=None):
        """The number of masked positions: how many tokens are still to be decided."""
        return (x == self.mask_token).sum(1).to(torch.get_default_dtype())


def _to_members(mask: Tensor, x: Tensor) -> Tensor:
    """``mask`` (B, N) as x's dtype and shape (B, N, 1, …), to multiply x (B, N, …)."""
    return mask.to(x.dtype).reshape(mask.shape + (1,) * (x.ndim - 2))


def _mask_of(x: Tensor, cond: Condition | None) -> Tensor | None:
    if cond is None or "mask" not in cond:
        return None
    mask = cond["mask"]
    if x.ndim < 2 or tuple(mask.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f'cond["mask"] has shape {tuple(mask.shape)}, but x has shape {tuple(x.shape)}: '
            "expected the mask to be (B, N) and x to be (B, N, ...)"
        )
    return mask
