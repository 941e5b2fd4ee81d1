"""Rows of a table as a sequence of objects, over one DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.domains.vectors.codec import Code, Codec
from payoff.domains.vectors.table import to_dtype
from payoff.errors import UserError


class Rows(Sequence[dict[str, Any] | None]):
    """Designs as rows: item i is a dict column -> value, or None where there is no design.

    Args:
        frame: one row a design; what it holds where there is none does not matter.
        missing: where there is none, (n,) bool; None: nowhere.
    """

    def __init__(self, frame: pl.DataFrame, missing: npt.NDArray[np.bool_] | None = None) -> None:
        self.frame = frame
        self.missing = np.zeros(frame.height, dtype=bool) if missing is None else missing

    @classmethod
    def of(cls, objects: Any, columns: Sequence[str] = ()) -> Rows:
        """Rows of a DataFrame or a sequence of dicts; ``columns`` name those of no rows at all."""
        if isinstance(objects, cls):
            return objects
        if isinstance(objects, pl.DataFrame):
            return cls(objects)
        found = list(objects)
        missing = np.array([thing is None for thing in found], dtype=bool)
        blank: dict[str, Any] = dict.fromkeys(columns)
        frame = pl.DataFrame(
            [blank if thing is None else thing for thing in found],
            schema=list(columns) if not found else None,
            infer_schema_length=None,
        )
        return cls(frame, missing)

    def __len__(self) -> int:
        return self.frame.height

    @overload
    def __getitem__(self, place: int) -> dict[str, Any] | None: ...

    @overload
    def __getitem__(self, place: slice) -> Rows: ...

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Rows(self.frame[place], self.missing[place])
        if self.missing[place]:
            return None
        return self.frame.row(place, named=True)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        for row, missing in zip(self.frame.iter_rows(named=True), self.missing, strict=True):
            yield None if missing else row

    def select(self, places: Sequence[int]) -> Rows:
        """The rows at these places, in this order."""
        chosen = list(places)
        return Rows(self.frame[chosen], self.missing[chosen])

    def join(self, others: Sequence[Rows]) -> Rows:
        """These rows and then the others, of the same columns."""
        parts = [self, *others]
        return Rows(
            pl.concat([part.frame for part in parts]),
            np.concatenate([part.missing for part in parts]),
        )


def restored(table: pl.DataFrame, codec: Codec) -> Rows:
    """Rows out of a table that was written as text: columns get their own types back.

    A row is missing where a column that varies is empty.

    Raises:
        UserError: a column is missing, or a cell is no value of its column.
    """
    columns = []
    missing = np.zeros(table.height, dtype=bool)
    for code in codec.codes:
        if code.name not in table.columns:
            raise UserError(f"the column '{code.name}' is missing; write it as it was read")
        columns.append(_restored(code, table[code.name]))
        if code.kind != "constant":
            missing |= columns[-1].is_null().to_numpy()
    return Rows(pl.DataFrame(columns), missing)


def _restored(code: Code, cells: pl.Series) -> pl.Series:
    if code.kind == "categorical":
        texts = [None if cell is None else str(cell) for cell in cells.to_list()]
        level = _by_text(code.levels)
        found = [
            None if text is None else level.get(text, level.get(_plain(text))) for text in texts
        ]
        bad = [i for i, text in enumerate(texts) if text is not None and found[i] is None]
        wanted = f"none of its levels ({', '.join(str(one) for one in code.levels[:8])})"
    elif code.kind == "constant":
        return to_dtype(pl.Series(code.name, [code.value] * len(cells)), code.dtype)
    else:
        numbers = cells.cast(pl.Float64, strict=False)
        found = numbers.to_list()
        bad = np.flatnonzero((numbers.is_null() & cells.is_not_null()).to_numpy()).tolist()
        wanted = "not a number"
    if bad:
        raise UserError(
            f"column '{code.name}': row {bad[0] + 1} holds '{cells[bad[0]]}', which is {wanted}; "
            "correct the cell"
        )
    if all(one is None for one in found):
        return pl.Series(code.name, found, dtype=getattr(pl, code.dtype, pl.String))
    return to_dtype(pl.Series(code.name, found), code.dtype)


def _by_text(levels: Sequence[Any]) -> dict[str, Any]:
    """Levels by the texts that a CSV reader may have made of them: "true" and "007" change."""
    plain = [_plain(str(level)) for level in levels]
    found = {p: level for p, level in zip(plain, levels, strict=True) if plain.count(p) == 1}
    return found | {str(level): level for level in levels}


def _plain(text: str) -> str:
    """A text as a reader of numbers and truth values understands it."""
    try:
        return repr(float(text))
    except ValueError:
        return text.lower()
