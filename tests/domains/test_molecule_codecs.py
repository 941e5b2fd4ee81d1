"""Codecs and bonds beyond QM9's elements: the same laws hold for sulfur, halogens and the rest."""

from __future__ import annotations

import pytest
import torch

from payoff.domains.molecules import metrics
from payoff.domains.molecules.bonds import bond_orders, bonded, stable_atoms
from payoff.domains.molecules.codecs import AllAtoms, UnitedAtoms
from payoff.domains.molecules.files import read_molecules
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError

DRUGS = """CC(=O)Oc1ccccc1C(=O)O
CN1C=NC2=C1C(=O)N(C(=O)N2C)C
CC(C)Cc1ccc(cc1)C(C)C(=O)O
CC1(C(N2C(S1)C(C2=O)NC(=O)Cc3ccccc3)C(=O)O)C
CN(C)CCCN1c2ccccc2Sc3ccc(Cl)cc31
CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21
Cc1c(cc(cc1S(=O)(=O)N)Br)F
CSCCC(N)C(=O)O
NC(CS)C(=O)O
C[Si](C)(C)OC
FC(F)(F)C(Cl)Br
Ic1ccccc1N
CP(C)c1ccccc1
CCP
OB(O)c1ccccc1
CCOP(=O)(OCC)OCC
CS(=O)C
C1CCSC1
c1ccsc1
C[Se]C
CC[SiH3]
CBC
Sc1ccccc1Cl
CC(Br)C#C"""


@pytest.fixture(scope="module")
def drugs(tmp_path_factory) -> list[Molecule]:
    pytest.importorskip("rdkit")
    path = tmp_path_factory.mktemp("drugs") / "x.smi"
    path.write_text(DRUGS)
    found = read_molecules(path)
    assert not found.failed
    return found.molecules


def smiles(molecule: Molecule | None) -> str | None:
    found = metrics.to_rdkit(molecule)
    return metrics.smiles_of(found) if found is not None else None


def test_bonds_are_found_between_all_elements(drugs):
    """The graph by distances is the one that the SMILES gave the geometry."""
    from rdkit import Chem

    for text, molecule in zip(DRUGS.split("\n"), drugs, strict=True):
        wanted = Chem.GetAdjacencyMatrix(Chem.AddHs(Chem.MolFromSmiles(text)))
        found = bonded(molecule.numbers, molecule.positions)
        assert torch.equal(found.long(), torch.from_numpy(wanted).long()), text


def test_the_table_alone_decides_between_its_elements():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([1, 6, 7, 8, 9]).repeat(8)
    positions = 4 * torch.rand(40, 3, generator=generator)
    assert torch.equal(bonded(numbers, positions), bond_orders(numbers, positions) > 0)


def test_an_element_that_is_not_in_the_table_is_never_stable():
    """Neither alone, nor with one bond; and its neighbours are not, whatever the table counts."""
    methyl = torch.tensor(
        [[0.0, 0, 0], [1.03, 0, -0.36], [-0.51, 0.89, -0.36], [-0.51, -0.89, -0.36]]
    )
    for number, length in ((17, 1.78), (35, 1.94), (16, 1.82), (34, 1.95), (96, 2.0)):
        assert not bool(stable_atoms(torch.tensor([number]), torch.zeros(1, 3)).any())
        numbers = torch.tensor([6, 1, 1, 1, number])
        near = torch.cat([methyl, torch.tensor([[0, 0, length]])])
        assert stable_atoms(numbers, near).tolist() == [False, True, True, True, False]
        # a fifth bond, which the table does not see: the carbon must not count as stable
        five = torch.cat([numbers, torch.tensor([1])])
        where = torch.cat([near, torch.tensor([[0.0, 0, -1.09]])])
        assert not bool(stable_atoms(five, where)[0])
        where[4] += torch.tensor([0, 0, 9.0])
        assert bool(stable_atoms(five, where)[0])


