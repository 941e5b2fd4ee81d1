"""The model that a design run begins with, and how labels are used with it."""

from __future__ import annotations

from payoff.domains.base import Data
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.model import BASE, MODEL, Model, find_model, shipped_model

NONE = "none"


def find_base(data: Data, kind: Kind, job: DesignOptions) -> tuple[Model | None, str]:
    """The base model and its origin; None with the reason: there is none.

    Raises:
        UserError: the base that the options name is missing or does not fit the data.
    """
    if job.base == NONE:
        return None, "as asked for"
    if job.base is not None:
        return _named(data, kind, job), f"weights of {job.base}"
    model, origin = shipped_model(data, kind)
    return None if model is None else _placed(model, job), origin


def _named(data: Data, kind: Kind, job: DesignOptions) -> Model:
    assert job.base is not None
    place = find_model(job.base, (MODEL, BASE))
    model = Model.load(job.base if place is None else place)
    if model.kind.name != kind.name:
        raise UserError(
            f"--base {job.base}: it draws {model.kind.plural}, and {data.name} holds {kind.plural}"
        )
    try:
        model.domain = model.domain.adapt(data)
    except UserError as error:
        raise UserError(f"--base {job.base} does not fit these {kind.plural}: {error}") from None
    return _placed(model, job)


def _placed(model: Model, job: DesignOptions) -> Model:
    like = model.like
    return model.with_denoiser(model.denoiser.to(job.device, like.dtype).requires_grad_(False))


def choose_conditioning(data: Data, kind: Kind, base: Model | None, job: DesignOptions) -> bool:
    """Decide whether a guide or the model itself learns the labels; fill the options of that way.

    Returns:
        whether the kind leaves a choice.

    Raises:
        UserError: the options name a way that is not possible, or an option of the other one.
    """
    readable = data.domain.reader(2) is not None
    chosen = job.conditioning
    if chosen == "auto":
        chosen = "guide" if readable and base is not None else "labels"
    if chosen == "guide" and not readable:
        raise UserError(
            f"--conditioning guide needs a network that reads scores off noised {kind.plural}, and "
            "this kind has none: let the model learn with --conditioning labels"
        )
    if chosen == "guide" and base is None:
        raise UserError(
            f"--conditioning guide leads a model that is there, and none fits these {kind.plural}: "
            "give a --base that does, or let a new model learn with --conditioning labels"
        )
    job.fill(chosen, kind.defaults.get(f"design.{chosen}", {}))
    return readable


def start_line(base: Model | None, origin: str, conditioning: str) -> str:
    """The origin of the model in a sentence."""
    if base is None:
        return f"the model begins from scratch ({origin})"
    if conditioning == "guide":
        return f"the {origin} stay as they are; a guide leads them"
    return f"the model begins with the {origin}"
