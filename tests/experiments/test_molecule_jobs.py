"""Fine-tuning molecules: what is scored, what is paid for, what is left, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from molecule_models import need_qm9, trained
from payoff.domains.molecules.codecs import AllAtoms, UnitedAtoms
from payoff.domains.molecules.files import read_molecules
from payoff.domains.molecules.metrics import smiles_of, stability, to_rdkit
from payoff.domains.molecules.model import MoleculeModel, draws_molecules
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.experiments.again import sample as sample_rows
from payoff.experiments.finetune.methods import make_method
from payoff.experiments.molecules import run as job
from payoff.experiments.molecules.again import sample
from payoff.experiments.molecules.config import MoleculeConfig, suited
from payoff.experiments.molecules.rewards import (
    MoleculeBox,
    OnMolecules,
    cells_of,
    decoded,
    judge_of,
    molecule_of,
    pool_of,
)
from payoff.experiments.molecules.setting import MoleculeSetting, Watch, find_judges
from payoff.finetuning import METHODS, FinetuneConfig
from payoff.pretrained import save_pretrained
from payoff.rewards.ledger import Ledger
from payoff.rewards.remembered import design_keys

LOOP = {
    **{"calls": 48, "per_round": 16, "updates": 2, "batch_size": 8, "sampler_steps": 4},
    **{"evaluate": 16, "learning_rate": 1e-4, "keep": "last"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_qm9()
    return trained(tmp_path_factory.mktemp("molecules") / "tiny")


@pytest.fixture(scope="module")
def finished(model: Path) -> Path:
    """A finished run: its pilot, two rounds, a held-out reward."""
    out = model.parent / "finished"
    job.finetune(config(model), loop(), out, quiet=True)
    return out


def config(model: Path, **changes) -> MoleculeConfig:
    # no molecule of the small model is valid
    given = {"source": str(model), "reward": "molecules:stability", "method": "rwr", "count": 8}
    given["scored"] = "all"
    return MoleculeConfig(**{**given, "held_out": "molecules:molecule_stability", **changes})


def loop(**changes) -> FinetuneConfig:
    return FinetuneConfig(**{**LOOP, **changes})


def setting_of(model: Path, folder: Path, **changes) -> MoleculeSetting:
    asked = config(model, **changes)
    found = MoleculeModel.load(model)
    found.denoiser.requires_grad_(True)
    judges = find_judges(asked, make_method(asked.method))
    return MoleculeSetting(found, judges, asked, loop(), folder)


def molecules(n: int = 6) -> list[Molecule]:
    data = load_qm9()
    return data.molecules(split("valid", len(data))[:n])


# What is scored, and what the ledger knows it by


def test_a_table_of_atoms_stands_for_its_molecule(model: Path) -> None:
    for molecule in molecules():
        back = molecule_of(cells_of(molecule))
        assert torch.equal(back.numbers, molecule.numbers)
        assert float((back.positions - molecule.positions).abs().max()) <= 0.51e-4
        assert torch.equal(cells_of(back), cells_of(molecule))


def test_a_key_belongs_to_the_molecule_and_not_to_its_batch(model: Path) -> None:
    """Molecules of 3 and of 40 atoms side by side, as codecs with other units have them."""
    small = Molecule(torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    chain = torch.arange(40.0)[:, None] * torch.tensor([[1.3, 0.2, 0.0]])
    large = Molecule(torch.full((40,), 6), chain)
    alone = design_keys(cells_of(small)[None])
    assert len(cells_of(small)) < len(cells_of(large))
    keys = []
    for codec in (AllAtoms(), AllAtoms(length=3.0, scale=1.0)):
        x, cond = codec.encode([small, large])
        centred = decoded(codec, x, cond)[0]
        assert centred is not None
        keys.append(design_keys(cells_of(centred)[None]))
    assert keys[0] == keys[1] != alone  # centring moves it, the units do not


def test_the_box_gives_the_judge_the_molecules(tmp_path: Path, model: Path) -> None:
    codec, judge = UnitedAtoms(), judge_of("molecules:stability")
    x, cond = codec.encode(molecules())
    ledger = Ledger(tmp_path / "ledger.sqlite")
    box = MoleculeBox(codec, judge, ledger)
    found = box(x, cond)
    expected = judge.score([molecule_of(cells_of(m)) for m in codec.decode(x, cond) if m])
    assert found.tolist() == pytest.approx(expected.tolist())
    assert torch.equal(MoleculeBox(codec, judge, ledger, minimize=True)(x, cond), -found)
    assert ledger.count("molecules:stability", judge.version) == len(x)
    assert torch.equal(box(x, cond), found)
    assert box.remembered.fresh == len(x)
    one = box(x[2:3], {"mask": cond["mask"][2:3]})
    assert torch.equal(one, found[2:3])


def test_what_is_not_valid_has_failed_and_is_not_asked(tmp_path: Path) -> None:
    """CH₆ has an even number of electrons and a polarisability, but no bonds that make sense."""
    codec, whole = AllAtoms(), molecules(2)
    places = 1.1 * torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)])
    broken = Molecule(torch.tensor([6, 1, 1, 1, 1, 1, 1]), places)
    x, cond = codec.encode([whole[0], broken, whole[1]])
    judge = judge_of("alpha")
    given = {name: Ledger(tmp_path / f"{name}.sqlite") for name in ("valid", "all")}
    boxes = {name: MoleculeBox(codec, judge, at, scored=name) for name, at in given.items()}
    strict, free = (box(x, cond) for box in boxes.values())
    assert strict.isnan().tolist() == [False, True, False]
    assert torch.equal(strict[::2], free[::2])
    assert boxes["valid"].remembered.fresh == 2
    assert "--scored all" in str(boxes["valid"].failure)
    assert boxes["all"].remembered.fresh == 3


def test_what_is_no_molecule_has_failed_and_costs_nothing(tmp_path: Path, model: Path) -> None:
    codec = UnitedAtoms()
    x, cond = codec.encode(molecules(3))
    x[1, 0, 0] = math.nan
    x[2, -1, 5] = math.inf if cond["mask"][2, -1] else x[2, -1, 5]
    box = MoleculeBox(codec, judge_of("stability"), Ledger(tmp_path / "ledger.sqlite"))
    found = box(x, cond)
    assert math.isfinite(found[0])
    assert math.isnan(found[1])
    assert box.remembered.fresh == int(found.isfinite().sum())


def test_workers_give_the_same_answers(tmp_path: Path, model: Path) -> None:
    judge = judge_of("molecules:qed")
    tables = torch.stack([cells_of(m) for m in molecules(5)])
    with pool_of(judge, 2, 20.0) as pool:
        source = OnMolecules(judge)
        source.pool = pool
        pooled = source(tables)
    assert torch.equal(pooled, OnMolecules(judge)(tables))


# The run


def test_what_a_run_leaves_behind(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert (record["kind"], record["domain"]) == ("finetune", "molecules")
    assert record["calls"]["pilot"] + record["calls"]["learning"] == LOOP["calls"]
    designs = pl.read_csv(finished / "designs.csv")
    assert designs.columns == ["smiles", "score", "held_out", "valid", "stable"]
    assert len(designs) == 8
    assert len(pl.read_csv(finished / "base_designs.csv")) == record["calls"]["pilot"]
    history = pl.read_csv(finished / "history.csv")
    assert history["calls"].to_list() == [0, 16, 32, 36]
    assert {"stable", "unique", "valid", "kl", "held_out"} <= set(history.columns)
    assert history["kl"][0] == pytest.approx(0, abs=1e-3)
    assert not (finished / "state").exists()


def test_every_design_is_scored_once(finished: Path) -> None:
    """The ledger holds the pilot, the rounds and the designs, and nothing twice."""
    record = json.loads((finished / "run.json").read_text())
    judge = judge_of("molecules:stability")
    known = Ledger(finished / "ledger.sqlite").count("molecules:stability", judge.version)
    assert known == record["calls"]["spent"] + record["designs"]["count"]
    assert record["calls"]["distinct"] == record["calls"]["spent"]


def test_the_tables_and_the_structures_tell_of_the_same_molecules(finished: Path) -> None:
    designs = pl.read_csv(finished / "designs.csv")
    blocks = (finished / "designs.sdf").read_text().split("$$$$\n")[:-1]
    assert len(blocks) == len(designs)
    for block, row in zip(blocks, designs.to_dicts(), strict=True):
        tags = dict(part.split(">\n", 1) for part in block.replace(">  <", "\0").split("\0")[1:])
        assert float(tags["score"]) == pytest.approx(row["score"], rel=1e-9)
        assert (tags["stable"].strip() == "True") is row["stable"]
    again = judge_of("stability").score(_atoms(finished / "designs.sdf"))
    assert np.allclose(again, designs["score"].to_numpy(), atol=1e-6)


def _atoms(path: Path) -> list[Molecule]:
    """Elements and positions of an SDF file's blocks, whatever their bonds."""
    from payoff.domains.molecules.molecule import NUMBER_OF

    found = []
    for block in path.read_text().split("$$$$\n")[:-1]:
        lines = block.split("\n")
        n = int(lines[3][:3])
        rows = [line.split() for line in lines[4 : 4 + n]]
        numbers = torch.tensor([NUMBER_OF[row[3]] for row in rows])
        found.append(Molecule(numbers, torch.tensor([[float(v) for v in r[:3]] for r in rows])))
    return found


