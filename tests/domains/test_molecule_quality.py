"""Novelty, diversity, distances of properties, soundness: on real molecules and spoiled ones."""

from __future__ import annotations

import sys

import pytest
import torch

from payoff.domains.molecules import quality
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError

pytest.importorskip("rdkit")
COUNT = 300


@pytest.fixture(scope="module")
def data():
    try:
        return load_qm9()
    except UserError:
        pytest.skip("needs the package qm9pack")


@pytest.fixture(scope="module")
def real(data) -> list[Molecule]:
    return data.molecules(split("train")[:COUNT])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The train part cut to its first molecules, and a cache of its own."""
    monkeypatch.setenv("PAYOFF_CACHE", str(tmp_path))
    data = load_qm9(cache=True)
    monkeypatch.setattr(quality, "load_qm9", lambda: data)
    monkeypatch.setattr(quality, "split", lambda name, size: split(name, size)[:COUNT])
    return tmp_path


def test_novelty_counts_compounds():
    assert quality.novelty(["CCO", "C(O)C", "CC"], {"CCO"}).value == 0.5
    known = {"CC(O)F"}
    for mirrored in ("C[C@H](O)F", "C[C@@H](O)F"):
        assert quality.novelty([mirrored], known).value == 0
    assert quality.novelty(["CCCl", "CCBr"], known).value == 1
    assert quality.novelty([], known).n == 0


def test_known_molecules_are_not_novel(real, small):
    """From geometries, as for generated molecules, against the SMILES of the data."""
    known = quality.known_smiles("train")
    valid = [found for m in real if (found := to_rdkit(m)) is not None]
    assert len(valid) > 0.99 * COUNT
    assert quality.novelty([smiles_of(found) for found in valid], known).value == 0
    halves = [set(sorted(known)[k::2]) for k in (0, 1)]
    assert quality.novelty(sorted(halves[0]), halves[1]).value == 1
    assert quality.novelty(sorted(known), halves[1]).value == len(halves[0]) / len(known)


def test_mirror_images_are_the_same_compounds(real):
    chiral = 0
    for molecule in real[:100]:
        left = to_rdkit(molecule)
        right = to_rdkit(Molecule(molecule.numbers, -molecule.positions))
        chiral += smiles_of(left) != smiles_of(right)
        assert quality.flat_smiles(left) == quality.flat_smiles(right)
        assert quality.flat_smiles(left) == quality.flat_smiles(smiles_of(left))
    assert chiral > 20


def test_known_smiles_are_kept(small, monkeypatch):
    first = quality.known_smiles("train")
    assert "qm9-train-smiles.safetensors" in {path.name for path in small.iterdir()}
    monkeypatch.setattr(quality, "flat_smiles", None)
    assert quality.known_smiles("train") == first
    with pytest.raises(UserError, match="no part"):
        quality.known_smiles("trian")


def test_diversity_is_the_mean_tanimoto_distance(real):
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.DataStructs import TanimotoSimilarity

    some = [to_rdkit(m) for m in real[:12]]
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [make.GetFingerprint(Chem.RemoveHs(m)) for m in some]
    pairs = [1 - TanimotoSimilarity(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    found = quality.diversity(some)
    assert found.value == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert quality.diversity([some[0]] * 5).value == pytest.approx(0, abs=1e-6)
    assert quality.diversity(some[:1]).n == 1


def test_diversity_of_a_subset_agrees(real):
    every = [found for m in real if (found := to_rdkit(m)) is not None]
    whole = quality.diversity(every)
    generator = torch.Generator().manual_seed(0)
    part = quality.diversity(every, 60, generator=generator)
    assert part.n == 60
    assert part.agrees(whole.value)
    # one kind of molecule, whatever the numbers of carbons, is less varied
    from rdkit import Chem

    chains = [Chem.MolFromSmiles("C" * n + "O") for n in range(1, 10)]
    assert quality.diversity(chains).value < whole.value


def test_property_distances_are_in_deviations():
    """A shift by s deviations is a distance of s, in whatever unit; NaN is left out."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    values = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    values[:, 1] += 2
    values[::2, 2] = float("nan")
    unit = torch.tensor([1.0, 1e-3, 50.0], dtype=torch.float64)
    same, moved, half = quality.property_distances(
        unit * values, unit * reference, generator=generator
    )
    assert same.value < 0.06
    assert moved.value == pytest.approx(2, abs=0.1)
    assert (moved.n, half.n) == (2000, 1000)
    # the mean of a shifted sample has this standard error
    assert moved.stderr == pytest.approx(2000**-0.5, rel=0.5)


def test_property_distances_tell_sets_apart(data):
    test, other = data.properties[split("test")], data.properties[split("valid")]
    small = data.sizes[split("valid")] < 16
    like, unlike = (
        quality.property_distances(x[:500], test, 10, generator=torch.Generator().manual_seed(0))
        for x in (other, other[small])
    )
    assert max(d.value for d in like) < 0.15
    assert unlike[0].value > 1  # polarisability goes with size


def test_property_distances_refuse_what_has_none():
    good = torch.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3,\)"):
        quality.property_distances(good, good[:, 0])
    with pytest.raises(UserError, match="property 2"):
        quality.property_distances(good, torch.tensor([[0.0, 1], [1, 1]]))


def test_real_molecules_pass_posebusters(real):
    pytest.importorskip("posebusters")
    generator = torch.Generator().manual_seed(0)
    shaken = [
        Molecule(m.numbers, m.positions + 0.1 * torch.randn(len(m), 3, generator=generator))
        for m in real[:60]
    ]
    before, after = quality.pose_checks(real[:60]), quality.pose_checks(shaken)
    assert before.passing.value > 0.95
    assert {"bond_lengths", "double_bond_flatness"} <= set(before.checks)
    assert after.passing.value < before.passing.value
    assert all(check.value >= before.passing.value for check in before.checks.values())
    with_none = quality.pose_checks([*real[:10], None, None])
    assert (with_none.passing.n, with_none.checks["bond_lengths"].n) == (12, 10)
    assert with_none.passing.value <= 10 / 12
    assert quality.pose_checks([None]).passing.value == 0


def test_bent_benzene_fails_the_check_of_flat_rings():
    """One carbon and its hydrogen lifted: the ring is still found, and is not flat."""
    pytest.importorskip("posebusters")
    angle = torch.arange(6) * torch.pi / 3
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1)
    positions = torch.cat([1.39 * ring, 2.48 * ring])
    flat = Molecule(torch.tensor([6] * 6 + [1] * 6), positions)
    lifted = positions.clone()
    lifted[[0, 6], 2] += 0.75
    bent = Molecule(flat.numbers, lifted)
    assert smiles_of(to_rdkit(flat)) == smiles_of(to_rdkit(bent)) == "c1ccccc1"
    assert quality.pose_checks([flat]).checks["aromatic_ring_flatness"].value == 1
    assert quality.pose_checks([bent]).checks["aromatic_ring_flatness"].value == 0


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "posebusters", None)
    with pytest.raises(UserError, match=r"payoff\[molecules\]"):
        quality.pose_checks([])
