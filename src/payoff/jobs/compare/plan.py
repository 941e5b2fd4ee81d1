"""From the options to cells: one method, one number of calls, one seed each."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from payoff.configs import suggest
from payoff.errors import UserError
from payoff.finetuning import METHODS, FinetuneConfig
from payoff.jobs.compare.options import CompareOptions
from payoff.jobs.methods import (
    converted,
    make_method,
    options_of,
    steering_class,
    steering_settings,
)
from payoff.steering import names

OWN = ("calls", "seed")  # of the learning's options: the comparison sets these


@dataclass
class Cell:
    """One run of a comparison.

    Attributes:
        kind: ``base``, ``best-of-n``, ``rcgdm``, ``tune`` or ``steer``.
        label: its name in the table.
        method: the method's name, with its options and those of the learning.
        calls: its budget; 0 for the base, and where the network is what counts.
        seed: of everything random in it.
        network: its budget of network evaluations; 0: it has one of calls.
    """

    kind: str
    label: str
    calls: int
    seed: int
    method: str | None = None
    settings: list[str] = field(default_factory=list)
    learning: dict[str, Any] = field(default_factory=dict)
    network: int = 0

    @property
    def name(self) -> str:
        """The name of its folder."""
        label = re.sub(r"[^\w.=-]+", "_", self.label)
        budget = f"-{self.calls}" if self.calls else ""
        budget += f"-network{self.network}" if self.network else ""
        return f"{label}{budget}-seed{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan(job: CompareOptions, *, trained: bool) -> list[Cell]:
    """The cells in the order of the table; those of the base come first.

    Args:
        job: the options.
        trained: whether every seed has a base of its own, which has to be made first whether it is
            a row of the table or not.

    Raises:
        UserError: a method or an option is unknown, or does not fit.
    """
    seeds = range(job.seed, job.seed + job.seeds)
    compared = job.compared()
    shared = learning_options(job.settings, "--set")
    methods = [parse_method(label) for label in job.labels()]
    if not methods and not compared:
        raise UserError("nothing to compare: give --methods or --baselines")
    cells = [base_cell(seed, shared) for seed in seeds] if trained or "base" in compared else []
    for calls in job.budgets():
        for name in ("best-of-n", "rcgdm"):
            if name in compared:
                cells += [Cell(name, name, calls, seed, learning=shared) for seed in seeds]
        for one in methods:
            merged = {**shared, **one.learning}
            # what the learning cannot do with is found here and not in an hour
            FinetuneConfig(**{**merged, "calls": calls})
            rest = (one.name, one.settings, merged)
            cells += [Cell(one.family, one.label, calls, seed, *rest) for seed in seeds]
    for network in job.networks():
        for one in methods:
            if one.family == "steer":
                own = (one.name, one.settings, {**shared, **one.learning}, network)
                cells += [Cell("steer", one.label, 0, seed, *own) for seed in seeds]
    return cells


def base_cell(seed: int, learning: dict[str, Any] | None = None) -> Cell:
    """The cell that makes the base of a seed."""
    return Cell("base", "base", 0, seed, learning=learning or {})


@dataclass
class WrittenMethod:
    """A method as the user wrote it.

    Attributes:
        label: its name in the table; steering methods begin with ``steer:``.
        family: ``tune`` or ``steer``.
        name: of the method.
        settings: its own options.
        learning: options of the learning.
    """

    label: str
    family: str
    name: str
    settings: list[str]
    learning: dict[str, Any]


def parse_method(text: str) -> WrittenMethod:
    """Parse ``rgdm:radius=0.5``, ``smc:every=2`` or ``tune:gradient``.

    A name that both families have is steering's unless ``tune:`` stands in front.

    Raises:
        UserError: there is no such method or option, or a value does not fit.
    """
    name, *given = text.split(":")
    family = ""
    if name in ("tune", "steer") and given:
        family, name, *given = name, *given
    both = name in METHODS and name in names()
    known = {"tune": tuple(METHODS), "steer": names()}.get(family, (*METHODS, *names()))
    if name not in known:
        raise UserError(
            f"--methods {text}: there is no method '{name}'{suggest(name, known)} (there are: "
            f"{', '.join(dict.fromkeys(known))})"
        )
    family = family or ("steer" if name in names() else "tune")
    label = ":".join([name, *given])
    if family == "tune":
        return _tuned(f"tune:{label}" if both else label, name, given)
    try:
        steering_settings(steering_class(name, "--methods"), given)
    except UserError as error:
        raise UserError(f"--methods {text}: {error}") from error
    return WrittenMethod(f"steer:{label}", family, name, given, {})


def _tuned(label: str, name: str, given: list[str]) -> WrittenMethod:
    own = options_of(METHODS[name])
    shared = [f.name for f in dataclasses.fields(FinetuneConfig) if f.name not in OWN]
    settings, learning = [], []
    for text in given:
        key = text.partition("=")[0].strip().replace("-", "_")
        if key not in own and key in shared:
            learning.append(text)
        elif key in own:
            settings.append(text)
        else:
            known = [*own, *shared]
            raise UserError(
                f"--methods {label}: neither {name} nor the learning has an option "
                f"'{key}'{suggest(key, known)} (there are: {', '.join(known)})"
            )
    make_method(name, settings)
    return WrittenMethod(
        label, "tune", name, settings, learning_options(learning, f"--methods {label}")
    )


def learning_options(given: list[str], where: str) -> dict[str, Any]:
    """Options of the learning from ``NAME=VALUE``, converted.

    Raises:
        UserError: an option is unknown or set by the comparison itself, or a value does not fit.
    """
    known = [f.name for f in dataclasses.fields(FinetuneConfig) if f.name not in OWN]
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in known:
            raise UserError(
                f"{where} {text}: write NAME=VALUE with an option of the learning"
                f"{suggest(key, known)} (there are: {', '.join(known)})"
            )
        values[key] = converted(value.strip(), FinetuneConfig, key, f"{where} {text}")
    return values
