"""Properties by the network that comes beside the weights of ``qm9``: judges to hold out.

It learned B3LYP values of ``first_half`` (:mod:`payoff.domains.molecules.property`): another law of
errors than a semi-empirical program's, so what pleases one need not please the other. Far from
QM9's molecules it is a guess like any network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from payoff.domains.molecules.chemistry import Unscored
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.physics import one_molecule
from payoff.errors import UserError
from payoff.pretrained import SHIPPED

if TYPE_CHECKING:
    from payoff.domains.molecules.property import PropertyNet


@cache
def evaluator() -> PropertyNet:
    """The network, read once; its module is only imported then, as it trains networks too."""
    from payoff.domains.molecules.property import EVALUATOR, PropertyNet

    return PropertyNet.from_pretrained(SHIPPED / "qm9" / EVALUATOR)


def learned(name: str) -> Callable[[Molecule], float]:
    """The function that gives a molecule's property ``name`` in the data's unit.

    It raises Unscored for what is no molecule, as the programs do, and for elements that QM9 has
    not.
    """

    def of(molecule: Molecule) -> float:
        one_molecule(molecule)
        net = evaluator()
        try:
            return float(net([molecule])[0, net.names.index(name)])
        except UserError as error:
            raise Unscored(str(error)) from None

    return of
