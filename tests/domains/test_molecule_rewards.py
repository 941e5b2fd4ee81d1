"""Named rewards of molecules, a user's own, and the same behind tensors and in worker processes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from payoff.domains.molecules import rewards
from payoff.domains.molecules.codecs import AllAtoms, UnitedAtoms
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import NUMBER_OF, Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.rewards import REWARDS, MoleculeReward, NamedReward, own_reward
from payoff.errors import UserError
from payoff.rewards.pooled import Lost, Pooled, WorkerError

pytest.importorskip("rdkit")
pytest.importorskip("tblite")
pytest.importorskip("dftd4")

DOC = Path(__file__).parents[2] / "docs" / "domains" / "molecules-files-and-rewards.md"
EACH = pytest.mark.parametrize("named", REWARDS.values(), ids=list(REWARDS))
MODULE = "judges_of_molecules"
SOURCE = '''
import os
import signal
import sys
import time


def atoms(molecule):
    return len(molecule)


def carbons(mol):
    return sum(atom.GetSymbol() == "C" for atom in mol.GetAtoms())


CALLS = []


def counted(mol):
    CALLS.append(sum(atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()))
    return len(CALLS)


def deadly(molecule):
    """Kills its process at 12 atoms, hangs at 13, raises at 14."""
    if len(molecule) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    if len(molecule) == 13:
        time.sleep(600)
    if len(molecule) == 14:
        raise RuntimeError("no licence")
    return len(molecule)
'''


@pytest.fixture(scope="module")
def real() -> list[Molecule]:
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")
    return load_qm9().molecules(split("test")[:30])


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a user's module that both this process and workers can import."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield MODULE


def built(smiles: str) -> Molecule:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    found = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(found, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(found, maxIters=2000)
    numbers = torch.tensor([atom.GetAtomicNum() for atom in found.GetAtoms()])
    return Molecule(numbers, torch.from_numpy(found.GetConformer().GetPositions()))


def shaken(molecules: list[Molecule], scale: float) -> list[Molecule]:
    generator = torch.Generator().manual_seed(0)
    noise = [scale * torch.randn(len(m), 3, generator=generator) for m in molecules]
    return [Molecule(m.numbers, m.positions + e) for m, e in zip(molecules, noise, strict=True)]


# --- laws of every reward ---


@EACH
def test_turning_shifting_and_reordering_change_nothing(named: NamedReward, real) -> None:
    generator = torch.Generator().manual_seed(0)
    molecules = real[:10]
    moved = []
    for m in molecules:
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        order = torch.randperm(len(m), generator=generator)
        shift = 10 * torch.randn(3, generator=generator, dtype=torch.float64)
        moved.append(Molecule(m.numbers[order], (m.positions.double() @ turn + shift)[order]))
    before, after = named.score(molecules), named.score(moved)
    assert np.isfinite(before).all()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@EACH
def test_a_molecule_alone_has_the_value_it_has_among_others(named: NamedReward, real) -> None:
    together = named.score([*real[:5], None, *real[5:8]])
    alone = [float(named.score([m])[0]) for m in (*real[:5], None, *real[5:8])]
    np.testing.assert_array_equal(together, alone)
    assert np.isnan(together).tolist() == [False] * 5 + [True] + [False] * 3
    assert named.score([]).shape == (0,)


@EACH
def test_values_tell_molecules_apart(named: NamedReward, real) -> None:
    """No constant passes; a share of whole numbers has two values at least."""
    values = named.score([*real, *shaken(real[:5], 0.15)])
    assert len(set(values[np.isfinite(values)].round(6))) >= 2


@EACH
@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_spoiled_molecules_neither_raise_nor_print(
    named: NamedReward, scale: float, real, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even from C and Fortran; and whatever is NaN says why."""
    values, reasons = named.answers(shaken(real, scale))
    assert [math.isnan(v) for v in values] == [why is not None for why in reasons]
    if scale == 30.0 and "stability" not in named.name:
        assert np.isnan(values).all()
    assert capfd.readouterr() == ("", "")


