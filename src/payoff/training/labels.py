r"""Labels that a generator learns: one property or several, standardised.

A label is :math:`\tilde y = (y - \bar y)/s`, with the mean and the standard deviation of the
objects that a generator learns from. Both travel with its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from payoff.errors import UserError
from payoff.training.conditional import drop_columns, drop_labels


@dataclass(frozen=True)
class Scales:
    """Names of k labels, and what standardises each.

    Attributes:
        names: k of them; empty for labels that have none.
        location, spread: (k,) in the labels' own units, double precision.
    """

    names: tuple[str, ...]
    location: Tensor
    spread: Tensor

    @classmethod
    def fitting(cls, names: Sequence[str], values: Tensor) -> Scales:
        """Mean and standard deviation of the columns of values (n, k)."""
        columns = [column.contiguous() for column in values.double().unbind(1)]
        location = torch.stack([column.mean() for column in columns])
        spread = torch.stack([column.std(correction=0) for column in columns]).clamp(min=1e-12)
        return cls(tuple(names), location, spread)

    def standardised(self, values: Tensor) -> Tensor:
        """(n, k) in their units to (n, k) in deviations from the mean, in the values' precision."""
        return (values - self.location.to(values)) / self.spread.to(values)

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise a UserError unless what is called ``where`` has learned all of these."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise UserError(
                f"{where} has not learned {', '.join(missing)}: its labels are "
                f"{', '.join(self.names)}"
            )

    def columns(self, names: Sequence[str], values: Tensor) -> tuple[Tensor, Tensor]:
        """Some of the labels, values (n, m) of these names, among all k, standardised.

        Returns:
            labels (n, k), 0 where there is none, and flags (n, k), 1 where there is.
        """
        places = [self.names.index(name) for name in names]
        found = values.new_zeros(len(values), len(self.names))
        found[:, places] = values
        known = torch.zeros_like(found)
        known[:, places] = 1.0
        return self.standardised(found) * known, known

    def facts(self) -> dict[str, Any]:
        """As saved beside the weights, JSON-able; one label is not written as a list."""
        location, spread = self.location.tolist(), self.spread.tolist()
        if len(location) == 1:
            return {"name": ", ".join(self.names), "location": location[0], "spread": spread[0]}
        return {"names": list(self.names), "locations": location, "spreads": spread}

    @classmethod
    def read(cls, metadata: dict[str, Any], where: str) -> Scales:
        """The inverse of :meth:`facts`, from the metadata of the weights called ``where``.

        Raises:
            UserError: the weights have learned no label, or what is told about it is damaged.
        """
        told = metadata.get("label")
        if not told:
            raise UserError(
                f"{where} has learned no label: train with payoff train qm9 --label alpha,gap,…"
            )
        try:
            if "name" in told:
                told = {f"{key}s": [value] for key, value in told.items()}
            numbers = [torch.tensor(told[k], dtype=torch.float64) for k in ("locations", "spreads")]
            names = tuple(str(name) for name in told["names"])
            if not all(v.shape == (len(names),) and bool(v.isfinite().all()) for v in numbers):
                raise ValueError("as many finite locations and spreads as names are needed")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} does not say how its labels are scaled ({error})") from error
        return cls(names, *numbers)


class Labels:
    """Standardised labels of objects, and the draws of training.

    Args:
        names: of the labels.
        values: (n,) one label of each object, or (n, k), in its own unit.
        like: the objects' tensor (n, ...), for number, precision and device.

    Attributes:
        values: (n,) or (n, k) as given, standardised.
        scales: what undoes it.

    Raises:
        ValueError: values that are not finite, or of another shape.
    """

    def __init__(self, names: Sequence[str], values: Tensor, like: Tensor) -> None:
        n = len(like)
        columns = values if values.ndim == 2 else values.unsqueeze(-1)
        right = values.ndim in (1, 2) and columns.shape[0] == n and columns.shape[1] > 0
        if not right or not bool(values.isfinite().all()):
            raise ValueError(
                f"labels must be ({n},) and finite, or ({n}, k): {tuple(values.shape)}"
            )
        if columns.shape[1] > 1 and len(names) != columns.shape[1]:
            raise ValueError(f"{columns.shape[1]} labels need as many names, got {list(names)}")
        self.scales = Scales.fitting(names, columns)
        found = self.scales.standardised(columns).to(like)
        self.values = found.squeeze(-1) if found.shape[1] == 1 else found

    @property
    def count(self) -> int:
        """The number of labels, k."""
        return len(self.scales.location)

    def draw(
        self,
        rows: Tensor,
        noise: float,
        dropout: float,
        alone: float,
        *,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """``label`` (B, k) of these rows with its noise, and which of it is known.

        One label is known or not by row; of several any subset may be: see
        :func:`~payoff.training.conditional.drop_columns`.
        """
        found = self.values[rows]
        drawn = torch.randn(found.shape, generator=generator)
        found = found + noise * drawn.to(found)
        if self.count == 1:
            return drop_labels({"label": found.unsqueeze(-1)}, dropout, generator=generator)
        return drop_columns({"label": found}, dropout, alone, generator=generator)
