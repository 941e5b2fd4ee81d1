"""Airfoils as a kind: tables of Kulfan parameters with NeuralFoil's lift-to-drag ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from payoff.configs import suggest
from payoff.domains import airfoils
from payoff.domains.airfoils.drawing import draw
from payoff.domains.airfoils.geometry import COLUMNS, positive_thickness
from payoff.domains.airfoils.rewards import REWARDS, NamedReward
from payoff.domains.base import Bar, Data, Judge, no_bar
from payoff.domains.vectors.domain import Row, Vectors
from payoff.domains.vectors.rows import Rows
from payoff.errors import UserError

CROSSED = "the surfaces cross"
DOUBTED = "NeuralFoil does not trust its answer"


class Airfoils(Vectors):
    """Airfoils by their 18 Kulfan parameters.

    An airfoil is valid where it is thick everywhere and NeuralFoil trusts its answer. The first is
    geometry; the second belongs to the oracle, and :meth:`impossible` does not ask it.

    Args:
        alpha: angle of attack of the flow in degrees.
        reynolds: Reynolds number.
        table: see :class:`~payoff.domains.vectors.domain.Vectors`.
    """

    kind: ClassVar[str] = "airfoils"

    def __init__(self, alpha: float = 5.0, reynolds: float = 1e6, **table: Any) -> None:
        super().__init__(**table)
        self.alpha, self.reynolds = alpha, reynolds

    def config(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "reynolds": self.reynolds, **super().config()}

    @classmethod
    def read(
        cls,
        source: Any,
        options: Any,
        score: str | None = None,
        *,
        seed: int = 0,
        bar: Bar = no_bar,
    ) -> Data[Row]:
        if score not in (None, "", airfoils.SCORE):
            raise UserError(
                f"--score {score}: the built-in airfoils have one score, {airfoils.SCORE}; leave "
                "--score out"
            )
        table = airfoils.airfoil_table(
            seed,
            labelled_fraction=options.labelled,
            noise=options.noise,
            alpha=options.alpha,
            re=options.reynolds,
        )
        table = table.with_limits(options.bounds, options.fixed)
        data = cls.fitted(table, "airfoils", options, scored=score is not None)
        domain = data.domain
        assert isinstance(domain, Airfoils)
        domain.alpha, domain.reynolds = options.alpha, options.reynolds
        data.source = "airfoils"
        return data

    @classmethod
    def earlier(cls, metadata: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        found = super().earlier(metadata, folder)
        if found is None:
            return None
        names = {code["name"] for code in found["codec"]["codes"]}
        return found if names == set(COLUMNS) else None

    def impossible(self, objects: Sequence[Any]) -> list[str | None]:
        return self._and(
            super().check(objects), objects, lambda rows: positive_thickness(rows), CROSSED
        )

    def check(self, objects: Sequence[Any]) -> list[str | None]:
        def trusted(rows: Any) -> Any:
            return airfoils.valid(rows, alpha=self.alpha, re=self.reynolds)

        return self._and(self.impossible(objects), objects, trusted, DOUBTED)

    def _and(self, reasons: list[str | None], objects: Any, fine: Any, why: str) -> Any:
        """The reasons, with a further one for rows that a function of parameters refuses."""
        places = [i for i, reason in enumerate(reasons) if reason is None]
        if places:
            rows = airfoils.parameters(self._rows(objects).select(places).frame)
            for place, good in zip(places, np.asarray(fine(rows)), strict=True):
                reasons[place] = None if good else why
        return reasons

    def judge_names(self) -> tuple[str, ...]:
        return tuple(REWARDS)

    def judge(self, name: str) -> Judge[Row] | None:
        return self.judge_for(self, name)

    def oracle(self) -> Judge[Row]:
        def score(rows: Sequence[Any]) -> list[float]:
            frame = Rows.of(rows).frame
            values: list[float] = airfoils.oracle(frame, self.alpha, self.reynolds).tolist()
            return values

        return Judge("NeuralFoil, noiseless", score)

    @classmethod
    def judge_for(cls, domain: Any, name: str) -> Judge[Row] | None:
        if name not in REWARDS:
            return None
        named = REWARDS[name]
        codec = getattr(domain, "codec", None)
        known = () if codec is None else codec.columns
        lacking = [column for column in named.columns if column not in known]
        if lacking:
            raise UserError(
                f"airfoils:{name} needs the columns of an airfoil, and these designs have no "
                f"'{lacking[0]}'{suggest(lacking[0], known)}; name a reward of your own with "
                "--reward MODULE:FUNCTION"
            )
        places = [codec.columns.index(column) for column in named.columns]  # type: ignore[union-attr]
        held_out = None if named.held_out is None else f"airfoils:{named.held_out}"
        return Judge(
            f"airfoils:{name}",
            lambda rows: named.score(Rows.of(rows).frame).tolist(),
            version=named.version,
            held_out=held_out,
            slope=_slope(named, places) if named.differentiable else None,
        )

    def draw(self, objects: Sequence[Any], notes: Sequence[str]) -> str:
        return draw(self._rows(objects).frame, notes)


def _slope(named: NamedReward, places: list[int]) -> Any:
    reward = named.make()

    def slope(numbers: torch.Tensor) -> torch.Tensor:
        return reward(numbers[:, places])

    return slope
