"""Molecules designed from a file of one's own: what is read, chosen, drawn again and refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments.design_runs import call, files
from experiments.own_molecules import OTHERS, structures, table
from molecule_models import need_qm9, trained
from payoff import pretrained
from payoff.domains.molecules.codecs import AllAtoms, UnitedAtoms
from payoff.domains.molecules.columns import find_smiles
from payoff.domains.molecules.features import ELEMENTS, elements_of, features
from payoff.domains.molecules.files import read_molecules
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.vectors import SupportDistance
from payoff.domains.vectors.reading import read_raw
from payoff.experiments.molecules.design import aims, data
from payoff.experiments.molecules.design import run as job
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.score import Scorer, learn
from payoff.experiments.progress import Reporter

TINY = {
    **{"score": "logS", "aim": 6.0, "count": 6, "steps": 3, "batch_size": 64, "width": 16},
    **{"depth": 1, "sampler_steps": 3, "reward": "ridge", "base": "none"},
}
QUIET = Reporter(True)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and no weights in the package."""
    need_qm9()
    (tmp_path / "weights").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path / "here")


def words(**changes) -> list[str]:
    given = {k: v for k, v in {**TINY, **changes}.items() if v is not None}
    return [f"--{k.replace('_', '-')}={v}" for k, v in given.items()]


def pairs(command: list[str]) -> list[str]:
    return [f"{a} {b}" for a, b in pairwise(command)]


def config(source: str, **changes) -> MoleculeDesignConfig:
    return MoleculeDesignConfig(source=source, **{**TINY, **changes})


# Reading


