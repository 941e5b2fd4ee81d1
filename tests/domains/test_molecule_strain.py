"""Strain: next to nothing for real molecules and none for relaxed ones, and it grows with noise."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch

from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.strain import relaxed, strain
from payoff.errors import UserError

pytest.importorskip("tblite")


@pytest.fixture(scope="module")
def real() -> list[Molecule]:
    try:
        data = load_qm9()
    except UserError:
        pytest.skip("needs the package qm9pack")
    return data.molecules(split("test")[:12])


def water() -> Molecule:
    positions = torch.tensor([[0.0, 0, 0.117], [0, 0.757, -0.469], [0, -0.757, -0.469]])
    return Molecule(torch.tensor([8, 1, 1]), positions)


def test_strain_grows_with_noise(real):
    noise = torch.Generator().manual_seed(0)
    shift = [torch.randn(len(m), 3, generator=noise) for m in real]
    levels = [
        strain([Molecule(m.numbers, m.positions + s * e) for m, e in zip(real, shift, strict=True)])
        for s in (0.0, 0.02, 0.05)
    ]
    assert bool((levels[0] > 0).all())
    assert float(levels[0].median()) < 3
    for less, more in pairwise(levels):
        assert bool((less < more).all())


def test_a_relaxed_molecule_has_no_strain(real):
    for molecule in real[:4]:
        after, drop = relaxed(molecule)
        assert torch.equal(after.numbers, molecule.numbers)
        assert smiles_of(to_rdkit(after)) == smiles_of(to_rdkit(molecule))
        rest = float(strain([after]))
        assert 0 <= rest < 0.1 < drop


def test_strain_does_not_know_where_a_molecule_is(real):
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    some = [Molecule(m.numbers, m.positions.double()) for m in real[:4]]
    moved = [Molecule(m.numbers, m.positions @ turn + 3) for m in some]
    torch.testing.assert_close(strain(some), strain(moved), atol=0.05, rtol=0)


def test_what_has_no_strain_is_nan():
    apart = Molecule(
        water().numbers.repeat(2), torch.cat([water().positions, water().positions + 9])
    )
    radical = Molecule(water().numbers[:2], water().positions[:2])
    nowhere = Molecule(water().numbers, torch.full((3, 3), float("nan")))
    found = strain([None, apart, radical, nowhere, water()])
    assert found.isnan().tolist() == [True, True, True, True, False]
    assert bool(strain([water()], most_steps=1).isnan().all())


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(UserError, match=r"payoff\[molecules\]"):
        strain([])
