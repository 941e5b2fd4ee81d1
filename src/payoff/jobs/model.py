"""A model: a denoiser and the domain of the objects that it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Data, Domain
from payoff.domains.installed import kind_named, kinds
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.records import RunFolder
from payoff.pretrained import (
    CONFIG,
    find_pretrained,
    from_pretrained,
    read_config,
    save_pretrained,
    shipped,
)
from payoff.samplers import Sampler, stochastic

MODEL, BASE = "model", "base"
"""Where a run keeps its models: the one that it made, and the one that it began with."""
KIND, DOMAIN = "kind", "domain"  # entries of a saved model's metadata
LABEL = "label"  # a further one: how the score that the model learned as its label is scaled


@dataclass
class Drawn:
    """Samples x (n, ...), the conditions that they were drawn under, and their objects."""

    x: Tensor
    cond: dict[str, Tensor]
    objects: Sequence[Any]


@dataclass
class Model:
    """A denoiser with the domain of its samples.

    Attributes:
        denoiser: of encoded objects.
        domain: objects <-> tensors.
        kind: of the objects.
        facts: further metadata saved beside the weights, such as the data that it was trained on.
    """

    denoiser: Denoiser
    domain: Domain
    kind: Kind
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def like(self) -> Tensor:
        """A tensor on the model's device and in its number format."""
        return next(self.denoiser.parameters())

    def check_unlabelled(self, name: str) -> None:
        """Refuse a model that cannot draw without a score.

        Raises:
            UserError: it learned a score together with columns that were held fixed, and its
                network knows both or neither.
        """
        cond = self.domain.conditions(1, None, torch.Generator().manual_seed(0))
        if LABEL in self.facts and "label" in cond:
            raise UserError(
                f"{name}: its model learned a score together with the values that were held "
                "fixed, and cannot draw without a score: give a model that learned none, or that "
                "of a run without fixed values"
            )

    def conditions(
        self, n: int, generator: torch.Generator, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Conditions of n fresh samples, where the model is."""
        self.check_unlabelled("the model")
        return placed(self.domain.conditions(n, weights, generator), self.like)

    def sampler(self, steps: int, noise: float | None = None) -> Sampler:
        """DDPM's sampler, or the second-order one with ``noise`` times its noise."""
        return stochastic(self.denoiser, self.domain.shape, steps, noise)

    def draw(
        self, n: int, generator: torch.Generator, steps: int, noise: float | None = None
    ) -> Drawn:
        """Draw n samples and decode them."""
        cond = self.conditions(n, generator)
        sampler = self.sampler(steps, noise)
        x = sampler.sample(n, cond or None, generator=generator, batch_size=self.domain.batch)
        x = x.clone()
        return Drawn(x, cond, self.domain.decode(x, cond))

    def with_denoiser(self, denoiser: Denoiser) -> Model:
        """The same domain with another denoiser."""
        return replace(self, denoiser=denoiser)

    def metadata(self) -> dict[str, Any]:
        """The metadata that :meth:`load` reads."""
        return {**self.facts, KIND: self.kind.name, DOMAIN: self.domain.config()}

    def save(self, folder: RunFolder, name: str) -> None:
        """Write weights and metadata to the folder ``name`` of a run."""
        with folder.replacing_files(name) as path:
            save_pretrained(self.denoiser, path, self.metadata())

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu", precision: int | None = None) -> Model:
        """Load a model by the name of shipped weights, a model folder, a run or a hub repository.

        Args:
            name: of the model.
            device: where its weights go.
            precision: 32 or 64 bits; None: as they were saved.

        Raises:
            UserError: there is none of that name, or its files are damaged.
        """
        folder = model_folder(name)
        kind, config, facts = _described(folder)
        try:
            domain = kind.load()(**config)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / CONFIG} does not say how its model encodes {kind.plural} ({error}): "
                "give a folder that payoff wrote"
            ) from error
        denoiser = from_pretrained(folder, device)
        if precision is not None:
            denoiser = denoiser.to(torch.float64 if precision == 64 else torch.float32)
        return cls(denoiser, domain, kind, facts)


def placed(cond: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """Conditions on the device of ``like``, numbers in its format; masks and places as they are."""
    return {
        name: value.to(like) if value.is_floating_point() else value.to(like.device)
        for name, value in cond.items()
    }


def find_model(name: Any, inside: Sequence[str] = (MODEL, BASE)) -> Path | None:
    """The folder of a model that a source names; None: it names no model that is here.

    A folder with a saved model comes first, then a run's models in the order of ``inside``, then
    shipped weights. The hub is not asked.
    """
    if not isinstance(name, (str, Path)):
        return None
    here = Path(name)
    places = [here, *(here / part for part in inside)]
    known = shipped()
    if str(name) in known:
        places.append(known[str(name)])
    return next((place for place in places if (place / CONFIG).is_file()), None)


def model_folder(name: str | Path, inside: Sequence[str] = (MODEL, BASE)) -> Path:
    """The folder with the weights that a name means; a hub repository is fetched.

    Raises:
        UserError: there is none.
    """
    found = find_model(name, inside)
    if found is not None:
        return found
    folder = find_pretrained(name)
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{name} holds no saved model: there is no {CONFIG} in it, nor a folder "
            f"{' or '.join(inside)} with one"
        )
    return folder


def shipped_model(data: Data, kind: Kind) -> tuple[Model | None, str]:
    """Shipped weights of a kind that fit its data, and their origin; None with the reason."""
    why = "no weights are shipped"
    for name, folder in shipped().items():
        try:
            if kind_of_model(folder).name != kind.name:
                continue
        except UserError:  # its kind is not installed here
            continue
        model = Model.load(folder)
        try:
            model.domain = model.domain.adapt(data)
        except UserError as error:
            why = f"the shipped weights of {name} do not fit: {error}"
            continue
        return model, f"shipped weights of {name}"
    return None, why


def kind_of_model(folder: Path) -> Kind:
    """The kind of objects that a saved model draws.

    Raises:
        UserError: the files are damaged, or the kind is not installed.
    """
    return _described(folder)[0]


def _described(folder: Path) -> tuple[Kind, dict[str, Any], dict[str, Any]]:
    """(kind, config of its domain, further facts) of a saved model."""
    found = read_config(folder).get("metadata")
    metadata: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
    if isinstance(metadata.get(KIND), str) and isinstance(metadata.get(DOMAIN), dict):
        kind, config = kind_named(metadata.pop(KIND)), metadata.pop(DOMAIN)
        return kind, config, metadata
    for kind in kinds().values():
        config = kind.load().earlier(metadata, folder)
        if config is not None:
            return kind, config, metadata
    raise UserError(
        f"{folder / CONFIG} does not say which kind of object its model draws: give a folder that "
        "payoff wrote, or the name of shipped weights"
    )
