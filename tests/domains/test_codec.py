"""Encoding and decoding: exact on the data, inside the limits everywhere."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from payoff.domains.vectors import Codec, Table, VectorDomain, read_table
from payoff.errors import UserError

N = 40


def table(seed: int = 0, **options: Any) -> Table:
    random = np.random.default_rng(seed)
    return read_table(
        {
            "name": [f"part-{i}" for i in range(N)],
            "width": random.normal(100, 20, N).round(2),
            "cost": np.exp(random.normal(3, 2, N)).round(3) + 0.01,
            "layers": random.integers(1, 9, N),
            "material": random.choice(["steel", "wood", "iron"], N),
            "coated": random.random(N) < 0.3,
            "site": ["north"] * N,
            "score": random.normal(size=N),
        },
        identifiers=["name"],
        **options,
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of random columns of every kind, scale and precision."""
    seed = draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    scale = 10.0 ** draw(st.integers(-6, 6))
    digits = draw(st.integers(0, 4)) - round(math.log10(scale))
    values = scale * random.standard_t(3, N) + draw(st.sampled_from([0.0, 3 * scale]))
    columns["number"] = [float(f"{v:.{max(digits, 0)}f}") for v in values]
    columns["whole"] = random.integers(-5, draw(st.integers(-3, 100_000)), N)
    columns["skewed"] = np.exp(random.normal(0, 3, N)).round(6) + 1e-6
    levels = [f"level {i}" for i in range(draw(st.integers(2, 6)))]
    columns["kind"] = [
        levels[i] for i in [*range(len(levels)), *random.integers(0, len(levels), N)]
    ]
    columns["kind"] = columns["kind"][:N]
    columns["flag"] = random.random(N) < 0.5
    columns["same"] = [draw(st.sampled_from([7, 2.5, "x"]))] * N
    columns["score"] = random.normal(size=N)
    names = draw(st.permutations(list(columns)))
    return read_table({name: columns[name] for name in names})


@settings(max_examples=60, deadline=None)
@given(tables())
def test_data_rows_survive_the_round_trip(found: Table) -> None:
    codec = Codec.fit(found)
    designs = found.frame.select(found.design_columns)
    again = codec.decode(codec.encode(found.frame, dtype=torch.float64))
    assert_frame_equal(again, designs, check_exact=False, rel_tol=1e-12, abs_tol=1e-12)
    exact = [c.name for c in codec.codes if c.kind != "numeric" or c.decimals is not None]
    single = codec.decode(codec.encode(found.frame))
    short = [c.name for c in codec.codes if c.name in exact and not c.log]
    assert_frame_equal(single.select(short), designs.select(short), check_exact=True)
    assert codec.columns == found.design_columns


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 30.0]))
def test_any_vector_decodes_to_a_valid_design(found: Table, seed: int, size: float) -> None:
    domain = VectorDomain(found)
    x = size * torch.randn(16, domain.codec.dim, generator=torch.Generator().manual_seed(seed))
    designs = domain.decode(x)
    assert domain.check(designs) == [None] * 16
    assert all(isinstance(design["whole"], int) for design in designs if "whole" in design)
    assert designs[0] is not None
    assert list(designs[0]) == found.design_columns


def test_encoded_columns_are_standardised() -> None:
    codec = Codec.fit(table())
    x = codec.encode(table().frame, dtype=torch.float64)
    assert x.shape == (N, codec.dim) == (N, 8)
    torch.testing.assert_close(x.mean(0), torch.zeros(8, dtype=x.dtype))
    for code in codec.codes:
        if code.slots:
            part = x[:, code.start : code.start + code.slots]
            assert float(part.var(0, correction=0).sum()) == pytest.approx(1.0)
    assert codec.slot_names[3:6] == ["material=iron", "material=steel", "material=wood"]


def test_only_clearly_skewed_positive_columns_get_a_logarithm() -> None:
    assert {c.name for c in Codec.fit(table()).codes if c.log} == {"cost"}


@settings(max_examples=20, deadline=None)
@given(tables())
def test_config_is_json_and_rebuilds_the_codec(found: Table) -> None:
    codec = Codec.fit(found)
    again = Codec.from_config(json.loads(json.dumps(codec.config())))
    x = torch.randn(9, codec.dim, generator=torch.Generator().manual_seed(0))
    assert_frame_equal(again.decode(x), codec.decode(x))
    assert again.codes == codec.codes


def test_bounds_and_fixed_values_hold_for_every_vector() -> None:
    limited = table(bounds=["width=95:105", "layers=12:", "cost=:30"], fixed=["material=wood"])
    domain = VectorDomain(limited)
    x = 20 * torch.randn(200, domain.codec.dim, generator=torch.Generator().manual_seed(0))
    designs = domain.codec.decode(x)
    assert designs["width"].is_between(95, 105).all()
    assert designs["layers"].min() == 12
    assert designs["cost"].max() <= 30  # type: ignore[operator]
    assert (designs["material"] == "wood").all()
    assert domain.check(designs.to_dicts()) == [None] * 200


