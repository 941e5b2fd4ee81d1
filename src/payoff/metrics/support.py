r"""How far encoded designs are from the data: novelty and support distance.

*Novelty* is the distance to the nearest row in standardised units: 0 is a copy.

*Support distance* asks whether a design looks like the data at all. Columns are decorrelated first,
:math:`z = (x - \mu) (\Sigma + \epsilon\,\tfrac{\mathrm{tr}\Sigma}{D} I)^{-1/2}`, so that breaking a
correlation counts as leaving the data even where every column is inside its range. The mean
distance to the k nearest rows is divided by its 95 % quantile over the data's own rows (each
against the others): below 1 is as usual as 95 % of the data; 2 is twice as far out.

Reference: Loftsgaarden and Quesenberry, "A Nonparametric Estimate of a Multivariate Density
Function" (1965), for the k nearest neighbours as a measure of density.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from payoff.whitening import Whitening

CHUNK_CELLS = 1 << 23  # distances held at once: 64 MB in float64, however many rows there are
MOST_REFERENCES = 20_000
MOST_QUERIES = 2_000


def _in_chunks(x: Tensor, rows: int, of: Callable[[Tensor], Tensor]) -> Tensor:
    if not len(x):
        return x.new_zeros(0)
    return torch.cat([of(part) for part in x.split(max(1, CHUNK_CELLS // max(rows, 1)))])


def novelty(x: Tensor, rows: Tensor) -> Tensor:
    """Euclidean distance (n,) of encoded designs x (n, D) to the nearest of the rows (m, D)."""
    _check(x, rows)
    exact = "donot_use_mm_for_euclid_dist"  # matrix products lose the digits of small distances
    return _in_chunks(
        x, len(rows), lambda part: torch.cdist(part, rows.to(part), compute_mode=exact).amin(dim=1)
    )


class SupportDistance:
    """Distance from the data, 1 = the data's own 95 % quantile; see the module's text.

    Args:
        rows: encoded rows of the data (m, D), m > 1.
        k: neighbours averaged over (at most m - 1).
        shrinkage: the whitening's epsilon.
        quantile: which quantile of the data counts as 1.
        generator: picks the rows used where there are more than 20,000; needed only then.

    Attributes:
        spacing: median distance of a row to its nearest neighbour, in the same coordinates.
    """

    def __init__(
        self,
        rows: Tensor,
        *,
        k: int = 5,
        shrinkage: float = 0.05,
        quantile: float = 0.95,
        generator: torch.Generator | None = None,
    ) -> None:
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"rows have shape {tuple(rows.shape)}; expected (m, D), m > 1")
        rows = rows.detach().double()
        if len(rows) > MOST_REFERENCES:
            generator = generator or torch.Generator().manual_seed(0)
            chosen = torch.randperm(len(rows), generator=generator, device=generator.device)
            rows = rows[chosen[:MOST_REFERENCES].to(rows.device)]
        self.k = min(k, len(rows) - 1)
        self.whitening = Whitening(rows, shrinkage)
        self.reference = self.whitening.encode(rows)
        every = max(1, len(rows) // MOST_QUERIES)
        near = self._nearest(self.reference[::every], self.k + 1)[:, 1:]  # itself comes first
        self.unit = near.mean(dim=1).quantile(quantile).clamp(min=1e-9)
        self.spacing = float(near[:, 0].median())

    def coordinates(self, x: Tensor) -> Tensor:
        """The decorrelated coordinates (n, d) in which distances are taken, float64."""
        _check(x, self.whitening.matrix.T)
        return self.whitening.encode(x.double())

    def __call__(self, x: Tensor) -> Tensor:
        """Support distance (n,) of encoded designs x (n, D), in the dtype of x."""
        near = self._nearest(self.coordinates(x), self.k)
        return (near.mean(dim=1) / self.unit).to(x)

    def _nearest(self, z: Tensor, k: int) -> Tensor:
        """Distances (n, k) to the k nearest rows, the nearest first."""
        parts = z.split(max(1, CHUNK_CELLS // len(self.reference))) if len(z) else ()
        found = [torch.cdist(p, self.reference).topk(k, largest=False).values for p in parts]
        return torch.cat(found) if found else z.new_zeros(0, k)


def _check(x: Tensor, rows: Tensor) -> None:
    if x.ndim != 2 or rows.ndim != 2 or x.shape[1] != rows.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and the data {tuple(rows.shape)}; "
            "expected (n, D) and (m, D)"
        )