@EACH
def test_alien_and_empty_molecules_are_failures(named: NamedReward, capfd) -> None:
    nothing = Molecule(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    nan = Molecule(torch.tensor([6]), torch.full((1, 3), float("nan")))
    coincident = Molecule(torch.tensor([6, 6]), torch.zeros(2, 3))
    alien = Molecule(torch.tensor([200]), torch.zeros(1, 3))
    values, _ = named.answers([nothing, nan, coincident, alien])
    if "stability" in named.name:  # counts bonds wherever the atoms are: here too many
        assert values[2] == 0
        values = values[[0, 1, 3]]
    assert np.isnan(values).all()
    assert capfd.readouterr() == ("", "")


# --- values that are known ---


def test_qed_of_aspirin() -> None:
    """0.55: Bickerton and others, 2012."""
    assert REWARDS["qed"].score([built("CC(=O)Oc1ccccc1C(=O)O")])[0] == pytest.approx(
        0.55, abs=5e-3
    )


def test_log_p_by_the_published_contributions_of_atoms() -> None:
    """Table 1 of Wildman and Crippen: C1 0.1441, C18 0.1581, hydrogen at carbon 0.1230."""
    found = REWARDS["logp"].score([built("C"), built("c1ccccc1")])
    np.testing.assert_allclose(found, [0.1441 + 4 * 0.1230, 6 * 0.1581 + 6 * 0.1230], atol=1e-3)


def test_synthetic_accessibility_of_the_reference_molecules() -> None:
    """The values that come with the contributed code, through three dimensions and back."""
    from rdkit import Chem, RDConfig

    table = Path(RDConfig.RDContribDir) / "SA_Score" / "data" / "zim.100.txt"
    if not table.exists():
        pytest.skip("this rdkit comes without the reference values")
    compared = 0
    for line in table.read_text().splitlines()[1:]:
        smiles, _, value = line.split("\t")
        found = Chem.MolFromSmiles(smiles)
        known = {atom.GetSymbol() for atom in found.GetAtoms()} <= set(NUMBER_OF)
        if not known or any(atom.GetFormalCharge() for atom in found.GetAtoms()):
            continue
        molecule = built(smiles)
        back = to_rdkit(molecule)
        if back is None or smiles_of(back) != Chem.MolToSmiles(found):
            continue  # a stereocentre left open by the table was chosen
        assert REWARDS["sa"].score([molecule])[0] == pytest.approx(float(value), abs=2e-3)
        compared += 1
        if compared == 8:
            return
    pytest.fail(f"only {compared} molecules came back as themselves")


def test_a_cage_is_harder_to_make_than_a_chain() -> None:
    cubane, hexane = built("C12C3C4C1C5C2C3C45"), built("CCCCCC")
    hard, easy = REWARDS["sa"].score([cubane, hexane])
    assert hard > easy + 1


def test_stability_counts_valences() -> None:
    ethene = built("C=C")
    bare = Molecule(ethene.numbers[:5], ethene.positions[:5])
    assert REWARDS["stability"].score([ethene, bare]).tolist() == [1.0, 4 / 5]
    assert REWARDS["molecule_stability"].score([ethene, bare]).tolist() == [1.0, 0.0]


# --- the registry ---


def test_the_registry_is_consistent_and_documented() -> None:
    page, module = DOC.read_text(), rewards.__doc__ or ""
    for name, named in REWARDS.items():
        assert named.name == name
        assert named.held_out is None or named.held_out in REWARDS
        assert named.help
        row = re.search(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        assert row is not None, f"{DOC.name} has no row for {name}"
        assert named.unit in row.group(0)
        assert f"``{name}``" in module


def test_a_version_names_the_package_that_computes() -> None:
    assert metadata.version("tblite") in REWARDS["xtb_gap"].version
    assert metadata.version("rdkit") in REWARDS["qed"].version
    assert REWARDS["stability"].version == "1"


def test_a_missing_package_is_told_before_anything_is_scored(monkeypatch) -> None:
    lacking = NamedReward("r", len, "", "", needs="no_such_package")
    with pytest.raises(UserError, match=r"payoff\[molecules\]"):
        lacking.score([None])
    monkeypatch.setitem(REWARDS, "r", lacking)
    for use in (lambda: MoleculeReward("r"), lambda: rewards.pooled("r")):
        with pytest.raises(UserError, match="no_such_package"):
            use()
    assert lacking.version == "1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoleculeReward("xtb_gab"), "did you mean 'xtb_gap'"),
        (lambda: MoleculeReward("qed", "untied"), "no codec 'untied': choose from united, all"),
        (lambda: MoleculeReward("nowhere_at_all:f"), "no module 'nowhere_at_all'"),
        (lambda: MoleculeReward(lambda x: 1.0), "first parameter of .* is 'x': call it 'mol'"),
        (lambda: MoleculeReward(lambda: 1.0), "first parameter of .* is missing"),
        (lambda: own_reward(3, "three"), "three is a int, not a function"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


# --- a function of the user's own ---


def test_the_first_parameter_says_which_molecule_it_gets(judges: str, real) -> None:
    valid = [m for m in real if to_rdkit(m) is not None]
    by_mol = rewards.find_reward(f"{judges}:carbons").score(valid)
    assert by_mol.tolist() == [int((m.numbers == 6).sum()) for m in valid]
    by_molecule = rewards.find_reward(f"{judges}:atoms").score(valid)
    assert by_molecule.tolist() == [len(m) for m in valid]


def test_an_rdkit_molecule_has_its_conformer_and_is_valid(real) -> None:
    def spread(mol):
        return float(np.ptp(mol.GetConformer().GetPositions(), axis=0).max())

    expected = [float((m.positions.amax(0) - m.positions.amin(0)).max()) for m in real[:5]]
    np.testing.assert_allclose(own_reward(spread).score(real[:5]), expected, atol=1e-5)
    _, (why,) = own_reward(spread).answers(shaken(real[:1], 0.5))
    assert "not valid" in (why or "")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: float("inf"), "answered inf"),
        (lambda: float("nan"), "answered nan"),
        (lambda: None, "TypeError"),
        (lambda: "high", "ValueError"),
        (lambda: [1.0, 2.0], "TypeError"),
        (lambda: exit(3), "SystemExit"),
    ],
)
def test_a_function_that_fails_costs_its_own_row(answer, why: str, real) -> None:
    def picky(molecule):
        return answer() if molecule is real[1] else torch.tensor(2.5)

    values, reasons = own_reward(picky).answers(real[:3])
    np.testing.assert_array_equal(values, [2.5, np.nan, 2.5])
    assert why in (reasons[1] or "")


