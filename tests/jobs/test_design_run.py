"""Results of a design run on a table: columns, kinds, limits, order, direction, and the record."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from design_cases import BOARDS, DESIGN, boards, table

from payoff.domains.base import select
from payoff.errors import UserError
from payoff.jobs.base import start
from payoff.jobs.design.aims import MIN_DRAWN
from payoff.jobs.design.job import Design
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.reopen import reopen
from payoff.jobs.design.score import FOLDS
from payoff.jobs.machine import threads
from payoff.jobs.records import read_record

JUDGED = ["predicted", "predicted_low", "predicted_high", "novelty", "support"]


def is_sorted(folder: Path, designs: pl.DataFrame) -> bool:
    """Whether the pessimistic scores fall from design to design."""
    sampler, _ = reopen(folder)
    objects = sampler.domain.read_back(folder, "designs", designs)
    low = sampler.judge(objects).low
    return bool((low.diff() <= 1e-4).all())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    boards(folder, count=30)
    return folder


def test_designs_are_in_the_tables_own_terms(first: Path) -> None:
    """Its columns in its order, with its types; then what is known about each design."""
    designs = pl.read_csv(first / "designs.csv")
    assert designs.columns == [*DESIGN, *JUDGED]
    assert designs.height == 30
    assert designs.schema["holes"] == pl.Int64
    assert designs["holes"].is_between(0, 4).all()
    assert set(designs["wood"]) <= {"ash", "oak"}
    assert designs.null_count().sum_horizontal().item() == 0
    # the data are written with two decimals, and so are the designs
    assert designs["width"].to_list() == designs["width"].round(2).to_list()


def test_designs_differ_and_the_best_comes_first(first: Path) -> None:
    designs = pl.read_csv(first / "designs.csv")
    assert designs.select(DESIGN).n_unique() == designs.height
    assert is_sorted(first, designs)
    assert (designs["predicted_low"] < designs["predicted"]).all()
    assert (designs["predicted"] < designs["predicted_high"]).all()
    assert (designs["support"] <= 1).all()
    assert (designs["novelty"] >= 0).all()


def test_designs_beat_the_data(first: Path) -> None:
    """The load grows with the width and falls with the holes: wide oak without holes."""
    designs = pl.read_csv(first / "designs.csv")
    rows = pl.read_parquet(first / "data.parquet")
    assert designs["predicted"].median() > rows["__predicted"].quantile(0.8)


def test_the_folder_is_complete(first: Path) -> None:
    names = {p.name for p in first.iterdir()}
    assert names == {
        *("run.json", "request.json", "designs.csv", "sweep.csv", "data.parquet", "data.json"),
        *("model", "reward"),
    }
    sweep = pl.read_csv(first / "sweep.csv")
    assert sweep.height == 3
    assert sweep["chosen"].sum() == 1
    assert sweep["aim"].is_sorted()
    assert (sweep["drawn"] == 4 * 30).all()
    assert (sweep["kept"] <= 30).all()
    record = read_record(first)
    assert record["aim"]["mode"] == "auto"
    assert record["aim"]["chosen"] == pytest.approx(sweep.filter(chosen=1)["aim"].item(), rel=1e-5)
    assert record["designs"]["count"] == record["designs"]["asked"] == 30
    assert record["designs"]["drawn"] == 120
    assert record["designs"]["different"] == record["designs"]["supported"] == 30
    assert record["data"]["rows"] == 240
    assert record["data"]["labelled"] == 60
    assert record["reward"]["chosen"] == "ridge"
    assert {"rank_correlation", "coverage90"} <= set(record["reward"]["candidates"][0])
    assert {"reward", "training", "sweep", "designs", "total"} <= set(record["timings"])
    assert record["reward_calls"] == 3 * 4 * 30 + 120
    assert record["network_calls"] == 6 * record["reward_calls"]
    assert record["oracle"] is None
    json.dumps(record, allow_nan=False)


def test_the_same_seed_gives_the_same_designs(first: Path, tmp_path: Path) -> None:
    boards(tmp_path / "same", count=30)
    boards(tmp_path / "other", count=30, seed=1)
    same, other = ((tmp_path / name / "designs.csv").read_bytes() for name in ("same", "other"))
    assert same == (first / "designs.csv").read_bytes()
    assert other != same


def test_minimize_mirrors_maximize(first: Path, tmp_path: Path) -> None:
    """Costs are loads with the sign turned: the same designs, predictions turned, low < high."""
    turned = table().with_columns(-pl.col("load"))
    boards(tmp_path / "run", turned, count=30, minimize=True)
    a, b = (pl.read_csv(f / "designs.csv") for f in (first, tmp_path / "run"))
    kept = [*DESIGN, "novelty", "support"]
    assert a.select(kept).equals(b.select(kept))
    for mine, mirrored in (
        ("predicted", "predicted"),
        ("predicted_low", "predicted_high"),
        ("predicted_high", "predicted_low"),
    ):
        assert a[mine].to_list() == (-b[mirrored]).to_list()
    sweeps = [pl.read_csv(f / "sweep.csv") for f in (first, tmp_path / "run")]
    for name in ("aim", "predicted_mean", "pessimistic"):
        assert sweeps[0][name].to_list() == (-sweeps[1][name]).to_list()
    assert (sweeps[1]["predicted_low"] < sweeps[1]["predicted_high"]).all()
    assert read_record(tmp_path / "run")["score"]["direction"] == "minimize"


@pytest.mark.parametrize("minimize", [False, True])
def test_an_aim_near_the_median_is_met(minimize: bool, tmp_path: Path) -> None:
    """Without picking the best of many, the predictions scatter around the aim."""
    options = {"steps": 500, "width": 64, "depth": 2, "sampler_steps": 15, "count": 150}
    aim = float(table()["load"].median())
    designs = boards(tmp_path / "run", aim=aim, oversample=1, minimize=minimize, **options)
    sd = float(table()["load"].std())
    assert float(designs["predicted"].mean()) == pytest.approx(aim, abs=0.4 * sd)
    assert read_record(tmp_path / "run")["aim"] == {
        "mode": "given",
        "chosen": pytest.approx(aim),
        "reason": "asked for",
    }


@pytest.mark.parametrize("wood", ["ash", "oak"])
def test_a_fixed_column_conditions_the_others(wood: str, tmp_path: Path) -> None:
    """All that the model draws has the width of that wood, before anything is refused."""
    options = {"steps": 500, "width": 64, "depth": 2, "sampler_steps": 15}
    rows = table().filter(pl.col("wood") == wood)
    aim = float(rows["load"].median())
    designs = boards(tmp_path / "run", fixed=[f"wood={wood}"], aim=aim, **options)
    assert set(designs["wood"]) == {wood}
    sampler, used = reopen(tmp_path / "run")
    assert used == pytest.approx(aim)
    drawn = sampler.draw(aim, 400, torch.Generator().manual_seed(0))
    widths = sampler.domain.table(drawn.objects)["width"]
    # the two woods are 30 apart, with standard deviations of 2 and 4
    assert float(widths.median()) == pytest.approx(float(rows["width"].median()), abs=4)
    near = (widths - float(rows["width"].median())).abs() < 15
    assert float(near.mean()) > 0.9


def test_a_fixed_number_is_held(tmp_path: Path) -> None:
    designs = boards(tmp_path / "run", fixed=["holes=2"])
    assert set(designs["holes"]) == {2}


def test_bounds_are_kept(tmp_path: Path) -> None:
    designs = boards(tmp_path / "run", bounds=["width=55:62", "holes=1:"])
    assert designs["width"].is_between(55, 62).all()
    assert designs["holes"].is_between(1, 4).all()


def test_limits_that_no_row_comes_near_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no design with --bounds width=300:400 looks like"):
        boards(tmp_path / "run", bounds=["width=300:400"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "subspace", "steps": 300},
        {"architecture": "subspace", "latent_dim": 2, "steps": 300, "support": 2.0},
        {"precision": 64},
        {"guidance": 1.0},
        {"regressor": "auto"},
        {"dropout": 0.2},
        {"sampler": "ddim"},
        {"sampler": "heun"},
        {"sampler": "multistep"},
        {"sampler_noise": 1.5},
        {"count": 1},
    ],
    ids=str,
)
def test_every_option_runs_and_opens_again(options: dict[str, Any], tmp_path: Path) -> None:
    count = options.get("count", 8)
    designs = boards(tmp_path / "run", **{"steps": 60, "count": count, **options})
    assert designs.height == count
    sampler, aim = reopen(tmp_path / "run")
    dtype = torch.float64 if options.get("precision") == 64 else torch.float32
    assert sampler.like.dtype == dtype
    generator = torch.Generator().manual_seed(2)  # the run's own: seed + 2
    drawn = sampler.draw(aim, 4 * MIN_DRAWN, generator)
    best = sampler.select(drawn, count)
    kept = sampler.domain.table(select(drawn.objects, best))
    assert kept.equals(designs.select(DESIGN)), "the reopened run draws what the run drew"


def test_the_subspace_network_learns(tmp_path: Path) -> None:
    """Its frame stays orthonormal, whatever weight decay is asked for, and it meets the aim."""
    options = {"steps": 500, "width": 64, "depth": 2, "sampler_steps": 15, "weight_decay": 0.1}
    boards(tmp_path / "run", architecture="subspace", latent_dim=3, support=3.0, **options)
    sampler, _ = reopen(tmp_path / "run")
    frame = sampler.by.model.denoiser.frame
    assert torch.allclose(frame.T @ frame, torch.eye(3), atol=1e-5)
    low, high = (float(table()["load"].quantile(q)) for q in (0.25, 0.75))
    generator = torch.Generator().manual_seed(0)
    means = [float(sampler.draw(aim, 300, generator).look.mean.mean()) for aim in (low, high)]
    assert means[1] - means[0] > 0.5 * (high - low)


def test_one_thread_for_a_small_network() -> None:
    before = torch.get_num_threads()
    with threads(0, 1e6):
        assert torch.get_num_threads() == 1
    with threads(0, 1e12):
        assert torch.get_num_threads() == before
    with threads(3, 1e6):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_more_designs_than_there_are(tmp_path: Path) -> None:
    """Categories only, six combinations: each once, and a warning."""
    rows = table().select("wood", (pl.col("holes") % 3).cast(pl.String) + " holes", "load")
    designs = boards(tmp_path / "run", rows, identifiers=[], count=50, support=5.0, steps=60)
    assert designs.height <= 6
    assert designs.select("wood", "holes").n_unique() == designs.height
    (warning,) = [w for w in read_record(tmp_path / "run")["warnings"] if w.startswith("only")]
    assert f"only {designs.height} of 50 designs" in warning


@pytest.mark.parametrize("diversity", [0.25, 0.0])
def test_many_designs_keep_apart_across_blocks(
    diversity: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Designs of a later block are no copies of earlier ones, and the best still come first."""
    monkeypatch.setattr("payoff.jobs.design.aims.BLOCK", 20)
    designs = boards(tmp_path / "run", count=90, diversity=diversity)
    assert designs.height == 90
    assert designs.select(DESIGN).n_unique() == 90
    assert is_sorted(tmp_path / "run", designs)
    sampler, _ = reopen(tmp_path / "run")
    objects = sampler.domain.read_back(tmp_path, "designs", designs)
    support = sampler.score.support
    gaps = torch.pdist(support.coordinates(sampler.score.places(objects)))
    assert float(gaps.min()) > 0.99 * diversity * support.spacing


