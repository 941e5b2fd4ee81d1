"""A kind of object as the command line knows it, before anything heavy is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.domains.base import Domain

NO, FORMAT, OWN = 0, 1, 2
"""Claims of :attr:`Kind.reads`: not readable; a format that others share; surely this kind."""


@dataclass
class NoOptions:
    """The options of a kind that has none of its own."""


def _nothing(
    job: str, method: str, settings: Mapping[str, str], options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    return {}, {}


@dataclass(frozen=True)
class Kind:
    """A kind of object: its name, its options, which sources are of it, and its defaults.

    Importing a module that holds a kind must be cheap: no torch, polars or domain package.

    Attributes:
        name: of the kind, such as ``molecules``; it stands in records and saved models.
        help: sources that can be read, for help lines and messages: "a CSV, TSV or Parquet table".
        reads: ``reads(source, given)`` claims a source (a path, the name of a built-in data set, or
            an object in memory): :data:`NO`, :data:`FORMAT` or :data:`OWN`. ``given`` are the names
            of the options that the user set. The strongest claim wins.
        domain: the class of its :class:`~payoff.domains.base.Domain`, as ``module:Class``.
        options: dataclass of the options that only this kind has, each field made by
            :func:`payoff.configs.option`.
        sources: names of built-in data sets.
        defaults: values that differ from a job's own defaults, by ``job``, ``job.method`` and, for
            presets, ``job:preset``; options of the job or of the kind.
        method_defaults: ``method_defaults(job, method, settings, options)`` gives the method's
            settings and the job's options that depend on other options, where the user set none.
        refused: reasons why a job cannot be done for this kind, by job.
        free_rewards: whether rewards cost nothing, so that comparisons judge by more samples.
        packages: whose versions decide a result; they are written into records.
        plural: of the objects in messages: "molecules".
        formats: endings of files that objects can be written to, beside ``.csv``; see
            :meth:`~payoff.domains.base.Domain.export`.
    """

    name: str
    help: str
    reads: Callable[[Any, Collection[str]], int]
    domain: str
    options: type = NoOptions
    sources: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    method_defaults: Callable[
        [str, str, Mapping[str, str], Mapping[str, Any]], tuple[dict[str, str], dict[str, Any]]
    ] = _nothing
    refused: Mapping[str, str] = field(default_factory=dict)
    free_rewards: bool = False
    packages: tuple[str, ...] = ()
    plural: str = "designs"
    formats: tuple[str, ...] = ()

    def load(self) -> type[Domain]:
        """Import and return the domain's class."""
        module, _, name = self.domain.partition(":")
        found: type[Domain] = getattr(importlib.import_module(module), name)
        return found