def test_the_tuned_model_draws_the_designs_again(finished: Path) -> None:
    """What payoff sample loads is what the run's own designs were drawn from."""
    assert draws_molecules(finished)
    tuned = MoleculeModel.load(finished)
    setting = setting_of(finished / "base", finished)
    drawn = setting.draw(tuned.denoiser, 8, 2)
    known = sorted(pl.read_csv(finished / "designs.csv")["score"].to_list())
    assert sorted(setting.reward.values(drawn).tolist()) == pytest.approx(known, rel=1e-9)
    assert len(sample(finished, count=3, quiet=True)) == 3


def test_a_run_as_source_is_its_tuned_model_and_as_base_the_one_it_began_with(
    finished: Path, model: Path
) -> None:
    def weights(name: str | Path) -> torch.Tensor:
        return torch.cat([p.flatten() for p in MoleculeModel.load(name).denoiser.parameters()])

    asked = config(finished)
    assert torch.equal(weights(asked.weights), weights(finished / "model"))
    assert not torch.equal(weights(asked.weights), weights(model))
    assert torch.equal(weights(config(model, base=str(finished)).weights), weights(model))
    with pytest.raises(UserError, match="draws molecules"):
        sample_rows(finished)


def test_resuming_gives_what_an_uninterrupted_run_gives(
    finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each round in turn; the reward is asked for nothing a second time."""
    out = model.parent / "resumed"
    play, asked, rounds = METHODS["rwr"].play, [], []

    def counting(self: OnMolecules, x, cond=None):
        asked.extend(cells.numpy().tobytes() for cells in x)
        return answers(self, x, cond)

    def once(self, run):
        play(self, run)
        if run.round not in rounds:
            rounds.append(run.round)
            raise KeyboardInterrupt

    answers = OnMolecules.__call__
    monkeypatch.setattr(OnMolecules, "__call__", counting)
    monkeypatch.setattr(METHODS["rwr"], "play", once)
    source = model.parent / "copied"
    save_pretrained(MoleculeModel.load(model).denoiser, source, MoleculeModel.load(model).metadata)
    for resume in (False, True, True):
        with pytest.raises(KeyboardInterrupt):
            job.finetune(config(source), loop(), out, resume=resume, quiet=True)
    # the base was copied: what has become of its source does not matter
    (source / "config.json").unlink()
    job.finetune(config(source), loop(), out, resume=True, quiet=True)
    assert rounds == [0, 1, 2]
    reward = judge_of("stability").version
    known = Ledger(out / "ledger.sqlite").count("molecules:stability", reward)
    held = Ledger(out / "ledger.sqlite").count("molecules:molecule_stability")
    assert len(asked) == known + held
    for name in ("designs.csv", "base_designs.csv", "designs.sdf"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_a_lower_reward_is_better_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    setting = setting_of(model, tmp_path, minimize=True)
    drawn = setting.draw(setting.model.denoiser, 6, 1)
    frame, ordered = job._ranked(setting, drawn)
    assert len(ordered) == len(drawn)
    for part in frame.partition_by("valid"):
        scores = part["score"].drop_nulls().to_list()
        assert scores == sorted(scores)
    signed = setting.pilot(6)
    assert torch.equal(signed, -setting.reward.values(drawn))


def test_the_monitor_tells_of_molecules(model: Path, tmp_path: Path) -> None:
    setting = setting_of(model, tmp_path)
    watch, codec = Watch(setting), setting.model.codec
    real = molecules(8)
    x, cond = codec.encode([*real[:4], *real[:4]])
    shape, steps = setting.model.shape, 4
    assert watch._valid(x, cond).tolist() == [True] * 8
    assert watch.seen["unique"] == 0.5
    assert watch.seen["stable"] == stability(codec.decode(x, cond))[1]
    cond = setting.model.conditions(16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    base = setting.model.denoiser
    found = watch.measure(base, base, shape, steps, 16, cond, generator=generator)
    assert found["diversity"] is None
    assert found["vendi"] is None
    assert 0 <= found["stable"] <= 1


@pytest.mark.parametrize("method", ["rgdm", "ddpo", "dpo", "nft"])
def test_other_methods_work_on_ragged_sets(model: Path, tmp_path: Path, method: str) -> None:
    asked = config(model, method=method, temperature=0.1, held_out="none")
    frame = job.finetune(asked, loop(calls=32), tmp_path / "run", quiet=True)
    assert len(frame) == 8
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["calls"]["spent"] == 32
    assert record["tuning"]["kl"] > 0


def test_updates_too_small_to_matter_do_not(model: Path, tmp_path: Path) -> None:
    """Weights kept in half the size lie where bfloat16 rounds: there the least step moves many."""
    found = MoleculeModel.load(model)
    source = save_pretrained(found.denoiser, tmp_path / "half", found.metadata, half="float16")
    asked = config(source, method="rwr", temperature=0.1, held_out="none")
    job.finetune(asked, loop(calls=16, learning_rate=1e-8), tmp_path / "run", quiet=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 0 <= record["tuning"]["kl"] < 1e-4


def test_data_are_scored_first_by_a_method_that_starts_from_them(
    model: Path, tmp_path: Path
) -> None:
    asked = config(model, method="rgdm", data=16, temperature=0.1, held_out="none")
    out = tmp_path / "run"
    job.finetune(asked, loop(calls=16), out, quiet=True)
    data = load_qm9()
    codec = UnitedAtoms()
    x, cond = codec.encode(data.molecules(split("train", len(data))[:16]))
    keys = [design_keys(cells_of(m)[None])[0] for m in codec.decode(x, cond) if m is not None]
    ledger = Ledger(out / "ledger.sqlite")
    known = ledger.lookup("molecules:stability", judge_of("stability").version, keys)
    assert set(known) == set(keys)
    assert all(entry.value > 0.8 for entry in known.values())


def test_the_temperature_of_molecules_is_not_that_of_tables(model: Path, tmp_path: Path) -> None:
    asked = config(model, method="rwr", held_out="none")
    job.finetune(asked, loop(calls=48), tmp_path / "run", quiet=True)
    found = json.loads((tmp_path / "run" / "run.json").read_text())["temperature"]
    assert found["share"] == 0.3
    assert found["value"] == pytest.approx(0.3 * found["sd"])


def test_methods_get_what_molecules_need_unless_told_otherwise() -> None:
    free, slow = FinetuneConfig(calls=8000), FinetuneConfig(calls=8000, learning_rate=1e-4)
    rgdm = ["radius=4", "latest=0.7", "value_rate=0.001", "catch_up=true", "gain=5"]
    rgdm += ["feasible=true", "insist=30"]
    settings, filled = suited("rgdm", ["share=0.4"], free)
    assert settings == [*rgdm, "value_steps=300", "share=0.4"]
    assert (filled.per_round, filled.updates, filled.batch_size) == (1000, 75, 128)
    assert filled.learning_rate == pytest.approx(3e-4)
    settings, filled = suited("rgdm", ["radius = 1"], loop(updates=7))
    assert settings == [*rgdm[1:], "value_steps=28", "radius = 1"]
    assert filled == loop(updates=7)
    for given in ("level=sample", "score=x0hat"):
        settings, filled = suited("rgdm", [given], free)
        assert settings == (["control=true", given] if "level" in given else [given])
        assert filled == slow
    assert suited("rgdm", [], free, 50) == (["level=sample", "control=true"], slow)
    assert suited("rwr", [], free) == (["control=true"], slow)
    assert suited("ddpo", ["clip=0.1"], free) == (["clip=0.1"], slow)


# What is refused


def test_where_nothing_is_valid_the_way_out_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--scored all asks for it all the same"):
        job.finetune(config(model, scored="valid"), loop(), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "which reward"),
        ({"reward": "molecules:qad"}, "did you mean 'qed'"),
        ({"held_out": "molecules:stabilty"}, "--held-out"),
        ({"reward": "no_such_module:f"}, "--reward no_such_module:f"),
        ({"method": "draft"}, "needs the reward's gradient"),
        ({"method": "adjoint"}, "is a black box"),
        ({"method": "rwx"}, "there is no such method"),
        ({"source": "nowhere"}, "there is no model 'nowhere'"),
        ({"settings": ["share=2"]}, "share must lie between"),
        ({"scored": "some"}, "--scored must be one of valid, all"),
    ],
)
def test_what_cannot_work_is_told(model: Path, tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        job.finetune(config(model, **changes), loop(), tmp_path / "run", quiet=True)
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert not left or "run.json" not in left
    if "settings" not in changes:
        assert not left


def test_a_file_in_the_way_and_a_reward_that_never_answers(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        job.finetune(config(model), loop(), tmp_path / "file", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "lab_of_nothing.py").write_text(
        "def f(molecule):\n    raise ValueError('closed')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        asked = config(model, reward="lab_of_nothing:f", held_out="none")
        with pytest.raises(UserError, match="closed"):
            job.finetune(asked, loop(), tmp_path / "run", quiet=True)


def test_sizes_follow_the_data(model: Path) -> None:
    found = MoleculeModel.load(model)
    mask = found.conditions(4000, generator=torch.Generator().manual_seed(0))["mask"]
    assert mask.shape == (4000, found.shape[0])
    shares = found.counts.double() / found.counts.sum()
    drawn = torch.bincount(mask.sum(1), minlength=len(shares)).double() / 4000
    error = (shares * (1 - shares) / 4000).sqrt()
    assert bool(((drawn - shares).abs() <= 4.5 * error + 1e-12).all())


def test_smiles_in_the_table_are_those_of_the_structures(finished: Path) -> None:
    """Of the molecules that a reader accepts: RDKit's perception agrees with what was written."""
    designs = pl.read_csv(finished / "base_designs.csv")
    atoms = _atoms(finished / "base_designs.sdf")
    for molecule, smiles in zip(atoms, designs["smiles"].to_list(), strict=True):
        found = to_rdkit(molecule)
        assert (None if found is None else smiles_of(found)) == smiles
    try:
        assert read_molecules(finished / "base_designs.sdf").molecules
    except UserError:
        pytest.skip("none of these few samples is a molecule that a reader accepts")
