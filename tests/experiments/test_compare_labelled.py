"""RCGDM among the methods compared on molecules: labels are reward calls on real ones."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from molecule_models import need_qm9, trained
from payoff.experiments.compare import CompareConfig, compare


def test_rcgdm_spends_its_calls_on_labels_and_has_a_row(tmp_path: Path, monkeypatch) -> None:
    need_qm9()
    # a part of QM9 that is read in seconds
    monkeypatch.setattr("payoff.experiments.compare.labelled.PART", "test")
    model = trained(tmp_path / "model")
    config = CompareConfig(
        source=str(model),
        reward="molecules:stability",
        methods="",
        baselines="base,rcgdm",
        calls="60",
        samples=20,
        label_steps=3,
        settings=["sampler_steps=4"],
        workers=0,
    )
    frame = compare(config, tmp_path / "run", quiet=True)
    row = frame.filter(pl.col("label") == "rcgdm").row(0, named=True)
    assert row["spent"] == 60
    assert row["distinct"] == 60  # no molecule of QM9 is there twice
    assert row["kl"] >= 0
    assert row["learned_reward"] in ("ridge", "ensemble")
