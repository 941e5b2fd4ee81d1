"""Airfoils: 2,174 real ones as Kulfan parameters, and their flow by NeuralFoil.

>>> table = airfoil_table(seed=0)  # doctest: +SKIP
>>> scores = oracle(designs)       # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.domains.airfoils.aero import AirfoilFlow, LiftToDrag
    from payoff.domains.airfoils.data import load_airfoils
    from payoff.domains.airfoils.geometry import (
        COLUMNS,
        coordinates,
        positive_thickness,
        surfaces,
        thickness,
    )
    from payoff.domains.airfoils.rewards import REWARDS, NamedReward, TrustedLiftToDrag
    from payoff.domains.airfoils.table import (
        SCORE,
        AirfoilDomain,
        aerodynamics,
        airfoil_table,
        oracle,
        parameters,
        valid,
    )

_WHERE = {
    **dict.fromkeys(("AirfoilFlow", "LiftToDrag"), "aero"),
    "load_airfoils": "data",
    **dict.fromkeys(
        ("COLUMNS", "coordinates", "positive_thickness", "surfaces", "thickness"), "geometry"
    ),
    **dict.fromkeys(("REWARDS", "NamedReward", "TrustedLiftToDrag"), "rewards"),
    **dict.fromkeys(
        ("SCORE", "AirfoilDomain", "aerodynamics", "airfoil_table", "oracle", "parameters"), "table"
    ),
    "valid": "table",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads the options of the kind without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


__all__ = [
    "COLUMNS",
    "REWARDS",
    "SCORE",
    "AirfoilDomain",
    "AirfoilFlow",
    "LiftToDrag",
    "NamedReward",
    "TrustedLiftToDrag",
    "aerodynamics",
    "airfoil_table",
    "coordinates",
    "load_airfoils",
    "oracle",
    "parameters",
    "positive_thickness",
    "surfaces",
    "thickness",
    "valid",
]
