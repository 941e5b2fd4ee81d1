"""Options of the comparison, and how its methods and budgets are written."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from payoff.configs import option, suggest
from payoff.errors import UserError
from payoff.experiments.finetune.config import TOY, TuneConfig, same_option

PROBLEMS = ("mixture", "subspace", "chain")
BASELINES = ("base", "best-of-n", "rcgdm")
_WHAT, _TABLE, _MACHINE = "What to compare", "The table", "The machine"
_BASE = "The base model"
_TUNE = {f.name for f in fields(TuneConfig)}


@dataclass
class CompareConfig:
    """What to compare, on what; every field is an option of ``payoff compare``."""

    source: str = option(
        "airfoils", "airfoils, a table, qm9 or a model of molecules, or: mixture, subspace, chain"
    )
    methods: str = option(
        "rgdm,rwr,ddpo,dpok,awm",
        "methods of fine-tuning and steering, separated by commas, with options after colons: "
        "rgdm:level=sample:radius=0.25,smc:every=2; a name of both is steering's, and tune: or "
        "steer: in front says which",
        group=_WHAT,
    )
    calls: str = option(
        "10000",
        "numbers of reward calls, separated by commas: a tuned model learns with so many, a "
        "steering method spends them on every 100 samples",
        group=_WHAT,
    )
    network: str = option(
        "",
        "numbers of network evaluations for 100 samples, separated by commas: the steering methods "
        "are compared at these too",
        group=_WHAT,
    )
    seeds: int = option(1, "how often everything is repeated", group=_WHAT)
    baselines: str = option(
        "base,best-of-n,rcgdm",
        "what the methods are compared with, separated by commas; none: nothing",
        group=_WHAT,
    )
    settings: list[str] = option(
        [],
        "an option of the learning, for all methods: per_round=500",
        group=_WHAT,
        metavar="NAME=VALUE",
    )
    reward: str | None = same_option("reward", _WHAT)
    minimize: bool = same_option("minimize", _WHAT)
    temperature: float | None = same_option("temperature", _WHAT)
    held_out: str | None = same_option("held_out", _WHAT)
    samples: int = option(
        1000,
        "fresh samples that each model is judged by, beside its calls; a steering method on a "
        "table by 100",
        group=_WHAT,
    )

    scored: str = option(
        "valid",
        "molecules: which are scored, the others have failed: valid, those with bonds that explain "
        "every valence, or all",
        group=_WHAT,
    )
    label_steps: int = option(
        2000,
        "molecules: training steps of the guide that learns rcgdm's labels",
        group=_WHAT,
    )

    bounds: list[str] = same_option("bounds", _TABLE)
    identifiers: list[str] = same_option("identifiers", _TABLE)
    categorical: list[str] = same_option("categorical", _TABLE)

    base_width: int = same_option("base_width", _BASE)
    base_depth: int = same_option("base_depth", _BASE)
    base_steps: int = same_option("base_steps", _BASE)
    base_batch_size: int = same_option("base_batch_size", _BASE)
    base_learning_rate: float = same_option("base_learning_rate", _BASE)
    base_weight_decay: float = same_option("base_weight_decay", _BASE)

    seed: int = option(0, "the first seed", group=_MACHINE)
    workers: int = option(
        2, "runs at a time, each a process of its own; 0: one after another in this process",
        group=_MACHINE,
    )  # fmt: skip
    device: str = same_option("device", _MACHINE)
    precision: int = same_option("precision", _MACHINE)

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for name in ("seeds", "samples", "label_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, got {getattr(self, name)}")
        if self.samples < 20:
            raise UserError(f"--samples must be at least 20, got {self.samples}")
        self.budgets()
        self.networks()
        self.compared()
        self.tuning()

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

    def tuning(self) -> TuneConfig:
        """The options that every run of the comparison shares."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name in _TUNE}
        return TuneConfig(**{**shared, "settings": [], "threads": 1, "count": 100})


def _numbers(flag: str, given: str) -> list[int]:
    found = []
    for text in given.replace(" ", "").split(","):
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


TOY_COMPARE = {k: v for k, v in TOY.items() if k != "count"} | {
    "calls": "300",
    "samples": 100,
    "settings": ["per_round=100", "sampler_steps=8", "evaluate=32", "updates=20"],
}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "toy": TOY_COMPARE}
"""``toy`` is for trying things out: a minute instead of hours, and figures to match."""
