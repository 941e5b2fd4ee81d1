"""Which value a method weighs by: an option's word, or a Value that is given."""

from __future__ import annotations

from payoff.configs import suggest
from payoff.errors import UserError
from payoff.spaces import Tokens
from payoff.steering.base import Cost
from payoff.targets import Target
from payoff.values import Learned, MonteCarlo, PlugIn, Posterior, Value

VALUES = ("auto", "plug-in", "posterior", "monte-carlo")


def value_for(
    target: Target, asked: str | Value = "auto", draws: int = 1, sigma_data: float = 1.0
) -> Value:
    """The value a method asks on its way.

    Args:
        target: base, reward and temperature.
        asked: ``plug-in``, ``posterior``, ``monte-carlo``, or ``auto``: the plug-in for vectors,
            posterior draws for tokens. A :class:`~payoff.values.Value` is taken as it is.
        draws: reward calls a row of the two that draw.
        sigma_data: standard deviation of the data per coordinate, for posterior draws of vectors.

    Raises:
        UserError: an unknown word, the plug-in for tokens, or fewer than one draw.
    """
    if isinstance(asked, Value):
        return asked
    tokens = isinstance(target.denoiser.process.space, Tokens)
    if asked not in VALUES:
        raise UserError(
            f"unknown value {asked!r}{suggest(str(asked), VALUES)} (known: {', '.join(VALUES)})"
        )
    if asked == "plug-in" and tokens:
        raise UserError(
            "the plug-in value needs a clean estimate, which token sequences do not have: use "
            "value = posterior"
        )
    if draws < 1:
        raise UserError(f"draws must be at least 1, got {draws}")
    if asked == "monte-carlo":
        return MonteCarlo(target, draws)
    if asked == "posterior" or tokens:
        return Posterior(target, draws, sigma_data)
    return PlugIn(target)


def value_cost(value: Value) -> Cost:
    """What one evaluation of a row costs where the base's prediction is known already.

    A network of the value's own is no evaluation of the base and costs no reward. A value of
    another kind says it by an attribute ``cost``, a :class:`Cost`; without one it is taken for a
    plug-in, one reward call.
    """
    known = getattr(value, "cost", None)
    if isinstance(known, Cost):
        return known
    if isinstance(value, MonteCarlo):
        return Cost(value.draws, value.draws * value.steps)
    if isinstance(value, Posterior):
        return Cost(value.draws, 0)
    if isinstance(value, Learned) or value.exact:
        return Cost(0, 0)
    return Cost(1, 0)
