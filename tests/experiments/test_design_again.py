"""More designs from a finished run, with nothing but its folder."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from design_runs import DESIGN, config, table

from payoff.errors import UserError
from payoff.experiments.design import design
from payoff.experiments.design.again import reopen, sample
from payoff.experiments.records import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose table has since been overwritten with something else."""
    folder = tmp_path_factory.mktemp("again")
    table().write_csv(folder / "boards.csv")
    design(config(str(folder / "boards.csv"), bounds=["width=20:62"]), folder / "run", quiet=True)
    (folder / "boards.csv").write_text("something,else\n1,2\n")
    return folder / "run"


def test_the_table_may_have_changed_or_gone(finished: Path) -> None:
    before = sample(finished, count=10, quiet=True)
    (finished.parent / "boards.csv").unlink()
    after = sample(finished, count=10, quiet=True)
    assert before.equals(after)
    assert before.columns == pl.read_csv(finished / "designs.csv").columns
    assert before.height == 10
    assert before["width"].is_between(20, 62).all()


def test_the_seed_decides(finished: Path) -> None:
    a, b, c = (sample(finished, count=10, seed=s, quiet=True) for s in (1, 1, 2))
    assert a.equals(b)
    assert not a.equals(c)


def test_they_are_not_the_runs_own_designs(finished: Path) -> None:
    """No seed repeats the draws of the run itself or those of a neighbour's seed."""
    own = set(pl.read_csv(finished / "designs.csv").select(DESIGN).iter_rows())
    for seed in (0, 1, 2, 3):
        drawn = set(sample(finished, count=12, seed=seed, quiet=True).select(DESIGN).iter_rows())
        assert len(drawn & own) <= 3


def test_an_aim_of_ones_own(finished: Path) -> None:
    low = sample(finished, count=10, aim=10.0, quiet=True)["predicted"].mean()
    high = sample(finished, count=10, aim=30.0, quiet=True)["predicted"].mean()
    assert low + 3 < high


def test_minimized_runs_keep_their_direction(tmp_path: Path) -> None:
    turned = table().with_columns(-pl.col("load"))
    design(config(turned, minimize=True), tmp_path / "run", quiet=True)
    proposer, aim = reopen(tmp_path / "run")
    assert proposer.job.table.minimize
    designs = sample(tmp_path / "run", quiet=True, count=10)
    assert (designs["predicted_low"] < designs["predicted_high"]).all()
    assert designs["predicted"].median() < turned["load"].median()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["aim"]["chosen"] == pytest.approx(-aim)


def test_numbers_that_are_categories_stay_so(tmp_path: Path) -> None:
    design(config(categorical=["holes"], steps=60, support=2.0), tmp_path / "run", quiet=True)
    proposer, _ = reopen(tmp_path / "run")
    assert proposer.job.table.column("holes").kind == "categorical"
    designs = sample(tmp_path / "run", count=3, quiet=True)
    assert designs.schema["holes"].is_integer()


def test_a_missing_device_is_replaced(tmp_path: Path) -> None:
    design(config(steps=20), tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["config"]["device"] = "cuda:99"
    path.write_text(json.dumps(record))
    proposer, _ = reopen(tmp_path / "run")
    assert proposer.config.device == "cpu"


def test_unfinished_foreign_and_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished run$"):
        sample(tmp_path / "nowhere", quiet=True)
    RunFolder(tmp_path / "begun", {})
    with pytest.raises(UserError, match="continue it with --resume"):
        sample(tmp_path / "begun", quiet=True)
    (tmp_path / "begun/run.json").write_text('{"command": "train"}')
    with pytest.raises(UserError, match="holds no design run"):
        sample(tmp_path / "begun", quiet=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.parquet", "data.parquet cannot be read"),
        ("codec.json", "codec.json cannot be read"),
        ("model/model.safetensors", "model.safetensors"),
        ("model/config.json", "config.json"),
        ("reward/reward.json", "no learned reward"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_file_is_named(
    name: str, message: str, how: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished / name
    content = path.read_bytes()
    try:
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=message):
            sample(finished, count=2, quiet=True)
    finally:
        path.write_bytes(content)
