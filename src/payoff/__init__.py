"""Reward-guided diffusion: designs that score higher and are still realistic.

Jobs as functions, which take the options of the command line by name and return a :class:`Run`::

    run = payoff.design("beams.csv", score="stiffness", identifiers=["name"], count=20)
    run = payoff.finetune("qm9", reward="qed", calls=1000, out="runs/qed")
    run.designs, run.sample(50), run.report

Everything is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_JOBS = ("design", "finetune", "steer")
_PLACES = {
    "Run": "payoff.results",
    "Model": "payoff.jobs.model",
    "Kind": "payoff.domains.kind",
    "Domain": "payoff.domains.base",
    "Data": "payoff.domains.base",
    "Judge": "payoff.domains.base",
    "Target": "payoff.targets",
    "Reward": "payoff.rewards",
    "Denoiser": "payoff.denoisers",
    "Sampler": "payoff.samplers",
    "UserError": "payoff.errors",
}

if TYPE_CHECKING:
    from payoff.denoisers import Denoiser
    from payoff.domains.base import Data, Domain, Judge
    from payoff.domains.kind import Kind
    from payoff.errors import UserError
    from payoff.functions import design, finetune, load, report, sample, steer
    from payoff.jobs.model import Model
    from payoff.results import Run
    from payoff.rewards import Reward
    from payoff.samplers import Sampler
    from payoff.targets import Target

__all__ = [
    "Data",
    "Denoiser",
    "Domain",
    "Judge",
    "Kind",
    "Model",
    "Reward",
    "Run",
    "Sampler",
    "Target",
    "UserError",
    "design",
    "finetune",
    "load",
    "report",
    "sample",
    "steer",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    if name in __all__:
        return getattr(importlib.import_module("payoff.functions"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
