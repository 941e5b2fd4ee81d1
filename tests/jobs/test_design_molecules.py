"""Molecules designed from few labels: guides and models that learn labels, bases, sizes, order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from design_cases import OPTIONS, boards, files, interrupting, molecules

from molecule_models import need_qm9, trained
from payoff import pretrained
from payoff.domains.base import Data
from payoff.domains.installed import kinds
from payoff.domains.molecules.codecs import AllAtoms
from payoff.domains.molecules.domain import Molecules
from payoff.domains.molecules.features import features
from payoff.domains.molecules.kind import MoleculeOptions
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.jobs.base import Interrupted, Outcome, start
from payoff.jobs.design import aims
from payoff.jobs.design.bases import find_base
from payoff.jobs.design.conditioners import GuideConditioner, LabelConditioner
from payoff.jobs.design.job import Design
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.record import designs_table, sweep_table
from payoff.jobs.design.reopen import draw_more, reopen
from payoff.jobs.design.score import LearnedScore, learn_score
from payoff.jobs.model import Model
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder, read_record
from payoff.metrics.support import SupportDistance
from payoff.pretrained import from_pretrained
from payoff.training.loop import Loop

TINY: dict[str, Any] = {
    **{"score": "alpha", "aim": 80.0, "labelled": 0.2, "count": 6, "steps": 4, "batch_size": 16},
    **{"width": 16, "depth": 1, "sampler_steps": 3, "regressor": "ridge", "base": "none"},
}
OWN = {**OPTIONS["molecules"], "aim": 6.0, "steps": 3, "width": 16, "depth": 1, "sampler_steps": 3}
QUIET = Reporter(True)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four hundred molecules stand for a part of QM9; an empty folder; no weights shipped."""
    need_qm9()
    (tmp_path / "weights").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "weights")
    few = split("train")[:400]
    monkeypatch.setattr("payoff.domains.molecules.sources.split", lambda name, size: few)
    monkeypatch.setattr(
        "payoff.domains.molecules.domain.known_smiles", lambda part: frozenset({"C", "CC"})
    )
    monkeypatch.chdir(tmp_path / "here")


def design(out: str = "run", source: Any = "qm9", **given: Any) -> Outcome:
    how = {name: given.pop(name) for name in ("resume", "overwrite") if name in given}
    usual = TINY if source == "qm9" else OWN
    options = {k: v for k, v in {**usual, **given}.items() if v is not None}
    outcome, _ = start(Design, source, options, out=out, quiet=True, **how)
    assert outcome is not None
    return outcome


def options(**given: Any) -> DesignOptions:
    known = {**kinds()["molecules"].defaults["design"], "regressor": "ridge", **given}
    return DesignOptions(**known)


def learned(data: Data, job: DesignOptions) -> tuple[LearnedScore, dict[str, Any]]:
    return learn_score(data, job, RunFolder("learned", {}, overwrite=True), QUIET)


# The learned score


def test_few_labels_tell_more_than_the_number_of_atoms() -> None:
    """Hidden labels are predicted, though a fifth is all that is learned from."""
    from payoff.domains.molecules.property import size_error

    data = Molecules.read("qm9", MoleculeOptions(labelled=0.2), "alpha")
    known = data.labels.isfinite()
    assert int(known.sum()) == 80
    qm9 = load_qm9()
    rows = split("train")[:400]
    truth = qm9.column("alpha")[rows].double()
    score, summary = learned(data, options())
    error = float((score.values(data.objects) - truth)[~known].abs().mean())
    sizes = qm9.sizes[rows]
    assert error < size_error(sizes[known], truth[known], sizes[~known], truth[~known])
    assert summary["chosen"] == "ridge"


def test_support_is_the_distance_that_tables_have() -> None:
    """Standardised features, the class of tables; a feature that never varied counts by itself."""
    molecules().write_csv("mine.csv")
    data = Molecules.read("mine.csv", MoleculeOptions(), "logS")
    score, _ = learned(data, options())
    rows = features(data.objects)
    spread = torch.where(score.scale.isfinite(), score.scale, torch.ones_like(score.scale))
    z = (rows - rows.mean(0)) / spread
    look = score.look(data.objects)
    assert torch.allclose(look.support, SupportDistance(z)(z), atol=1e-4)
    assert torch.allclose(look.mean, score.values(data.objects))
    assert float((look.support <= 1).double().mean()) > 0.9
    nonsense = Molecule(
        torch.tensor([6, 1, 1, 1, 9, 8]), torch.randn(6, 3, generator=torch.Generator())
    )
    assert float(score.look([nonsense]).support) > 2
    assert bool(score.look([None]).mean.isnan().all())
    score.save(Path())
    again = LearnedScore.load(Path(), data.domain).look(data.objects)
    for name in ("places", "mean", "std", "support"):
        assert torch.equal(getattr(again, name), getattr(look, name))


