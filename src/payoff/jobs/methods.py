"""A method of tuning or steering by its name, with options given as ``NAME=VALUE``."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Container, Sequence
from typing import Any

from payoff import steering
from payoff.configs import suggest
from payoff.errors import UserError
from payoff.finetuning import METHODS, Finetuner
from payoff.steering.base import SETTING, Steered
from payoff.targets import Target

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
    """The options of a method by name."""
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
    raise UserError(f"{label}: '{text}' is not {_described(kinds)}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _described(kinds: Sequence[Any]) -> str:
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


def steering_class(name: str, said: str = "--method") -> type[Steered]:
    """The class of the method ``name``.

    Raises:
        UserError: there is none; the message lists them.
    """
    if name not in steering.names():
        raise UserError(
            f"{said} {name}: there is no such method{suggest(name, steering.names())} (there are: "
            f"{', '.join(steering.names())})"
        )
    return steering.find(name)


def steering_options(cls: type[Steered]) -> list[str]:
    """The names of the options of a steering method."""
    return [name for name in options_of(cls) if name not in SETTING]


def steering_settings(
    cls: type[Steered], settings: Sequence[str], particles: int | None = None
) -> dict:
    """Options of a method from ``NAME=VALUE``; ``particles`` sets its size, whatever its name.

    Raises:
        UserError: an option is unknown or given twice, or a value does not fit.
    """
    options = settings_of(cls, cls.name, settings, steering_options(cls))
    if particles is not None:
        if cls.size in options:
            raise UserError(
                f"--particles {particles} sets the method's size, which for {cls.name} is "
                f"'{cls.size}', and --set {cls.size} does too: give one of them"
            )
        options[cls.size] = particles
    return options


def with_steps(cls: type[Steered], options: dict[str, Any], steps: int, budget: bool) -> dict:
    """The options with the sampler's steps, unless a budget sets these as the method's size."""
    if "steps" in options or (cls.size == "steps" and budget):
        return options
    return {"steps": steps, **options}


def sized(
    cls: type[Steered],
    target: Target,
    shape: tuple[int, ...],
    options: dict[str, Any],
    *,
    rewards: float = math.inf,
    network: float = math.inf,
) -> Steered:
    """The method with its options, as large as the budgets a sample allow.

    A size among the options is taken as it is, and has to be within the budgets.

    Raises:
        UserError: the method does not apply to the target, an option is wrong, or the budgets are
            too small for it.
    """
    try:
        if math.isfinite(rewards) and cls(target, shape, **options).cost().rewards == 0:
            raise UserError(
                f"{cls.name} asks no reward, so that a budget of reward calls says nothing about it"
            )
        if cls.size not in options:
            return cls.within(target, shape, rewards=rewards, network=network, **options)
        method = cls(target, shape, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{cls.name}: {error}") from error
    cost = method.cost()
    for word, has, may in (
        ("reward calls", cost.rewards, rewards),
        ("network evaluations", cost.network, network),
    ):
        if has > may:
            raise UserError(
                f"{cls.name} with {cls.size} = {getattr(method, cls.size)} takes {has:g} {word} a "
                f"sample, and the budget allows {may:.4g}: make it smaller, or leave its size out "
                "and it is as large as the budget allows"
            )
    return method
