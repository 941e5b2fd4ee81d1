r"""How generated molecules compare with real ones: new, varied, alike in their properties, sound.

Novelty and diversity look at the compound and not at its stereochemistry. A network that treats a
molecule and its mirror image alike gives both equally often, so with stereochemistry a model that
has learnt its data by heart would be half novel.

References: Tanimoto distances of circular fingerprints from Extended-Connectivity Fingerprints
(Rogers, Hahn, 2010). PoseBusters: AI-based docking methods fail to generate physically valid poses
or generalise to novel sequences (Buttenschoen, Morris, Deane, 2024).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from payoff.domains.cache import cache_folder
from payoff.domains.molecules.cache import read_tensors, write_tensors
from payoff.domains.molecules.metrics import Found, quiet, to_rdkit
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.metrics import Estimate, bootstrap, wasserstein

RADIUS, BITS = 2, 2048
"""Of the circular fingerprints: bonds around an atom, and length."""


def flat_smiles(molecule: Any) -> str | None:
    """Canonical SMILES without stereochemistry of a SMILES or an RDKit molecule, None if wrong."""
    from rdkit import Chem

    quiet()
    found = Chem.MolFromSmiles(molecule) if isinstance(molecule, str) else Chem.Mol(molecule)
    if found is None:
        return None
    Chem.RemoveStereochemistry(found)
    return str(Chem.MolToSmiles(Chem.RemoveHs(found)))


def novelty(smiles: Sequence[str], known: Collection[str]) -> Estimate:
    """Share of the different compounds among ``smiles`` that are not known.

    Args:
        smiles: of valid molecules, with or without stereochemistry.
        known: compounds as :func:`flat_smiles` or :func:`known_smiles` writes them.
    """
    known = known if isinstance(known, set | frozenset) else set(known)
    different = sorted({flat_smiles(text) or text for text in smiles})
    return Estimate.of(torch.tensor([float(text not in known) for text in different]))


def known_smiles(part: str = "train") -> frozenset[str]:
    """The compounds of a part of QM9 as :func:`flat_smiles` writes them.

    They are the data's own SMILES made canonical, which takes 0.1 ms each the first time; then the
    cache folder has them.

    Raises:
        UserError: no such part, or QM9 is missing.
    """
    import rdkit

    data = load_qm9()
    rows = split(part, len(data))
    source = zlib.crc32(data.smiles.numpy().tobytes())
    key = f"{source}, RDKit {rdkit.__version__}, {part}, {len(rows)} molecules"
    kept = cache_folder() / f"qm9-{part}-smiles.safetensors"
    tensors = read_tensors(kept, key)
    if tensors is None:
        every = data.all_smiles()
        found = sorted({flat_smiles(every[i]) or every[i] for i in rows.tolist()})
        raw = bytearray("\n".join(found).encode())
        tensors = {"smiles": torch.frombuffer(raw, dtype=torch.uint8)}
        write_tensors(kept, tensors, key)
    return frozenset(tensors["smiles"].numpy().tobytes().decode().split("\n"))


def diversity(
    molecules: Sequence[Any], most: int = 1000, *, generator: torch.Generator | None = None
) -> Estimate:
    r"""Mean Tanimoto distance :math:`1-|A\cap B|/|A\cup B|` of two molecules' fingerprints.

    A U-statistic; its standard error is twice that of the molecules' own means.

    Args:
        molecules: RDKit molecules, at least 2.
        most: of more a random subset of this size is taken; memory is O(most²).
        generator: of the subset.
    """
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    if len(molecules) > most:
        rows = torch.randperm(len(molecules), generator=generator)[:most].tolist()
        molecules = [molecules[i] for i in rows]
    n = len(molecules)
    if n < 2:
        return Estimate(float("nan"), float("inf"), n)
    fingerprint = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits = torch.stack(
        [
            torch.from_numpy(fingerprint.GetFingerprintAsNumPy(Chem.RemoveHs(molecule)))
            for molecule in molecules
        ]
    ).float()
    both = bits @ bits.T
    size = bits.sum(1)
    distance = 1 - both / (size.unsqueeze(0) + size.unsqueeze(1) - both)
    means = distance.double().fill_diagonal_(0).sum(1) / (n - 1)
    return Estimate(float(means.mean()), 2 * float(means.std()) / n**0.5, n)


def property_distances(
    values: Tensor,
    reference: Tensor,
    repeats: int = 50,
    *,
    generator: torch.Generator | None = None,
) -> list[Estimate]:
    r""":math:`W_1` between two sets of every property, in the reference's standard deviations.

    The standard error is that of resampling ``values``. The distance of two finite sets of one law
    is not 0: compare it with that of as many real molecules.

    Args:
        values: properties of generated molecules (n, K); NaN ones (failures) are left out.
        reference: of real ones (m, K), usually many more.
        repeats: resamples.
        generator: of the resampling.

    Returns:
        one estimate a column; n counts its values.

    Raises:
        UserError: a column is constant in the reference, or has fewer than two values.
    """
    if values.ndim != 2 or reference.ndim != 2 or values.shape[1] != reference.shape[1]:
        raise ValueError(
            f"properties are (n, K) and (m, K), got {tuple(values.shape)} and "
            f"{tuple(reference.shape)}"
        )
    found = []
    for k in range(values.shape[1]):
        ours, theirs = (x[~x.isnan()].double() for x in (values[:, k], reference[:, k]))
        if min(len(ours), len(theirs)) < 2 or not float(theirs.std()) > 0:
            raise UserError(
                f"property {k + 1}: a distance needs two values on either side, and different ones "
                f"in the reference; there are {len(ours)} and {len(theirs)}"
            )
        ours, theirs = ours / theirs.std(), theirs / theirs.std()

        def distance(x: Tensor, theirs: Tensor = theirs) -> Tensor:
            return wasserstein(x, theirs)

        found.append(bootstrap(distance, ours, repeats, generator=generator))
    return found


@dataclass(frozen=True)
class PoseChecks:
    """What PoseBusters says.

    Attributes:
        passing: the share of all molecules that pass every check.
        checks: by name, the share of the valid molecules that pass; all other molecules fail.
    """

    passing: Estimate
    checks: dict[str, Estimate]


def pose_checks(molecules: Found) -> PoseChecks:
    """PoseBusters' checks of a molecule on its own, 36 ms each.

    They are those of its configuration ``mol`` (bond lengths and angles, clashes, flat rings and
    double bonds, ...) without the comparison of energies, which takes five seconds a molecule. A
    molecule without perceived bonds fails.

    Raises:
        UserError: the package ``posebusters`` is not installed.
    """
    try:
        from posebusters import PoseBusters
    except ImportError:
        raise UserError(
            "these checks need the package 'posebusters', which is not installed. "
            "Install the extra with: pip install payoff[molecules]"
        ) from None
    config = PoseBusters("mol").config
    config["modules"] = [m for m in config["modules"] if m["function"] != "energy_ratio"]
    valid = [found for m in molecules if (found := to_rdkit(m)) is not None]
    if not valid:
        return PoseChecks(Estimate.of(torch.zeros(len(molecules))), {})
    table = PoseBusters(config).bust(valid)
    passed = torch.from_numpy(table.to_numpy().astype(float))
    every = torch.zeros(len(molecules))
    every[: len(valid)] = passed.amin(1)
    checks = {str(name): Estimate.of(passed[:, k]) for k, name in enumerate(table.columns)}
    return PoseChecks(Estimate.of(every), checks)