def test_a_table_of_smiles_is_designed_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without a score are unlabelled, what is no molecule is listed, the rest is used."""
    bad = pl.DataFrame(
        {"id": ["x", "y", "z"], "smiles": ["CC[O-]", None, "C("], "logS": [1.0, 2.0, 3.0]}
    )
    pl.concat([table(labelled_every=2), bad]).write_csv("mine.csv")
    command = ["design", "mine.csv", "--smiles", "smiles", *words(), "--out", "run"]
    assert call(monkeypatch, *command) == 0
    said = capsys.readouterr().err
    assert "mine: 40 molecules, 20 of them with a score" in said
    assert "3 rows are no molecule and left out (row 41: charge -1; row 42: no SMILES" in said
    failed = pl.read_csv("run/failed.csv")
    assert failed["row"].to_list() == [41, 42, 43]
    record = json.loads(Path("run/run.json").read_text())
    assert record["data"] == {"rows": 40, "labelled": 20, "failed": 3, "label_noise_nu": 0.2}
    assert {"--smiles smiles", "--score logS"} <= set(pairs(record["command"]))
    frame = pl.read_csv("run/designs.csv")
    assert len(frame) == 6
    assert Path("run/designs.sdf").read_text().count("$$$$") == 6
    assert "3 rows are no molecule" in Path("run/report.html").read_text()
    assert "40 molecules" in Path("run/report.html").read_text()
    # the same folder again, from a table without failures: nothing of the first is left
    table().write_csv("mine.csv")
    assert call(monkeypatch, *command, "--overwrite", "--quiet") == 0
    assert not Path("run/failed.csv").exists()


def test_labels_stay_with_their_molecules_when_some_fail() -> None:
    """The third row is none: the labels of the others are those of the file."""
    frame = table().with_columns(
        pl.when(pl.col("id") == "M2").then(pl.lit("C(")).otherwise("smiles").alias("smiles")
    )
    frame.write_csv("mine.csv")
    found = data.read_own(config("mine.csv"), QUIET)
    assert len(found.molecules) == len(found.labels) == 39
    assert found.labels.tolist() == frame.filter(pl.col("id") != "M2")["logS"].to_list()
    sizes = [len(m) for m in read_molecules("mine.csv").molecules]
    assert [len(m) for m in found.molecules] == sizes


@pytest.mark.parametrize("suffix", [".sdf", ".xyz"])
def test_tags_and_comments_hold_the_score(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = structures(Path(f"mine{suffix}"))
    given = words(score="alpha", aim=80.0)
    assert call(monkeypatch, "design", f"mine{suffix}", *given, "--out", "run", "--quiet") == 0
    record = json.loads(Path("run/run.json").read_text())
    assert (record["data"]["rows"], record["data"]["labelled"]) == (40, 30)
    held = pl.read_parquet("run/data.parquet")
    heavy = [int((m.numbers > 1).sum()) for m in written]
    assert held["nodes"].to_list() == heavy


def test_the_column_of_smiles_is_found_and_categories_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table()
    for renamed in ("SMILES", "structure"):
        frame.rename({"smiles": renamed}).write_csv("mine.csv")
        assert find_smiles(read_raw("mine.csv")) == renamed
    frame.with_columns(pl.col("smiles").alias("other_smiles")).drop("smiles").rename(
        {"id": "my_smiles"}
    ).write_csv("two.csv")
    assert find_smiles(read_raw("two.csv")) is None
    frame.with_columns(n_smiles=pl.Series(range(40))).drop("smiles").write_csv("number.csv")
    assert find_smiles(read_raw("number.csv")) is None
    atoms = [("C", "N", "O", "S")[i % 4] for i in range(40)]
    frame.with_columns(smiles=pl.Series(atoms)).rename({"smiles": "atom"}).write_csv("table.csv")
    assert find_smiles(read_raw("table.csv")) is None
    assert call(monkeypatch, "design", "mine.csv", *words(), "--out", "run") == 0
    assert "'structure' holds SMILES, so its rows are molecules" in capsys.readouterr().err
    # what speaks of columns wants a table
    assert call(monkeypatch, "design", "mine.csv", "--score", "logS", "--categorical", "x") == 2
    assert "--categorical" in capsys.readouterr().err


# The state space and where the training begins


def test_any_elements_and_all_atoms_where_united_ones_have_no_room() -> None:
    table(OTHERS).write_csv("others.csv")
    found = data.make_setting(config("others.csv"), QUIET)
    assert isinstance(found.codec, UnitedAtoms)
    assert {16, 17, 35} <= set(found.codec.elements)
    assert elements_of(found.molecules) == (1, *found.codec.elements)
    every = data.make_setting(config("others.csv", codec="all"), QUIET)
    assert isinstance(every.codec, AllAtoms)
    assert every.x.shape[1] == max(len(m) for m in found.molecules)
    pl.concat([table(), pl.DataFrame({"id": "h", "smiles": "[H][H]", "logS": 1.0})]).write_csv(
        "hydrogen.csv"
    )
    with_hydrogen = data.make_setting(config("hydrogen.csv"), QUIET)
    assert isinstance(with_hydrogen.codec, AllAtoms)
    assert "with all atoms (a molecule without a heavy atom" in with_hydrogen.origin


def test_shipped_weights_are_the_start_where_the_molecules_fit(tmp_path: Path) -> None:
    trained(tmp_path / "weights" / "qm9", steps=2)
    table().write_csv("mine.csv")
    table(OTHERS).write_csv("others.csv")
    found = data.make_setting(config("mine.csv", base=None), QUIET)
    assert found.base is not None
    assert found.codec == UnitedAtoms()
    assert found.start("labels") == "the model begins with the shipped weights of qm9"
    assert found.start("guide").startswith("the shipped weights of qm9 stay as they are")
    alien = data.make_setting(config("others.csv", base=None), QUIET)
    assert alien.base is None
    assert "do not fit: no feature for S: this codec knows C, N, O, F" in alien.origin
    large = table().with_columns(pl.lit("CCCCCCCC").add(pl.col("smiles")).alias("smiles"))
    large.write_csv("large.csv")
    told = data.make_setting(config("large.csv", base=None), QUIET).origin
    assert "nodes, they know up to" in told
    other = data.make_setting(config("mine.csv", base=None, codec="all"), QUIET)
    assert other.base is None
    assert isinstance(other.codec, AllAtoms)


def test_a_base_of_all_atoms_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trained(tmp_path / "base", steps=2, codec="all")
    table().write_csv("mine.csv")
    given = words(base=base, conditioning="labels")
    assert call(monkeypatch, "design", "mine.csv", *given, "--out", "run", "--quiet") == 0
    made = MoleculeModel.load("run")
    assert isinstance(made.codec, AllAtoms)
    assert made.metadata["label"]["name"] == "logS"
    assert len(pl.read_csv("run/designs.csv")) == 6


def test_weights_of_another_schedule_are_a_start(tmp_path: Path) -> None:
    """The network reads the log-SNR and not the time."""
    base = trained(tmp_path / "base", steps=2)
    saved = json.loads((base / "config.json").read_text())
    linear = {"class": "payoff.schedules:LogLinear", "log_snr_min": -8.0, "log_snr_max": 9.0}
    saved["denoiser"]["process"]["schedule"] = linear
    (base / "config.json").write_text(json.dumps(saved))
    table().write_csv("mine.csv")
    assert len(job.design(config("mine.csv", base=str(base)), "run", quiet=True)) == 6


# Features, support and novelty


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


def test_support_is_the_distance_that_tables_have() -> None:
    """Standardised features, the class of tables; a feature that never varied counts by itself."""
    table().write_csv("mine.csv")
    setting = data.make_setting(config("mine.csv"), QUIET)
    scorer, _, pseudo = learn(setting, config("mine.csv"), QUIET)
    rows = features(setting.molecules)
    spread = torch.where(scorer.scale.isfinite(), scorer.scale, torch.ones_like(scorer.scale))
    expected = SupportDistance((rows - rows.mean(0)) / spread)
    mean, _, support = scorer.predict(setting.molecules)
    z = (rows - rows.mean(0)) / spread
    assert torch.allclose(support, expected(z), atol=1e-4)
    assert torch.allclose(mean, pseudo)
    assert float((support <= 1).double().mean()) > 0.9
    nonsense = Molecule(
        torch.tensor([6, 1, 1, 1, 9, 8]), torch.randn(6, 3, generator=torch.Generator())
    )
    assert float(scorer.predict([nonsense])[2]) > 2
    scorer.save(Path())
    again = Scorer.load(Path())
    assert all(map(torch.equal, again.predict(setting.molecules), (mean, _, support)))


def test_known_compounds_are_not_novel_and_the_order_is_told() -> None:
    """The data's own molecules are known, whatever their conformation; what is none is last."""
    table().write_csv("mine.csv")
    setting = data.make_setting(config("mine.csv"), QUIET)
    scorer, _, _ = learn(setting, config("mine.csv"), QUIET)
    stranger = load_qm9().molecules(split("test")[:1])
    drawn = [None, *setting.molecules[:10], *stranger]
    judge = aims.Judge(scorer, config("mine.csv", support=1.5), setting.compounds)
    frame, ordered = judge.frame(judge(drawn), 6.0)
    assert len(frame) == len(ordered) == 12
    assert ordered[-1] is None
    assert frame["novel"].to_list()[-1] is None
    known = {id(m): row for m, row in zip(ordered, frame["novel"].to_list(), strict=True)}
    assert not any(known[id(m)] for m in setting.molecules[:10])
    assert known[id(stranger[0])]
    counted = frame.filter(pl.col("valid") & (pl.col("support") <= 1.5))
    assert len(counted) > 5
    assert frame[: len(counted)].equals(counted)
    gaps = (counted["predicted"] - 6.0).abs().to_list()
    assert gaps == sorted(gaps)
    best, _ = judge.frame(judge(drawn), None)
    low = judge.pessimistic(judge(drawn))
    top = int(torch.where(torch.from_numpy(judge(drawn).counts), low, -torch.inf).argmax())
    assert best["smiles"][0] == judge(drawn).smiles[top]


