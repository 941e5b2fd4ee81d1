"""Comparing methods on molecules: same base, same calls, fresh molecules judged alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from molecule_models import need_qm9
from payoff.domains.molecules.files import read_molecules
from payoff.errors import UserError
from payoff.experiments.compare import CompareConfig, compare
from payoff.experiments.compare.molecules import COLUMNS, MEASURES, MOLECULES
from payoff.experiments.compare.plan import plan
from payoff.report import build

QUICK = [
    *("per_round=16", "updates=2", "batch_size=8", "sampler_steps=12", "evaluate=16"),
    *("evaluate_every=4",),
]


def asked(**changes) -> CompareConfig:
    common = {"source": "qm9", "reward": "molecules:qed", "workers": 0, "samples": 24}
    return CompareConfig(**{**common, "settings": QUICK, "calls": "64", **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_qm9()
    out = tmp_path_factory.mktemp("comparison") / "run"
    compare(asked(methods="rgdm,ddpo", baselines="base,best-of-n"), out, quiet=True)
    return out


def test_every_cell_has_its_row_and_its_budget(finished: Path) -> None:
    frame = pl.read_csv(finished / "compare.csv", infer_schema_length=None)
    assert frame["label"].to_list() == ["base", "best-of-n", "rgdm", "ddpo"]
    assert frame["spent"].to_list() == [0, 64, 64, 64]
    for name in ("valid", "stable", "unique", "novel", "failed"):
        values = frame[name].drop_nulls()
        assert ((values >= 0) & (values <= 1)).all(), name
    valid = frame.filter(pl.col("valid") > 0)
    assert len(valid)
    assert (valid["top"] >= valid["mean"] - 1e-9).all() or (valid["valid"] < 0.2).any()
    assert (valid["best"] >= valid["top"]).all()
    assert set(COLUMNS) <= set(MEASURES)


def test_what_a_row_was_measured_on_is_kept(finished: Path) -> None:
    frame = pl.read_csv(finished / "compare.csv", infer_schema_length=None)
    for row in frame.iter_rows(named=True):
        molecules = pl.read_csv(finished / "cells" / row["folder"] / MOLECULES)
        assert len(molecules) == row["samples"]
        valid = molecules.filter(pl.col("valid"))
        assert len(valid) == pytest.approx(row["valid"] * row["samples"])
        for measure, column in (("mean", "score"), ("heavy", "heavy")):
            if len(valid):
                assert row[measure] == pytest.approx(valid[column].mean())


def test_best_of_n_keeps_what_it_was_paid_for(finished: Path) -> None:
    """One molecule for each of 64 calls: nothing is chosen, and nothing has moved."""
    frame = pl.read_csv(finished / "compare.csv", infer_schema_length=None)
    row = frame.filter(pl.col("label") == "best-of-n").row(0, named=True)
    n = 64 // min(100, 64)
    assert row["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert row["distinct"] <= row["spent"]


def test_a_tuned_cell_is_an_ordinary_run(finished: Path) -> None:
    folder = finished / "cells" / "rgdm-64-seed0"
    record = json.loads((folder / "run.json").read_text())
    assert record["kind"] == "finetune"
    assert record["calls"]["spent"] == 64
    assert read_molecules(folder / "designs.sdf").molecules


def test_a_base_that_nobody_asked_for_is_not_drawn() -> None:
    """The weights are there already; where a base is trained first it has to be."""
    need_qm9()
    alone = plan(asked(methods="rgdm", baselines="none", seeds=2))
    assert [cell.kind for cell in alone] == ["tune", "tune"]
    both = plan(asked(methods="rgdm", baselines="base", seeds=2))
    assert [cell.kind for cell in both] == ["base", "base", "tune", "tune"]
    table = plan(CompareConfig(source="boards.csv", methods="rgdm", baselines="none"))
    assert [cell.kind for cell in table] == ["base", "tune"]


def test_the_page_is_written(finished: Path) -> None:
    page = build(finished).read_text()
    assert "best-of-n" in page
    assert "qed" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": "smc"}, "steering of molecules"),
        ({"reward": "molecules:nonsense"}, "nonsense"),
        ({"reward": None}, "which reward"),
        ({"methods": "draft"}, "gradient"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict, said: str, tmp_path: Path
) -> None:
    need_qm9()
    with pytest.raises(UserError, match=said):
        compare(asked(**{"methods": "rgdm", **changes}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
