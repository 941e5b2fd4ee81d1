"""Molecules as a kind: recognised, read, encoded, told apart, judged, written and read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from molecule_models import need_qm9, trained
from payoff.denoisers import NetDenoiser
from payoff.domains.base import Data
from payoff.domains.installed import kind_of
from payoff.domains.kind import NO, OWN
from payoff.domains.molecules import sources
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.domain import Molecules
from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.judges import PRECISION, rounded
from payoff.domains.molecules.kind import KIND, MoleculeOptions
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.pretrained import read_config, shipped
from payoff.rewards.ledger import Ledger
from payoff.training import FitConfig, fit

FROZEN = Path(__file__).parent / "frozen"
WORDS = ("CCO", "CCN", "CCC", "CC=O", "CCF", "CCCO", "CCCN", "CC#N", "C1CC1", "CCOC", "CO", "CN")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two hundred molecules stand for a part of QM9."""
    need_qm9()
    monkeypatch.setattr(sources, "split", lambda name, size: split(name, size)[:200])
    monkeypatch.chdir(tmp_path)


def qm9(score: str | None = None, seed: int = 0, **options) -> Data[Molecule]:
    given = MoleculeOptions(**{"part": "test", "labelled": 0.2, **options})
    return Molecules.read(DATA_SET, given, score, seed=seed)


def wrecked(molecule: Molecule) -> Molecule:
    """Its atoms pulled apart."""
    return Molecule(molecule.numbers, 3 * molecule.positions)


# --- recognised -----------------------------------------------------------------------------------


def test_the_kind_is_known_without_anything_heavy() -> None:
    code = (
        "import sys; import payoff.domains.molecules.kind; "
        "print([m for m in ('torch', 'polars', 'rdkit', 'plotly') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_sources_are_claimed_by_name_ending_and_column(tmp_path: Path) -> None:
    smiles, numbers = tmp_path / "smiles.csv", tmp_path / "numbers.csv"
    pl.DataFrame({"structure": WORDS, "score": range(len(WORDS))}).write_csv(smiles, separator=";")
    pl.DataFrame({"letter": WORDS[:2] * 6, "score": range(12)}).write_csv(numbers)
    parquet = tmp_path / "smiles.parquet"
    pl.DataFrame({"structure": WORDS}).write_parquet(parquet)
    owned = ("qm9", Path("a.sdf"), "b.XYZ", "c.smi", smiles, parquet)
    assert [KIND.reads(source, ()) for source in owned] == [OWN] * len(owned)
    for other in (numbers, "missing.csv", "mixture", "d.fasta", tmp_path, {"a": [1]}):
        assert KIND.reads(other, ()) == NO
    assert KIND.reads(numbers, {"smiles"}) == OWN


def test_only_the_head_of_a_table_is_looked_at(tmp_path: Path) -> None:
    """A line far below that no table can have does not matter for whose the table is."""
    path = tmp_path / "long.csv"
    rows = [f"{'C' * (i % 40 + 1)}O,{i}" for i in range(200)]
    path.write_bytes("\n".join(["smiles,score", *rows]).encode() + b"\n\x00\xff,broken,line\n")
    assert KIND.reads(path, ()) == OWN


def test_an_option_of_qm9_is_refused_for_a_file() -> None:
    with pytest.raises(UserError, match="--part is for qm9"):
        KIND.reads("own.sdf", {"part"})
    with pytest.raises(UserError, match="--smiles is for a table"):
        Molecules.read(DATA_SET, MoleculeOptions(smiles="a"))


@pytest.mark.parametrize(
    "wrong", [{"codec": "none"}, {"part": "all"}, {"labelled": 0.0}, {"noise": -1.0}]
)
def test_impossible_options_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        MoleculeOptions(**wrong)


# --- read -----------------------------------------------------------------------------------------


def test_qm9_hides_most_labels_by_the_seed() -> None:
    first, again, other = (qm9("alpha", seed) for seed in (0, 0, 1))
    truth = load_qm9().column("alpha")[split("test")[:200]].double()
    assert first.labels is not None
    assert again.labels is not None
    assert other.labels is not None
    known = first.labels.isfinite()
    assert int(known.sum()) == 40
    assert torch.equal(first.labels[known], truth[known])
    assert torch.equal(known, again.labels.isfinite())
    assert not torch.equal(known, other.labels.isfinite())
    assert (first.unit, first.source, first.name) == ("bohr³", DATA_SET, DATA_SET)
    assert qm9().labels is None
    with pytest.raises(UserError, match="did you mean 'alpha'"):
        qm9("alpa")


def test_a_table_of_smiles_is_read_with_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    words = [*WORDS, *WORDS, "not one", ""]
    pl.DataFrame({"smiles": words, "score": range(len(words))}).write_csv(path)
    data = Molecules.read(path, MoleculeOptions(), "score")
    assert len(data.objects) == 24
    assert list(data.failed) == [25, 26]
    assert data.labels is not None
    assert data.labels.tolist() == list(range(24))
    assert set(WORDS) <= data.known
    assert data.source is None
    assert data.fingerprint
    unscored = Molecules.read(path, MoleculeOptions(smiles="smiles"))
    assert unscored.labels is None
    assert len(unscored.objects) == 24
    assert Molecules.read(path, MoleculeOptions(codec="all")).domain.codec_name == "all"  # type: ignore[attr-defined]
    for options, score, match in (
        ({}, "scor", "did you mean 'score'"),
        ({"smiles": "words"}, None, "--smiles words"),
        ({"noise": 0.1}, None, "--noise is for qm9"),
    ):
        with pytest.raises(UserError, match=match):
            Molecules.read(path, MoleculeOptions(**options), score)


def test_an_sdf_file_is_read_by_its_tags(tmp_path: Path) -> None:
    molecules = load_qm9().molecules(split("test")[:25])
    write_molecules(tmp_path / "own.sdf", molecules, {"y": list(range(25))})
    data = Molecules.read(tmp_path / "own.sdf", MoleculeOptions(), "y")
    assert data.labels is not None
    assert data.labels.tolist() == list(range(25))
    assert data.domain.identities(data.objects) == data.domain.identities(molecules)


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["united", "all"])
def test_encoding_keeps_who_a_molecule_is(codec: str) -> None:
    data = qm9(codec=codec)
    some = list(data.objects[:20])
    x, cond = data.domain.encode(some)
    assert tuple(x.shape[1:]) == data.domain.shape
    back = data.domain.decode(x, cond)
    assert data.domain.identities([m for m in back if m]) == data.domain.identities(some)
    x[3, 0, 0] = float("nan")
    x[4][~cond["mask"][4]] = float("nan")  # of no node
    broken = data.domain.decode(x, cond)
    assert [m is None for m in broken[:6]] == [i == 3 for i in range(6)]