# The run


def test_a_run_leaves_molecules_and_a_record() -> None:
    outcome = design()
    out = Path("run")
    left = {"designs.csv", "designs.sdf", "run.json", "request.json", "known.parquet"}
    assert left <= {Path(f).name for f in files(out)}
    assert not (out / "state").exists()
    record = read_record(out)
    assert (record["kind"], record["domain"]) == ("design", "molecules")
    assert record["data"]["labelled"] == 80
    assert "--score alpha" in " ".join(record["command"])
    frame = pl.read_csv(out / "designs.csv")
    assert frame.columns == [
        *("smiles", "predicted", "predicted_low", "predicted_high"),
        *("novel", "support", "valid", "stable"),
    ]
    assert len(frame) == 6 == record["designs"]["count"]
    assert record["designs"]["valid"] == frame["valid"].sum()
    assert record["designs"]["stable"] == frame["stable"].sum()
    assert record["score"]["unit"] == "bohr³"
    assert from_pretrained(out / "model").net.label_dim == 1
    assert outcome.designs is not None
    # molecules that count come first, then the other valid ones
    inside = (pl.col("valid") & (pl.col("support") <= 1)).fill_null(False)
    ranks = frame.select((~inside).alias("far"), (~pl.col("valid")).alias("invalid"))
    assert ranks.rows() == sorted(ranks.rows())


@pytest.mark.parametrize("conditioning", ["labels", "guide"])
def test_a_stopped_run_goes_on_to_the_same_molecules(
    conditioning: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import signal

    words: dict[str, Any] = {"conditioning": conditioning, "steps": 30}
    if conditioning == "guide":
        words |= {"base": str(trained(tmp_path / "base", steps=4))}
    whole = design("whole", **words)
    update = Loop.update

    def interrupted(self):
        found = update(self)
        if self.step == 2:
            self.stopped = self.interrupted = True
        return found

    stopped = interrupting("payoff.jobs.fitting._noisy", 7, signal.SIGINT)
    if conditioning == "guide":
        monkeypatch.setattr(Loop, "update", interrupted)
    else:
        next(stopped)
    with pytest.raises(Interrupted):
        design("parts", **words)
    stopped.close()
    assert not Path("parts/designs.csv").exists()
    monkeypatch.setattr(Loop, "update", update)
    with pytest.raises(UserError, match=r"it was started with aim = 80\.0"):
        design("parts", resume=True, **{**words, "aim": 70.0})
    parts = design("parts", resume=True, **words)
    assert parts.designs.table.equals(whole.designs.table)
    assert Path("parts/designs.sdf").read_text() == Path("whole/designs.sdf").read_text()


# Bases


def test_it_begins_with_the_base_and_guidance_changes_samples(tmp_path: Path) -> None:
    base = str(trained(tmp_path / "base", steps=4))
    found = {}
    for weight in (0.0, 3.0):
        words = {"base": base, "guidance": weight, "conditioning": "labels", "aim": 120.0}
        found[weight] = design(f"run{weight}", learning_rate=3e-3, **words).designs.table
        net = from_pretrained(f"run{weight}/model").net
        assert (net.width, net.depth) == (32, 1)  # the base's, not the option's
    assert not np.array_equal(found[0.0]["predicted"], found[3.0]["predicted"])


def test_a_label_is_read_as_if_it_were_not_there_at_first(tmp_path: Path) -> None:
    from payoff.jobs.design.conditioners import with_label

    base = from_pretrained(trained(tmp_path / "base", steps=4))
    wide = with_label(base, 0, "base")
    domain = Model.load(tmp_path / "base").domain
    generator = torch.Generator().manual_seed(0)
    cond = domain.conditions(5, None, generator)
    x = base.process.prior((5, *domain.shape), cond, generator=generator)
    t = torch.full((5,), 0.4)
    asked = {**cond, "label": torch.randn(5, 1, generator=generator)}
    with torch.no_grad():
        assert torch.equal(wide(x, t, asked).x0, base(x, t, cond).x0)
    with pytest.raises(UserError, match="labels of its own"):
        with_label(wide, 0, "base")


def test_a_guide_leads_a_base_that_stays_as_it_is(tmp_path: Path) -> None:
    """With a base it is the default; what is left behind is the base and the guide."""
    base = trained(tmp_path / "base", steps=30)
    found = {}
    for weight, noise in ((0.0, None), (3.0, None), (0.0, 2.0)):
        words = {"base": str(base), "guidance": weight, "aim": 120.0, "steps": 30}
        run = f"run-{weight}-{noise}"
        table = design(run, label_noise=noise, **words).designs.table
        found[weight, noise] = table["predicted"].to_numpy()
        made, before = (from_pretrained(f).net.state_dict() for f in (f"{run}/model", base))
        assert all(torch.equal(made[name], before[name]) for name in before)
        guide = json.loads(Path(run, "guide/config.json").read_text())
        assert guide["label"]["name"] == "alpha"
    assert len({values.tobytes() for values in found.values()}) == 3
    record = read_record("run-0.0-None")
    assert "a guide leads them" in record["training"]["start"]
    assert record["config"]["conditioning"] == "guide"
    assert record["data"]["label_noise_nu"] == 0
    said = " ".join(record["command"])
    assert "--conditioning guide" in said
    assert "--learning-rate" not in said  # its own default


def test_a_run_that_replaces_another_is_not_led_by_its_guide(tmp_path: Path) -> None:
    base = str(trained(tmp_path / "base", steps=4))
    found = {}
    for kind in ("guide", "labels"):
        design(base=base, conditioning=kind, overwrite=True)
        found[kind] = reopen(Path("run"))[0].by
    assert not Path("run/guide/config.json").exists()
    assert isinstance(found["guide"], GuideConditioner)
    assert isinstance(found["labels"], LabelConditioner)


def test_shipped_weights_are_the_start_where_the_molecules_fit(tmp_path: Path) -> None:
    trained(tmp_path / "weights" / "qm9", steps=2)
    kind = kinds()["molecules"]

    def origin(frame: pl.DataFrame, **given: Any) -> tuple[Any, str]:
        frame.write_csv("mine.csv")
        data = Molecules.read("mine.csv", MoleculeOptions(**given), "logS")
        return find_base(data, kind, options())

    base, said = origin(molecules())
    assert base is not None
    assert said == "shipped weights of qm9"
    sulphur = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("S")).otherwise(pl.lit(""))
    long = (pl.lit("CCCCCCCC") + pl.col("smiles")).alias("smiles")
    for frame, given, why in (
        (molecules().with_columns(pl.col("smiles") + sulphur), {}, "no feature for S"),
        (molecules().with_columns(long), {}, "nodes, and the model"),
        (molecules(), {"codec": "all"}, "the model has united atoms"),
    ):
        base, said = origin(frame, **given)
        assert base is None
        assert why in said
    assert find_base(None, kind, options(base="none")) == (None, "as asked for")  # type: ignore[arg-type]


