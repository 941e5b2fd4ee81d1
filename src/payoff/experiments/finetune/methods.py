"""A method by its name, with options given as ``NAME=VALUE``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Container, Sequence
from typing import Any

from payoff.configs import suggest
from payoff.errors import UserError
from payoff.finetuning import METHODS, Finetuner

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def make_method(name: str, settings: Sequence[str] = ()) -> Finetuner:
    """The method ``name`` with its options set.

    Args:
        name: as in :data:`payoff.finetuning.METHODS`.
        settings: ``"radius=0.5"``; values are converted to the type of the option.

    Raises:
        UserError: there is no such method or option, an option is given twice, or a value does
            not fit.
    """
    if name not in METHODS:
        raise UserError(
            f"--method {name}: there is no such method{suggest(name, METHODS)} (there are: "
            f"{', '.join(METHODS)})"
        )
    values = settings_of(METHODS[name], name, settings, options_of(METHODS[name]))
    try:
        return METHODS[name](**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"--method {name}: {error}") from error


def settings_of(
    cls: type, name: str, settings: Sequence[str], fields: Container[str]
) -> dict[str, Any]:
    """Options from ``NAME=VALUE``, each converted to the type of the class's field.

    Args:
        cls: a dataclass.
        name: what messages call it.
        settings: as the user wrote them.
        fields: the names that may be set.

    Raises:
        UserError: there is no such option, it is given twice, or a value does not fit.
    """
    known = options_of(cls)
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"--set {text}: write it as NAME=VALUE, for instance --set radius=0.5")
        if key not in fields:
            shown = [field for field in known if field in fields]
            raise UserError(
                f"--set {text}: {name} has no option '{key}'{suggest(key, shown)} "
                f"(it has: {', '.join(shown) or 'none'})"
            )
        if key in values:
            raise UserError(f"--set {text}: '{key}' is set twice; give one value")
        values[key] = converted(value.strip(), cls, key, f"--set {text}")
    return values


def options_of(cls: type) -> dict[str, dataclasses.Field]:
    """A method's own options by name."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]


def converted(text: str, config: type, name: str, label: str) -> Any:
    """The text as a value of a dataclass's field, by the field's type.

    Raises:
        UserError: it is not one; ``label`` says where it was written.
    """
    kind = typing.get_type_hints(config)[name]
    kinds = typing.get_args(kind) if _is_union(kind) else (kind,)
    if type(None) in kinds and text.lower() in ("none", ""):
        return None
    for one in (k for k in kinds if k is not type(None)):
        if one is bool:
            if text.lower() in (*_TRUE, *_FALSE):
                return text.lower() in _TRUE
        elif typing.get_origin(one) is typing.Literal:
            if text in typing.get_args(one):
                return text
        elif one is str:
            return text
        else:
            try:
                return one(text)
            except (TypeError, ValueError):
                continue
    raise UserError(f"{label}: '{text}' is not {_told(kinds)}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _told(kinds: Sequence[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    parts = []
    for kind in kinds:
        if kind is type(None):
            parts.append("none")
        elif typing.get_origin(kind) is typing.Literal:
            parts.append("one of " + ", ".join(typing.get_args(kind)))
        else:
            parts.append(words.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(parts)