def test_a_config_makes_the_domain_again() -> None:
    domain = qm9().domain
    config = json.loads(json.dumps(domain.config()))
    made = Molecules(**config)
    assert made.config() == domain.config()
    assert (made.shape, made.codec, made.elements) == (domain.shape, domain.codec, domain.elements)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="sizes"):
        Molecules(config["codec"], [0, -1])


@pytest.mark.parametrize("source", ["trained", "shipped"])
def test_earlier_models_are_of_this_kind(source: str, tmp_path: Path) -> None:
    """Their domain draws the conditions that their model has always drawn."""
    folder = trained(tmp_path / "model", steps=1) if source == "trained" else shipped()["qm9"]
    metadata = dict(read_config(folder)["metadata"])
    config = Molecules.earlier(metadata, folder)
    assert config is not None
    domain, model = Molecules(**config), MoleculeModel.load(folder)
    assert domain.shape == model.shape
    assert domain.work(10, pair_width=model.denoiser.net.pair_width) == model.work(10)
    mine = domain.conditions(300, None, torch.Generator().manual_seed(5))
    theirs = model.conditions(300, generator=torch.Generator().manual_seed(5))
    assert torch.equal(mine["mask"], theirs["mask"])
    assert Molecules.earlier({"columns": []}, folder) is None


def test_sizes_follow_weights_and_rows() -> None:
    data = qm9()
    domain, nodes = data.domain, data.domain.nodes  # type: ignore[attr-defined]
    small = nodes < nodes.max()
    g = torch.Generator().manual_seed(0)
    by_weight = domain.conditions(500, small.float(), g)["mask"].sum(1)
    assert int(by_weight.max()) < int(nodes.max())
    share = float((nodes[small] == 8).float().mean())
    assert float((by_weight == 8).float().mean()) == pytest.approx(share, abs=0.07)
    rows = small.nonzero()[:, 0]
    sizes = nodes[rows]
    drawn = sizes[torch.randint(len(rows), (50,), generator=torch.Generator().manual_seed(3))]
    found = domain.conditions(50, rows, torch.Generator().manual_seed(3))["mask"].sum(1)
    assert torch.equal(found, drawn.sort().values)
    with pytest.raises(ValueError, match="weights"):
        domain.conditions(5, torch.ones(3), g)


def test_a_model_serves_data_that_it_has_room_for(tmp_path: Path) -> None:
    data = qm9()
    domain = Molecules(**data.domain.config())
    adapted = domain.adapt(data)
    assert torch.equal(adapted.nodes, data.domain.nodes)  # type: ignore[arg-type, attr-defined]
    assert domain.nodes is None
    narrow = Molecules(domain.config()["codec"], [0, 0, 0, 5])
    with pytest.raises(UserError, match="nodes"):
        narrow.adapt(data)
    carbon = {**domain.config()["codec"], "elements": [6]}
    with pytest.raises(UserError, match="no feature"):
        Molecules(carbon, domain.config()["sizes"]).adapt(data)
    with pytest.raises(UserError, match="--codec all"):
        domain.adapt(qm9(codec="all"))


