"""From ``module:name`` to a part and its kind."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from payoff.checks.findings import told, type_name
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning.base import Finetuner
from payoff.naming import load_named
from payoff.processes import Process
from payoff.rewards import Reward
from payoff.samplers import Sampler
from payoff.schedules import KeepSchedule, Schedule
from payoff.values import Value

# In this order: a learned reward or value is a torch module too.
BASES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("reward", (Reward,)),
    ("value", (Value,)),
    ("denoiser", (Denoiser,)),
    ("sampler", (Sampler,)),
    ("schedule", (Schedule, KeepSchedule)),
    ("process", (Process,)),
    ("method", (Finetuner,)),
    ("network", (nn.Module,)),
)
KINDS = tuple(kind for kind, _ in BASES)
# Parts that are classes or functions of something else: (their first argument, their kind).
MAKERS = (("denoiser", "sampler"), ("target", "value"))


def load(name: str) -> Any:
    """The object called ``module:name``, from the current folder or the environment.

    Raises:
        UserError: the form is wrong, the module cannot be imported or it has no such name.
    """

    def hint(owner: Any, missing: str) -> str:
        public = [n for n in dir(owner) if not n.startswith("_")]
        near = difflib.get_close_matches(missing, public, 1)
        return f"; did you mean '{near[0]}'?" if near else ""

    return load_named(name, name, "MODULE:NAME", "lab:Strength", hint, told)


def resolve(found: Any, kind: str | None = None, name: str | None = None) -> tuple[str, Any]:
    """(kind, part) of an object, a class, a factory or a plain function.

    A sampler stays a class, since it is made for a denoiser; so does a value that is made from a
    target. Everything else is made here, without arguments.

    Raises:
        UserError: the kind cannot be told, or the part cannot be made without arguments.
    """
    name = name or type_name(found)
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind {kind}: choose one of {', '.join(KINDS)}")
    if inspect.isclass(found):
        return _of_class(found, kind, name)
    known = _kind_of(type(found))
    if known is not None or not callable(found):
        if known is None and kind is None:
            raise UserError(
                f"{name} is of type {type(found).__name__}, and cannot be checked; what can be "
                f"is a {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
        return _allowed(kind or str(known), found, name)
    if not _required(found):
        if not inspect.isfunction(found) or any(p for p in _parameters(found)):
            guessed = kind or _by_signature(found)
            if guessed in ("reward", "network"):
                return guessed, found
        return resolve(_made(found, name), kind, f"{name}()")
    if kind is None:
        kind = _by_signature(found)
    if kind is None:
        raise UserError(
            f"{name}{_signature(found)}: from these arguments it cannot be told what it is. Use "
            "--kind, or name them as the library does: (x, cond) a reward, (x, noise_level, cond) "
            "a network, (denoiser, shape, steps) a sampler, (target) a value"
        )
    return _allowed(kind, found, name)


def _of_class(found: type, kind: str | None, name: str) -> tuple[str, Any]:
    known = kind or _kind_of(found)
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))  # type: ignore[attr-defined]
        raise UserError(f"{name} is abstract: it does not define {missing}")
    if known == "sampler":
        return known, found
    if known == "value" and _first(found) == "target":
        return known, found
    return resolve(_made(found, name), kind, f"{name}()")


def _kind_of(cls: type) -> str | None:
    return next((kind for kind, bases in BASES if issubclass(cls, bases)), None)


def _allowed(kind: str, part: Any, name: str) -> tuple[str, Any]:
    """Refuse a ``kind`` that the part cannot have."""
    bases = dict(BASES)[kind]
    if kind == "sampler" and isinstance(part, Sampler):
        return kind, _remaker(part, name)
    open_kinds = ("reward", "network", "sampler", "value")  # plain functions will do
    if isinstance(part, bases) or (kind in open_kinds and callable(part)):
        return kind, part
    wanted = " or ".join(f"{b.__module__}.{b.__qualname__}" for b in bases)
    raise UserError(f"{name} is a {type(part).__name__}: as a {kind} it must derive from {wanted}")


def _remaker(sampler: Sampler, name: str) -> Callable[..., Sampler]:
    raise UserError(
        f"{name} is a finished sampler. It is tested on denoisers whose answer is known, so give "
        f"its class, {type(sampler).__name__}, or a function (denoiser, shape, steps) that makes it"
    )


def _made(factory: Callable[[], Any], name: str) -> Any:
    required = _required(factory)
    if required:
        raise UserError(
            f"{name} needs {', '.join(required)}. Write a function without arguments that makes "
            "it, and name that: def my_part(): return "
            f"{type_name(factory)}({', '.join(f'{r}=...' for r in required)})"
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: making it without arguments failed: {told(error)}") from error


def _parameters(callable_: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(callable_).parameters.values())
    except (TypeError, ValueError):
        return []


def _required(callable_: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    empty = inspect.Parameter.empty
    return [p.name for p in _parameters(callable_) if p.default is empty and p.kind not in kinds]


def _first(callable_: Any) -> str | None:
    names = [p.name for p in _parameters(callable_)]
    return names[0] if names else None


def _by_signature(callable_: Any) -> str | None:
    names = [p.name for p in _parameters(callable_)]
    if any("level" in n or n in ("sigma", "log_snr") for n in names[1:2]):
        return "network"
    for first, kind in MAKERS:
        if names[:1] == [first]:
            return kind
    if names[:1] == ["x"] or names[1:2] == ["cond"]:
        return "reward"
    required = _required(callable_)
    return "reward" if len(required) == 1 and len(names) == 1 else None


def _signature(callable_: Any) -> str:
    return f"({', '.join(p.name for p in _parameters(callable_))})"
