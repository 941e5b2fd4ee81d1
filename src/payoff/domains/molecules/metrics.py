"""How good generated molecules are, by the field's own yardsticks.

References: stability and validity from E(3) Equivariant Diffusion for Molecule Generation in 3D
(Hoogeboom, Satorras, Vignac, Welling, 2022); bond perception by Universal Structure Conversion
Method for Organic Molecules: From Atomic Connectivity to Three-Dimensional Geometry (Kim, Kim,
2015), as in RDKit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from payoff.domains.molecules.bonds import bond_orders, in_table, stable_atoms
from payoff.domains.molecules.molecule import Molecule

Found = Sequence[Molecule | None]
VDW_FACTOR = 1.15
"""RDKit's default of 1.3 for the distance of a bond takes 5 % of QM9's molecules to be wrong."""


def quiet() -> None:
    """RDKit tells of every failure on the terminal; here a failure is a result."""
    from rdkit.RDLogger import DisableLog  # type: ignore[attr-defined]

    DisableLog("rdApp.*")


def stability(molecules: Found) -> tuple[float, float]:
    """Shares of atoms and of molecules with exactly the right valences by EDM's bond table.

    A molecule that could not be decoded is unstable and has no atoms.
    """
    atoms = stable = whole = 0
    for molecule in molecules:
        if molecule is None:
            continue
        right = stable_atoms(molecule.numbers, molecule.positions)
        atoms, stable = atoms + len(molecule), stable + int(right.sum())
        whole += bool(right.all())
    return stable / max(1, atoms), whole / max(1, len(molecules))


def to_rdkit(molecule: Molecule | None) -> Any | None:
    """The RDKit molecule with perceived bonds and all hydrogens, or None if it is not valid.

    Valid means: one fragment, bond orders that explain every valence without charge overall, and
    RDKit's sanitisation.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    if molecule is None or not bool(molecule.positions.isfinite().all()):
        return None
    quiet()
    try:
        found = Chem.MolFromXYZBlock(molecule.xyz())
        rdDetermineBonds.DetermineConnectivity(found, useVdw=True, covFactor=VDW_FACTOR)
        if len(Chem.GetMolFrags(found)) > 1:
            return None
        rdDetermineBonds.DetermineBondOrders(found, charge=0, maxIterations=1000)
        Chem.SanitizeMol(found)
    except Exception:  # RDKit's ways of saying no: ValueError, RuntimeError, its own classes
        return None
    return found


def pieces(molecule: Molecule) -> int:
    """How many pieces the atoms fall into by the distances that :func:`to_rdkit` goes by."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    found = Chem.MolFromXYZBlock(molecule.xyz())
    rdDetermineBonds.DetermineConnectivity(found, useVdw=True, covFactor=VDW_FACTOR)
    return len(Chem.GetMolFrags(found))


def table_smiles(molecule: Molecule | None) -> str | None:
    """SMILES of the largest fragment by EDM's bond table, or None where RDKit refuses it.

    This is the validity of EDM's tables. The bond orders come straight from the distances, and
    fragments are allowed. None also where an element is not in the table.
    """
    from rdkit import Chem

    if molecule is None or not in_table(molecule.numbers):
        return None
    quiet()
    orders = bond_orders(molecule.numbers, molecule.positions)
    kinds = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    built = Chem.RWMol()
    for symbol in molecule.symbols:
        built.AddAtom(Chem.Atom(symbol))
    for i, j in orders.triu().nonzero().tolist():
        built.AddBond(i, j, kinds[int(orders[i, j]) - 1])
    try:
        Chem.SanitizeMol(built)
        parts = Chem.GetMolFrags(built, asMols=True)
        largest = max(parts, default=built, key=lambda part: part.GetNumAtoms())
        Chem.SanitizeMol(largest)
        return str(Chem.MolToSmiles(largest))
    except Exception:
        return None


def smiles_of(molecule: Any) -> str:
    """Canonical SMILES without explicit hydrogens of an RDKit molecule."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(Chem.RemoveHs(molecule)))


def uniqueness(smiles: Sequence[str]) -> float:
    """Different SMILES over all, 0 for none."""
    return len(set(smiles)) / max(1, len(smiles))


def summary(molecules: Found) -> dict[str, float]:
    """Stability, both validities and the uniqueness of the valid, each a share in [0, 1]."""
    atoms, whole = stability(molecules)
    valid = [found for m in molecules if (found := to_rdkit(m)) is not None]
    by_table = [found for m in molecules if (found := table_smiles(m)) is not None]
    n = max(1, len(molecules))
    return {
        "atom_stability": atoms,
        "molecule_stability": whole,
        "validity": len(valid) / n,
        "table_validity": len(by_table) / n,
        "uniqueness": uniqueness([smiles_of(found) for found in valid]),
    }
