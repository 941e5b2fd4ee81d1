"""Comparing methods on molecules: same base, same calls, fresh molecules judged alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.compare_runs import compare
from molecule_models import need_qm9
from payoff.domains.molecules.files import read_molecules
from payoff.errors import UserError

QUICK = [
    *("per_round=16", "updates=2", "batch_size=8", "sampler_steps=12", "evaluate=16"),
    *("evaluate_every=4",),
]


def asked(**changes: Any) -> dict[str, Any]:
    common = {"source": "qm9", "reward": "molecules:qed", "workers": 0, "samples": 24}
    return {**common, "settings": QUICK, "calls": "64", **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_qm9()
    out = tmp_path_factory.mktemp("comparison") / "run"
    compare(asked(methods="rgdm,ddpo", baselines="base,best-of-n"), out, quiet=True)
    return out


def rows(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "compare.csv", infer_schema_length=None)


def test_every_cell_has_its_row_and_its_budget(finished: Path) -> None:
    frame = rows(finished)
    assert frame["label"].to_list() == ["base", "best-of-n", "rgdm", "ddpo"]
    assert frame["spent"].to_list() == [0, 64, 64, 64]
    for name in ("valid", "stable", "unique", "novel", "failed"):
        values = frame[name].drop_nulls()
        assert len(values), name
        assert ((values >= 0) & (values <= 1)).all(), name
    assert len(frame.filter(pl.col("valid") > 0))


def test_the_objects_that_a_row_was_measured_on_are_kept(finished: Path) -> None:
    for row in rows(finished).iter_rows(named=True):
        place = finished / "cells" / row["folder"]
        table = pl.read_csv(place / "objects.csv")
        assert len(table) == row["samples"]
        assert table["valid"].sum() == pytest.approx(row["valid"] * row["samples"])


def test_best_of_n_keeps_the_molecules_that_it_paid_for(finished: Path) -> None:
    """One molecule for each of 64 calls: nothing is chosen, and nothing has moved."""
    row = rows(finished).filter(pl.col("label") == "best-of-n").row(0, named=True)
    n = 64 // min(100, 64)
    assert row["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert row["distinct"] <= row["spent"]


def test_a_tuned_cell_is_an_ordinary_run(finished: Path) -> None:
    folder = finished / "cells" / "rgdm-64-seed0"
    record = json.loads((folder / "run.json").read_text())
    assert record["kind"] == "finetune"
    assert record["calls"]["spent"] == 64
    assert read_molecules(folder / "designs.sdf").molecules


def test_rcgdm_spends_its_calls_on_labels_and_has_a_row(tmp_path: Path) -> None:
    need_qm9()
    config = asked(reward="molecules:stability", methods="", baselines="base,rcgdm", calls="60")
    config |= {"samples": 20, "label_steps": 3, "settings": ["sampler_steps=4"]}
    frame = compare(config, tmp_path / "run", quiet=True)
    row = frame.filter(pl.col("label") == "rcgdm").row(0, named=True)
    assert row["spent"] == 60
    assert row["distinct"] == 60  # no molecule of QM9 is there twice
    assert row["kl"] >= 0
    assert row["learned_reward"] in ("ridge", "ensemble")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": "molecules:nonsense"}, "nonsense"),
        ({"reward": None}, "which reward"),
        ({"methods": "draft"}, "black box"),
    ],
)
def test_a_comparison_that_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    need_qm9()
    with pytest.raises(UserError, match=said):
        compare(asked(**{"methods": "rgdm", **changes}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
