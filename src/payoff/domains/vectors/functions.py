"""A user's own function of a table of designs, however it takes its rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from payoff.domains.vectors.oracle import as_numbers, to_pandas, wants_pandas
from payoff.domains.vectors.rows import Rows


class OneByOne(Exception):
    """The function takes single rows only: ask for each of them."""


class TableFunction:
    """A function of designs: of a DataFrame, or of a single row as a table or a dict.

    A whole table is tried first, which is the fast way. A function that has answered a single row
    as a dict is not given tables any more, and one that has answered a table is given no dicts.

    Args:
        function: returns one number a row, as a list, array, Series, tensor or one-column table.
        name: of the function in messages.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.pandas = wants_pandas(function)
        self.single = threading.local()  # a function may be asked by several threads

    def __call__(self, rows: Sequence[Any]) -> Sequence[float]:
        """Values (n,); raises whatever the function raises.

        Raises:
            OneByOne: there are several rows, and the function takes single ones only.
        """
        frame = Rows.of(rows).frame
        as_dict = getattr(self.single, "as_dict", None)  # None: not known yet
        if as_dict:
            if frame.height != 1:
                raise OneByOne
            return self._numbers(frame.row(0, named=True), 1)
        try:
            found = self._numbers(frame, frame.height)
            self.single.as_dict = False
            return found
        except (Exception, SystemExit) as error:
            if frame.height != 1 or as_dict is False:
                raise
            try:
                found = self._numbers(frame.row(0, named=True), 1)
            except (Exception, SystemExit):
                raise error from None
            self.single.as_dict = True
            return found

    def _numbers(self, argument: Any, n: int) -> list[float]:
        if self.pandas and isinstance(argument, pl.DataFrame):
            argument = to_pandas(argument)
        found: list[float] = as_numbers(self.function(argument), n).tolist()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