def test_a_functions_version_follows_its_text() -> None:
    def one(molecule):
        return 1.0

    def other(molecule):
        return 2.0

    assert own_reward(one).version == own_reward(one).version != own_reward(other).version


# --- as a reward of tensors ---


@pytest.mark.parametrize("codec", [UnitedAtoms(), AllAtoms()], ids=["united", "all"])
def test_the_reward_of_rows_is_the_score_of_what_they_stand_for(codec, real) -> None:
    x, cond = codec.encode(real[:6])
    reward = MoleculeReward("xtb_dipole", codec)
    expected = REWARDS["xtb_dipole"].score(codec.decode(x, cond))
    found = reward(x, cond)
    assert found.dtype == x.dtype
    assert torch.equal(found, torch.from_numpy(expected).float())
    assert reward(x.bfloat16(), cond).dtype == torch.float32
    alone = reward(x[2:3], {"mask": cond["mask"][2:3]})
    assert torch.equal(alone, found[2:3])
    assert not reward(x.clone().requires_grad_(True), cond).requires_grad
    assert not reward.differentiable


def test_all_atoms_are_scored_as_they_were_encoded(real) -> None:
    codec = AllAtoms()
    found = MoleculeReward("xtb_gap", "all")(*codec.encode(real[:6]))
    np.testing.assert_allclose(found, REWARDS["xtb_gap"].score(real[:6]), atol=1e-3)


def test_failures_are_counted_and_the_first_is_kept(real) -> None:
    codec = AllAtoms()
    x, cond = codec.encode(real[:4])
    x[1, 0, 0], x[2, 0, 4] = float("nan"), float("inf")
    x[0, ~cond["mask"][0]] = float("nan")  # padding says nothing
    reward = MoleculeReward("stability", codec)
    assert reward(x, cond).isnan().tolist() == [False, True, True, False]
    assert (reward.asked, reward.failed) == (4, 2)
    assert reward.failure == "the row is no molecule"
    reward(x, cond)
    assert (reward.asked, reward.failed) == (8, 4)