def test_a_base_of_all_atoms_decides(tmp_path: Path) -> None:
    base = str(trained(tmp_path / "base", steps=2, codec="all"))
    molecules().write_csv("mine.csv")
    outcome = design(source="mine.csv", base=base, conditioning="labels", minimize=True)
    made = Model.load("run")
    assert isinstance(made.domain.codec, AllAtoms)
    assert made.facts["label"]["name"] == "logS"
    assert made.facts["label"]["spread"] < 0  # a higher label is a lower score
    assert len(outcome.designs.table) == 6


def test_weights_of_another_schedule_are_a_start(tmp_path: Path) -> None:
    """The network reads the log-SNR and not the time."""
    base = trained(tmp_path / "base", steps=2)
    saved = json.loads((base / "config.json").read_text())
    linear = {"class": "payoff.schedules:LogLinear", "log_snr_min": -8.0, "log_snr_max": 9.0}
    saved["denoiser"]["process"]["schedule"] = linear
    (base / "config.json").write_text(json.dumps(saved))
    molecules().write_csv("mine.csv")
    for kind in ("labels", "guide"):
        run = design(f"run-{kind}", "mine.csv", base=str(base), conditioning=kind)
        assert len(run.designs.table) == 6


# Sizes, order and novelty


def test_sizes_are_those_of_molecules_near_the_aim() -> None:
    predicted = torch.linspace(0, 100, 10_000)
    assert len(aims.near(predicted, 30.0)) == 100
    assert (predicted[aims.near(predicted, 30.0)] - 30).abs().max() < 0.6
    assert float(predicted[aims.near(predicted, 1e6)].min()) > 98.9


