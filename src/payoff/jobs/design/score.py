r"""The score of an object, learned from few labels, and how far an object is from the data.

Both are taken in the kind's features (:meth:`payoff.domains.base.Domain.features`). Where the kind
says so they are standardised over all objects, labelled or not. The score counts a feature that
never varies for nothing; the support distance (:class:`~payoff.metrics.support.SupportDistance`)
does count it, since an object where it is another is unlike the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from payoff.domains.base import Data, Domain, select
from payoff.errors import UserError
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.progress import Reporter
from payoff.jobs.records import STATE, RunFolder
from payoff.metrics.support import MOST_REFERENCES, SupportDistance
from payoff.rewards import FittedReward, LearnedReward, fit_reward

FEATURES, FITTED = "features.safetensors", "fitted.json"
CONSTANT = 1e-9  # standard deviation below which a feature never varies
FOLDS = 5
MIN_LABELS = 20
STREAM = {False: 0, True: 3}  # of the folds: by whether features are standardised


@dataclass
class Look:
    """Predictions for some objects; NaN for those that are None.

    Attributes:
        places: features (n, D), in which support and novelty are taken.
        mean, std: of the score, in the user's unit and direction, (n,) float64.
        support: distance from the data (n,), 1 = their own 95 % quantile.
    """

    places: Tensor
    mean: Tensor
    std: Tensor
    support: Tensor


@dataclass
class LearnedScore:
    """A learned score of objects, and their distance from the data.

    Attributes:
        domain: of the objects.
        regressor: of standardised features (n, D), higher is better.
        location, scale: of the features (D,); one that never varies has the scale inf.
        rows: standardised features of the data (m, D), at most 20,000 of them.
        sign: −1 where a lower score is better.
    """

    domain: Domain
    regressor: LearnedReward
    location: Tensor
    scale: Tensor
    rows: Tensor
    sign: float = 1.0

    @cached_property
    def support(self) -> SupportDistance:
        """The distance from the data, 1 = their own 95 % quantile."""
        return SupportDistance(self.rows)

    def places(self, objects: Sequence[Any]) -> Tensor:
        """Features of present objects, as distances are taken in them (n, D)."""
        found = self.domain.features(objects)
        return (found - self.location.to(found)) / _finite(self.scale).to(found)

    def values(self, objects: Sequence[Any]) -> Tensor:
        """Predicted scores (n,) of present objects, in the user's unit and direction."""
        return self.sign * self.regressor(_varying(self.places(objects), self.scale))

    def look(self, objects: Sequence[Any]) -> Look:
        """Predictions, places and support of objects, None among them."""
        n, dim = len(objects), len(self.location)
        mean, std, support = torch.full((3, n), float("nan"), dtype=torch.float64)
        places = torch.full((n, dim), float("nan"), dtype=self.rows.dtype)
        there = [i for i, thing in enumerate(objects) if thing is not None]
        if there:
            found = self.places(select(objects, there))
            predicted, deviation = self.regressor.predict(_varying(found, self.scale))
            mean[there], std[there] = self.sign * predicted, deviation
            support[there] = self.support(found).double()
            places[there] = found.to(places)
        return Look(places, mean, std, support)

    def half_width(self, std: Tensor) -> Tensor:
        """Half the 90 % interval of predictions with these deviations, for objects beyond the
        labelled ones.
        """
        return self.regressor.half_width(std, beyond=True)

    def save(self, folder: Path) -> None:
        """Write the regressor and the features that it goes by into a folder."""
        self.regressor.save(folder)
        tensors = {
            "location": self.location,
            "scale": self.scale,
            "rows": self.rows,
            "sign": torch.tensor(int(self.sign)),
        }
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / FEATURES)

    @classmethod
    def load(cls, folder: Path, domain: Domain) -> LearnedScore:
        """Read a saved score.

        Raises:
            UserError: a file is missing or damaged.
        """
        regressor = LearnedReward.load(folder)
        try:
            held = load_file(folder / FEATURES)
            location, scale, rows = (held[name] for name in ("location", "scale", "rows"))
            return cls(domain, regressor, location, scale, rows, float(held["sign"]))
        except Exception as error:  # the format's own classes among them
            raise UserError(
                f"the run folder is damaged: {folder / FEATURES} cannot be read ({error})"
            ) from error