def test_the_tables_validity_has_no_answer_for_other_elements(drugs):
    for molecule in drugs:
        known = set(molecule.numbers.tolist()) <= {1, 6, 7, 8, 9}
        assert (metrics.table_smiles(molecule) is not None) == known


def test_all_atoms_of_any_element_come_back(drugs):
    codec = AllAtoms.fitting(drugs)
    x, cond = codec.encode(drugs)
    for before, after in zip(drugs, codec.decode(x, cond), strict=True):
        assert after is not None
        assert torch.equal(before.numbers, after.numbers)
        centred = before.positions - before.positions.mean(0)
        torch.testing.assert_close(after.positions, centred, atol=1e-4, rtol=0)


def test_united_atoms_of_any_element_are_the_same_compounds(drugs):
    codec = UnitedAtoms.fitting(drugs)
    x, cond = codec.encode(drugs)
    for before, after in zip(drugs, codec.decode(x, cond), strict=True):
        assert after is not None
        assert torch.equal(before.numbers.sort().values, after.numbers.sort().values)
        assert smiles(before) == smiles(after)


def test_hydrogens_are_as_far_as_they_should_be(drugs):
    """From the atom they belong to within 0.08 Å, from everything else farther than 1.6 Å."""
    codec = UnitedAtoms.fitting(drugs)
    for before, after in zip(drugs, codec.decode(*codec.encode(drugs)), strict=True):
        skeleton = before.positions[before.numbers != 1]
        centred = skeleton.mean(0)
        real = torch.cdist(before.positions[before.numbers == 1] - centred, skeleton - centred)
        placed = torch.cdist(after.positions[after.numbers == 1], skeleton - centred)
        for hydrogens in (real, placed):
            hydrogens[:] = hydrogens.sort(1).values
        lengths = [d[:, 0].sort().values for d in (real, placed)]
        torch.testing.assert_close(*lengths, atol=0.08, rtol=0)
        if placed.shape[1] > 1:
            assert float(placed[:, 1].min()) > 1.6


def test_fitting_makes_coordinates_of_unit_size(drugs):
    for kind in (AllAtoms, UnitedAtoms):
        codec = kind.fitting(drugs)
        x, cond = codec.encode(drugs)
        square = x[..., :3][cond["mask"]].double().square().mean()
        assert float(square.sqrt()) == pytest.approx(1, abs=0.01)
        assert {int(n) for m in drugs for n in m.numbers} - {1} == set(codec.elements) - {1}
        assert kind.fitting(drugs, length=2.0).length == 2.0


def test_fitting_finds_what_the_codecs_have_for_qm9():
    pytest.importorskip("polars")
    try:
        real = load_qm9().molecules(split("valid")[:1000])
    except UserError:
        pytest.skip("needs the package qm9pack")
    for kind in (AllAtoms, UnitedAtoms):
        fitted, standard = kind.fitting(real), kind()
        assert fitted.elements == standard.elements
        assert fitted.length == pytest.approx(standard.length, rel=0.15)


def test_elements_that_are_none_are_refused():
    for wrong in ((), (6, 6), (0, 6), (119,)):
        with pytest.raises(UserError, match="different atomic numbers"):
            AllAtoms(elements=wrong)
    with pytest.raises(UserError, match="leave 1 out"):
        UnitedAtoms(elements=(1, 6))
    assert AllAtoms(elements=[1, 17]) == AllAtoms(elements=(1, 17))
    hydrogen = Molecule(torch.tensor([1, 1]), torch.tensor([[0.0, 0, 0], [0.74, 0, 0]]))
    with pytest.raises(UserError, match="no atom has a node"):
        UnitedAtoms.fitting([hydrogen])
    with pytest.raises(UserError, match="without a heavy atom"):
        UnitedAtoms().encode([hydrogen])
    crowd = torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)[:2]])
    with pytest.raises(UserError, match="5 hydrogens"):
        UnitedAtoms(elements=(15,)).encode([Molecule(torch.tensor([15, *[1] * 5]), crowd)])
