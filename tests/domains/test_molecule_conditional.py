"""EDM's protocol: what it says of sources whose error is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from molecule_models import SMALL, need_qm9
from payoff.domains.molecules.codecs import AllAtoms, UnitedAtoms
from payoff.domains.molecules.conditional import (
    Conditional,
    Evaluators,
    Real,
    answer,
    ask,
    node_counts,
)
from payoff.domains.molecules.config import PropertyConfig
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.property import PropertyRun, naive_error
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.train import Run, TrainConfig
from payoff.errors import UserError
from payoff.metrics import Estimate
from payoff.pretrained import save_pretrained

NAMES = ("alpha", "gap")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory) -> Path:
    need_qm9()
    tiny = {"width": 16, "depth": 1, "pair_width": 8, "vectors": 4, "compile": False}
    config = PropertyConfig(**tiny, properties="gap,alpha", batch_size=16, precision="fp32")
    data = load_qm9()
    rows = split("first_half", len(data))[:64]
    values = torch.stack([data.column(name)[rows] for name in config.names], dim=1)
    run = PropertyRun(config, data.molecules(rows), values, tmp_path_factory.mktemp("run"))
    for _ in range(20):
        run.update()
    return run.averaged().save_pretrained(tmp_path_factory.mktemp("evaluator"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    need_qm9()
    data = load_qm9()
    rows = split("second_half", len(data))[:64]
    x, cond = UnitedAtoms().encode(data.molecules(rows))
    y = torch.stack([data.column(name)[rows] for name in NAMES], dim=1)
    config = TrainConfig(**{**SMALL, "label": ",".join(NAMES)})
    run = Run(config, x, cond["mask"], tmp_path_factory.mktemp("run"), y)
    for _ in range(5):
        run.update()
    return save_pretrained(run.averaged(), tmp_path_factory.mktemp("model"), run.metadata({}))


def asking(n: int, names=NAMES, seed: int = 0):
    data = load_qm9()
    draws = torch.Generator().manual_seed(seed)
    return data, ask(data, split("second_half", len(data)), names, UnitedAtoms(), n, draws)


def test_sizes_and_values_are_those_of_one_molecule_smallest_first() -> None:
    data, asked = asking(200)
    for place in (0, 57, 199):
        molecule = data.molecule(int(asked.rows[place]))
        assert int(asked.nodes[place]) == int((molecule.numbers > 1).sum())
        assert float(asked.values[place, 1]) == float(data.column("gap")[asked.rows[place]])
    assert bool((asked.nodes.diff() >= 0).all())
    assert set(asked.rows.tolist()) <= set(split("second_half", len(data)).tolist())
    assert torch.equal(node_counts(data, AllAtoms()), data.sizes)


def test_the_real_molecules_give_the_evaluators_own_error(evaluator: Path) -> None:
    data, asked = asking(150)
    read = Evaluators([evaluator])
    found = answer(Real(data, batch_size=40), read, asked)
    direct = (read(data.molecules(asked.rows), NAMES) - asked.values).double().abs()
    assert found.errors["alpha"].value == pytest.approx(float(direct[:, 0].mean()), rel=1e-5)
    assert found.errors["gap"].value == pytest.approx(1000 * float(direct[:, 1].mean()), rel=1e-5)
    assert (found.asked, found.failed) == (150, 0)
    assert found.valid.value > 0.95
    assert found.stable.value > 0.9
    one = answer(Real(data), read, asked.only("gap")).errors["gap"]
    assert one.value == pytest.approx(found.errors["gap"].value, rel=1e-5)


def test_a_perfect_evaluator_gives_no_error_and_shuffled_values_the_u_bound() -> None:
    data, asked = asking(4000, ("mu",))
    truth = data.column("mu")
    told = iter(asked.rows.split(500))

    def read(molecules, names):
        return truth[next(told)].unsqueeze(-1)

    def source(asked):
        for rows in asked.rows.split(500):
            yield [None] * len(rows)

    assert answer(source, read, asked).errors["mu"].value == 0
    told = iter(asked.rows.split(500))
    shuffled = asked.shuffled(generator=torch.Generator().manual_seed(1))
    found = answer(source, read, shuffled).errors["mu"]
    y = truth[split("second_half", len(data))]
    bound = naive_error(y, generator=torch.Generator().manual_seed(2))
    spread = Estimate.of((y - y.roll(1)).abs()).stderr
    assert abs(found.z(Estimate(bound, spread, len(y)))) < 4


def test_molecules_that_are_missing_are_counted_and_left_out(evaluator: Path) -> None:
    data, asked = asking(40)
    read = Evaluators([evaluator])

    def holes(asked):
        for batch in Real(data, batch_size=20)(asked):
            yield [None if i % 4 == 0 else m for i, m in enumerate(batch)]

    found, whole = answer(holes, read, asked), answer(Real(data), read, asked)
    assert (found.failed, found.errors["alpha"].n) == (10, 30)
    assert found.valid.value == pytest.approx(whole.valid.value - 0.25, abs=0.06)
    with pytest.raises(ValueError, match="40 molecules were asked for and 20 came"):
        answer(lambda asked: iter([[None] * 20]), read, asked)


def test_a_codec_that_loses_nothing_costs_nothing(evaluator: Path) -> None:
    data, asked = asking(30)
    read = Evaluators([evaluator])
    plain, through, placed = (
        answer(Real(data, codec), read, asked).errors["alpha"].value
        for codec in (None, AllAtoms(), UnitedAtoms())
    )
    assert through == pytest.approx(plain, rel=1e-3)
    assert placed != pytest.approx(plain, rel=1e-6)  # hydrogens are somewhere else


def test_a_generator_is_told_one_label_and_the_size(generator: Path) -> None:
    model = MoleculeModel.load(generator)
    _, asked = asking(12)
    source = Conditional(model, steps=2, batch_size=5)
    told = source.label(asked.only("gap"))
    assert torch.equal(told["label_known"], torch.tensor([[0.0, 1.0]]).expand(12, 2))
    undone = told["label"] * source.scales.spread + source.scales.location
    assert torch.allclose(undone[:, 1].float(), asked.values[:, 1], atol=1e-4)
    found = list(source(asked.only("gap")))
    assert [len(batch) for batch in found] == [5, 5, 2]
    heavy = [int((m.numbers > 1).sum()) for batch in found for m in batch]
    assert heavy == asked.nodes.tolist()
    again = list(Conditional(model, steps=2, batch_size=5)(asked.only("gap")))
    assert torch.equal(found[2][1].positions, again[2][1].positions)
    other = list(Conditional(model, steps=2, batch_size=5, guidance=3.0)(asked.only("gap")))
    assert not torch.equal(found[2][1].positions, other[2][1].positions)


def test_what_cannot_be_asked_or_read_is_said_before(generator: Path, evaluator: Path) -> None:
    model, (_, asked) = MoleculeModel.load(generator), asking(4, ("mu",))
    with pytest.raises(UserError, match="has not learned mu: its labels are alpha, gap"):
        list(Conditional(model, "runs/it")(asked))
    with pytest.raises(UserError, match=r"no evaluator reads mu \(known: gap, alpha\): train"):
        Evaluators([evaluator]).check(["gap", "mu"])
    with pytest.raises(UserError, match="two evaluators read alpha, gap"):
        Evaluators([evaluator, evaluator])
    with pytest.raises(UserError, match="qm9 has learned no label"):
        Conditional(MoleculeModel.load("qm9"), "qm9")
    with pytest.raises(ValueError, match="one property at a time"):
        Conditional(model).label(asking(4)[1])


def test_the_benchmark_prints_a_row_for_everything(
    generator: Path, evaluator: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    sys.modules.pop("molecule_conditioning", None)
    from molecule_conditioning import main

    options = [str(generator), "--evaluator", str(evaluator), "--samples", "8", "--steps", "2"]
    main([*options, "--properties", "alpha", "gap", "--guidance", "0", "1", "--precision", "bf16"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[0].split("|")[2:-1] == [" alpha bohr³ ", " gap meV "]
    titles = ["shuffled", "number of atoms", "real molecules (L", "real molecules, enc"]
    assert all(title in row for title, row in zip(titles, rows[1:], strict=False))
    assert sum("weight" in row for row in rows) == 2 + 4
    assert all(row.count("|") == 4 for row in rows[:7])
    with pytest.raises(SystemExit):
        main([*options, "--properties", "mu"])
    assert "no evaluator reads mu" in capsys.readouterr().err
