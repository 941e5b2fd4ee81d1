"""Files: what is written comes back, and what cannot be read is listed and nothing else is lost."""

from __future__ import annotations

import math
from importlib import metadata

import polars as pl
import pytest
import torch

from payoff.domains.molecules.files import read_molecules, write_molecules
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import NUMBER_OF, SYMBOLS, Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError

pytest.importorskip("rdkit")
COUNT = 40
FORMATS = (".sdf", ".xyz")


@pytest.fixture(scope="module")
def real() -> list[Molecule]:
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")
    found = load_qm9().molecules(split("test")[:COUNT])
    return [m for m in found if to_rdkit(m) is not None]


def water(shift: float = 0.0) -> Molecule:
    positions = torch.tensor([[0.0, 0, 0.117], [0, 0.757, -0.469], [0, -0.757, -0.469]])
    return Molecule(torch.tensor([8, 1, 1]), positions + shift)


def smiles(molecule: Molecule) -> str:
    found = to_rdkit(molecule)
    assert found is not None
    return smiles_of(found)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_comes_back(real, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert write_molecules(path, real) == len(real)
    found = read_molecules(path)
    assert not found.failed
    assert len(found) == len(found.molecules) == len(real)
    for before, after in zip(real, found.molecules, strict=True):
        assert torch.equal(before.numbers, after.numbers)
        torch.testing.assert_close(after.positions, before.positions, atol=1e-3, rtol=0)
        assert smiles(after) == smiles(before)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [*FORMATS, ".csv"])
