"""The built-in table: 2,174 real airfoils, few of them with a noisy measured lift-to-drag ratio.

The data are the UIUC collection as 18 Kulfan parameters; the score is CL/CD from NeuralFoil. A
tenth of the rows is labelled, with noise; the noiseless function is the oracle that judges designs
and is never shown to the learner.

>>> table = airfoil_table(seed=0)  # doctest: +SKIP
>>> scores = oracle(designs)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from payoff.domains.airfoils.aero import AirfoilFlow
from payoff.domains.airfoils.data import load_airfoils
from payoff.domains.airfoils.geometry import COLUMNS, positive_thickness
from payoff.domains.airfoils.rewards import ALPHA, MIN_CONFIDENCE, RE
from payoff.domains.vectors.earlier import VectorDomain
from payoff.domains.vectors.table import Table, read_table
from payoff.errors import UserError

MODEL = "large"
SCORE = "lift_to_drag"
Array = npt.NDArray[np.float64]


def parameters(designs: Any) -> Array:
    """Kulfan parameters (n, 18) of a table of designs (polars, pandas, or already an array).

    Raises:
        UserError: a column is missing.
    """
    if isinstance(designs, (np.ndarray, torch.Tensor)):
        return np.asarray(designs, dtype=np.float64)
    missing = [name for name in COLUMNS if name not in designs.columns]
    if missing:
        raise UserError(f"a table of airfoils needs the columns {', '.join(missing)}")
    columns = [np.asarray(designs[name], dtype=np.float64) for name in COLUMNS]
    return np.stack(columns, axis=1)


def aerodynamics(
    designs: Any, *, alpha: float = ALPHA, re: float = RE, model: str = MODEL
) -> dict[str, Array]:
    """``lift_to_drag``, ``lift``, ``drag`` and ``confidence``, each (n,).

    Args:
        designs: a table with the 18 columns, or an array (n, 18).
        alpha: angle of attack in degrees.
        re: Reynolds number.
        model: size of NeuralFoil's network.
    """
    flow = _flow(alpha, re, model)
    batches = torch.from_numpy(parameters(designs)).split(4096)
    with torch.inference_mode():
        parts = [flow(batch) for batch in batches]
    lift, drag, confidence = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return {"lift_to_drag": lift / drag, "lift": lift, "drag": drag, "confidence": confidence}


def oracle(designs: Any, alpha: float = ALPHA, re: float = RE, model: str = MODEL) -> Array:
    """The noiseless lift-to-drag ratio (n,), valid or not; NaN where a parameter is not finite."""
    return aerodynamics(designs, alpha=alpha, re=re, model=model)["lift_to_drag"]


def valid(
    designs: Any,
    alpha: float = ALPHA,
    re: float = RE,
    model: str = MODEL,
    min_confidence: float = MIN_CONFIDENCE,
) -> npt.NDArray[np.bool_]:
    """Whether NeuralFoil trusts its answer and the airfoil is thick everywhere, (n,)."""
    values = parameters(designs)
    confidence = aerodynamics(values, alpha=alpha, re=re, model=model)["confidence"]
    return np.asarray((confidence >= min_confidence) & positive_thickness(values))


class AirfoilDomain(VectorDomain):
    """The table of airfoils; a design must also be thick everywhere.

    That is geometry and costs nothing, so it may be asked of every candidate; whether NeuralFoil
    trusts its answer (:func:`valid`) belongs to the oracle and is asked at the end.
    """

    def check(self, objects: Sequence[Any | None]) -> list[str | None]:
        reasons = super().check(objects)
        fine = [i for i, reason in enumerate(reasons) if reason is None]
        if fine:
            rows = [[objects[i][name] for name in COLUMNS] for i in fine]  # type: ignore[index]
            for i, thick in zip(fine, positive_thickness(rows), strict=True):
                if not thick:
                    reasons[i] = "the surfaces cross"
        return reasons


def airfoil_table(
    seed: int = 0,
    labelled_fraction: float = 0.1,
    noise: float = 0.1,
    alpha: float = ALPHA,
    re: float = RE,
    model: str = MODEL,
) -> Table:
    """The airfoils with noisy scores on a random part of the rows.

    Args:
        seed: of the choice of rows and the noise.
        labelled_fraction: share of rows that carry a score.
        noise: sd of the noise as a share of the sd of all scores.
        alpha: angle of attack in degrees at which the score is measured.
        re: Reynolds number.
        model: size of NeuralFoil's network.

    Returns:
        a table with an identifier column ``name``, the 18 features and ``lift_to_drag``.

    Raises:
        UserError: the packages of the extra ``airfoils`` are missing.
    """
    names, values = load_airfoils()
    scores = oracle(values, alpha=alpha, re=re, model=model)
    random = np.random.default_rng(seed)
    n = len(names)
    chosen = random.permutation(n)[: round(labelled_fraction * n)]
    labels = np.full(n, np.nan)
    labels[chosen] = scores[chosen] + noise * scores.std() * random.standard_normal(len(chosen))
    frame = pl.DataFrame(
        {
            "name": names,
            **{column: values[:, i] for i, column in enumerate(COLUMNS)},
            "lift_to_drag": pl.Series(labels).fill_nan(None),
        }
    )
    table = read_table(frame, score="lift_to_drag", identifiers=["name"])
    table.origin = "airfoils"
    return table


@lru_cache(maxsize=8)
def _flow(alpha: float, re: float, model: str) -> AirfoilFlow:
    return AirfoilFlow(alpha, re, model)