# The aim


class Oracle:
    """Stands for a drawer: molecules of the data whose score lies where it is aimed."""

    def __init__(self, molecules: list[Molecule], scores: torch.Tensor) -> None:
        self.molecules, self.pseudo = molecules, scores
        self.location, self.spread = float(scores.mean()), float(scores.std())

    def __call__(self, aim, n, generator):
        if (aim - self.location) / self.spread > 3 or (aim - self.location) / self.spread < -3:
            return [None] * n
        order = (self.pseudo - aim).abs().argsort()
        return [self.molecules[int(i)] for i in order[:n]]


@pytest.mark.parametrize("minimize", [False, True])
def test_the_aim_is_the_one_whose_molecules_have_the_best_pessimistic_score(minimize) -> None:
    rows = load_qm9().molecules(split("test")[:150])
    alpha = load_qm9().column("alpha")[split("test")[:150]].double()
    setting = data.Setting(
        data.Labelled("qm9", rows, alpha, None, frozenset),
        *(UnitedAtoms(), torch.zeros(0), torch.zeros(0), None, ""),
    )
    asked = config("mine.csv", minimize=minimize, aim=None, aims=5, support=3.0)
    scorer, _, pseudo = learn(setting, asked, QUIET)
    drawer = Oracle(rows, pseudo)
    found = aims.sweep(drawer, aims.Judge(scorer, asked), asked, QUIET)
    best = max(found.aims, key=lambda a: a.value)
    assert np.isfinite(best.value)
    assert not np.isfinite(found.aims[-1].value)  # nothing can be drawn there
    values = [a.value for a in found.aims if np.isfinite(a.value)]
    assert values == sorted(values)
    side = best.aim * (-1 if minimize else 1) - drawer.location
    assert (side < 0) is minimize
    frame = found.frame
    assert frame["aim"].is_sorted(descending=minimize)
    assert frame["accepted"].to_list()[-1] == 0
    assert frame["pessimistic"].null_count() >= 1


