"""The design job on every kind of object: one structure of files, tables and records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from kind_cases import CASES, foreign_kind, write_sources

from molecule_models import need_qm9, trained
from payoff.domains.installed import kinds
from payoff.jobs.base import start
from payoff.jobs.design.job import Design
from payoff.jobs.design.reopen import draw_more
from payoff.jobs.model import Model
from payoff.jobs.records import read_record
from payoff.pretrained import trusting

FAST: dict[str, Any] = {
    **{"regressor": "ridge", "width": 16, "depth": 1, "steps": 60, "batch_size": 32, "aims": 2},
    **{"sampler_steps": 4, "count": 4, "support": 5.0},
}
ENTRIES = {
    *("name", "seed", "config", "data", "score", "reward", "reward_calls", "network_calls"),
    *("oracle", "oracle_calls", "aim", "designs", "training", "kind", "domain", "command"),
    *("payoff", "created", "versions", "timings", "warnings", "files"),
}
DESIGNS = {
    *("count", "asked", "drawn", "rejected", "valid", "supported", "novel", "different"),
    "mean_predicted_error",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all sources, in which the runs are made."""
    folder = tmp_path_factory.mktemp("kinds")
    write_sources(folder)
    before = os.getcwd()
    os.chdir(folder)
    with foreign_kind(folder):
        yield folder
    os.chdir(before)


@pytest.fixture(scope="module", params=list(CASES))
def finished(request: pytest.FixtureRequest, place: Path) -> Path:
    """A finished run of each kind, with the oracle that comes with it."""
    name, case = request.param, CASES[request.param]
    given = {**FAST, **case.design, "oracle": case.reward}
    if name == "airfoils":
        pytest.importorskip("neuralfoil")
        given |= {"oracle": None, "oracle_data": False}
    if name == "molecules":
        need_qm9()
        with pytest.MonkeyPatch.context() as patch:
            few = "payoff.domains.molecules.sources.split"
            patch.setattr(few, lambda part, size: list(range(200)))
            given |= {"base": str(trained(place / "tiny")), "labelled": 0.2, "oversample": 1}
            start(Design, case.source, {**given, "score": case.score}, out=name, quiet=True)
        return place / name
    start(Design, case.source, {**given, "score": case.score}, out=name, quiet=True)
    return place / name


def test_files_tables_and_the_record_have_one_structure(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    kind = kinds()[record["domain"]]
    assert record["domain"] == finished.name
    assert set(record) == ENTRIES
    assert set(record["designs"]) >= DESIGNS
    assert {"rows", "labelled", "unlabelled", "failed", "label_noise_nu"} <= set(record["data"])
    assert set(record["training"]) == {"start", "steps", "parameters"}
    assert record["training"]["parameters"] > 0
    designs, sweep = (pl.read_csv(finished / name) for name in ("designs.csv", "sweep.csv"))
    assert designs.height == record["designs"]["count"] == 4
    assert {"predicted", "predicted_low", "predicted_high", "support"} <= set(designs.columns)
    assert sweep.columns[:9] == [
        *("aim", "predicted_mean", "predicted_low", "predicted_high", "pessimistic"),
        *("shift", "off_support", "accepted", "chosen"),
    ]
    assert sweep["chosen"].sum() == 1
    for file in (*CASES[finished.name].files, *record["files"]):
        assert (finished / file).is_file(), file
    assert not (finished / "state").exists()
    assert record["command"][:2] == ["payoff", "design"]
    model = Model.load(finished)
    assert model.kind is kind
    objects = model.domain.read_back(finished, "designs", designs)
    assert len(objects) == designs.height


def test_the_oracle_judges_designs_of_every_kind(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    if record["oracle"] is None:
        assert CASES[finished.name].reward is None
        return
    designs = pl.read_csv(finished / "designs.csv")
    known = designs["oracle"].is_not_null().sum()
    assert record["oracle_calls"] >= known
    assert known > 0 or record["designs"]["valid"] == 0  # a model of seconds draws few molecules
    assert designs["valid"].sum() == record["oracle"]["valid"]


def test_more_designs_have_the_same_columns(finished: Path) -> None:
    scored, model = draw_more(finished, count=3, quiet=True)
    own = [c for c in pl.read_csv(finished / "designs.csv").columns if c != "oracle"]
    judged = {"valid"} - set(scored.table.columns)  # an oracle's verdict
    assert scored.table.columns == [c for c in own if c not in judged]
    assert len(scored.objects) == scored.table.height == 3
    assert model.kind.name == finished.name


class Reader(torch.nn.Module):
    """A small network that reads numbers off a noised polygon."""

    def __init__(self, dim: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.dim, self.outputs, self.width = dim, outputs, width
        self.first = torch.nn.Linear(dim + 1, width)
        self.last = torch.nn.Linear(width, outputs)

    def forward(self, x, noise_level, cond=None):
        level = noise_level.expand(len(x)).unsqueeze(1)
        return self.last(torch.tanh(self.first(torch.cat([x, level], 1))))


def test_a_foreign_kind_that_has_a_reader_is_led_by_a_guide(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a base it is the default; the base stays as it is; the run is continued and reopened."""
    domain = kinds()["polygons"].load()

    def reader(self, outputs, **size):
        return Reader(self.shape[0], outputs, size.get("width") or 32)

    monkeypatch.setattr(domain, "reader", reader, raising=False)
    given: dict[str, Any] = {**FAST, "score": "stiffness", "steps": 300, "support": 9.0}
    source = CASES["polygons"].source
    with trusting():  # the network is of this file, and not of the kind's package
        start(Design, source, given, out="unled", quiet=True)  # its model, unlabelled, is the base
        led = {**given, "base": "unled", "aim": 1.2, "oversample": 1, "count": 40}
        outcome, _ = start(Design, source, led, out="led", quiet=True)
        assert outcome is not None
        assert read_record("led")["config"]["conditioning"] == "guide"
        before, after = (Model.load(name).denoiser.state_dict() for name in ("unled", "led"))
        assert all(torch.equal(after[name], before[name]) for name in before)
        far, _ = start(Design, source, {**led, "aim": 0.4}, out="led-low", quiet=True)
        assert far is not None
        means = [run.designs.table["predicted"].mean() for run in (outcome, far)]
        assert means[0] > means[1]
        more, _ = draw_more("led", count=3, quiet=True)
        assert more.table.height == 3
