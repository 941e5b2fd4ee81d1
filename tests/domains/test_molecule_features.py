"""Features of molecules: invariant, and counts of what they say."""

from __future__ import annotations

import pytest
import torch

from molecule_models import need_qm9
from payoff.domains.molecules.features import ELEMENTS, elements_of, features
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split


@pytest.fixture(autouse=True)
def _data() -> None:
    need_qm9()


def test_features_do_not_change_with_motions_and_order() -> None:
    molecules = load_qm9().molecules(split("test")[:30])
    turn = -torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    moved = [Molecule(m.numbers.flip(0), m.positions.flip(0) @ turn + 2.0) for m in molecules]
    assert torch.allclose(features(molecules), features(moved), atol=1e-3)
    alone = torch.cat([features([m]) for m in molecules])
    assert torch.allclose(features(molecules), alone, atol=1e-9)


def test_features_count_what_they_say() -> None:
    """Water: three atoms, two O–H bonds, one oxygen with two hydrogens."""
    water = Molecule(
        torch.tensor([8, 1, 1]),
        torch.tensor([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]]),
    )
    row = features([water])[0]
    assert row[:5].tolist() == [2, 0, 0, 1, 0]
    assert float(row[5:20].sum()) == 2  # single bonds
    assert float(row[20:50].sum()) == 0  # double, triple
    carry = row[65:81].reshape(4, 4)
    assert carry[2, 2] == 1
    assert carry.sum() == 1


def test_features_of_other_elements_see_bonds_that_the_table_does_not_know() -> None:
    """H2S: two S–H bonds, one sulphur with two hydrogens; QM9's features do not see them."""
    sulphide = Molecule(
        torch.tensor([16, 1, 1]),
        torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.93, 0.0], [-0.96, 0.93, 0.0]]),
    )
    assert elements_of([sulphide]) == (1, 16)
    row = features([sulphide], (1, 16))[0]
    assert row[:2].tolist() == [2, 1]
    assert row[2:5].tolist() == [0, 2, 0]  # single bonds H–H, H–S, S–S
    assert row[5:11].tolist() == [0] * 6  # double, triple
    assert row[14:18].tolist() == [0, 0, 1, 0]
    molecules = load_qm9().molecules(split("test")[:20])
    assert elements_of(molecules) == ELEMENTS
    together = features([*molecules, sulphide])
    assert torch.allclose(together[:20], features(molecules), atol=1e-9)
