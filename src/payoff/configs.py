"""Configuration: dataclasses with a help line per field, and nothing unknown accepted."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from payoff.errors import UserError

C = TypeVar("C")


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with a help line; the command line and the docs read it from here."""
    metadata["help"] = help
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved values of a config dataclass, nested ones too."""
    return dataclasses.asdict(config)


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build ``cls`` from a mapping; an unknown key is an error that suggests the nearest one."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UserError(
                f"unknown option {key!r} for {cls.__name__}{suggest(key, fields)} "
                f"(known: {', '.join(fields)})"
            )
    resolved = dict(values)
    for name, field in fields.items():
        nested = field.default_factory if field.default_factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(nested) and isinstance(resolved.get(name), Mapping):
            resolved[name] = from_dict(nested, resolved[name])  # type: ignore[type-var]
    return cls(**resolved)


def suggest(word: str, known: Iterable[str]) -> str:
    """The hint «, did you mean 'x'?» with the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