def learn_score(
    data: Data, job: DesignOptions, folder: RunFolder, reporter: Reporter
) -> tuple[LearnedScore, dict[str, Any]]:
    """The learned score and the summary of its cross-validation, from the folder if it is there."""
    state = folder.path / STATE
    if not ((state / FEATURES).exists() and (state / FITTED).exists()):
        score, summary = _learned(data, job, reporter)
        with folder.replacing_files(STATE) as path:
            score.save(path)
        folder.write_json(f"{STATE}/{FITTED}", summary)
    # as a resumed run reads it: the two must not differ in the last digit
    return LearnedScore.load(state, data.domain), folder.read_json(f"{STATE}/{FITTED}")


def _learned(
    data: Data, job: DesignOptions, reporter: Reporter
) -> tuple[LearnedScore, dict[str, Any]]:
    domain, labels = data.domain, data.labels
    assert labels is not None
    rows = domain.features(data.objects)
    known = labels.isfinite()
    location, scale = torch.zeros(rows.shape[1]).to(rows), torch.ones(rows.shape[1]).to(rows)
    if domain.standardise:
        location, scale = rows.mean(0), rows.std(0)
        scale[scale < CONSTANT] = float("inf")
    places = (rows - location) / _finite(scale)
    z = _varying(places, scale)
    names = ("ridge", "ensemble") if job.regressor == "auto" else (job.regressor,)
    # fits of the ridge are over at once and would spoil the estimate of the time left
    instant = FOLDS if names[0] == "ridge" and len(names) > 1 else 0
    generator = torch.Generator().manual_seed(job.seed + STREAM[domain.standardise])
    with reporter.bar("learning the score", FOLDS * len(names) + 1 - instant) as advance:
        advance(0)
        fitted: FittedReward = fit_reward(
            z[known],
            job.sign * labels[known],
            generator=generator,
            folds=FOLDS,
            candidates=names,
            context=None if domain.standardise else z,
            progress=lambda done, total: advance(max(0, done - instant)),
        )
    kept = _references(places, job.seed, shuffled=domain.standardise)
    return LearnedScore(domain, fitted.reward, location, scale, kept, job.sign), fitted.summary()


def _finite(scale: Tensor) -> Tensor:
    """The scale with 1 for what never varies."""
    return torch.where(scale.isfinite(), scale, torch.ones_like(scale))


def _varying(places: Tensor, scale: Tensor) -> Tensor:
    """Double precision, and 0 in features that never varied."""
    return torch.where(scale.isfinite(), places.double(), 0.0)


def _references(places: Tensor, seed: int, *, shuffled: bool) -> Tensor:
    """The rows that the support distance is taken from."""
    if shuffled:
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        return places[order[:MOST_REFERENCES]].float()
    if len(places) <= MOST_REFERENCES:
        return places
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    return places[order[:MOST_REFERENCES]]


def check_labels(data: Data) -> None:
    """Refuse labels that nothing can be learned from.

    Raises:
        UserError: there are none, too few, or all are the same.
    """
    if data.labels is None:
        raise UserError("which score? Name the column or property with --score")
    known = data.labels[data.labels.isfinite()]
    if len(known) < MIN_LABELS:
        raise UserError(
            f"{data.name}: {len(known)} of {len(data.objects)} have a value of {data.score!r}; at "
            f"least {MIN_LABELS} are needed to learn from"
        )
    if bool((known == known[0]).all()):
        raise UserError(
            f"{data.name}: {data.score!r} has the same value ({float(known[0]):g}) everywhere, so "
            "there is nothing to learn"
        )
