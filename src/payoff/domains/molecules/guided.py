r"""Molecules of any generator at properties that a guide reads.

.. math:: p(x\mid y) \propto p(x)\,p(y\mid x)

The generator p need not have learned anything of the properties; see
:mod:`payoff.domains.molecules.guide` for the guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from payoff.domains.molecules.conditional import Asked, Drawn
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.model import MoleculeModel
from payoff.errors import UserError
from payoff.guidance import Guided
from payoff.guidance.base import gaussian_process
from payoff.training.labels import Scales

KEY = "guide"
"""Where the guide's labels are: a generator may have labels of its own, on other scales."""

INTERVAL = (0.0, 6.0)
"""The log-SNRs at which a guide is looked at. Below, it knows little more than the size of a
molecule, and 1/α makes the error of its flat value large; above, the atoms are decided. On 300
molecules (-2, 8) gave the same errors, for a third more time."""
LIMIT = 0.1
"""The largest move of a clean estimate by a guide, root mean square a coordinate, in the codec's
units. The steepest moves are where the guide is least to be believed, and break molecules."""
DRAWS = 64  # of pure noise, over which p(y | size) is averaged


def guided(
    model: MoleculeModel,
    guide: LabelGuide,
    name: str = "the model",
    noise: float = 0.0,
    **options: Any,
) -> Guided:
    """The model's denoiser along the guide's log-likelihood of ``cond["guide"]``.

    Args:
        model: of molecules.
        guide: of the same codec.
        name: what messages call the model.
        noise: ν on what is asked for, in deviations of the property.
        options: of :class:`~payoff.guidance.Guided`: scale, limit (0: none), interval, …

    Raises:
        UserError: the guide reads other atoms or coordinates than the model draws.
    """
    if guide.codec != model.codec:
        raise UserError(
            f"the guide reads {guide.codec}, and {name} draws {model.codec}: train one with "
            f"python -m payoff.domains.molecules.guide --model {name}"
        )
    process = gaussian_process(model.denoiser, "guidance")
    value = guide.value.of(process, KEY, noise)
    return Guided(model.denoiser, value, **{"interval": INTERVAL, "limit": LIMIT, **options})


def told(guide: LabelGuide, wanted: Mapping[str, float], n: int) -> dict[str, Tensor]:
    """``n`` rows of conditions for the same properties, by name, in their units.

    Raises:
        UserError: the guide does not read one of them.
    """
    guide.scales.check(list(wanted), "the guide")
    values = torch.tensor(list(wanted.values())).expand(n, -1)
    label, known = guide.scales.columns(list(wanted), values)
    return {KEY: label, KEY + "_known": known}


def sizes_given(
    model: MoleculeModel, guide: LabelGuide, wanted: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    r"""Numbers of nodes (m,) and their weights :math:`p(n\mid y)\propto p(n)\,p(y\mid n)`, (m,).

    p(n) are the model's counts; p(y | n) is what the guide makes of pure noise, where the size is
    all that there is to see.
    """
    sizes = model.counts.nonzero()[:, 0]
    process = gaussian_process(model.denoiser, "guidance")
    value, t = guide.value.of(process, KEY), torch.ones(())
    generator = torch.Generator().manual_seed(0)
    logs = []
    for size in sizes.tolist():
        cond = told(guide, wanted, DRAWS) | {"mask": torch.ones(DRAWS, size, dtype=torch.bool)}
        x = process.prior((DRAWS, size, model.shape[1]), cond, generator=generator)
        with torch.no_grad():
            logs.append(value(x, t, cond).double().logsumexp(0))
    return sizes, (model.counts[sizes].double().log() + torch.stack(logs)).softmax(0)


class ByGuide(Drawn):
    r"""The source that draws from a generator along a guide.

    Any of the guide's properties may be asked for, together as well: they are then taken as
    independent given a molecule seen through noise.

    Args:
        model: of molecules, with labels or without.
        guide: what reads the properties.
        name: what messages call the model.
        strength: s of :class:`~payoff.guidance.Guided`; 1 is Bayes' rule.
        limit, interval: see there; the limit in the codec's units, a coordinate.
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
        limit: float = LIMIT,
        interval: tuple[float, float] | None = INTERVAL,
        tell: bool = False,
        **sampling: Any,
    ) -> None:
        self.guide, self.name = guide, name
        self.scales = Scales.read(model.metadata, name) if tell else None
        denoiser = guided(model, guide, name, scale=strength, limit=limit, interval=interval)
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
