"""Bounds (``width=0:40``) and fixed values (``material=steel``), checked against the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from payoff.domains.vectors.kinds import Column
from payoff.errors import UserError

if TYPE_CHECKING:
    from payoff.domains.vectors.table import Bound, Table


def parse_bounds(
    table: Table, given: Sequence[str] | Mapping[str, Any]
) -> tuple[dict[str, Bound], list[str]]:
    """Bounds by column, and warnings.

    Raises:
        UserError: the form is wrong, the column is unknown or not a number, or low > high.
    """
    bounds: dict[str, Bound] = {}
    notes: list[str] = []
    for name, value in _pairs(table, given, "--bounds", "width=0:40"):
        label = f"--bounds {name}={value}" if isinstance(value, str) else f"bounds of '{name}'"
        if name in bounds:
            raise UserError(f"{label}: column '{name}' is bounded twice; give one range")
        column = _designed(table, name, label)
        if column.kind == "categorical":
            raise UserError(
                f"{label}: column '{name}' is a category and has no range; fix it to one level "
                f"with --fixed {name}={column.levels[0]}"
            )
        low, high = _range(value, label)
        if column.kind == "integer":
            low, high = (
                math.ceil(low) if low > -math.inf else low,
                (math.floor(high) if high < math.inf else high),
            )
        if low > high:
            whole = " for whole numbers" if column.kind == "integer" else ""
            raise UserError(f"{label}: the range is empty{whole}; write the lower number first")
        bounds[name] = (float(low), float(high))
        inside = table.frame[name].cast(pl.Float64).is_between(low, high).sum()
        if not inside:
            notes.append(
                f"{label}: no row of the data lies inside (they range from {column.low:g} to "
                f"{column.high:g}); designs there are extrapolations"
            )
    return bounds, notes


def parse_fixed(
    table: Table, given: Sequence[str] | Mapping[str, Any], bounds: dict[str, Bound]
) -> tuple[dict[str, Any], list[str]]:
    """Fixed values by column, and warnings.

    Raises:
        UserError: the form is wrong, the column is unknown, the value is not a level or not a
            number, contradicts a bound or a constant, or nothing is left to design.
    """
    fixed: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in _pairs(table, given, "--fixed", "material=steel"):
        label = f"--fixed {name}={value}"
        if name in fixed:
            raise UserError(f"{label}: column '{name}' is fixed twice; give one value")
        column = _designed(table, name, label, value)
        if column.kind == "constant":
            continue
        if column.kind == "categorical":
            fixed[name] = _level(column, value, label)
            continue
        number = _number(value, label)
        if column.kind == "integer" and number != round(number):
            raise UserError(f"{label}: column '{name}' holds whole numbers; give one")
        low, high = bounds.get(name, (-math.inf, math.inf))
        if not low <= number <= high:
            raise UserError(f"{label}: this lies outside --bounds {name}={low:g}:{high:g}")
        if not column.low <= number <= column.high:
            notes.append(
                f"{label}: the data range from {column.low:g} to {column.high:g}; designs there "
                "are extrapolations"
            )
        fixed[name] = number
    if fixed and len(fixed) == len(table.features):
        raise UserError(
            "--fixed holds every column that varies, so there is nothing left to design; free one"
        )
    return fixed, notes


def _pairs(
    table: Table, given: Sequence[str] | Mapping[str, Any], option: str, example: str
) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, str):
        given = [given]
    pairs: list[tuple[str, Any]] = []
    for text in given:
        # A column's name may contain "=", so the longest name that fits comes first.
        known = [c.name for c in table.columns if text.startswith(c.name + "=")]
        name = max(known, key=len) if known else text.partition("=")[0]
        if "=" not in text:
            raise UserError(f"{option} {text}: write it as NAME=VALUE, for instance {example}")
        pairs.append((name.strip(), text[len(name) + 1 :].strip()))
    return pairs


def _designed(table: Table, name: str, label: str, value: Any = None) -> Column:
    """The column if it can be limited; a constant only if it agrees with ``value``."""
    try:
        column = table.column(name)
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    if column.kind == "score":
        raise UserError(f"{label}: '{name}' is the score; use --aim to ask for a score")
    if column.kind == "identifier":
        raise UserError(f"{label}: '{name}' is an identifier and is not designed")
    if column.kind == "constant" and (value is None or not _same(column.value, value)):
        raise UserError(
            f"{label}: column '{name}' has the value {column.value} in every row and is kept so; "
            "other values cannot be learned from this table"
        )
    return column


def _same(held: Any, given: Any) -> bool:
    if str(held) == str(given):
        return True
    try:
        return float(held) == float(given)
    except (TypeError, ValueError):
        return False


def _range(value: Any, label: str) -> tuple[float, float]:
    if isinstance(value, str):
        low, colon, high = value.partition(":")
        if not colon or not (low.strip() or high.strip()):
            raise UserError(
                f"{label}: write a range as LOW:HIGH, LOW: or :HIGH, for instance width=0:40"
            )
        return (
            _number(low, label) if low.strip() else -math.inf,
            _number(high, label) if high.strip() else math.inf,
        )
    try:
        low, high = value
    except (TypeError, ValueError):
        raise UserError(f"{label}: give a pair (low, high), not {value!r}") from None
    return (
        -math.inf if low is None or low == -math.inf else _number(low, label),
        math.inf if high is None or high == math.inf else _number(high, label),
    )


def _number(value: Any, label: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{label}: '{value}' is not a number") from None
    if not np.isfinite(number):
        raise UserError(f"{label}: '{value}' is not finite; leave an open end empty")
    return number


def _level(column: Column, value: Any, label: str) -> Any:
    for level in column.levels:
        if level == value or str(level) == str(value):
            return level
    lowered = [level for level in column.levels if str(level).lower() == str(value).lower()]
    if len(lowered) == 1:
        return lowered[0]
    from payoff.domains.vectors.table import close_match

    raise UserError(
        f"{label}: '{value}' is not a level of column '{column.name}'; "
        f"{close_match(str(value), [str(level) for level in column.levels])}"
    )
