"""More designs from a finished run, with nothing but its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from design_cases import (
    BOARDS,
    DESIGN,
    KINDS,
    OPTIONS,
    begun,
    boards,
    run,
    source_of,
    table,
    with_polygons,
)

from payoff.errors import UserError
from payoff.jobs.base import start
from payoff.jobs.design.reopen import draw_more, reopen


def more(folder: Path, **options: Any) -> pl.DataFrame:
    return draw_more(folder, quiet=True, **options)[0].table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose table has since been overwritten with something else."""
    folder = tmp_path_factory.mktemp("again")
    table().write_csv(folder / "boards.csv")
    run(folder / "boards.csv", folder / "run", {**BOARDS, "bounds": ["width=20:62"]})
    (folder / "boards.csv").write_text("something,else\n1,2\n")
    return folder / "run"


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_may_be_gone(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Designs, columns and novelty come from the run's folder alone."""
    with_polygons(monkeypatch)
    source, out = source_of(kind, tmp_path), tmp_path / "run"
    run(source, out, OPTIONS[kind])
    before = more(out, count=5)
    source.unlink()
    assert before.equals(more(out, count=5))
    assert not before.equals(more(out, count=5, seed=2))
    assert before.columns == pl.read_csv(out / "designs.csv").columns
    assert before.height == 5


def test_limits_are_kept(finished: Path) -> None:
    designs = more(finished, count=10)
    assert designs.height == 10
    assert designs["width"].is_between(20, 62).all()


def test_they_are_not_the_runs_own_designs(finished: Path) -> None:
    """No seed repeats the draws of the run itself or those of a neighbour's seed."""
    own = set(pl.read_csv(finished / "designs.csv").select(DESIGN).iter_rows())
    for seed in (0, 1, 2, 3):
        drawn = set(more(finished, count=12, seed=seed).select(DESIGN).iter_rows())
        assert len(drawn & own) <= 3


def test_an_aim_of_ones_own(finished: Path) -> None:
    low = more(finished, count=10, aim=10.0)["predicted"].mean()
    high = more(finished, count=10, aim=30.0)["predicted"].mean()
    assert low + 3 < high


def test_minimized_runs_keep_their_direction(tmp_path: Path) -> None:
    turned = table().with_columns(-pl.col("load"))
    boards(tmp_path / "run", turned, minimize=True)
    sampler, aim = reopen(tmp_path / "run")
    assert sampler.sign == -1
    designs = more(tmp_path / "run", count=10)
    assert (designs["predicted_low"] < designs["predicted_high"]).all()
    assert designs["predicted"].median() < turned["load"].median()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["aim"]["chosen"] == pytest.approx(aim)


def test_numbers_that_are_categories_stay_so(tmp_path: Path) -> None:
    boards(tmp_path / "run", categorical=["holes"], steps=60, support=2.0)
    designs = more(tmp_path / "run", count=3)
    assert designs.schema["holes"].is_integer()
    sampler, _ = reopen(tmp_path / "run")
    assert [c.kind for c in sampler.domain.codec.codes if c.name == "holes"] == ["categorical"]


def test_a_missing_device_is_replaced(tmp_path: Path) -> None:
    boards(tmp_path / "run", steps=20)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["config"]["device"] = "cuda:99"
    path.write_text(json.dumps(record))
    sampler, _ = reopen(tmp_path / "run")
    assert sampler.job.device == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"aim": float("nan")}, "--aim must be a finite number"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str, finished: Path) -> None:
    with pytest.raises(UserError, match=message):
        more(finished, **options)


def test_unfinished_foreign_and_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished run$"):
        more(tmp_path / "nowhere")
    begun(tmp_path / "begun")
    with pytest.raises(UserError, match="continue it with --resume"):
        more(tmp_path / "begun")
    (tmp_path / "begun/run.json").write_text('{"command": "train"}')
    with pytest.raises(UserError, match="holds no design run"):
        more(tmp_path / "begun")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.parquet", "data.parquet cannot be read"),
        ("model/model.safetensors", "model.safetensors"),
        ("model/config.json", "config.json|no saved model"),
        ("reward/reward.json", "no learned reward"),
        ("reward/features.safetensors", "features.safetensors cannot be read"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_file_is_named(name: str, message: str, how: str, finished: Path) -> None:
    if (name, how) == ("reward/features.safetensors", "gone"):
        pytest.skip("runs of payoff 0.1 have none: the data's rows take its place")
    path = finished / name
    content = path.read_bytes()
    try:
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=message):
            more(finished, count=2)
    finally:
        path.write_bytes(content)


def test_a_run_of_payoff_01_draws_more(finished: Path, tmp_path: Path) -> None:
    """The layout of before: codec.json, predictions as the last column, labels as higher is better.

    A run of today in that layout draws what it draws in its own.
    """
    import shutil

    old = tmp_path / "run"
    shutil.copytree(finished, old)
    record = json.loads((old / "run.json").read_text())
    config = json.loads((old / "model/config.json").read_text())
    table = pl.read_parquet(old / "data.parquet")
    domain, label = config["metadata"]["domain"], config["metadata"]["label"]
    config["metadata"] = {
        "whitening": domain["whitening"],
        "dim": 4,
        "location": label["location"],
        "scale": label["spread"],
        "held": domain["held"],
        "values": domain["values"],
    }
    (old / "codec.json").write_text(json.dumps(domain["codec"]))
    (old / "model/config.json").write_text(json.dumps(config))
    (old / "reward/features.safetensors").unlink()
    (old / "data.json").unlink()
    last = [c for c in table.columns if c != "__predicted"]
    table.select(*last, "__predicted").write_parquet(old / "data.parquet")
    names = ("score", "minimize", "count", "aim", "seed", "device", "precision", "threads")
    names += ("pessimism", "label_noise", "width", "depth", "steps", "batch_size", "guidance")
    names += ("sampler_steps", "oversample", "aims", "support", "diversity")
    kept = {name: record["config"][name] for name in names}
    kept |= {"reward": record["config"]["regressor"], "sampler": "ancestral", "network": "mlp"}
    record = {**record, "config": kept}
    del record["kind"]
    (old / "run.json").write_text(json.dumps(record))
    assert more(old, count=10).equals(more(finished, count=10))


def test_a_design_model_is_a_base_only_without_fixed_values(tmp_path: Path) -> None:
    """Without a label it draws from all rows; with fixed values it needs a score beside them."""
    from payoff.jobs.finetune.job import Finetune

    given = {
        **{"reward": _first, "method": "rwr", "calls": 40, "count": 4, "sampler_steps": 4},
        **{"evaluate": 16, "per_round": 10, "temperature": 1.0},
        "identifiers": ["name", "load"],
    }
    boards(tmp_path / "free", steps=40)
    boards(tmp_path / "held", steps=40, fixed=["wood=oak"])
    outcome, _ = start(
        Finetune, table(), {**given, "base": str(tmp_path / "free")}, out=tmp_path / "a", quiet=True
    )
    assert outcome is not None
    held = {**given, "base": str(tmp_path / "held"), "fixed": ["wood=oak"]}
    with pytest.raises(UserError, match=r"--base .*cannot draw without a score"):
        start(Finetune, table(), held, out=tmp_path / "b", quiet=True)
    assert not (tmp_path / "b").exists()


def _first(designs: pl.DataFrame) -> pl.Series:
    return designs["width"]
