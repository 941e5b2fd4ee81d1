"""Checks and conversions of the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from torch import Tensor

from payoff.domains.vectors.codec import Codec
from payoff.domains.vectors.table import Table
from payoff.rewards.base import Cond
from payoff.spaces import Euclidean


class VectorDomain:
    """Rows of a table: numbers, whole numbers and categories.

    An object is a dict column -> value with the table's design columns.

    Args:
        table: the checked table; its bounds and fixed values are kept by every decoded row.
        codec: an existing codec (of a saved model), or None to fit one.
    """

    def __init__(self, table: Table, codec: Codec | None = None) -> None:
        self.table = table
        self.codec = Codec.fit(table) if codec is None else codec
        self.space = Euclidean()

    def encode(self, objects: Any) -> tuple[Tensor, Cond | None]:
        """(n, D) float32 from a polars DataFrame or a sequence of dicts; no conditions."""
        rows = objects if isinstance(objects, pl.DataFrame) else pl.DataFrame(list(objects))
        return self.codec.encode(rows), None

    def decode(self, x: Tensor, cond: Cond | None = None) -> list[Any | None]:
        """Dicts; None for a row of x that is not finite."""
        good = x.isfinite().all(dim=1).tolist()
        rows = self.codec.decode(x).to_dicts()
        return [row if fine else None for row, fine in zip(rows, good, strict=True)]

    def check(self, objects: Sequence[Any | None]) -> list[str | None]:
        """Why a row breaks a kind, a bound or a fixed value; None if it does not."""
        return [self._reason(row) for row in objects]

    def _reason(self, row: Mapping[str, Any] | None) -> str | None:
        if row is None:
            return "no design"
        for code in self.codec.codes:
            value = row.get(code.name)
            if code.kind == "constant":
                if value != code.value:
                    return f"{code.name} is not {code.value}"
                continue
            if value is None:
                return f"{code.name} is missing"
            if code.fixed is not None and value != code.fixed:
                return f"{code.name} is not {code.fixed}"
            if code.kind == "categorical":
                if value not in code.levels:
                    return f"{code.name} has no level {value}"
                continue
            if value != value or abs(value) == float("inf"):
                return f"{code.name} is not finite"
            if code.kind == "integer" and value != round(value):
                return f"{code.name} is not whole"
            if code.fixed is None and code.low is not None and value < code.low:
                return f"{code.name} is below {code.low:g}"
            if code.fixed is None and code.high is not None and value > code.high:
                return f"{code.name} is above {code.high:g}"
        return None
