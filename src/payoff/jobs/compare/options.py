"""Options of ``payoff compare``, and how its methods and budgets are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option, suggest
from payoff.errors import UserError
from payoff.jobs.options import GOAL, MACHINE, BaseOptions, MachineOptions, RewardOptions

BASELINES = ("base", "best-of-n", "rcgdm")


@dataclass
class CompareOptions(RewardOptions, BaseOptions, MachineOptions):
    """What to compare, on what, and at which budgets."""

    name: ClassVar[str] = "compare"
    help: ClassVar[str] = "Compare tuning and steering methods at equal numbers of reward calls."
    takes_model: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "toy": {
            **{"base_width": 32, "base_depth": 2, "base_steps": 150},
            **{"calls": "300", "samples": 100},
            "settings": ["per_round=100", "sampler_steps=8", "evaluate=32", "updates=20"],
        }
    }
    free: ClassVar[tuple[str, ...]] = ("workers", "threads")

    methods: str = option(
        "rgdm,rwr,ddpo,dpok,awm",
        "methods of fine-tuning and steering, separated by commas, with options after colons: "
        "rgdm:level=sample:radius=0.25,smc:every=2; a name of both is steering's, and tune: or "
        "steer: in front says which",
        group=GOAL,
    )
    calls: str = option(
        "10000",
        "numbers of reward calls, separated by commas: a tuned model learns with so many, a "
        "steering method spends them on every 100 samples",
        group=GOAL,
    )
    network: str = option(
        "",
        "numbers of network evaluations for 100 samples, separated by commas: the steering methods "
        "are compared at these too",
        group=GOAL,
    )
    seeds: int = option(1, "how often everything is repeated", group=GOAL)
    baselines: str = option(
        "base,best-of-n,rcgdm",
        "rows to compare with, separated by commas: base, best-of-n, rcgdm (a model conditional on "
        "as many labels); none: nothing",
        group=GOAL,
    )
    settings: list[str] = option(
        [],
        "an option of the learning, for all methods: per_round=500",
        group=GOAL,
        metavar="NAME=VALUE",
    )
    samples: int = option(
        1000,
        "fresh samples that each model is judged by, beside its calls; a steering method by 100 "
        "where rewards are not free",
        group=GOAL,
    )
    label_steps: int = option(
        2000, "training steps of the network that learns rcgdm's labels", group=GOAL
    )
    seed: int = option(0, "the first seed", group=MACHINE)
    workers: int = option(
        2, "runs at a time, each a process of its own; 0: one after another in this process",
        group=MACHINE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "seeds", "label_steps")
        self.at_least(20, "samples")
        self.at_least(0, "workers", "seed")
        self.budgets()
        self.networks()
        self.compared()
        self.labels()

    def budgets(self) -> list[int]:
        """The numbers of reward calls, ascending."""
        return _numbers("--calls", self.calls)

    def networks(self) -> list[int]:
        """The numbers of network evaluations, ascending."""
        return _numbers("--network", self.network) if self.network.strip() else []

    def labels(self) -> list[str]:
        """The methods as they were written: name and options."""
        found = [text.strip() for text in self.methods.split(",") if text.strip()]
        for label in found:
            if found.count(label) > 1:
                raise UserError(f"--methods {self.methods}: '{label}' is there twice")
        return found

    def compared(self) -> list[str]:
        """The baselines."""
        if self.baselines.strip() in ("", "none"):
            return []
        found = [text.strip() for text in self.baselines.split(",")]
        for name in found:
            if name not in BASELINES:
                raise UserError(
                    f"--baselines {self.baselines}: there is no '{name}'{suggest(name, BASELINES)} "
                    f"(there are: {', '.join(BASELINES)})"
                )
        return found


def _numbers(flag: str, given: str) -> list[int]:
    found = []
    for text in str(given).replace(" ", "").split(","):
        try:
            found.append(int(text.replace("_", "")))
        except ValueError:
            raise UserError(
                f"{flag} {given}: '{text}' is not a whole number; separate numbers by commas, for "
                f"instance {flag} 2000,10000"
            ) from None
        if found[-1] < 1:
            raise UserError(f"{flag} {given}: {text} must be at least 1")
    return sorted(set(found))
