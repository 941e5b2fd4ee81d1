"""A number with its standard error. No metric of this library returns less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
        value: the estimate.
        stderr: its standard error; inf when it cannot be told, 0 when it is exact.
        n: the number of independent observations behind it.

    >>> print(Estimate.of(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    2.5 ± 0.65 (n = 4)
    """

    value: float
    stderr: float
    n: int

    @classmethod
    def of(cls, observations: Tensor) -> Estimate:
        """The mean of observations (n,); NaN ones (failures) are left out and not counted."""
        if observations.ndim != 1:
            raise ValueError(f"observations must be (n,), got {tuple(observations.shape)}")
        known = observations[~observations.isnan()].double()
        n = len(known)
        if n == 0:
            return cls(math.nan, math.inf, 0)
        stderr = float(known.std()) / math.sqrt(n) if n > 1 else math.inf
        return cls(float(known.mean()), stderr, n)

    def z(self, expected: Estimate | float) -> float:
        """(value − expected) in standard errors of the difference; nan without any spread at all
        and no difference.
        """
        other = expected if isinstance(expected, Estimate) else Estimate(float(expected), 0.0, 1)
        spread = math.hypot(self.stderr, other.stderr)
        gap = self.value - other.value
        if spread == 0:
            return 0.0 if gap == 0 else math.copysign(math.inf, gap)
        return gap / spread

    def agrees(self, expected: Estimate | float, limit: float = 4.0) -> bool:
        """Whether the z-score is within ``limit``: at 4, chance says no once in 16 000."""
        return abs(self.z(expected)) < limit

    def interval(self, width: float = 1.96) -> tuple[float, float]:
        """Value ± ``width`` standard errors; 1.96 for 95 %."""
        return self.value - width * self.stderr, self.value + width * self.stderr

    def to_dict(self) -> dict[str, float | int]:
        """For JSON and tables."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.stderr:.2g} (n = {self.n})"


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    x: Tensor,
    repeats: int = 50,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    """``statistic(x)`` () of rows x (n, ...), its error from ``repeats`` resamples of the rows.

    Reference: Bootstrap Methods: Another Look at the Jackknife (Efron, 1979).
    """
    where = generator.device if generator is not None else x.device
    values = []
    for _ in range(repeats):
        rows = torch.randint(len(x), (len(x),), generator=generator, device=where)
        values.append(statistic(x[rows.to(x.device)]))
    return Estimate(float(statistic(x)), float(torch.stack(values).std()), len(x))
