r"""Samples of a molecule generator, and how good they are.

Molecules are drawn by the reverse-time equation with :math:`\eta` = 2 times DDPM's noise (see
:class:`~payoff.processes.GaussianProcess`). For an exact denoiser every :math:`\eta` gives the same
law; a learned one's errors are forgotten faster where there is more noise, and one misplaced atom
spoils a molecule. The solver has to be of second order: one of first order draws more stable
molecules still, but of another law, with one ring too many.

Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras, Aittala, Aila,
Laine, 2022), section 4, on noise that corrects earlier steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.codecs import Codec
from payoff.domains.molecules.config import NOISE, PRODUCTS, STEPS
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.molecule import Molecule
from payoff.rewards.base import Cond
from payoff.samplers import NoisyMultistep, Sampler


def draw_sizes(sizes: Tensor, n: int, *, generator: torch.Generator) -> Cond:
    """Masks (n, N) of sets whose sizes are drawn from ``sizes`` (m,), smallest first.

    Sorted so that a sampler's batches hold sets of about one size.
    """
    drawn = sizes[torch.randint(len(sizes), (n,), generator=generator)].sort().values
    return {"mask": torch.arange(int(drawn.max())) < drawn.unsqueeze(1)}


def noisy(denoiser: Denoiser, shape: tuple[int, ...], steps: int = STEPS) -> Sampler:
    """The sampler of molecules: twice DDPM's noise, one network call a step."""
    return NoisyMultistep(denoiser, shape, steps, eta=NOISE)


def products(kind: str = "auto") -> AbstractContextManager[object]:
    """A block in which a CPU takes matrix products in bfloat16 (bf16) or single precision (fp32).

    ``auto`` is bf16 where the processor has instructions for it, elsewhere it would be slow.

    Raises:
        ValueError: another kind.
    """
    if kind not in PRODUCTS:
        raise ValueError(f"products must be one of {PRODUCTS}, got {kind!r}")
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    half = kind == "bf16" or (kind == "auto" and able)
    # no cache: inside one block weights may be trained, and rounded copies would be old ones
    return torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False)


def sample(
    denoiser: Denoiser,
    codec: Codec,
    sizes: Tensor,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = STEPS,
    batch_size: int = 500,
    sampler: Callable[[Denoiser, tuple[int, ...], int], Sampler] = noisy,
) -> list[Molecule | None]:
    """``n`` molecules whose numbers of nodes are drawn from ``sizes`` (m,)."""
    cond = draw_sizes(sizes, n, generator=generator)
    shape = (cond["mask"].shape[1], 3 + codec.features)
    drawn = sampler(denoiser, shape, steps)
    x = drawn.sample(n, cond, generator=generator, batch_size=batch_size)
    return codec.decode(x, cond)


def evaluate(
    denoiser: Denoiser, codec: Codec, sizes: Tensor, n: int, *, seed: int = 0
) -> dict[str, float]:
    """:func:`~payoff.domains.molecules.metrics.summary` of ``n`` samples."""
    generator = torch.Generator().manual_seed(seed)
    with products():
        return summary(sample(denoiser, codec, sizes, n, generator=generator))