def test_columns_come_back(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    molecules = [water(), None, water(1.0), water(2.0)]
    columns = {
        "mu": torch.tensor([1.5, 9.0, math.nan, -2e-7], dtype=torch.float64),
        "count": [1, 2, None, 4],
        "remark": ['a "quoted" word, and more', "gone", "x = 1\nback\\slash", None],
    }
    assert write_molecules(path, molecules, columns) == 3
    table = read_molecules(path).table
    assert table.columns == list(columns)
    mu = table["mu"].to_list()
    assert [mu[0], mu[2]] == [1.5, -2e-7]
    assert mu[1] is None or math.isnan(mu[1])
    assert table["count"].to_list() == [1, None, 4]
    remarks = [r and r.replace("\n", " ") for r in table["remark"].to_list()]
    assert remarks == [columns["remark"][0], "x = 1 back\\slash", None]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_that_was_read_can_be_written(tmp_path, suffix):
    write_molecules(tmp_path / "a.sdf", [water(), water(1.0)], {"a": [1.5, 2.5], "b": ["x", None]})
    first = read_molecules(tmp_path / "a.sdf")
    path = tmp_path / f"b{suffix}"
    write_molecules(path, first.molecules, first.table)
    assert read_molecules(path).table.equals(first.table)


@pytest.mark.parametrize("suffix", FORMATS)
def test_molecules_whose_bonds_are_not_found_keep_their_atoms(tmp_path, suffix):
    """A carbon with six hydrogens."""
    generator = torch.Generator().manual_seed(0)
    around = torch.randn(6, 3, generator=generator)
    around = 1.1 * around / around.norm(dim=1, keepdim=True)
    odd = Molecule(torch.tensor([6, *[1] * 6]), torch.cat([torch.zeros(1, 3), around]))
    assert to_rdkit(odd) is None
    path = tmp_path / f"x{suffix}"
    assert write_molecules(path, [odd, water()]) == 2
    found = read_molecules(path).molecules[0]
    assert torch.equal(found.numbers, odd.numbers)
    torch.testing.assert_close(found.positions, odd.positions, atol=1e-3, rtol=0)


@pytest.mark.parametrize("suffix", [".csv", ".smi"])
def test_lists_of_smiles_hold_the_valid(real, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    apart = Molecule(real[0].numbers, 5 * real[0].positions)
    assert write_molecules(path, [*real[:5], apart, None]) == 5
    lines = path.read_text().splitlines()
    assert lines[suffix == ".csv" :] == [smiles(m) for m in real[:5]]
    found = read_molecules(path)
    assert [smiles(m) for m in found.molecules] == [smiles(m) for m in real[:5]]


def test_one_broken_entry_is_listed_and_no_other(tmp_path):
    write_molecules(tmp_path / "a.sdf", [water(i) for i in range(4)], {"k": range(4)})
    entries = (tmp_path / "a.sdf").read_text().split("$$$$\n")
    entries[2] = entries[2].replace("  3  2", "  x  2")
    (tmp_path / "a.sdf").write_text("$$$$\n".join(entries))
    write_molecules(tmp_path / "a.xyz", [water(i) for i in range(4)], {"k": range(4)})
    lines = (tmp_path / "a.xyz").read_text().splitlines()
    for spoiled in (
        [*lines[:12], *lines[13:]],  # an atom is missing
        [*lines[:13], lines[13], *lines[13:]],  # there is one too many
        [*lines[:12], "Qq 0 0 0", *lines[13:]],
        [*lines[:12], "H 0 zero 0", *lines[13:]],
        [*lines[:10], "three", *lines[11:]],
    ):
        (tmp_path / "b.xyz").write_text("\n".join(spoiled) + "\n")
        found = read_molecules(tmp_path / "b.xyz")
        assert [f.row for f in found.failed] == [3], spoiled
        assert found.table["k"].to_list() == [0, 1, 3]
    found = read_molecules(tmp_path / "a.sdf")
    assert [f.row for f in found.failed] == [3]
    assert found.table["k"].to_list() == [0, 1, 3]
    assert torch.allclose(found.molecules[2].positions, water(3).positions, atol=1e-3)


def test_smiles_are_given_a_geometry(tmp_path):
    """Elements beyond QM9's too; the geometry's own bonds are those of the SMILES."""
    wanted = ["CCO", "c1ccsc1Cl", "C[C@H](N)C(=O)O", "OB(O)c1ccccc1Br", "CS(=O)(=O)N", "CP(C)C"]
    # cages, and both mirror images of one
    wanted += ["C[C@]12O[C@H]1[C@H]1[C@@H](O)[C@H]12", "C[C@H]1[C@H]2C[C@]1(C#N)[C@H]2O"]
    wanted += ["C[C@@H]1[C@@H]2C[C@@]1(C#N)[C@@H]2O"]
    path = tmp_path / "x.csv"
    path.write_text("id;SMILES\n" + "".join(f"{i};{s}\n" for i, s in enumerate(wanted)))
    found = read_molecules(path)
    assert not found.failed
    assert found.table["id"].to_list() == list(range(len(wanted)))
    from rdkit import Chem

    for text, molecule in zip(wanted, found.molecules, strict=True):
        assert smiles(molecule) == Chem.CanonSmiles(text)
    again, other = read_molecules(path), read_molecules(path, seed=1)
    assert all(
        torch.equal(a.positions, b.positions)
        for a, b in zip(found.molecules, again.molecules, strict=True)
    )
    assert not torch.equal(found.molecules[0].positions, other.molecules[0].positions)


def test_what_cannot_be_used_says_why(tmp_path):
    reasons = {
        "CC(=O)[O-]": "charge -1",
        "[Na+].[Cl-]": "2 fragments",
        "[CH3]": "unpaired",
        "C(C)(C)(C)(C)C": "valence",
        "CC(": "no SMILES",
        "": "no SMILES",
        "C*": "without an element",
    }
    table = pl.DataFrame({"smiles": ["CC", *reasons], "y": range(len(reasons) + 1)})
    table.write_parquet(tmp_path / "x.parquet")
    found = read_molecules(tmp_path / "x.parquet")
    assert found.table["y"].to_list() == [0]
    assert [f.row for f in found.failed] == list(range(2, len(reasons) + 2))
    for failure, reason in zip(found.failed, reasons.values(), strict=True):
        assert reason in failure.reason
    apart = Molecule(water().numbers.repeat(2), torch.cat([water().positions, water(9).positions]))
    ion = Molecule(torch.tensor([8, 1]), torch.tensor([[0.0, 0, 0], [0.96, 0, 0]]))
    for suffix in FORMATS:
        path = tmp_path / f"x{suffix}"
        write_molecules(path, [apart, ion, water()])
        rest = read_molecules(path)
        assert [f.row for f in rest.failed] == [1, 2]
        assert "2 fragments" in rest.failed[0].reason


def test_hydrogens_that_are_not_written_are_added(real, tmp_path):
    from rdkit import Chem

    path = tmp_path / "x.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for molecule in real[:10]:
            writer.write(Chem.RemoveHs(to_rdkit(molecule)))
    for before, after in zip(real[:10], read_molecules(path).molecules, strict=True):
        assert smiles(after) == smiles(before)
        heavy = before.numbers != 1
        torch.testing.assert_close(
            after.positions[: int(heavy.sum())], before.positions[heavy], atol=1e-3, rtol=0
        )


def test_a_drawing_is_given_a_geometry(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    flat = Chem.MolFromSmiles("C[C@H](O)F")
    AllChem.Compute2DCoords(flat)
    (tmp_path / "x.sdf").write_text(Chem.MolToMolBlock(flat) + "$$$$\n")
    (found,) = read_molecules(tmp_path / "x.sdf").molecules
    assert smiles(found) == "C[C@H](O)F"
    assert float(found.positions.std(0).min()) > 0.1


def test_titles_and_comments(tmp_path):
    write_molecules(tmp_path / "x.sdf", [water()])
    (tmp_path / "x.sdf").write_text("a title" + (tmp_path / "x.sdf").read_text())
    assert read_molecules(tmp_path / "x.sdf").table["name"].to_list() == ["a title"]
    lines = water().xyz().splitlines()
    lines[1] = "just words"
    (tmp_path / "x.xyz").write_text("\n".join(lines))
    assert read_molecules(tmp_path / "x.xyz").table["comment"].to_list() == ["just words"]
    lines[1] = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 energy=-76.4'
    lines[2] = lines[2].replace("O", "8") + " 0.1 0.2"
    (tmp_path / "x.xyz").write_text("\n".join(lines))
    found = read_molecules(tmp_path / "x.xyz")
    assert found.table.to_dicts() == [{"energy": -76.4}]
    assert found.molecules[0].symbols == ["O", "H", "H"]
    (tmp_path / "x.smi").write_text("CCO spirit of wine\n\nC\n")
    assert read_molecules(tmp_path / "x.smi").table["name"].to_list() == ["spirit of wine", None]


def test_mistakes_say_what_to_do(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\nC,CC\n")
    with pytest.raises(UserError, match=r"which column holds SMILES.*a, b"):
        read_molecules(tmp_path / "x.csv")
    with pytest.raises(UserError, match="no column 'c'"):
        read_molecules(tmp_path / "x.csv", "c")
    assert len(read_molecules(tmp_path / "x.csv", "b")) == 1
    (tmp_path / "x.smi").write_text("[Na+]\n")
    with pytest.raises(UserError, match=r"none of its 1 entries can be used \(1: charge \+1"):
        read_molecules(tmp_path / "x.smi")
    (tmp_path / "x.xyz").write_text("\n")
    with pytest.raises(UserError, match="empty"):
        read_molecules(tmp_path / "x.xyz")
    with pytest.raises(UserError, match="cannot be read"):
        read_molecules(tmp_path / "none.sdf")
    for call in (read_molecules, lambda path: write_molecules(path, [])):
        with pytest.raises(UserError, match=r"\.sdf"):
            call(tmp_path / "x.pdb")
    with pytest.raises(UserError, match="2 values for 1 molecules"):
        write_molecules(tmp_path / "x.sdf", [water()], {"a": [1, 2]})
    with pytest.raises(UserError, match="has no room"):
        write_molecules(tmp_path / "y.smi", [water()], {"a": [1]})
    with pytest.raises(UserError, match="called 'a b'"):
        write_molecules(tmp_path / "y.xyz", [water()], {"a b": [1]})
    with pytest.raises(UserError, match="cannot write"):
        write_molecules(tmp_path / "no" / "x.sdf", [water()])


class Broken(Molecule):
    def xyz(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_write_that_breaks_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_molecules(path, [water()])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_molecules(path, [water(), Broken(water().numbers, water().positions)])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_symbols_are_those_of_the_periodic_table():
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    assert {n: table.GetElementSymbol(n) for n in range(1, 119)} == SYMBOLS
    assert all(SYMBOLS[n] == symbol for symbol, n in NUMBER_OF.items())