def test_a_sampler_draws_the_sizes_of_molecules_near_the_aim() -> None:
    design(aim=60.0, count=4)
    sampler, _ = reopen("run")
    sizes = {int(n) for n in sampler.domain.nodes[aims.near(sampler.predicted, 60.0)]}
    z, cond = sampler._samples(
        60.0, 40, aims.near(sampler.predicted, 60.0), torch.Generator().manual_seed(0)
    )
    assert set(cond["mask"].sum(1).tolist()) <= sizes
    assert z.shape == (40, *sampler.domain.shape)


class Fake(aims.AimSampler):
    """Draws molecules of the data whose score lies where it is aimed, no model in between."""

    def __post_init__(self) -> None:
        self.domain = self.data.domain

    def draw(self, aim, n, generator, advance=None):
        if abs(aim - self.by.location) > 3 * self.by.spread:
            return self.judge([None] * n)
        order = (self.predicted - aim).abs().argsort()
        return self.judge([self.data.objects[int(i)] for i in order[:n]])


class Scales:
    """Location and spread of a model's label."""

    def __init__(self, predicted: torch.Tensor) -> None:
        self.location, self.spread = float(predicted.mean()), float(predicted.std())


def fake(data: Data, **given: Any) -> Fake:
    job = options(**given)
    score, _ = learned(data, job)
    predicted = score.values(data.objects)
    return Fake(Scales(predicted), score, data, predicted, job)  # type: ignore[arg-type]


def test_known_compounds_are_not_novel_and_the_order_is_told() -> None:
    """The data's own molecules are known, whatever their conformation; None comes last."""
    molecules().write_csv("mine.csv")
    data = Molecules.read("mine.csv", MoleculeOptions(), "logS")
    stranger = load_qm9().molecules(split("test")[:1])
    drawn = [None, *data.objects[:10], *stranger]
    for aim in (6.0, None):
        sampler = fake(data, aim=aim, support=1.5)
        draws = sampler.judge(drawn)
        draws = draws.select(aims._listed(sampler, draws))
        table = designs_table(sampler, draws).table
        assert len(table) == 12
        assert draws.objects[-1] is None
        assert table["novel"].to_list()[-1] is None
        known = {id(m): row for m, row in zip(draws.objects, table["novel"], strict=True)}
        assert not any(known[id(m)] for m in data.objects[:10])
        assert known[id(stranger[0])]
        counted = table.filter(pl.col("valid") & (pl.col("support") <= 1.5))
        assert len(counted) > 5
        assert table[: len(counted)].equals(counted)
        if aim is not None:
            gaps = (counted["predicted"] - 6.0).abs().to_list()
            assert gaps == sorted(gaps)
        else:
            low = draws.low[: len(counted)]
            assert bool((low.diff() <= 0).all())


# The aim


@pytest.mark.parametrize("minimize", [False, True])
def test_the_aim_is_the_one_whose_molecules_have_the_best_pessimistic_score(minimize) -> None:
    rows = split("test")[:150]
    data = Molecules.read("qm9", MoleculeOptions(labelled=1.0), "alpha")
    data.objects, data.labels = (
        load_qm9().molecules(rows),
        load_qm9().column("alpha")[rows].double(),
    )
    sampler = fake(data, minimize=minimize, aims=5, support=3.0)
    found = aims.sweep(sampler, QUIET, torch.Generator())
    best, _ = aims.choose(found)
    assert np.isfinite(best.value)
    assert not np.isfinite(found[-1].value)  # nothing can be drawn there
    values = [a.value for a in found if np.isfinite(a.value)]
    assert values == sorted(values)
    assert (best.aim < sampler.by.location) is minimize
    from payoff.jobs.design.record import Proposal

    frame = sweep_table(sampler, Proposal(found, best.aim, "", best.draws, 0, {}))
    assert frame["aim"].is_sorted(descending=minimize)
    assert frame["kept"].to_list()[-1] == 0
    assert frame["pessimistic"].null_count() >= 1


