r"""Rows of a table as standardised vectors, and back.

=============  =================================================================  ==========
column         encoding                                                           slots
=============  =================================================================  ==========
numeric        :math:`(v - \mu)/\sigma`, of :math:`\log v` where that is          1
               clearly closer to symmetric
integer        the same; rounded when decoded                                     1
categorical    :math:`(e_v - p)\,/\sqrt{\sum_l p_l (1 - p_l)}`, e_v the one-hot,  levels
               p the levels' frequencies: total variance 1; arg-max when decoded
constant       none; restored when decoded                                        0
=============  =================================================================  ==========

Decoding holds a design to the user's bounds and fixed values. Where the user gave none, integers
keep the data's range, and a number that is never negative (or never positive) in the data keeps its
sign. Numbers are rounded to the decimals the data are written with, which also undoes the rounding
of float32: rows of the data survive a round trip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from payoff.domains.vectors.kinds import Column
from payoff.domains.vectors.table import Table, to_dtype
from payoff.errors import UserError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Code:
    """How one column is encoded; plain values only.

    Attributes:
        name, kind, dtype: as in :class:`~payoff.domains.vectors.kinds.Column`.
        start, slots: where its numbers sit in the encoded vector.
        mean, scale: the standardisation (scale only, for categories).
        log: the logarithm is standardised.
        decimals: digits after the point in the data, None if they have too many to round to.
        low, high: limits of a decoded number; None where there is none.
        levels, frequencies: of a categorical column.
        value: the value of a constant column.
        fixed: the value every design must have, None if free.
    """

    name: str
    kind: str
    dtype: str
    start: int = 0
    slots: int = 0
    mean: float = 0.0
    scale: float = 1.0
    log: bool = False
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    levels: tuple[Any, ...] = ()
    frequencies: tuple[float, ...] = ()
    value: Any = None
    fixed: Any = None


class Codec:
    """Encoder and decoder of a table's rows.

    Args:
        codes: one :class:`Code` a design column, in the table's order.
    """

    def __init__(self, codes: Sequence[Code]) -> None:
        self.codes = tuple(codes)
        self.dim = sum(code.slots for code in codes)

    @classmethod
    def fit(cls, table: Table) -> Codec:
        """The codec of a table: statistics over all rows, with its bounds and fixed values."""
        codes: list[Code] = []
        start = 0
        for column in table.columns:
            if column.kind in ("identifier", "score"):
                continue
            code = _code(column, table, start)
            codes.append(code)
            start += code.slots
        return cls(codes)

    @property
    def columns(self) -> list[str]:
        """Names of a design's columns, in the input's order."""
        return [code.name for code in self.codes]

    @property
    def slot_names(self) -> list[str]:
        """A name for every encoded number: ``width``, ``material=steel``, ..."""
        names: list[str] = []
        for code in self.codes:
            if code.kind == "categorical":
                names += [f"{code.name}={level}" for level in code.levels]
            elif code.slots:
                names.append(code.name)
        return names

    def encode(self, rows: pl.DataFrame, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows -> (n, D) tensor; columns that are not part of a design are ignored.

        Raises:
            UserError: a column is missing, a level is unknown or a number is missing.
        """
        out = np.empty((rows.height, self.dim), dtype=np.float64)
        for code in self.codes:
            if not code.slots:
                continue
            if code.name not in rows.columns:
                raise UserError(f"the rows have no column '{code.name}'")
            cells = rows[code.name]
            part = out[:, code.start : code.start + code.slots]
            if code.kind == "categorical":
                part[:] = _encode_levels(code, cells)
            else:
                part[:, 0] = _encode_numbers(code, cells)
        return torch.from_numpy(out).to(dtype)

    def decode(self, x: Tensor) -> pl.DataFrame:
        """(n, D) tensor -> rows in the input's columns, order and types.

        A row with a number that is not finite becomes a row of nulls.
        """
        values = self._checked(x)
        broken = np.asarray(~np.isfinite(values).all(axis=1))
        values = np.where(broken[:, None], 0.0, values)
        columns = [self._decode_column(code, values, broken) for code in self.codes]
        return pl.DataFrame(columns)

    def project(self, x: Tensor) -> Tensor:
        """The encoding of the design that x stands for: whole numbers whole, limits kept.

        A design is judged here, not at x: this is what the user will get. Rows that are not finite
        stay NaN.
        """
        broken = ~torch.isfinite(x).all(dim=1, keepdim=True)
        safe = torch.where(broken, torch.zeros_like(x), x)
        again = self.encode(self.decode(safe), dtype=torch.float64).to(x)
        return again.masked_fill(broken, math.nan)

    def limits(self, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Lowest and highest encoded value of every slot, two (D,) tensors; infinite where free.

        A fixed column has low = high.
        """
        low = np.full(self.dim, -np.inf)
        high = np.full(self.dim, np.inf)
        for code in self.codes:
            if not code.slots:
                continue
            here = slice(code.start, code.start + code.slots)
            if code.fixed is not None:
                cells = pl.Series(code.name, [code.fixed])
                if code.kind == "categorical":
                    low[here] = high[here] = _encode_levels(code, cells)[0]
                else:
                    low[here] = high[here] = _encode_numbers(code, cells)
            elif code.kind != "categorical":
                if code.low is not None:
                    low[here] = _transform(code, np.array([code.low]))
                if code.high is not None:
                    high[here] = _transform(code, np.array([code.high]))
        return torch.from_numpy(low).to(dtype), torch.from_numpy(high).to(dtype)

    def config(self) -> dict[str, Any]:
        """Plain values (JSON) that rebuild the codec."""
        return {"codes": [asdict(code) for code in self.codes]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Codec:
        """The codec that :meth:`config` described."""
        codes = []
        for given in config["codes"]:
            given = dict(given)
            for name in ("levels", "frequencies"):
                given[name] = tuple(given[name])
            codes.append(Code(**given))
        return cls(codes)

    def _checked(self, x: Tensor) -> Array:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this table decodes (n, {self.dim})")
        return x.detach().to("cpu", torch.float64).numpy()

    def _decode_column(self, code: Code, values: Array, broken: npt.NDArray[np.bool_]) -> pl.Series:
        n = len(values)
        if code.kind == "constant":
            cells = pl.Series(code.name, [code.value] * n)
        elif code.fixed is not None:
            cells = pl.Series(code.name, [code.fixed] * n)
        elif code.kind == "categorical":
            part = values[:, code.start : code.start + code.slots]
            best = np.argmax(part * code.scale + np.array(code.frequencies), axis=1)
            cells = pl.Series(code.name, [code.levels[i] for i in best])
        else:
            cells = pl.Series(code.name, _decode_numbers(code, values[:, code.start]))
        if n == 0:
            cells = pl.Series(code.name, [], dtype=getattr(pl, code.dtype, pl.String))
        cells = to_dtype(cells, code.dtype)
        return cells.set(pl.Series(broken), None) if broken.any() else cells


def _code(column: Column, table: Table, start: int) -> Code:
    name, fixed = column.name, table.fixed.get(column.name)
    if column.kind == "constant":
        return Code(name, "constant", column.dtype, start, value=column.value)
    cells = table.frame[name]
    if column.kind == "categorical":
        counts = np.array([(cells == level).sum() for level in column.levels], dtype=np.float64)
        frequencies = counts / counts.sum()
        scale = math.sqrt(float((frequencies * (1 - frequencies)).sum()))
        return Code(
            name, "categorical", column.dtype, start, len(column.levels),
            scale=scale, levels=column.levels, frequencies=tuple(frequencies.tolist()), fixed=fixed,
        )  # fmt: skip
    values = cells.cast(pl.Float64).to_numpy()
    low, high = _limits(column, table)
    log = _better_as_logarithm(values) and (low is None or low >= 0)
    decimals = _decimals(values)
    if log and not low:  # a number that rounds to zero would have no logarithm
        low = 10.0 ** -(300 if decimals is None else decimals)
    used = np.log(values) if log else values
    scale = float(used.std()) or 1.0
    return Code(
        name, column.kind, column.dtype, start, 1, mean=float(used.mean()), scale=scale, log=log,
        decimals=decimals, low=low, high=high, fixed=fixed,
    )  # fmt: skip


def _limits(column: Column, table: Table) -> tuple[float | None, float | None]:
    """What a decoded number is held to: the user's bounds, else what the data make plain."""
    if column.kind == "integer":
        natural = (column.low, column.high)
    else:
        natural = (0.0 if column.low >= 0 else -math.inf, 0.0 if column.high <= 0 else math.inf)
    low, high = table.bounds.get(column.name, natural)
    return (low if low > -math.inf else None), (high if high < math.inf else None)


def _better_as_logarithm(values: Array) -> bool:
    """Positive, over more than a factor of 50, and far less skewed as a logarithm."""
    if values.min() <= 0 or values.max() < 50 * values.min():
        return False
    before, after = _skew(values), _skew(np.log(values))
    return before > 1 and abs(after) < before / 2


def _skew(values: Array) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


def _decimals(values: Array) -> int | None:
    """Fewest digits after the point that write every value, up to seven significant of the sd."""
    spread = float(values.std())
    if spread <= 0 or not math.isfinite(spread):
        return None
    most = min(max(6 - math.floor(math.log10(spread)), 0), 15)
    for digits in range(most + 1):
        rounded = np.round(values, digits)
        if (np.abs(rounded - values) <= 1e-15 * np.abs(values)).all():
            return digits
    return None


def _transform(code: Code, values: Array) -> Array:
    return ((np.log(values) if code.log else values) - code.mean) / code.scale


def _encode_numbers(code: Code, cells: pl.Series) -> Array:
    try:
        values = cells.cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"column '{code.name}' holds a cell that is not a number") from error
    if not np.isfinite(values).all() or (code.log and (values <= 0).any()):
        positive = "positive and " if code.log else ""
        raise UserError(f"column '{code.name}': every number must be {positive}finite")
    return _transform(code, values)


def _decode_numbers(code: Code, encoded: Array) -> Array:
    values = encoded * code.scale + code.mean
    if code.log:
        values = np.exp(np.clip(values, -700.0, 700.0))
    if code.kind == "integer":
        values = np.rint(values)
    elif code.decimals is not None:
        values = np.round(values, code.decimals)
    low = -math.inf if code.low is None else code.low
    high = math.inf if code.high is None else code.high
    values = np.clip(values, low, high)
    return values + 0.0  # no negative zeros


def _encode_levels(code: Code, cells: pl.Series) -> Array:
    place = {level: i for i, level in enumerate(code.levels)}
    try:
        index = np.array([place[value] for value in cells.to_list()], dtype=np.int64)
    except KeyError as error:
        raise UserError(
            f"column '{code.name}': {error.args[0]!r} is none of its levels in the table "
            f"({', '.join(str(level) for level in code.levels[:8])})"
        ) from None
    one_hot = np.eye(len(code.levels))[index]
    return (one_hot - np.array(code.frequencies)) / code.scale
