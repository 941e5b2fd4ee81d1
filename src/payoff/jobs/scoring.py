"""Objects with their scores: one table and one order, for every job and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from payoff.domains.base import Domain, select
from payoff.jobs.rewards import ObjectReward

SCORE_DIGITS, SUPPORT_DIGITS = 10, 6  # significant digits in tables


@dataclass
class Scored:
    """Objects and their table, in the same order.

    The table has the kind's own columns, then ``score``, ``held_out`` (where there is one),
    ``valid``, the kind's notes, and ``support`` (where the data are at hand). A column whose name
    the user's own columns have gets an underscore in front.

    Attributes:
        objects: the objects; None where a sample stands for none.
        table: one row an object.
        names: column names by role: ``score``, ``held_out``, ``valid``, ``support``.
    """

    objects: Sequence[Any]
    table: pl.DataFrame
    names: dict[str, str]

    @classmethod
    def of(
        cls,
        domain: Domain,
        objects: Sequence[Any],
        reward: ObjectReward,
        held_out: ObjectReward | None = None,
        support: Callable[[Sequence[Any]], Tensor] | None = None,
    ) -> Scored:
        """Score objects.

        Args:
            domain: of the objects.
            objects: to be scored, None among them.
            reward: gives the scores.
            held_out: gives the held-out scores, or None.
            support: support distance (m,) of present objects.
        """
        table = domain.table(objects)
        values = {"score": reward.values(objects).double().cpu().numpy()}
        if held_out is not None:
            values["held_out"] = held_out.values(objects).double().cpu().numpy()
        names: dict[str, str] = {}

        def add(role: str, column: pl.Series) -> None:
            nonlocal table
            names[role] = free_name(role, table)
            table = table.with_columns(column.alias(names[role]))

        for role, numbers in values.items():
            add(role, pl.Series(numbers).fill_nan(None).round_sig_figs(SCORE_DIGITS))
        reasons = domain.check(objects)
        fine = np.array([why is None for why in reasons], dtype=bool)
        add("valid", pl.Series(fine & np.isfinite(values["score"])))
        notes = domain.notes(objects)
        for column in () if notes is None else notes.get_columns():
            add(column.name, column)
        if support is not None:
            distance = np.full(len(objects), np.nan)
            there = [i for i, thing in enumerate(objects) if thing is not None]
            if there:
                distance[there] = support(select(objects, there)).double().cpu().numpy()
            add("support", pl.Series(distance).fill_nan(None).round_sig_figs(SUPPORT_DIGITS))
        return cls(objects, table, names)

    def column(self, role: str) -> pl.Series:
        """The column of a role, such as ``score``."""
        return self.table[self.names[role]]

    def ranked(self, minimize: bool) -> Scored:
        """Valid objects first, the best first; equal ones stay in their order."""
        place = free_name("place", self.table)
        order = (
            self.table.with_row_index(place)
            .sort(
                [self.names["valid"], self.names["score"]],
                descending=[True, not minimize],
                nulls_last=True,
                maintain_order=True,
            )[place]
            .to_list()
        )
        return Scored(select(self.objects, order), self.table[order], self.names)

    def summary(self, domain: Domain, minimize: bool) -> dict[str, Any]:
        """Counts and figures for a record: of the valid objects' scores, and the kind's measures.

        ``different`` counts the identities among the valid objects.
        """
        score = self.column("score").to_numpy().astype(float)
        valid = self.column("valid").to_numpy().astype(bool)
        usable = score[valid]
        best = np.min if minimize else np.max
        fine = select(self.objects, np.flatnonzero(valid).tolist())
        found: dict[str, Any] = {
            "count": len(score),
            "valid": int(valid.sum()),
            "failed": int(np.isnan(score).sum()),
            "median": float(np.median(usable)) if len(usable) else None,
            "mean": float(np.mean(usable)) if len(usable) else None,
            "best": float(best(usable)) if len(usable) else None,
            "held_out_median": None,
            "different": len(set(domain.identities(fine))) if len(usable) else 0,
        }
        if "held_out" in self.names:
            held = self.column("held_out").to_numpy().astype(float)[valid]
            held = held[np.isfinite(held)]
            found["held_out_median"] = float(np.median(held)) if len(held) else None
        notes = [name for name in self.names if name not in found and name not in ROLES]
        for name in notes:
            column = self.column(name)
            if column.dtype == pl.Boolean:
                found[name] = None if column.null_count() else int(column.sum())
        return found


ROLES = ("score", "held_out", "valid", "support")


def free_name(name: str, frame: pl.DataFrame) -> str:
    """``name``, with underscores in front as long as the table has a column of that name."""
    while name in frame.columns:
        name = "_" + name
    return name
