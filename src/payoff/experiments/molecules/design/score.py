r"""The score of a molecule, learned from few labels, and how far a molecule is from the data.

Both look at the features of :mod:`payoff.domains.molecules.features`, standardised over all
molecules, labelled or not. The score counts a feature that never varies for nothing; the support
distance (:class:`~payoff.domains.vectors.SupportDistance`) does count it, since a molecule where it
is another is unlike the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from payoff.domains.molecules.features import elements_of, features
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.vectors import SupportDistance
from payoff.domains.vectors.distance import MOST_REFERENCES
from payoff.errors import UserError
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.data import Setting
from payoff.experiments.progress import Reporter
from payoff.rewards import LearnedReward, fit_reward

FEATURES = "features.safetensors"
CONSTANT = 1e-9


@dataclass
class Scorer:
    """A learned score of molecules, through standardised features.

    Attributes:
        reward: of standardised features (n, D), higher is better.
        elements: what the features count.
        location, scale: (D,); a feature that never varies has scale inf.
        rows: standardised features of the data, at most 20,000 of them, (m, D) float32.
        sign: −1 where a lower score is better.
    """

    reward: LearnedReward
    elements: tuple[int, ...]
    location: Tensor
    scale: Tensor
    rows: Tensor
    sign: int = 1

    def predict(self, molecules: list[Molecule]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and sd of each molecule's score in its unit, and its support distance, (n,)."""
        found = features(molecules, self.elements) - self.location
        mean, std = self.reward.predict(found / self.scale)
        return self.sign * mean, std, self.support(found / _finite(self.scale))

    @cached_property
    def support(self) -> SupportDistance:
        """The distance from the data, 1 = their own 95 % quantile."""
        return SupportDistance(self.rows)

    def save(self, folder: Path) -> None:
        """Write the regressor and the features that it goes by into a folder."""
        self.reward.save(folder)
        tensors = {
            "elements": torch.tensor(self.elements),
            "location": self.location,
            "scale": self.scale,
            "rows": self.rows,
            "sign": torch.tensor(self.sign),
        }
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / FEATURES)

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        reward = LearnedReward.load(folder)
        try:
            held = load_file(folder / FEATURES)
            elements = tuple(held["elements"].tolist())
            location, scale, rows = (held[name] for name in ("location", "scale", "rows"))
            return cls(reward, elements, location, scale, rows, int(held["sign"]))
        except Exception as error:  # the format's own classes among them
            raise UserError(
                f"the run folder is damaged: {folder / FEATURES} cannot be read ({error})"
            ) from error


def learn(
    setting: Setting, config: MoleculeDesignConfig, reporter: Reporter
) -> tuple[Scorer, dict[str, Any], Tensor]:
    """The score, the summary of its cross-validation, and pseudo-labels (n,) of all molecules."""
    reporter.say("reading features of all molecules")
    elements = elements_of(setting.molecules)
    rows = features(setting.molecules, elements)
    scale = rows.std(0)
    scale[scale < CONSTANT] = float("inf")
    location = rows.mean(0)
    z = (rows - location) / scale
    known = setting.labels.isfinite()
    sign = -1 if config.minimize else 1
    names = ("ridge", "ensemble") if config.reward == "auto" else (config.reward,)
    generator = torch.Generator().manual_seed(config.seed + 3)
    with reporter.bar("learning the score", 5 * len(names) + 1) as advance:
        fitted = fit_reward(
            z[known],
            sign * setting.labels[known],
            generator=generator,
            candidates=names,
            progress=lambda done, total: advance(done),
        )
    kept = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    references = ((rows - location) / _finite(scale))[kept[:MOST_REFERENCES]].float()
    scorer = Scorer(fitted.reward, elements, location, scale, references, sign)
    return scorer, fitted.summary(), sign * fitted.reward(z)


def _finite(scale: Tensor) -> Tensor:
    """The scale with 1 for what never varies."""
    return torch.where(scale.isfinite(), scale, torch.ones_like(scale))
