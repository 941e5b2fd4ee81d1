"""Molecules designed from few labels: what is learned, asked for, left behind and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments.design_runs import call, files
from molecule_models import need_qm9, trained
from payoff.domains.molecules.codecs import AllAtoms
from payoff.domains.molecules.features import features
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.loop import Loop
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.experiments.molecules.again import sample
from payoff.experiments.molecules.design import again, aims, data
from payoff.experiments.molecules.design import run as job
from payoff.experiments.molecules.design.conditioners import Led, Taught
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.score import learn
from payoff.experiments.progress import Reporter
from payoff.pretrained import from_pretrained
from payoff.report import molecule_design as report
from payoff.report.formatting import number

TINY = {
    **{"score": "alpha", "aim": 80.0, "labelled": 0.2, "count": 6, "steps": 4, "batch_size": 16},
    **{"width": 16, "depth": 1, "sampler_steps": 3, "reward": "ridge", "base": "none"},
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four hundred molecules stand for a part, and an empty folder for the user's."""
    need_qm9()
    monkeypatch.setattr(data, "split", lambda name, size: split("train", size)[:400])
    monkeypatch.setattr(data, "known_smiles", lambda part: frozenset({"C", "CC"}))
    monkeypatch.chdir(tmp_path)


QUIET = Reporter(True)


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


def test_few_labels_tell_more_than_the_number_of_atoms() -> None:
    """Hidden labels are predicted, though a fifth is all that is learned from."""
    from payoff.domains.molecules.property import size_error

    setting = data.make_setting(MoleculeDesignConfig(**TINY), QUIET)
    known = setting.labels.isfinite()
    assert int(known.sum()) == 80
    qm9 = load_qm9()
    rows = split("train")[:400]
    truth = qm9.column("alpha")[rows].double()
    _, summary, pseudo = learn(setting, MoleculeDesignConfig(**TINY), QUIET)
    error = float((pseudo - truth)[~known].abs().mean())
    sizes = qm9.sizes[rows]
    assert error < size_error(sizes[known], truth[known], sizes[~known], truth[~known])
    assert summary["chosen"] == "ridge"


def test_noise_on_labels_has_the_stated_size() -> None:
    config = MoleculeDesignConfig(**{**TINY, "labelled": 1.0, "noise": 0.5})
    truth = load_qm9().column("alpha")[split("train")[:400]].double()
    noise = data.make_setting(config, QUIET).labels - truth
    assert float(noise.std() / truth.std()) == pytest.approx(0.5, rel=0.1)


def test_sizes_are_those_of_molecules_near_the_aim() -> None:
    pseudo = torch.linspace(0, 100, 10_000)
    assert len(aims.near(pseudo, 30.0)) == 100
    assert (pseudo[aims.near(pseudo, 30.0)] - 30).abs().max() < 0.6
    assert float(pseudo[aims.near(pseudo, 1e6)].min()) > 98.9


def test_the_command_leaves_molecules_and_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    assert call(monkeypatch, "design", "qm9", *words, "--out", "run", "--quiet") == 0
    out = Path("run")
    left = {"designs.csv", "designs.sdf", "run.json", "request.json", "report.html"}
    assert left <= {Path(f).name for f in files(out)}
    assert not (out / "state").exists()
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["domain"]) == ("design", "molecules")
    assert record["data"]["labelled"] == 80
    assert "--score alpha" in " ".join(record["command"])
    page = (out / "report.html").read_text()
    assert "learned from 80 labels among 400 molecules" in page
    frame = pl.read_csv(out / "designs.csv")
    assert len(frame) == 6
    assert {"smiles", "predicted", "valid", "stable", "novel", "support"} <= set(frame.columns)
    assert from_pretrained(out / "model").net.label_dim == 1


