"""The jobs by name, without importing what they need to run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from payoff.configs import suggest
from payoff.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A job: its dataclass of options, quick to import, and its class, as ``module:Class``."""

    name: str
    options: str
    job: str

    def load_options(self) -> Any:
        """The dataclass of the job's options."""
        return _named(self.options)

    def load(self) -> Any:
        """The job's class."""
        return _named(self.job)


def _entry(name: str, stem: str) -> Entry:
    place = f"payoff.jobs.{name}"
    return Entry(name, f"{place}.options:{stem}Options", f"{place}.job:{stem}")


JOBS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry("design", "Design"),
        _entry("finetune", "Finetune"),
        _entry("steer", "Steer"),
        _entry("compare", "Compare"),
    )
}


def job_named(name: str) -> Entry:
    """The job of that name.

    Raises:
        UserError: there is none; the message lists them.
    """
    if name not in JOBS:
        raise UserError(
            f"there is no job {name!r}{suggest(name, JOBS)} (there are: {', '.join(JOBS)})"
        )
    return JOBS[name]


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