def test_labels_without_a_signal_are_a_warning(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).standard_normal(240)
    rows = table().with_columns(load=pl.when(pl.col("load").is_not_null()).then(pl.Series(noise)))
    boards(tmp_path / "run", rows, steps=20)
    assert any("ranks held-out rows poorly" in w for w in read_record(tmp_path / "run")["warnings"])


@pytest.mark.parametrize("minimize", [False, True])
def test_an_aim_far_beyond_the_data_is_a_warning(minimize: bool, tmp_path: Path) -> None:
    boards(tmp_path / "run", aim=-3000 if minimize else 3000, steps=20, minimize=minimize)
    assert any("far beyond" in w for w in read_record(tmp_path / "run")["warnings"])


def test_nothing_accepted_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no design was accepted .*--support"):
        boards(tmp_path / "run", steps=1, support=0.001)
    assert not (tmp_path / "run" / "designs.csv").exists()


def test_a_diverging_training_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training failed: the loss became"):
        boards(tmp_path / "run", learning_rate=1e30)


CLASHING = ("predicted", "valid", "oracle", "aim", "novelty", "__predicted")


def test_a_tables_names_may_be_ours(tmp_path: Path) -> None:
    """Columns called as the ones that are added: the table's keep their names and places."""
    rows = table()
    extra = np.random.default_rng(1).normal(0, 1, (240, len(CLASHING))).round(3)
    rows = rows.with_columns(pl.Series(n, extra[:, i]) for i, n in enumerate(CLASHING))
    rows = rows.rename({"name": "support", "load": "score"})
    designs = boards(tmp_path / "run", rows, score=None, identifiers=["support"], support=2.0)
    assert designs.columns == [
        *DESIGN,
        *CLASHING,
        *("_predicted", "predicted_low", "predicted_high", "_novelty", "support"),
    ]
    sampler, _ = reopen(tmp_path / "run")
    assert float(sampler.predicted.abs().max()) > 5, "the learned score, not the column __predicted"
    kept = sampler.domain.table(sampler.data.objects)
    assert kept.equals(rows.select(*DESIGN, *CLASHING))


