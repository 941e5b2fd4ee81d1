"""A steering method by its name, with its options, at the size that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from payoff import steering
from payoff.configs import suggest
from payoff.errors import UserError
from payoff.experiments.finetune.methods import options_of, settings_of
from payoff.steering.base import SETTING, Steered
from payoff.targets import Target


def method_class(name: str, said: str = "--method") -> type[Steered]:
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


def own_options(cls: type[Steered]) -> list[str]:
    """The names of a method's options."""
    return [name for name in options_of(cls) if name not in SETTING]


def parsed(cls: type[Steered], settings: Sequence[str], particles: int | None = None) -> dict:
    """Options of a method from ``NAME=VALUE``; ``particles`` sets its size, whatever its name.

    Raises:
        UserError: an option is unknown or given twice, or a value does not fit.
    """
    options = settings_of(cls, cls.name, settings, own_options(cls))
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