def test_the_aim_is_chosen_and_more_molecules_are_drawn_at_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = trained(tmp_path / "base", steps=120)
    table().write_csv("mine.csv")
    given = words(aim=None, aims=2, base=base, sampler_steps=8, count=12)
    assert call(monkeypatch, "design", "mine.csv", *given, "--minimize", "--out", "run") == 0
    said = capsys.readouterr().err
    record = json.loads(Path("run/run.json").read_text())
    assert record["aim"]["mode"] == "auto"
    assert record["score"]["direction"] == "minimize"
    assert f"aim {record['aim']['chosen']:.4g}: {record['aim']['reason']}" in said
    sweep = pl.read_csv("run/sweep.csv")
    few = sweep["pessimistic"].null_count() == len(sweep)
    assert ("at no aim 10 of 40 molecules" in said) is few
    assert record["aim"]["chosen"] == pytest.approx(
        min(sweep["aim"], key=lambda a: abs(a - record["aim"]["chosen"])), rel=1e-4
    )
    assert sweep["aim"].is_sorted(descending=True)
    assert "How the aim was chosen" in Path("run/report.html").read_text()
    Path("mine.csv").unlink()  # the run's folder is enough
    for name, more in (("a.sdf", []), ("b.sdf", []), ("c.sdf", ["--seed", "2"])):
        more = [*more, "--count", "5", "--out", name]
        assert call(monkeypatch, "sample", "run", *more) == 0
    texts = [Path(name).read_text() for name in ("a.sdf", "b.sdf", "c.sdf")]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].count(">  <predicted>") == texts[0].count("$$$$") > 0
    assert call(monkeypatch, "sample", "run", "--count", "4", "--aim", "9", "--out", "d.csv") == 0
    columns = Path("d.csv").read_text().splitlines()[0].split(",")
    assert columns[:2] == ["smiles", "predicted"]
    assert {"novel", "support"} <= set(columns)
    assert call(monkeypatch, "sample", "run", "--count", "3", "--out", "e.smi") == 0
    (Path("run") / "data.parquet").write_text("no")
    assert call(monkeypatch, "sample", "run") == 2
    assert "the run folder is damaged" in capsys.readouterr().err


def test_a_run_is_not_continued_with_another_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table().write_csv("mine.csv")
    command = ["design", "mine.csv", *words(), "--out", "run", "--quiet"]
    assert call(monkeypatch, *command) == 0
    Path("run/run.json").unlink()
    whole = Path("run/designs.csv").read_bytes()
    assert call(monkeypatch, *command, "--resume") == 0
    assert Path("run/designs.csv").read_bytes() == whole
    Path("run/run.json").unlink()
    table(labelled_every=2).write_csv("mine.csv")
    assert call(monkeypatch, *command, "--resume") == 2
    assert "the table has changed since it was started" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("design mine.csv --smiles smile --score logS", "did you mean 'smiles'? (id, smiles"),
        ("design mine.csv --smiles smiles", "is the score? Name it with --score: one of id, logS"),
        ("design mine.csv --smiles smiles --score logs", "did you mean 'logS'? (there are: id"),
        ("design mine.csv --smiles smiles --score id", "which is not a number"),
        ("design few.csv --smiles smiles --score logS", "4 molecules have a value in the column"),
        ("design same.csv --score logS", "has the same value (1) everywhere"),
        ("design nowhere.csv --smiles smiles --score logS", "nowhere.csv"),
        ("design nowhere.sdf --score logS", "nowhere.sdf cannot be read"),
        ("design plain.xyz --score logS", "has no tags or key=value comments"),
        ("design mine.csv --score logS --labelled 0.5", "--labelled is for qm9 only"),
        ("design mine.csv --score logS --part test", "--part is for qm9 only"),
        ("design mine.csv --score logS --base nowhere", "there is no model 'nowhere'"),
        ("design others.csv --score logS --base ../base", "--base ../base does not fit these"),
        ("design mine.csv --score logS --base ../base --codec all", "has united atoms; leave"),
        ("design mine.csv --score logS --sampler ddim --smiles smiles", "--sampler does not apply"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    command: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if "../base" in command:
        trained(tmp_path / "base", steps=1)
    table().write_csv("mine.csv")
    table(OTHERS).write_csv("others.csv")
    table(labelled_every=10).write_csv("few.csv")
    table().with_columns(logS=pl.lit(1.0)).write_csv("same.csv")
    Path("plain.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    before = files(Path())
    assert call(monkeypatch, *command.split()) == 2
    assert message in capsys.readouterr().err
    assert files(Path()) == before