def test_unicode_spaces_constants_duplicates_and_gaps(tmp_path: Path) -> None:
    rows = table().rename({"width": "Breite (mm) ü", "holes": "日本 数", "load": "Güte [%]"})
    rows = rows.with_columns(
        pl.when(pl.int_range(pl.len()) % 20 == 3)
        .then(None)
        .otherwise(pl.col("wood"))
        .alias("wood"),
        plant=pl.lit("Nord, «A»"),
        year=pl.lit(2024),
    )
    rows = pl.concat([rows, rows.tail(7), rows[3:4], rows[23:24]])
    rows.write_csv(tmp_path / "Bretter neu.csv")
    source = str(tmp_path / "Bretter neu.csv")
    designs = boards(tmp_path / "run", source, score="Güte [%]", steps=60)
    names = ["Breite (mm) ü", "日本 数", "wood", "plant", "year"]
    assert pl.read_csv(tmp_path / "run" / "designs.csv").columns == [*names, *JUDGED]
    assert set(designs["plant"]) == {"Nord, «A»"}
    assert set(designs["year"]) == {2024}
    record = read_record(tmp_path / "run")
    assert record["name"] == "Bretter neu"
    said = " ".join(record["warnings"])
    assert "constant columns are kept as they are: plant=Nord, «A», year=2024" in said
    assert "duplicate rows" in said
    assert "rows with an empty feature cell are left out: 14 of 249" in said
    assert record["data"]["left_out"] == 14  # the last two rows among them
    assert record["data"]["rows"] == 235


