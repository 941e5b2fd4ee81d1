r"""Coordinates in which correlated columns become independent.

With mean c and covariance :math:`E\,\mathrm{diag}(\lambda)\,E^\top` of the rows,

.. math:: z = \mathrm{diag}(\lambda + \epsilon\bar\lambda)^{-1/2} E^\top (x - c) .

With :math:`\epsilon = 0` the rows have exactly the identity as covariance, and directions in which
they do not vary at all are left out, so that what is linearly dependent in the data stays so in
everything made from z. With :math:`\epsilon > 0` directions of little variance are not blown up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NO_VARIANCE = 1e-9  # of the largest eigenvalue: rounding, not data


class Whitening:
    """An affine map and its inverse, fitted on rows.

    Args:
        rows: (n, D), n > 1.
        shrinkage: ε; 0 for exact whitening on the directions that vary.

    Attributes:
        mean: (D,) float64.
        matrix: (D, d) with z = (x − mean) @ matrix.
        inverse: (d, D) with x = mean + z @ inverse.
    """

    def __init__(self, rows: Tensor, shrinkage: float = 0.0) -> None:
        if rows.ndim != 2 or rows.shape[0] < 2:
            raise ValueError(f"rows have shape {tuple(rows.shape)}; expected (n, D), n > 1")
        rows = rows.detach().double()
        self.mean = rows.mean(0)
        covariance = torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=0)
        if shrinkage > 0:
            values = values + shrinkage * values.mean().clamp(min=1e-12)
        kept = values > NO_VARIANCE * values.max()
        scale, vectors = values[kept].sqrt(), vectors[:, kept]
        # contiguous, as after reading them back: another layout would round products differently
        self.matrix = (vectors / scale).contiguous()
        self.inverse = (vectors * scale).T.contiguous()

    @property
    def dim(self) -> int:
        """d, the number of coordinates kept."""
        return self.matrix.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Z (n, d) of x (n, D), in the dtype of x."""
        return ((x.to(self.mean) - self.mean) @ self.matrix).to(x)

    def decode(self, z: Tensor) -> Tensor:
        """X (n, D) of z (n, d), in the dtype of z."""
        return (self.mean + z.to(self.mean) @ self.inverse).to(z)

    def config(self) -> dict[str, Any]:
        """Plain lists, exact."""
        return {k: getattr(self, k).tolist() for k in ("mean", "matrix", "inverse")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Whitening:
        """The inverse of :meth:`config`."""
        self = cls.__new__(cls)
        for name in ("mean", "matrix", "inverse"):
            setattr(self, name, torch.tensor(config[name], dtype=torch.float64))
        return self