@pytest.mark.parametrize("conditioning", ["labels", "guide"])
def test_an_aim_is_chosen_and_the_run_draws_more(
    conditioning: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More molecules are of the same model, at the run's aim or at another; QM9 is not needed."""
    base = str(trained(tmp_path / "base", steps=60))
    words = {"base": base, "aims": 2, "sampler_steps": 6, "conditioning": conditioning}
    outcome = design(aim=None, **words)
    assert outcome.record["aim"]["mode"] == "auto"
    assert outcome.record["aim"]["chosen"] > 70  # a deviation above the mean at least
    assert len(pl.read_csv("run/sweep.csv")) == 2
    few = pl.read_csv("run/sweep.csv")["pessimistic"].null_count() == 2
    said = any("at no aim 10 of 40 designs" in text for text in read_record("run")["warnings"])
    assert said is few
    monkeypatch.setattr("payoff.domains.molecules.sources.load_qm9", None)
    monkeypatch.setattr("payoff.domains.molecules.domain.known_smiles", None)
    drawn = [draw_more("run", count=5, aim=aim, quiet=True)[0] for aim in (None, None, 60.0)]
    tables = [scored.table for scored in drawn]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert tables[0].columns == pl.read_csv("run/designs.csv").columns
    assert len(drawn[0].objects) == 5


@pytest.mark.parametrize("given", ["codec", "base"])
def test_all_atoms_can_be_designed_too(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = split("train")[:64]  # those of the base, which draws none that are larger
    monkeypatch.setattr("payoff.domains.molecules.sources.split", lambda name, size: few)
    words: dict[str, Any] = {"codec": "all"}
    if given == "base":
        base = str(trained(tmp_path / "base", steps=2, codec="all"))
        words = {"base": base, "conditioning": "labels"}
    assert len(design(labelled=0.5, **words).designs.table) == 6
    assert Model.load("run").domain.codec == AllAtoms()


# Failures of the source, and mistakes


def test_rows_that_are_no_molecules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    bad = pl.DataFrame({"smiles": ["CC[O-]", None, "C("], "logS": [1.0, 2.0, 3.0]})
    pl.concat([molecules(labelled_every=2), bad]).write_csv("mine.csv")
    design(source="mine.csv")
    assert "3 rows are left out (row 41: charge -1; row 42: no SMILES" in capsys.readouterr().err
    assert pl.read_csv("run/failed.csv")["row"].to_list() == [41, 42, 43]
    assert read_record("run")["data"]["failed"] == 3
    assert read_record("run")["data"]["labelled"] == 20


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ("qm9", {"score": None}, "which property\\? Name it with --score"),
        ("qm9", {"score": "beta"}, "qm9 has no such property"),
        ("qm9", {"smiles": "smiles"}, "--smiles is for a table of your own"),
        ("qm9", {"codec": "atoms"}, "--codec atoms: choose one of united, all"),
        ("qm9", {"part": "tests"}, "--part tests: choose one of train"),
        ("qm9", {"labelled": 0.01}, "at least 20 are needed"),
        ("qm9", {"base": "nowhere"}, "nowhere"),
        ("qm9", {"conditioning": "x"}, "--conditioning x: choose one of auto,"),
        ("qm9", {"conditioning": "guide"}, "leads a model that is there, and none fits"),
        ("qm9", {"label_dropout": 1.0}, "--label-dropout is a share"),
        ("qm9", {"architecture": "mlp"}, "--architecture does not apply to"),
        ("mine.csv", {"score": None}, "is the score\\? Name it with --score: one of logS"),
        ("mine.csv", {"score": "logs"}, "did you mean 'logS'\\? \\(there are: logS"),
        ("mine.csv", {"smiles": "smile"}, "did you mean 'smiles'\\?"),
        ("few.csv", {}, "4 molecules have a value in the column"),
        ("same.csv", {}, "has the same value \\(1\\) everywhere"),
        ("mine.csv", {"labelled": 0.5}, "--labelled is for qm9 only"),
        ("nowhere.sdf", {}, "nowhere.sdf cannot be read"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    source: str, given: dict[str, Any], message: str
) -> None:
    molecules().write_csv("mine.csv")
    molecules(labelled_every=10).write_csv("few.csv")
    molecules().with_columns(logS=pl.lit(1.0)).write_csv("same.csv")
    before = files(Path())
    with pytest.raises(UserError, match=message):
        design(source=source, **given)
    assert files(Path()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "base"}, "--base .*base does not fit these molecules: no feature for S"),
        ({"base": "base", "codec": "all"}, "united atoms"),
        ({"base": "base", "label_dropout": 0.1}, "add --conditioning labels"),
        ({"base": "boards"}, "it draws designs, and mine holds molecules"),
    ],
    ids=str,
)
def test_a_base_that_does_not_fit(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    if given["base"] == "boards":
        boards(tmp_path / "boards", steps=5, support=9.0)
    else:
        trained(tmp_path / "base", steps=1)
    frame = molecules()
    if "no feature" in message:
        frame = frame.with_columns(smiles=pl.col("smiles") + "S")
    frame.write_csv("mine.csv")
    with pytest.raises(UserError, match=message):
        design(source="mine.csv", **{**given, "base": str(tmp_path / given["base"])})
    assert files(Path()) == {"mine.csv"}