@pytest.mark.parametrize("form", ["parquet", "pandas", "dict"])
def test_other_sources_give_the_same_designs(form: str, first: Path, tmp_path: Path) -> None:
    source: Any = table().to_dict(as_series=False)
    if form == "parquet":
        source = tmp_path / "boards.parquet"
        table().write_parquet(source)
    elif form == "pandas":
        source = pytest.importorskip("pandas").DataFrame(source)
    boards(tmp_path / "run", source, count=30)
    assert (tmp_path / "run/designs.csv").read_bytes() == (first / "designs.csv").read_bytes()


def test_the_progress_of_learning_counts_what_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ridge's folds are over at once and are not part of the bar's steps."""
    titles: dict[str, list[int]] = {}

    class Recorder:
        def __init__(self, quiet: bool) -> None:
            self.say = self.warn = lambda text: None

        def bar(self, title: str, total: int) -> Any:
            titles[title] = [total]
            return nullcontext(titles[title].append)

    monkeypatch.setattr("payoff.jobs.base.Reporter", Recorder)
    boards(tmp_path / "run", regressor="auto", steps=40)
    total, *done = titles["learning the score"]
    assert total == FOLDS + 1
    assert done == [0] * (FOLDS + 1) + list(range(1, total + 1))
    assert titles["training the model"] == [40, 10, 20, 30, 40]
    assert titles["trying aims"] == [3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"pessimism": math.inf},
        {"aim": math.inf},
        {"seed": 2**60},
        {"weight_decay": -1.0},
        {"threads": -1},
        {"label_dropout": 1.0},
        {"order": "worst"},
        {"enough": 0},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        DesignOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "guide"}, "--conditioning guide needs a network that reads scores off"),
        ({"base": "nowhere"}, "nowhere"),
        ({"score": "lode"}, "lode"),
        ({"alpha": 3.0}, "--alpha does not apply to"),
        ({"oracle": "nowhere:judge"}, "--oracle nowhere:judge"),
        ({"score": "wood"}, "wood"),
        ({"oracle_sweep": True}, "--oracle-sweep needs an oracle"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        start(Design, table(), {**BOARDS, **options}, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
