r"""Strain: how far a geometry lies above the nearest minimum of the energy.

.. math::
    E(x) - E(x^*), \qquad x^* \text{ the minimum that L-BFGS reaches from } x,

both by GFN2-xTB, in kcal/mol. A geometry that density functional theory has relaxed has 1 or so,
what the two methods differ by.

References: GFN2-xTB – An Accurate and Broadly Parametrized Self-Consistent Tight-Binding Quantum
Chemical Method (Bannwarth, Ehlert, Grimme, 2019). On the limited memory BFGS method for large scale
optimization (Liu, Nocedal, 1989).
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from payoff.domains.molecules.chemistry import Unscored
from payoff.domains.molecules.metrics import Found
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.physics import BOHR, ITERATIONS, one_molecule, one_thread
from payoff.errors import UserError

KCAL = 627.5094740631
"""kcal/mol in a Hartree."""
GRADIENT = 1e-3
"""Hartree/bohr: where no component of the gradient is larger, a geometry counts as relaxed."""


def strain(molecules: Found, most_steps: int = 150) -> Tensor:
    """Energy above the minimum of each molecule in kcal/mol, (n,) float64.

    NaN stands for what has no strain: None, what is not one neutral molecule with paired electrons,
    charges that do not converge, and a geometry that is not relaxed after ``most_steps``
    calculations. 12 of them, 90 ms, are enough for a molecule of QM9 as it is, 40 for one whose
    atoms are 0.3 Å off. From far away the minimum may be another compound's.

    Raises:
        UserError: the package ``tblite`` is not installed.
    """
    try:
        import tblite.interface  # noqa: F401
    except ImportError:
        raise UserError(
            "strain needs the package 'tblite', which is not installed. "
            "Install the extra with: pip install payoff[molecules]"
        ) from None
    found = torch.full((len(molecules),), math.nan, dtype=torch.float64)
    for i, molecule in enumerate(molecules):
        if molecule is not None:
            with contextlib.suppress(Unscored):
                found[i] = relaxed(molecule, most_steps)[1]
    return found


def relaxed(molecule: Molecule, most_steps: int = 150) -> tuple[Molecule, float]:
    """The molecule at the minimum, and how much energy that took away, in kcal/mol.

    Raises:
        Unscored: it is no closed-shell molecule, its charges did not converge, or it was not
            relaxed after ``most_steps`` calculations.
    """
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    one_molecule(molecule)
    x = (molecule.positions.double() / BOHR).clone()
    calculator = Calculator("GFN2-xTB", molecule.numbers.numpy(), x.numpy())
    calculator.set("verbosity", 0)
    calculator.set("max-iter", ITERATIONS)
    energies: list[float] = []

    def energy() -> Tensor:
        """Of x, whose gradient it leaves there."""
        try:
            calculator.update(x.numpy())
            result = calculator.singlepoint()
        except (TBLiteRuntimeError, ValueError) as error:
            raise Unscored(f"GFN2-xTB: {error}") from None
        x.grad = torch.from_numpy(result.get("gradient").copy())
        energies.append(float(result.get("energy")))
        return torch.tensor(energies[-1], dtype=x.dtype)

    search = torch.optim.LBFGS(
        [x],
        max_iter=most_steps,
        max_eval=most_steps,
        tolerance_grad=GRADIENT,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    with one_thread():
        search.step(energy)
        energy()
    assert x.grad is not None
    if not float(x.grad.abs().max()) <= GRADIENT:
        raise Unscored(f"not relaxed after {most_steps} steps")
    found = Molecule(molecule.numbers, (x * BOHR).to(molecule.positions.dtype))
    return found, KCAL * (energies[0] - energies[-1])