def test_the_page_says_what_an_interval_leaves_out() -> None:
    """A linear score of features has a residue, though these labels have no noise."""
    job.design(MoleculeDesignConfig(**TINY), "run", quiet=True)
    csv = Path("run/designs.csv")
    frame = pl.read_csv(csv, infer_schema=False)
    first = pl.int_range(len(frame)) == 0
    frame.with_columns(
        smiles=pl.when(first).then(pl.lit("CCO")).otherwise("smiles"),
        valid=pl.when(first).then(pl.lit("true")).otherwise("valid"),
    ).write_csv(csv)
    rest = json.loads(Path("run/run.json").read_text())["reward"]["noise_sd"]
    assert rest > 0
    page = report.page(report.load(Path("run")))
    assert f"a single value varies by {number(rest)} bohr³ (sd) more" in page


@pytest.mark.parametrize("conditioning", ["labels", "guide"])
def test_a_stopped_run_goes_on_to_the_same_molecules(
    conditioning: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = {**TINY, "conditioning": conditioning}
    if conditioning == "guide":
        words |= {"base": str(trained(tmp_path / "base", steps=4))}
    config = MoleculeDesignConfig(**words)
    whole = job.design(config, "whole", quiet=True)
    update = Loop.update

    def interrupted(self):
        found = update(self)
        if self.step == 2:
            self.stopped = self.interrupted = True
        return found

    monkeypatch.setattr(Loop, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.design(config, "parts", quiet=True)
    assert not Path("parts/designs.csv").exists()
    monkeypatch.setattr(Loop, "update", update)
    with pytest.raises(UserError, match=r"it was started with aim = 80\.0"):
        job.design(MoleculeDesignConfig(**{**words, "aim": 70.0}), "parts", resume=True, quiet=True)
    parts = job.design(config, "parts", resume=True, quiet=True)
    assert parts.equals(whole)
    assert Path("parts/designs.sdf").read_text() == Path("whole/designs.sdf").read_text()


def test_it_begins_with_the_base_and_guidance_changes_samples(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", steps=4)
    found = {}
    for weight in (0.0, 3.0):
        words = {**TINY, "base": str(base), "guidance": weight, "conditioning": "labels"}
        config = MoleculeDesignConfig(**{**words, "aim": 120.0, "learning_rate": 3e-3})
        found[weight] = job.design(config, f"run{weight}", quiet=True)
        net = from_pretrained(f"run{weight}/model").net
        assert (net.width, net.depth) == (32, 1)  # the base's, not the option's
    assert not np.array_equal(found[0.0]["predicted"], found[3.0]["predicted"])


def test_a_guide_leads_a_base_that_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a base it is the default; what is left behind is the base and the guide."""
    base = trained(tmp_path / "base", steps=30)
    found = {}
    for weight, noise in ((0.0, 0.0), (3.0, 0.0), (0.0, 2.0)):
        words = {**TINY, "base": base, "guidance": weight, "aim": 120.0, "steps": 30}
        words |= {"label_noise": noise} if noise else {}
        given = [f"--{k.replace('_', '-')}={v}" for k, v in words.items()]
        run = f"run-{weight}-{noise}"
        assert call(monkeypatch, "design", "qm9", *given, "--out", run, "--quiet") == 0
        found[weight, noise] = pl.read_csv(f"{run}/designs.csv")["predicted"].to_numpy()
        made, before = (from_pretrained(f).net.state_dict() for f in (f"{run}/model", base))
        assert all(torch.equal(made[name], before[name]) for name in before)
        assert LabelGuide.from_pretrained(f"{run}/guide").scales.names == ("alpha",)
    assert len({values.tobytes() for values in found.values()}) == 3
    record = json.loads(Path("run-0.0-0.0/run.json").read_text())
    assert "a guide leads them" in record["training"]["start"]
    assert record["config"]["conditioning"] == "guide"
    assert record["data"]["label_noise_nu"] == 0
    told = " ".join(record["command"])
    assert "--conditioning guide" in told
    assert "--learning-rate" not in told  # its own default


def test_a_run_that_replaces_another_is_not_led_by_its_guide(tmp_path: Path) -> None:
    words = {**TINY, "base": str(trained(tmp_path / "base", steps=4))}
    found = {}
    for kind in ("guide", "labels"):
        config = MoleculeDesignConfig(**{**words, "conditioning": kind})
        job.design(config, "run", overwrite=True, quiet=True)
        found[kind] = again.reopen(Path("run"))[0].by
    assert not Path("run/guide/config.json").exists()
    assert isinstance(found["guide"], Led)
    assert isinstance(found["labels"], Taught)


@pytest.mark.parametrize("conditioning", ["labels", "guide"])
def test_an_aim_is_chosen_and_the_run_draws_more(
    conditioning: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is drawn again are molecules of the same model, at the run's aim or at another."""
    base = trained(tmp_path / "base", steps=60)
    words = {**TINY, "base": base, "aims": 2, "sampler_steps": 6, "conditioning": conditioning}
    words.pop("aim")
    given = [f"--{k.replace('_', '-')}={v}" for k, v in words.items()]
    assert call(monkeypatch, "design", "qm9", *given, "--out", "run", "--quiet") == 0
    record = json.loads(Path("run/run.json").read_text())
    assert record["aim"]["mode"] == "auto"
    assert record["aim"]["chosen"] > 70  # a deviation above the mean at least
    assert len(pl.read_csv("run/sweep.csv")) == 2
    monkeypatch.setattr(data, "load_qm9", None)  # the run's folder is enough
    monkeypatch.setattr(data, "known_smiles", None)
    frames = [again.sample("run", count=5, aim=aim, quiet=True)[0] for aim in (None, None, 60.0)]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])
    assert frames[0].columns == pl.read_csv("run/designs.csv").columns
    assert call(monkeypatch, "sample", "run", "--count", "3", "--out", "more.xyz") == 0
    assert len(sample("run", count=3, quiet=True)) == 3
    assert call(monkeypatch, "sample", "run/model", "--aim", "3") == 2


@pytest.mark.parametrize("given", ["codec", "base"])
def test_all_atoms_can_be_designed_too(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = {**TINY, "codec": "all"}
    if given == "base":
        base = str(trained(tmp_path / "base", steps=2, codec="all"))
        words = {**TINY, "base": base, "conditioning": "labels"}
    frame = job.design(MoleculeDesignConfig(**words), "run", quiet=True)
    assert len(frame) == 6
    made = MoleculeModel.load("run")
    assert made.codec == AllAtoms()
    sizes = load_qm9().sizes[split("train")[:400]]
    assert made.shape[0] == int(sizes.max())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("design qm9", "which property? Name it with --score"),
        ("design qm9 --score beta --aim 1", "QM9 has no property 'beta'"),
        ("design qm9 --score alpha --smiles smiles", "--smiles is for a table of your own"),
        ("design qm9 --score alpha --codec atoms", "--codec atoms: choose one of united, all"),
        ("design qm9 --score alpha --part tests", "--part tests: choose one of train"),
        ("design qm9 --score alpha --aim 90 --labelled 0.01", "at least 20 are needed"),
        ("design qm9 --score alpha --aim 90 --base nowhere", "there is no model 'nowhere'"),
        ("design qm9 --score alpha --aim 90 --oversample 2", "--oversample does not apply"),
        ("design qm9 --score alpha --conditioning x", "--conditioning x: choose one of auto,"),
        (
            "design qm9 --score alpha --base none --conditioning guide",
            "leads a model that is there, and none fits",
        ),
        ("design qm9 --score alpha --label-dropout 1", "--label-dropout is a share"),
        ("design qm9 --score alpha --label-dropout 0.1", "add --conditioning labels"),
        ("design airfoils --base qm9", "--base does not apply to a table"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_left(
    command, message, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *command.split()) == 2
    assert message in capsys.readouterr().err
    assert not files(Path())