def test_limits_bound_exactly_the_vectors_that_need_no_correction() -> None:
    codec = Codec.fit(table(bounds=["width=95:105"], fixed=["layers=3", "material=wood"]))
    low, high = codec.limits(dtype=torch.float64)
    x = codec.project(20 * torch.randn(50, codec.dim, dtype=torch.float64))
    tolerance = 1e-9
    assert (x >= low - tolerance).all()
    assert (x <= high + tolerance).all()
    names = codec.slot_names
    held = [names[i] for i in (low == high).nonzero().flatten().tolist()]
    assert held == ["layers", "material=iron", "material=steel", "material=wood"]
    width = names.index("width")
    ends = torch.stack([low, high])
    ends[~ends.isfinite()] = 0.0
    assert codec.decode(ends)["width"].to_list() == [95.0, 105.0]
    assert math.isinf(float(high[names.index("cost")]))
    assert math.isfinite(float(low[width]))


def test_a_logarithm_never_meets_a_zero() -> None:
    """Rounding to the data's decimals could make zero of a small positive number."""
    codec = Codec.fit(table())
    x = torch.full((2, codec.dim), -9.0)
    assert codec.decode(x)["cost"].min() > 0  # type: ignore[operator]
    assert codec.project(x).isfinite().all()


def test_without_bounds_signs_and_ranges_of_whole_numbers_stay() -> None:
    codec = Codec.fit(table())
    designs = codec.decode(torch.full((1, codec.dim), -50.0))
    assert designs["width"][0] == 0.0
    assert designs["layers"][0] == 1
    assert designs["cost"][0] >= 0


def test_projection_is_idempotent_and_keeps_the_data() -> None:
    found = table()
    codec = Codec.fit(found)
    data = codec.encode(found.frame, dtype=torch.float64)
    torch.testing.assert_close(codec.project(data), data)
    x = torch.randn(30, codec.dim, dtype=torch.float64)
    once = codec.project(x)
    torch.testing.assert_close(codec.project(once), once)


def test_rows_with_nan_are_no_designs() -> None:
    domain = VectorDomain(table())
    x = torch.zeros(3, domain.codec.dim)
    x[1, 2] = math.nan
    designs = domain.decode(x)
    assert [design is None for design in designs] == [False, True, False]
    assert domain.check(designs) == [None, "no design", None]
    assert domain.codec.project(x).isnan().any(dim=1).tolist() == [False, True, False]
    assert domain.codec.decode(x).row(1) == (None,) * 6
    assert domain.codec.decode(x[:0]).height == 0


def test_check_says_what_is_wrong() -> None:
    domain = VectorDomain(table(bounds=["width=90:110"], fixed=["coated=true"]))
    good = domain.decode(torch.zeros(1, domain.codec.dim))[0]
    assert good is not None
    wrong = [
        ({"width": 200.0}, "width is above 110"),
        ({"width": math.nan}, "width is not finite"),
        ({"layers": 2.5}, "layers is not whole"),
        ({"layers": 99}, "layers is above 8"),
        ({"material": "gold"}, "material has no level gold"),
        ({"coated": False}, "coated is not True"),
        ({"site": "south"}, "site is not north"),
        ({"cost": None}, "cost is missing"),
    ]
    assert domain.check([{**good, **change} for change, _ in wrong]) == [why for _, why in wrong]


def test_encoding_what_is_not_in_the_table() -> None:
    domain = VectorDomain(table())
    rows = table().frame.head(2)
    for change, message in (
        (rows.drop("width"), "no column 'width'"),
        (rows.with_columns(material=pl.lit("gold")), "'gold' is none of its levels"),
        (rows.with_columns(width=pl.lit(None, pl.Float64)), "'width': every number must be finite"),
        (rows.with_columns(width=pl.lit("wide")), "'width' holds a cell that is not a number"),
        (rows.with_columns(cost=pl.lit(-1.0)), "positive and finite"),
    ):
        with pytest.raises(UserError, match=message):
            domain.encode(change)
    with pytest.raises(ValueError, match=r"\(2, 3\); this table decodes \(n, 8\)"):
        domain.decode(torch.zeros(2, 3))


def test_types_of_the_input_are_kept() -> None:
    frame = table().frame.with_columns(
        pl.col("layers").cast(pl.UInt8), pl.col("width").cast(pl.Float32)
    )
    codec = Codec.fit(read_table(frame, identifiers=["name"]))
    decoded = codec.decode(torch.randn(5, codec.dim))
    assert decoded.schema == frame.select(codec.columns).schema