def test_the_network_trains_and_draws() -> None:
    data = qm9()
    domain = data.domain
    x, cond = domain.encode(data.objects)
    torch.manual_seed(0)
    net = domain.denoiser(labels=1, width=16, depth=1, pair_width=8, vectors=4)
    config = FitConfig(steps=10, batch_size=16, log_every=5)
    label = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(0))
    fitted = fit(net, x, {**cond, "label": label}, config)
    drawn = domain.conditions(4, None, torch.Generator().manual_seed(0))
    found = fitted(x[:4], torch.tensor(0.5), {**drawn, "label": label[:4]}).x0
    assert found.shape == x[:4].shape
    assert bool(found.isfinite().all())
    reader = domain.reader(2, width=16, depth=1, pair_width=8, vectors=4)
    assert reader is not None
    assert reader(x[:4], torch.zeros(4), {"mask": cond["mask"][:4]}).shape == (4, 2)
    several = domain.denoiser(labels=2, width=16, depth=1, pair_width=8, vectors=4)
    assert isinstance(several, NetDenoiser)
    assert several.net.label_flags == "column"


# --- worth ----------------------------------------------------------------------------------------


def test_what_was_paid_for_is_found_again(tmp_path: Path) -> None:
    """A ledger that was written before molecules were a kind answers for every molecule."""
    shutil.copy(FROZEN / "molecules.sqlite", tmp_path / "ledger.sqlite")
    rows = json.loads((FROZEN / "molecules.json").read_text())
    molecules = [Molecule(torch.tensor(r["numbers"]), torch.tensor(r["positions"])) for r in rows]
    domain = qm9().domain
    ledger, keys = Ledger(tmp_path / "ledger.sqlite"), domain.keys(molecules)
    assert len({len(m) > 32 for m in molecules}) == 2
    for name in ("stability", "molecule_stability"):
        judge = domain.judge(name)
        assert judge is not None
        version = f"{judge.version} {domain.meaning}".strip()
        known = ledger.lookup(judge.name, version, keys)
        assert [known[key].value for key in keys] == list(judge.of(molecules))


def test_keys_tell_rounded_molecules_apart() -> None:
    data = qm9()
    domain, molecule = data.domain, rounded(data.objects[0])
    near = Molecule(molecule.numbers, molecule.positions + 0.2 * PRECISION)
    far = Molecule(molecule.numbers, molecule.positions + 2 * PRECISION)
    many = [molecule, near, far]
    assert domain.keys([near]) == domain.keys([molecule]) != domain.keys([far])
    assert domain.keys(many) == [domain.keys([m])[0] for m in many]
    assert len(set(domain.identities(many))) == 1  # moved as a whole
    for thing in (molecule, wrecked(molecule)):
        assert domain.identities([thing])[0] in (domain.keys([thing])[0], *data.known)
    together = domain.features(data.objects[:5])
    alone = torch.cat([domain.features([m]) for m in data.objects[:5]])
    assert torch.allclose(together, alone, atol=1e-9)


def test_rewards_see_rounded_molecules() -> None:
    seen = []

    def height(molecule) -> float:
        seen.append(molecule)
        return float(molecule.positions[:, 2].max())

    data = qm9()
    judge = data.domain.own_judge(height, "lab:height")
    values = judge.of(list(data.objects[:3]))
    exact = [float(rounded(m).positions[:, 2].max()) for m in data.objects[:3]]
    assert list(values) == exact
    assert (judge.name, judge.chunk, judge.slope) == ("lab:height", 1, None)
    with pytest.raises(UserError, match="first parameter"):
        data.domain.own_judge(lambda x: 0.0, "lab:wrong")


def test_a_failure_costs_its_molecule_and_has_a_reason() -> None:
    data = qm9()
    judge = data.domain.judge("logp")
    assert judge is not None
    assert judge.name == "molecules:logp"
    good, bad = data.objects[0], wrecked(data.objects[0])
    values = list(judge.of([good, bad, good]))
    assert values[0] == values[2]
    assert values[1] != values[1]
    assert "not valid" in judge.of.failure  # type: ignore[attr-defined]
    assert data.domain.judge("nothing") is None
    assert {"qed", "xtb_gap"} <= set(data.domain.judge_names())


