"""What ``payoff sample`` asks of a guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.guided import guided, sizes_given, told
from payoff.domains.molecules.model import MoleculeModel
from payoff.errors import UserError
from payoff.experiments.molecules.again import is_design

FINE = 1_000_000


@dataclass(frozen=True)
class Along:
    """A guide and what is asked for along it.

    Attributes:
        guide: what reads the properties.
        wanted: values by property, in the properties' units.
        strength: of the guidance; 1 is Bayes' rule.
    """

    guide: LabelGuide
    wanted: dict[str, float]
    strength: float = 1.0

    @classmethod
    def of(
        cls, name: str | Path, folder: Path | None, asked: Sequence[str], strength: float = 1.0
    ) -> Along:
        """From options: the model's name, the guide's folder or None, ``property=value`` texts.

        None is the guide that the package comes with.

        Raises:
            UserError: something does not fit together.
        """
        if is_design(name):
            raise UserError("--guide is for models of molecules: a run of payoff design has an aim")
        wanted: dict[str, float] = {}
        for text in asked:
            key, _, value = text.partition("=")
            try:
                wanted[key.strip()] = float(value)
            except ValueError:
                raise UserError(
                    f"--property takes a name and a number, such as alpha=95, got {text!r}"
                ) from None
        if not wanted or not torch.tensor(list(wanted.values())).isfinite().all():
            raise UserError("--guide needs what is asked for, such as --property alpha=95")
        if not 0 <= strength < float("inf"):
            raise UserError(f"--strength must be finite and not negative, got {strength:g}")
        guide = LabelGuide.from_pretrained(folder or DATA_SET)
        guide.scales.check(list(wanted), f"the guide {folder or DATA_SET}")
        return cls(guide, wanted, strength)

    def asked(self, model: MoleculeModel, name: str) -> tuple[Denoiser, Tensor, dict[str, Tensor]]:
        """What is sampled of a model, the sizes to draw from, and a row of further conditions."""
        denoiser = guided(model, self.guide, name, scale=self.strength)
        nodes, weights = sizes_given(model, self.guide, self.wanted)
        # as many of each size as the law says, of so many that rounding is nothing
        sizes = nodes.repeat_interleave((weights * FINE).round().long())
        return denoiser, sizes, told(self.guide, self.wanted, 1)
