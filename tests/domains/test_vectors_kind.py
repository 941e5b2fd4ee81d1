"""Tables as a kind: reading, coordinates, limits, keys of ledgers, gradients, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from payoff.domains.base import select
from payoff.domains.kind import FORMAT, NO, OWN
from payoff.domains.vectors.domain import Vectors, source_key
from payoff.domains.vectors.kind import KIND, TableOptions
from payoff.domains.vectors.rows import Rows
from payoff.errors import UserError
from payoff.jobs.fitting import new_denoiser
from payoff.rewards.ledger import Ledger
from payoff.whitening import Whitening

FROZEN = Path(__file__).parent / "frozen"


def boards(rows: int = 80, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    width = rng.normal(40, 9, rows).round(2)
    holes = rng.integers(0, 5, rows)
    load = 0.5 * width - 2.0 * holes
    return pl.DataFrame(
        {
            "name": [f"board {i}" for i in range(rows)],
            "width": width,
            "holes": holes,
            "wood": rng.choice(["ash", "oak", "fir"], rows),
            "coated": rng.choice([True, False], rows),
            "site": ["north"] * rows,
            "load": [v if i % 2 else None for i, v in enumerate(load)],
        }
    )


def numbers_only(rows: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (rows, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
    return pl.DataFrame({"a": 3 + x[:, 0], "b": np.exp(2 * x[:, 1]), "c": [7.5] * rows})


def read(source: Any = None, score: str | None = None, **options: Any):
    source = boards() if source is None else source
    return Vectors.read(source, TableOptions(**{"identifiers": ["name"], **options}), score)


def samples(domain: Vectors, n: int = 200, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(n, *domain.shape, generator=torch.Generator().manual_seed(3))


def test_claims() -> None:
    assert KIND.reads("designs.csv", ()) == FORMAT
    assert KIND.reads(Path("designs.parquet"), ()) == FORMAT
    assert KIND.reads(boards(), ()) == OWN
    assert KIND.reads({"a": [1]}, ()) == OWN
    assert KIND.reads("designs.sdf", ()) == NO
    assert KIND.reads(7, ()) == NO


def test_the_kind_is_known_without_heavy_packages() -> None:
    script = (
        "import sys; from payoff.domains.installed import kinds; kinds(); "
        "print([m for m in ('torch', 'polars', 'numpy', 'rdkit') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"architecture": "cnn"}, "--architecture cnn"),
        ({"latent_dim": -1}, "--latent-dim"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_options_are_checked(option: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        TableOptions(**option)


def test_labels_are_in_the_users_direction() -> None:
    frame = boards()
    data = read(score="load")
    assert data.labels is not None
    wanted = frame["load"].fill_null(float("nan")).to_numpy()
    np.testing.assert_array_equal(data.labels.numpy(), wanted)
    assert data.score == "load"
    assert data.domain.codec.columns == ["width", "holes", "wood", "coated", "site"]
    assert len(data.objects) == len(frame)


def test_without_a_score_every_column_is_designed() -> None:
    data = read(boards().drop("load"))
    assert data.labels is None
    assert data.domain.codec.columns == ["width", "holes", "wood", "coated", "site"]
    assert data.about.startswith("designs of width (number), holes (whole number), wood (category)")


def test_the_default_score_is_the_column_of_that_name() -> None:
    assert read(boards().rename({"load": "score"}), "").score == "score"
    with pytest.raises(UserError, match="Name it with --score"):
        read(boards(), "")


def test_few_labels_are_refused() -> None:
    few = boards().with_columns(load=pl.when(pl.int_range(pl.len()) < 7).then("load"))
    with pytest.raises(UserError, match="only 3 of 80 usable rows"):
        read(few, "load")


def test_the_fingerprint_sees_every_cell() -> None:
    frame = boards()
    other = frame.with_columns(width=pl.col("width") + (pl.int_range(pl.len()) == 11) * 0.01)
    assert read(frame, "load").fingerprint == read(frame, "load").fingerprint
    assert read(frame, "load").fingerprint != read(other, "load").fingerprint
    assert read(frame, "load").fingerprint != read(frame, identifiers=["name", "load"]).fingerprint


def test_coordinates_are_white() -> None:
    data = read(boards().drop("load"))
    x, cond = data.domain.encode(data.objects)
    assert cond == {}
    torch.testing.assert_close(
        torch.cov(x.double().T), torch.eye(x.shape[1]).double(), atol=1e-4, rtol=0
    )
    assert torch.equal(
        x, Whitening(data.domain.features(data.objects)).encode(data.domain.features(data.objects))
    )


def test_rows_frames_and_dicts_are_the_same_objects() -> None:
    data = read(boards().drop("load"))
    rows, frame = data.objects, data.domain.table(data.objects)
    for other in (frame, frame.to_dicts(), list(rows)):
        assert data.domain.keys(other) == data.domain.keys(rows)
        assert torch.equal(data.domain.features(other), data.domain.features(rows))
        assert data.domain.table(other).equals(frame)


def test_rows_are_a_sequence() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3]})
    rows = Rows(frame, np.array([False, True, False]))
    assert list(rows) == [{"a": 1}, None, {"a": 3}] == [rows[0], rows[1], rows[-1]]
    assert list(rows[1:]) == [None, {"a": 3}]
    assert list(select(rows, [2, 1])) == [{"a": 3}, None]
    with pytest.raises(IndexError):
        rows[3]


def test_a_row_of_nan_is_no_design() -> None:
    domain = read(boards().drop("load")).domain
    x = samples(domain, 5)
    x[2, 0] = torch.nan
    back = domain.decode(x, {})
    assert [row is None for row in back] == [False, False, True, False, False]
    assert domain.table(back)[2].null_count().sum_horizontal()[0] == len(domain.codec.columns)
    assert domain.check(back)[2] == "no design"


def test_decoded_designs_keep_limits_and_the_datas_range() -> None:
    frame = boards().drop("load")
    data = read(frame, fixed=["wood=oak"], bounds=["width=30:80"])
    rows = data.domain.decode(samples(data.domain, 400, 4.0), {})
    table = data.domain.table(rows)
    assert set(table["wood"]) == {"oak"}
    assert table["width"].min() >= 30
    assert table["width"].max() > frame["width"].max()  # bounds may go beyond the data
    assert table["width"].max() <= 80
    assert table["holes"].max() == frame["holes"].max()
    assert data.domain.check(rows) == [None] * len(rows)


def test_with_a_score_designs_beyond_a_range_are_refused() -> None:
    frame = boards()
    data = read(frame, "load")
    rows = data.domain.decode(samples(data.domain, 400, 4.0), {})
    width, low, high = data.domain.table(rows)["width"], frame["width"].min(), frame["width"].max()
    beyond = [why == "outside a column's range" for why in data.domain.check(rows)]
    assert beyond == [not low <= v <= high for v in width]
    assert 0 < sum(beyond) < len(rows)
    assert data.domain.check(data.objects) == [None] * len(frame)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": float("inf")}, "width is not finite"),
        ({"width": None}, "width is missing"),
        ({"width": 10.0}, "width is below 20"),
        ({"width": 90.0}, "width is above 80"),
        ({"holes": 1.5}, "holes is not whole"),
        ({"wood": "elm"}, "wood has no level elm"),
        ({"coated": False}, "coated is not True"),
        ({"site": "south"}, "site is not north"),
    ],
)
def test_reasons(change: dict[str, Any], reason: str) -> None:
    data = read(boards().drop("load"), bounds=["width=20:80"], fixed=["coated=true"])
    fine = next(row for row in data.objects if row["coated"] and 20 < row["width"] < 80)
    assert data.domain.check([fine, {**fine, **change}, fine]) == [None, reason, None]


def test_fixed_columns_are_labels_of_the_model() -> None:
    data = read(boards().drop("load"), fixed=["wood=oak", "holes=2"])
    domain = data.domain
    x, cond = domain.encode(data.objects)
    given = domain.conditions(3, None, torch.Generator())
    assert cond["label"].shape == (len(x), len(domain.held)) == (80, 4)
    assert given["label"].shape == (3, 4)
    oak = [i for i, r in enumerate(data.objects) if r["wood"] == "oak" and r["holes"] == 2]
    torch.testing.assert_close(cond["label"][oak], given["label"][:1].expand(len(oak), -1))
    assert domain.denoiser().net.label_dim == 4
    assert domain.denoiser(labels=2).net.label_dim == 6


@pytest.mark.parametrize("network", ["mlp", "subspace"])
def test_config_makes_the_domain_again(network: str) -> None:
    data = read(boards(), "load", fixed=["wood=oak"], architecture=network, dropout=0.1)
    copy = Vectors(**json.loads(json.dumps(data.domain.config())))
    x = samples(copy)
    assert copy.config() == data.domain.config()
    assert copy.table(copy.decode(x, {})).equals(data.domain.table(data.domain.decode(x, {})))
    assert torch.equal(copy.encode(data.objects)[0], data.domain.encode(data.objects)[0])
    first, second = (new_denoiser(d, 4, width=8, depth=1) for d in (copy, data.domain))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_subspace_holds_nearly_all_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(100, 2))
    x = factors @ rng.normal(size=(2, 5)) + 1e-3 * rng.normal(size=(100, 5))
    frame = pl.DataFrame(x, schema=list("abcde"))
    assert read(frame, identifiers=[], architecture="subspace").domain.latent == 2
    assert read(frame, identifiers=[], architecture="subspace", latent_dim=4).domain.latent == 4
    assert read(frame, identifiers=[], architecture="subspace", latent_dim=9).domain.latent == 5


def test_old_ledgers_know_every_design() -> None:
    """The ledger, the table and the samples were written before tables were a kind."""
    data = read(FROZEN / "table.csv")
    domain, ledger = data.domain, Ledger(FROZEN / "ledger.sqlite")
    designs = pl.read_parquet(FROZEN / "samples.parquet")
    present = designs.filter(pl.col("width").is_not_null())
    keys = domain.keys(data.objects) + domain.keys(present)
    found = ledger.lookup("lab:load", f"abc123 {domain.meaning}", keys)
    assert len(keys) == 63
    assert set(found) == set(keys)
    everything = pl.concat([domain.table(data.objects), domain.table(present)])
    for key, row in zip(keys, everything.iter_rows(named=True), strict=True):
        assert found[key].value == row["width"] - 2.0 * row["holes"]


def test_keys_are_of_the_row_alone() -> None:
    data = read(boards().drop("load"))
    domain, keys = data.domain, data.domain.keys(data.objects)
    assert [domain.keys(select(data.objects, [i]))[0] for i in range(80)] == keys
    same = domain.table(data.objects).is_duplicated().sum()
    assert len(set(keys)) >= 80 - same
    changed = {**data.objects[0], "holes": data.objects[0]["holes"] + 1}
    assert domain.keys([changed])[0] != keys[0]


def test_the_meaning_of_keys_follows_the_columns() -> None:
    frame = boards().drop("load")
    usual = read(frame).domain.meaning
    assert read(frame, bounds=["width=0:90"], fixed=["wood=oak"]).domain.meaning == usual
    assert read(frame.rename({"width": "breadth"})).domain.meaning != usual
    assert read(frame.filter(pl.col("wood") != "fir")).domain.meaning != usual


def test_numbers_are_exact_and_have_the_slope_of_decoding() -> None:
    data = read(numbers_only(), identifiers=[], bounds=["a=-50:50", "b=0.0001:10000"])
    domain = data.domain
    x = samples(domain, 30, 0.5).double().requires_grad_(True)
    numbers = domain.numbers(x, {})
    assert numbers is not None
    table = domain.table(domain.decode(x, {}))
    np.testing.assert_array_equal(numbers[:, 0].detach().numpy(), table["a"].to_numpy())
    np.testing.assert_array_equal(numbers[:, 1].detach().numpy(), table["b"].to_numpy())
    (slope,) = torch.autograd.grad(numbers[:, :2].log1p().sum(), x)
    step = 0.05
    for axis in range(2):
        move = torch.zeros(2, dtype=torch.float64)
        move[axis] = step
        ends = [domain.numbers((x + sign * move).detach(), {}) for sign in (1, -1)]
        found = (ends[0][:, :2].log1p() - ends[1][:, :2].log1p()).sum(1) / (2 * step)
        torch.testing.assert_close(slope[:, axis], found, rtol=0.02, atol=0.02)


def test_numbers_have_no_slope_where_there_is_none() -> None:
    domain = read(numbers_only(), identifiers=[]).domain
    x = samples(domain, 4, 0.1)
    x[0], x[1] = torch.nan, 100.0  # no design, and one held to the data's range in both columns
    x.requires_grad_(True)
    numbers = domain.numbers(x, {})
    assert numbers is not None
    assert bool(numbers[0, :2].isnan().all())
    (slope,) = torch.autograd.grad(numbers[1:].sum() + 0 * numbers[0].nansum(), x)
    assert bool((slope[:2] == 0).all())
    assert bool((slope[2:] != 0).any(1).all())


def test_categories_are_black_boxes() -> None:
    domain = read(boards().drop("load")).domain
    assert domain.numbers(samples(domain, 2), {}) is None


def _frame(designs: pl.DataFrame) -> pl.Series:
    return designs["width"] * 2


def _dict(design: dict[str, Any]) -> float:
    return float({**design}["width"]) * 2


@pytest.mark.parametrize("function", [_frame, _dict])
def test_own_functions(function: Any) -> None:
    data = read(boards().drop("load"))
    judge = data.domain.own_judge(function, "lab:f")
    assert (judge.name, judge.version, judge.slope) == ("lab:f", source_key(function), None)
    one_by_one = [judge.of(select(data.objects, [i]))[0] for i in range(3)]
    np.testing.assert_array_equal(one_by_one, 2 * boards()["width"][:3].to_numpy())


def test_pandas_is_given_where_it_is_asked_for() -> None:
    pd = pytest.importorskip("pandas")
    seen = []

    def function(designs):
        seen.append(type(designs))
        return designs["width"]

    function.__annotations__["designs"] = pd.DataFrame
    data = read(boards().drop("load"))
    values = data.domain.own_judge(function, "lab:f").of(data.objects)
    assert seen == [pd.DataFrame]
    np.testing.assert_array_equal(values, boards()["width"].to_numpy())


@pytest.mark.parametrize("texts", [False, True])
def test_tables_are_read_back_with_their_types(tmp_path: Path, texts: bool) -> None:
    """As CSV turns levels like true and 007 into something else, so reading turns them back."""
    frame = (
        boards()
        .drop("load")
        .with_columns(
            code=pl.Series([f"{i % 3:03d}" for i in range(80)]),
            holes=pl.col("holes").cast(pl.Int16),
        )
    )
    if texts:
        frame.write_csv(tmp_path / "boards.csv")
    data = read(tmp_path / "boards.csv" if texts else frame, categorical=["code"])
    domain, things = data.domain, [*list(data.objects)[:5], None]
    table = domain.table(things)
    table.write_csv(tmp_path / "designs.csv")
    back = domain.read_back(tmp_path, "designs", pl.read_csv(tmp_path / "designs.csv"))
    assert domain.table(back).equals(table)
    assert list(back) == things
    assert domain.table(back).schema == table.schema


@pytest.mark.parametrize(
    ("column", "cell", "text"), [("width", "wide", "not a number"), ("wood", "elm", "levels")]
)
def test_a_damaged_table_is_named(tmp_path: Path, column: str, cell: str, text: str) -> None:
    data = read(boards().drop("load"))
    table = data.domain.table(data.objects).with_columns(
        pl.Series(column, [*data.domain.table(data.objects)[column].cast(pl.String)[:3], cell] * 20)
    )
    with pytest.raises(UserError, match=f"'{column}': row 4 holds '{cell}', which is .*{text}"):
        data.domain.read_back(tmp_path, "designs", table)
    with pytest.raises(UserError, match=f"'{column}'"):
        data.domain.read_back(tmp_path, "designs", table.drop(column))


def test_a_saved_model_takes_the_users_limits() -> None:
    frame = boards().drop("load")
    saved, data = read(frame).domain, read(frame, bounds=["width=39:41"])
    adapted = saved.adapt(data)
    assert isinstance(adapted, Vectors)
    width = adapted.table(adapted.decode(samples(adapted), {}))["width"]
    assert width.is_between(39, 41).all()
    with pytest.raises(UserError, match="--fixed"):
        saved.adapt(read(frame, fixed=["wood=oak"]))
    with pytest.raises(UserError, match="other columns"):
        saved.adapt(read(frame.drop("holes")))


def _old_run(folder: Path, data: Any, kind: str | None, domain: str = "vectors") -> dict[str, Any]:
    """The files of a run of before, and the metadata of its model."""
    own = data.domain
    (folder / "codec.json").write_text(json.dumps(own.codec.config()))
    (folder / "run.json").write_text(json.dumps({"domain": domain}))
    own.table(data.objects).write_parquet(folder / "data.parquet")
    saved = {"whitening": own.whitening.config(), "dim": own.shape[0], "held": [], "values": []}
    return saved | ({"location": 0.0, "scale": 1.0} if kind is None else {"kind": kind})


@pytest.mark.parametrize("kind", ["finetune", None])
def test_models_of_before_are_read(tmp_path: Path, kind: str | None) -> None:
    data = read(boards().drop("load")) if kind else read(boards(), "load")
    metadata = _old_run(tmp_path, data, kind)
    config = Vectors.earlier(metadata, tmp_path / "model")
    assert config is not None
    restored, x = Vectors(**config), samples(data.domain)
    assert restored.table(restored.decode(x, {})).equals(
        data.domain.table(data.domain.decode(x, {}))
    )
    assert restored.check(restored.decode(x, {})) == data.domain.check(data.domain.decode(x, {}))
    assert Vectors.earlier({"codec": "united"}, tmp_path / "model") is None
    (tmp_path / "codec.json").unlink()
    with pytest.raises(UserError, match=r"codec\.json"):
        Vectors.earlier(metadata, tmp_path / "model")


def test_models_of_other_kinds_are_left_to_them(tmp_path: Path) -> None:
    metadata = _old_run(tmp_path, read(boards().drop("load")), "finetune", "airfoils")
    assert Vectors.earlier(metadata, tmp_path / "model") is None
