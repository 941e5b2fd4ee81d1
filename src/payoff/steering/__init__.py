r"""Steering: a Sampler whose draws follow :math:`p\,e^{r/\tau}`, the base model left as it is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from payoff.steering.base import AllFailed, Cost, Degenerate, Steered

if TYPE_CHECKING:
    METHODS: dict[str, type[Steered]]

# what the command line calls a method -> (module, class)
_METHODS: dict[str, tuple[str, str]] = {
    "best-of-n": ("best_of_n", "BestOfN"),
    "smc": ("particles", "Particles"),
    "fk": ("fk", "FeynmanKac"),
    "tds": ("tds", "TDS"),
    "das": ("das", "DAS"),
    "vasr": ("vasr", "VASR"),
    "svdd": ("svdd", "SVDD"),
    "code": ("blockwise", "CoDe"),
    "tree": ("tree", "Tree"),
    "dno": ("dno", "DNO"),
    "fast-direct": ("fast_direct", "FastDirect"),
    "cfg": ("guided", "CFG"),
    "classifier": ("guided", "ClassifierGuidance"),
    "dps": ("guided", "DPS"),
    "lgd": ("guided", "LGD"),
    "universal": ("guided", "Universal"),
    "freedom": ("guided", "FreeDoM"),
    "tfg": ("guided", "TFG"),
    "gradient": ("guided", "GradientGuidance"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads a run's options without the methods."""
    if name == "METHODS":
        found: Any = {key: _load(*where) for key, where in _METHODS.items()}
    else:
        for module, attribute in _METHODS.values():
            if attribute == name:
                found = _load(module, attribute)
                break
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def names() -> tuple[str, ...]:
    """What the methods are called; knowing it imports none of them."""
    return tuple(_METHODS)


def find(name: str) -> type[Steered]:
    """The class of the method that is called ``name``; KeyError if there is none.

    The others are not imported: a comparison starts a process for every method.
    """
    return _load(*_METHODS[name])


def _load(module: str, attribute: str) -> Any:
    return getattr(importlib.import_module(f"payoff.steering.{module}"), attribute)


__all__ = ["AllFailed", "Cost", "Degenerate", "Steered", "find", "names"]
