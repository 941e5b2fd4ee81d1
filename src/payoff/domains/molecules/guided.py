r"""Molecules of any generator at properties that a guide reads.

.. math:: p(x\mid y) \propto p(x)\,p(y\mid x)

The generator p need not have learned anything of the properties; see
:mod:`payoff.domains.molecules.guide` for the guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from payoff.domains.molecules.conditional import Asked, Drawn
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.labels import Scales
from payoff.domains.molecules.model import MoleculeModel
from payoff.errors import UserError
from payoff.guidance import Guided
from payoff.guidance.base import gaussian_process

KEY = "guide"
"""Where the guide's labels are: a generator may have labels of its own, on other scales."""


def guided(
    model: MoleculeModel, guide: LabelGuide, name: str = "the model", **options: Any
) -> Guided:
    """The model's denoiser along the guide's log-likelihood of ``cond["guide"]``.

    Args:
        model: of molecules.
        guide: of the same codec.
        name: what messages call the model.
        options: of :class:`~payoff.guidance.Guided`: scale, limit, …

    Raises:
        UserError: the guide reads other atoms or coordinates than the model draws.
    """
    if guide.codec != model.codec:
        raise UserError(
            f"the guide reads {guide.codec}, and {name} draws {model.codec}: train one with "
            f"python -m payoff.domains.molecules.guide --model {name}"
        )
    process = gaussian_process(model.denoiser, "guidance")
    return Guided(model.denoiser, guide.value.of(process, KEY), **options)


class ByGuide(Drawn):
    r"""The source that draws from a generator along a guide.

    Any of the guide's properties may be asked for, together as well: they are then taken as
    independent given a molecule seen through noise.

    Args:
        model: of molecules, with labels or without.
        guide: what reads the properties.
        name: what messages call the model.
        strength: s of :class:`~payoff.guidance.Guided`; 1 is Bayes' rule.
        limit: see there; in the codec's units, a coordinate.
        tell: tell a generator that learned labels what is asked for, too. Its law is then
            :math:`p(x\mid y)` by itself, and the guide adds to it as classifier-free guidance of
            weight s does.
        sampling: see :class:`~payoff.domains.molecules.conditional.Drawn`.

    Raises:
        UserError: model and guide do not fit, or ``tell`` and there are no labels.
    """

    def __init__(
        self,
        model: MoleculeModel,
        guide: LabelGuide,
        name: str = "the model",
        *,
        strength: float = 1.0,
        limit: float = 0.0,
        tell: bool = False,
        **sampling: Any,
    ) -> None:
        self.guide, self.name = guide, name
        self.scales = Scales.read(model.metadata, name) if tell else None
        denoiser = guided(model, guide, name, scale=strength, limit=limit)
        super().__init__(model, denoiser, **sampling)

    def check(self, names: Sequence[str]) -> None:
        """Raise a UserError unless the guide reads all of these, and the generator knows them."""
        self.guide.scales.check(names, "the guide")
        if self.scales is not None:
            self.scales.check(names, self.name)

    def label(self, asked: Asked) -> dict[str, Tensor]:
        """The guide's labels and flags (n, k), and the generator's own if it is told."""
        self.check(asked.names)
        values, known = self.guide.scales.columns(asked.names, asked.values)
        found = {KEY: values, KEY + "_known": known}
        if self.scales is not None:
            values, known = self.scales.columns(asked.names, asked.values)
            found |= {"label": values, "label_known": known}
        return found