@pytest.mark.parametrize("codec", ["united", "all"])
def test_pure_noise_is_decoded_and_fails_in_peace(codec: str, capfd) -> None:
    reward = MoleculeReward("xtb_gap", codec)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 9, 3 + reward.codec.features, generator=generator)
    x[0] = 0
    mask = torch.ones(20, 9, dtype=torch.bool)
    mask[1] = False
    found = reward(x, {"mask": mask})
    assert found[:2].isnan().all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((2, 5, 4), (2, 5)), ((2, 5, 12), (2, 4)), ((2, 5), (2, 5)), ((2, 5, 12), None)],
)
def test_shapes_are_checked(shape, mask) -> None:
    cond = None if mask is None else {"mask": torch.ones(mask, dtype=torch.bool)}
    with pytest.raises(ValueError, match=re.escape(str(shape))) as told:
        MoleculeReward("stability")(torch.zeros(shape), cond)
    assert "(B, N, 12)" in str(told.value)


def test_rewards_compose(real) -> None:
    x, cond = AllAtoms().encode(real[:3])
    qed, sa = MoleculeReward("qed", "all"), MoleculeReward("sa", "all")
    torch.testing.assert_close((2 * qed - sa)(x, cond), 2 * qed(x, cond) - sa(x, cond))


# --- in processes of their own ---


def chains(sizes: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Rows of molecules of these numbers of atoms: what they look like is not asked."""
    molecules = [Molecule(torch.full((n,), 6), torch.arange(3.0 * n).reshape(n, 3)) for n in sizes]
    return AllAtoms().encode(molecules)


def test_a_pool_answers_as_the_reward_itself(real) -> None:
    x, cond = AllAtoms().encode(real[:12])
    with rewards.pooled("xtb_gap", "all", workers=1) as pool:
        assert isinstance(pool, Pooled)
        found = pool(x, cond)
    assert torch.equal(found, MoleculeReward("xtb_gap", "all")(x, cond))


@pytest.mark.slow
def test_a_molecule_that_kills_hangs_or_raises_in_a_worker_is_lost_alone(judges: str) -> None:
    sizes = [10, 12, 11, 13, 9, 14, 8]
    x, cond = chains(sizes)
    with rewards.pooled(f"{judges}:deadly", "all", workers=1, timeout=3.0) as pool:
        with pytest.warns(Lost) as told:
            found = pool(x, cond)
        assert found.isnan().tolist() == [n in (12, 13, 14) for n in sizes]
        kept = [i for i, n in enumerate(sizes) if n < 12]
        assert found[kept].tolist() == [sizes[i] for i in kept]
        assert pool.lost == 2
        assert pool.failure == "RuntimeError: no licence"
    text = " ".join(str(warning.message) for warning in told)
    assert "SIGKILL" in text
    assert "took longer than 3 s" in text


@pytest.mark.parametrize(
    ("name", "module"),
    [("alpha", "dftd4.interface"), ("xtb_gap", "tblite.interface"), ("qed", "rdkit.Chem.QED")],
)
def test_a_worker_has_imported_what_it_needs_before_the_first_molecule(
    name: str, module: str
) -> None:
    """Or a short time limit would be spent on imports, and every worker ended in turn."""
    program = (
        "import sys\n"
        "from payoff.domains.molecules.rewards import in_worker\n"
        f"assert {module!r} not in sys.modules\n"
        f"reward = in_worker({name!r}, 'all')\n"
        f"assert {module!r} in sys.modules\n"
        "assert (reward.asked, reward.failed, reward.failure) == (0, 0, None)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_users_function_is_not_called_by_the_worker_on_its_own(judges: str) -> None:
    made = rewards.in_worker(f"{judges}:counted", "all")
    module = sys.modules[judges]
    assert module.CALLS == []
    made.named.score([built("CO")])
    assert module.CALLS == [2]


def test_a_pool_of_nothing_is_refused_here_and_not_in_a_worker() -> None:
    with pytest.raises(UserError, match="no reward 'qet'"):
        rewards.pooled("qet")
    with (
        Pooled(f"{rewards.__name__}:in_worker", "qet", "all", workers=1) as pool,
        pytest.raises(WorkerError, match="did you mean 'qed'"),
    ):
        pool(*chains([2]))
