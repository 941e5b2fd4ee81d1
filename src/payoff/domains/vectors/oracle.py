"""A user's own function as the judge of designs: a row it fails on costs that row only.

The function is given the whole table first, which is the fast way. If that raises, or the answer is
not one number a row, the table is halved again and again until the rows that fail stand alone; they
become NaN and all others keep their score. A function that only knows single rows therefore works
too: it is asked one row at a time, as a table of one row and, failing that, as a dict of values.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.domains.vectors.table import close_match
from payoff.errors import UserError
from payoff.naming import load_named

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OracleResult:
    """Scores of a table of designs.

    Attributes:
        values: (n,) in the user's units, NaN where the function failed.
        failed: number of rows without a finite value.
        calls: how often the function was called.
        seconds: time spent in it.
        message: the first failure, None if there was none.
    """

    values: Array
    failed: int
    calls: int
    seconds: float
    message: str | None


class Oracle:
    """A function of a table of designs, guarded.

    Args:
        fn: called with a polars DataFrame of designs (pandas if its first parameter is annotated
            so); returns one number a row, as a list, array, Series, tensor or one-column table.
        name: how messages call it.
    """

    def __init__(self, fn: Callable[..., Any], name: str = "the oracle") -> None:
        if not callable(fn):
            raise UserError(f"{name} is a {type(fn).__name__}, not a function of a table")
        self.fn = fn
        self.name = name
        self._pandas = wants_pandas(fn)

    def __call__(self, designs: pl.DataFrame) -> OracleResult:
        """Score designs; rows that fail are NaN, and only they."""
        values = np.full(designs.height, np.nan)
        state = _State()
        start = time.perf_counter()
        if designs.height:
            self._score(designs, 0, values, state)
        values[~np.isfinite(values)] = np.nan
        failed = int(np.isnan(values).sum())
        if failed and state.message is None:
            state.message = f"{self.name} returned NaN or an infinite value"
        seconds = time.perf_counter() - start
        return OracleResult(values, failed, state.calls, seconds, state.message)

    def _score(self, rows: pl.DataFrame, start: int, values: Array, state: _State) -> None:
        n = rows.height
        if n == 1:
            values[start] = self._one(rows, state)
            return
        answer = self._try(rows, n, state)
        if answer is not None:
            values[start : start + n] = answer
            return
        half = n // 2
        self._score(rows[:half], start, values, state)
        self._score(rows[half:], start + half, values, state)

    def _one(self, row: pl.DataFrame, state: _State) -> float:
        if state.form != "dict":
            answer = self._try(row, 1, state)
            if answer is not None:
                state.form = "table"
                return float(answer[0])
        if state.form != "table":
            answer = self._try(row.row(0, named=True), 1, state)
            if answer is not None:
                state.form = "dict"
                return float(answer[0])
        return float("nan")

    def _try(self, argument: Any, n: int, state: _State) -> Array | None:
        state.calls += 1
        if self._pandas and isinstance(argument, pl.DataFrame):
            argument = to_pandas(argument)
        try:
            return as_numbers(self.fn(argument), n)
        except (Exception, SystemExit) as error:  # anything may happen in user code
            if state.message is None:
                state.message = f"{self.name} failed: {type(error).__name__}: {error}"
            return None


@dataclass
class _State:
    calls: int = 0
    message: str | None = None
    form: str | None = None  # how single rows are passed, once one has worked


def load_oracle(name: str) -> Oracle:
    """The function called ``module:function``, from the user's folder or environment.

    Raises:
        UserError: the form is wrong, the module cannot be imported or it has no such function.
    """

    def hint(owner: Any, missing: str) -> str:
        public = [n for n in dir(owner) if not n.startswith("_") and callable(getattr(owner, n))]
        return f"; {close_match(missing, public) if public else 'it defines no function'}"

    said = f"--oracle {name}"
    found = load_named(name, said, "MODULE:FUNCTION", "lab:strength", hint)
    return Oracle(found, name)


def as_numbers(answer: Any, n: int) -> Array:
    """One number a row, or an error that says what came instead."""
    if isinstance(answer, pl.DataFrame) or hasattr(answer, "to_numpy"):
        answer = answer.to_numpy()
    elif hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, (str, bytes, dict)) or answer is None:
        raise TypeError(f"it returned {type(answer).__name__}, not one number a row")
    if isinstance(answer, (list, tuple)):
        answer = [float("nan") if value is None else value for value in answer]
    values = np.asarray(answer, dtype=np.float64)
    if values.size != n or values.ndim > 2:
        raise ValueError(f"it returned shape {values.shape} for {n} rows, not one number a row")
    if values.ndim == 0 and n > 1:
        raise ValueError(f"it returned one number for {n} rows")
    return values.reshape(n)


def wants_pandas(fn: Callable[..., Any]) -> bool:
    """Whether a function's first parameter is annotated as a pandas object."""
    target = fn if hasattr(fn, "__annotations__") else type(fn).__dict__.get("__call__", fn)
    notes = {k: v for k, v in getattr(target, "__annotations__", {}).items() if k != "return"}
    first = next(iter(notes.values()), None)
    text = first if isinstance(first, str) else getattr(first, "__module__", "")
    return text.split(".")[0] in ("pandas", "pd")


def to_pandas(rows: pl.DataFrame) -> Any:
    """The rows as a pandas DataFrame."""
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame(rows.to_dict(as_series=False))