def test_valid_stable_and_new() -> None:
    data = qm9()
    domain, good = data.domain, list(data.objects[:10])
    bad = wrecked(good[0])
    reasons = domain.check([good[0], bad, None])
    assert reasons[0] is None
    assert "not valid" in str(reasons[1])
    assert reasons[2] == "no molecule"
    objects = [*good, good[0], bad, None]
    shares = domain.measures(objects, frozenset())
    different = len(set(domain.table(good)["smiles"]))
    assert shares["unique"] == pytest.approx(different / 11)
    stable = domain.notes(objects)
    assert stable is not None
    assert shares["stable"] == pytest.approx(sum(stable["stable"]) / 13)
    known = frozenset(domain.identities(good[:5]))
    measured = domain.measures(objects, known)
    compounds = set(domain.identities(good))
    assert measured["novel"] == pytest.approx(len(compounds - known) / len(compounds))
    assert 0 < measured["diversity"] < 1
    assert domain.measures([None], frozenset())["unique"] is None


# --- files and pages ------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [False, True])
def test_what_is_written_is_read_back(absent: bool, tmp_path: Path) -> None:
    data = qm9()
    domain = data.domain
    objects: list[Molecule | None] = [*data.objects[:4], wrecked(data.objects[0]), data.objects[5]]
    if absent:
        objects[2] = None
    table = domain.table(objects).with_columns(score=pl.Series(range(6)))
    assert table["smiles"].null_count() == 1 + absent
    domain.write(tmp_path, "designs", objects, table)
    back = domain.read_back(tmp_path, "designs", table)
    assert [m is None for m in back] == [m is None for m in objects]
    there = [m for m in objects if m is not None]
    assert domain.keys([m for m in back if m is not None]) == domain.keys(there)
    with pytest.raises(UserError, match="cannot be read"):
        domain.read_back(tmp_path, "other", table)
    with pytest.raises(UserError, match="does not fit"):
        domain.read_back(tmp_path, "designs", table[:2])


def test_runs_of_before_are_read_back(tmp_path: Path) -> None:
    """Their entries have no number: those with SMILES find their rows by these."""
    data = qm9()
    domain = data.domain
    objects: list[Molecule | None] = [data.objects[0], None, data.objects[1], None, data.objects[2]]
    table = domain.table(objects)
    write_molecules(tmp_path / "designs.sdf", objects, table)
    back = domain.read_back(tmp_path, "designs", table)
    assert [m is None for m in back] == [m is None for m in objects]


def test_export_by_ending(tmp_path: Path) -> None:
    data = qm9()
    domain, objects = data.domain, [*data.objects[:3], None, wrecked(data.objects[0])]
    table = domain.table(objects).with_columns(score=pl.Series(range(5)), valid=pl.lit(True))
    written = {
        ending: domain.export(tmp_path / f"out{ending}", objects, table)
        for ending in (*KIND.formats, ".csv")
    }
    assert written == {".sdf": 4, ".xyz": 4, ".smi": 3, ".csv": 3}
    assert pl.read_csv(tmp_path / "out.csv").columns == ["smiles", "score"]


def test_drawings_carry_their_notes_as_text() -> None:
    data = qm9()
    objects = [*data.objects[:2], wrecked(data.objects[0])]
    page = data.domain.draw(objects, ["<b>one</b>", "two\nlines", "three"])
    assert page.count("<svg") == 2
    assert "<b>one" not in page
    assert "two<br>lines" in page
    figure = data.domain.figure(data.objects[0])
    assert figure is not None
    balls = [trace for trace in figure.data if trace.mode == "markers"]
    assert sum(len(trace.x) for trace in balls) == len(data.objects[0])


# --- defaults -------------------------------------------------------------------------------------


def test_defaults_of_methods_give_way_to_the_user() -> None:
    settings, options = KIND.method_defaults("finetune", "rgdm", {}, {"calls": 4000})
    assert options == {
        **{"per_round": 500, "updates": 75, "batch_size": 128},
        "learning_rate": 3e-4,
    }
    assert settings["value_steps"] == "300"
    assert settings["feasible"] == "true"
    own = {"radius": "2"}
    settings, options = KIND.method_defaults("finetune", "rgdm", own, {"updates": 5, "workers": 2})
    assert "radius" not in settings
    assert settings["value_steps"] == "20"
    assert "updates" not in options
    assert options["time_limit"] == 20.0
    for method, given, data in (
        ("rwr", {}, 0),
        ("rgdm", {"level": "sample"}, 0),
        ("rgdm", {}, 50),
    ):
        settings, options = KIND.method_defaults("finetune", method, given, {"data": data})
        assert settings["control"] == "true"
        assert options == {"learning_rate": 1e-4}
    assert KIND.method_defaults("steer", "smc", {}, {}) == ({}, {})


def test_qm9_is_of_this_kind() -> None:
    assert kind_of("qm9", ()) is KIND
