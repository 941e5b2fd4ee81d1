"""The kinds of objects that are installed: the package's own, and those of other packages.

A package announces a kind by an entry point of the group ``payoff.kinds``::

    [project.entry-points."payoff.kinds"]
    polygons = "my_polygons:KIND"
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from payoff.configs import suggest
from payoff.domains.kind import Kind
from payoff.errors import UserError

GROUP = "payoff.kinds"
OWN = ("vectors", "airfoils", "molecules", "closed")
"""The package's own kinds, a folder each; named, so that importing this module imports none."""


@cache
def kinds() -> dict[str, Kind]:
    """All installed kinds by name.

    Raises:
        UserError: a package announces something else, or a name that is taken.
    """
    found = {name: _own(name) for name in OWN}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        kind = _foreign(point)
        if kind.name in found:
            raise UserError(
                f"the kind {kind.name!r} of {point.value} has the name of another one: rename it, "
                "or uninstall one of the two packages"
            )
        found[kind.name] = kind
    return found


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        UserError: there is none; the message lists them.
    """
    known = kinds()
    if name not in known:
        raise UserError(
            f"there is no kind of object {name!r}{suggest(name, known)} (installed: "
            f"{', '.join(known)})"
        )
    return known[name]


def kind_of(source: Any, given: Collection[str] = (), chosen: str | None = None) -> Kind:
    """The kind that reads a source: the one with the strongest claim.

    The name of a built-in data set means that; an option that only some of these kinds have decides
    between them otherwise.

    Args:
        source: a path, the name of a built-in data set, or an object in memory.
        given: names of the options that the user set.
        chosen: the value of ``--kind``, which decides by itself.

    Raises:
        UserError: no kind reads it, or several do.
    """
    if chosen is not None:
        return kind_named(chosen)
    claims = {kind.name: kind.reads(source, given) for kind in kinds().values()}
    readers = [kind for kind in kinds().values() if claims[kind.name]]
    built_in = [kind for kind in readers if isinstance(source, str) and source in kind.sources]
    named = [kind for kind in readers if option_names(kind) & set(given)]
    readers = built_in or named or readers
    best = max((claims[kind.name] for kind in readers), default=0)
    readers = [kind for kind in readers if claims[kind.name] == best]
    if len(readers) == 1:
        return readers[0]
    if readers:
        names = " or ".join(kind.name for kind in readers)
        raise UserError(f"{source} may be {names}: choose one with --kind")
    known = "; ".join(f"{kind.name}: {kind.help}" for kind in kinds().values())
    raise UserError(f"{source}: no kind of object is read from it ({known})")


def option_names(kind: Kind) -> set[str]:
    """The names of the options that belong to a kind."""
    return {field.name for field in fields(kind.options)}


def _own(name: str) -> Kind:
    kind: Kind = importlib.import_module(f"payoff.domains.{name}.kind").KIND
    return kind


def _foreign(point: EntryPoint) -> Kind:
    try:
        kind = point.load()
    except Exception as error:  # importing runs the other package's code
        raise UserError(
            f"the kind {point.name!r} of {point.value} cannot be imported "
            f"({type(error).__name__}: {error}): repair or uninstall that package"
        ) from error
    if not isinstance(kind, Kind):
        raise UserError(f"{point.value} is a {type(kind).__name__}, not a payoff.Kind")
    return kind
