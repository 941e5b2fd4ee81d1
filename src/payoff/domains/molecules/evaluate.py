"""Samples of a molecule generator, and how good they are."""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Cond
from payoff.domains.molecules.codecs import Codec
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.molecule import Molecule
from payoff.samplers import Multistep, Sampler


def draw_sizes(sizes: Tensor, n: int, *, generator: torch.Generator) -> Cond:
    """Masks (n, N) of sets whose sizes are drawn from ``sizes`` (m,), smallest first.

    Sorted so that a sampler's batches hold sets of about one size.
    """
    drawn = sizes[torch.randint(len(sizes), (n,), generator=generator)].sort().values
    return {"mask": torch.arange(int(drawn.max())) < drawn.unsqueeze(1)}


def sample(
    denoiser: Denoiser,
    codec: Codec,
    sizes: Tensor,
    n: int,
    *,
    generator: torch.Generator,
    steps: int = 50,
    batch_size: int = 500,
    sampler: type[Sampler] = Multistep,
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
    return summary(sample(denoiser, codec, sizes, n, generator=generator))
