"""The built-in airfoils as a kind."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from payoff.domains import airfoils
from payoff.domains.airfoils.kind import KIND, AirfoilOptions
from payoff.domains.base import select
from payoff.domains.kind import NO, OWN
from payoff.domains.vectors.domain import Vectors
from payoff.domains.vectors.kind import TableOptions
from payoff.errors import UserError

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("aerosandbox", "neuralfoil")),
    reason="needs pip install payoff[airfoils]",
)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def read(score: str | None = None, seed: int = 0, **options: Any):
    return KIND.load().read("airfoils", AirfoilOptions(**options), score, seed=seed)


@pytest.fixture(scope="module")
def data(_own_cache):
    return read()


def noised(domain: Any, n: int = 200, spread: float = 1.5) -> torch.Tensor:
    return spread * torch.randn(n, *domain.shape, generator=torch.Generator().manual_seed(1))


def test_claims() -> None:
    assert KIND.reads("airfoils", ()) == OWN
    assert KIND.reads("airfoils.csv", ()) == NO


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"labelled": 0.0}, "--labelled"),
        ({"labelled": 1.5}, "--labelled"),
        ({"noise": -0.1}, "--noise"),
        ({"reynolds": 0.0}, "--reynolds"),
        ({"alpha": float("nan")}, "--alpha"),
    ],
)
def test_options_are_checked(options: dict[str, float], text: str) -> None:
    with pytest.raises(UserError, match=text):
        AirfoilOptions(**options)


def test_labels_follow_the_seed_and_the_options() -> None:
    first, again, other = read("", 0), read("lift_to_drag", 0), read("", 1)
    assert first.labels is not None
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.score == "lift_to_drag"
    assert int(first.labels.isfinite().sum()) == round(0.1 * len(first.objects))
    exact = read("", 0, labelled=0.5, noise=0.0)
    truth = airfoils.oracle(first.domain.table(first.objects))
    known = exact.labels.isfinite().numpy()
    assert known.sum() == round(0.5 * len(truth))
    np.testing.assert_array_equal(exact.labels.numpy()[known], truth[known])
    with pytest.raises(UserError, match="one score"):
        read("thickness")


def test_they_can_be_read_again(data: Any) -> None:
    assert data.source == data.name == "airfoils"
    assert data.labels is None
    assert data.domain.codec.columns == list(airfoils.COLUMNS)


def test_validity_is_geometry_and_trust(data: Any) -> None:
    rows = data.domain.decode(noised(data.domain), {})
    frame = data.domain.table(rows)
    thick = airfoils.positive_thickness(airfoils.parameters(frame))
    sure = airfoils.valid(frame)
    possible = [why is None for why in data.domain.impossible(rows)]
    valid = [why is None for why in data.domain.check(rows)]
    np.testing.assert_array_equal(possible, thick)
    np.testing.assert_array_equal(valid, sure)
    assert 0 < sum(valid) < sum(possible) < len(rows)
    crossing = [i for i, why in enumerate(data.domain.check(rows)) if why == "the surfaces cross"]
    assert crossing == np.flatnonzero(~thick).tolist()


def test_no_design_stays_no_design(data: Any) -> None:
    x = noised(data.domain, 4)
    x[1] = torch.nan
    assert data.domain.check(data.domain.decode(x, {}))[1] == "no design"
    assert data.domain.decode(x, {})[1] is None


@pytest.mark.parametrize("name", list(airfoils.REWARDS))
def test_rewards_are_those_of_the_registry(data: Any, name: str) -> None:
    judge = data.domain.judge(name)
    rows = data.domain.decode(noised(data.domain, 50, 1.0), {})
    wanted = airfoils.REWARDS[name].score(data.domain.table(rows))
    np.testing.assert_array_equal(judge.of(rows), wanted)
    assert judge.name == f"airfoils:{name}"
    assert judge.version == airfoils.REWARDS[name].version
    held_out = airfoils.REWARDS[name].held_out
    assert judge.held_out == (None if held_out is None else f"airfoils:{held_out}")
    assert name in data.domain.judge_names()


def test_the_slope_is_that_of_the_ratio(data: Any) -> None:
    """Along the slope the smooth ratio rises as much as the slope says."""
    domain = data.domain
    judge = domain.judge("lift_to_drag")
    x = domain.encode(select(data.objects, range(0, 400, 20)))[0].double().requires_grad_(True)
    numbers = domain.numbers(x, {})
    values = judge.slope(numbers)
    (slope,) = torch.autograd.grad(values.nansum(), x)
    step = 1e-4 * slope / slope.norm(dim=1, keepdim=True)
    ends = [(x + sign * step).detach() for sign in (1, -1)]
    inside = torch.stack([_inside(domain, end) for end in ends]).all(0)
    judged = [judge.slope(domain.numbers(end, {})) for end in ends]
    rise, planned = judged[0] - judged[1], 2 * (slope * step).sum(1)
    fine = inside & rise.isfinite() & values.isfinite()
    assert int(fine.sum()) > 8
    # single precision of what is decoded, and kinks of the network, are the rest
    torch.testing.assert_close(rise[fine], planned[fine], rtol=0.1, atol=1e-3)


def _inside(domain: Any, x: torch.Tensor) -> torch.Tensor:
    """Whether samples are inside the data's range, where decoding follows them."""
    encoded = domain.whitening.decode(x)
    return ((encoded > domain.low) & (encoded < domain.high)).all(1)


def test_a_table_of_airfoils_has_their_rewards(data: Any) -> None:
    frame = data.domain.table(data.objects)[:60].with_columns(maker=pl.lit("us"))
    mine = Vectors.read(frame, TableOptions())
    judge = KIND.load().judge_for(mine.domain, "lift_to_drag")
    assert judge is not None
    wanted = airfoils.REWARDS["lift_to_drag"].score(frame)
    np.testing.assert_array_equal(judge.of(mine.objects), wanted)
    x = mine.domain.encode(mine.objects)[0].requires_grad_(True)
    slope = torch.autograd.grad(judge.slope(mine.domain.numbers(x, {})).nansum(), x)[0]
    assert bool((slope != 0).any())
    assert KIND.load().judge_for(mine.domain, "drag") is None
    other = Vectors.read(
        frame.drop("lower_0", strict=False).drop(frame.columns[0], strict=False), TableOptions()
    )
    with pytest.raises(UserError, match="columns of an airfoil"):
        KIND.load().judge_for(other.domain, "lift_to_drag")


def test_the_oracle_is_noiseless_and_of_the_flow() -> None:
    found = read("", alpha=2.0, reynolds=5e5)
    judge = found.domain.oracle()
    some = select(found.objects, range(20))
    wanted = airfoils.oracle(found.domain.table(some), alpha=2.0, re=5e5)
    np.testing.assert_array_equal(judge.of(some), wanted)


def test_config_makes_the_domain_again() -> None:
    found = read("", alpha=2.0, reynolds=5e5, bounds=[f"{airfoils.COLUMNS[0]}=-0.3:0.3"])
    copy = type(found.domain)(**json.loads(json.dumps(found.domain.config())))
    assert copy.config() == found.domain.config()
    x = noised(copy, 50)
    assert copy.check(copy.decode(x, {})) == found.domain.check(found.domain.decode(x, {}))


def test_models_of_before_are_read(data: Any, tmp_path: Path) -> None:
    domain = data.domain
    (tmp_path / "codec.json").write_text(json.dumps(domain.codec.config()))
    (tmp_path / "run.json").write_text(json.dumps({"domain": "airfoils"}))
    domain.table(data.objects).write_parquet(tmp_path / "data.parquet")
    metadata = {
        **{"kind": "finetune", "whitening": domain.whitening.config(), "dim": domain.shape[0]},
        **{"held": [], "values": []},
    }
    assert Vectors.earlier(metadata, tmp_path / "base") is None
    config = type(domain).earlier(metadata, tmp_path / "base")
    assert config is not None
    x = noised(domain, 50)
    copy = type(domain)(**config)
    assert copy.table(copy.decode(x, {})).equals(domain.table(domain.decode(x, {})))
    (tmp_path / "run.json").write_text(json.dumps({"domain": "vectors"}))
    assert type(domain).earlier(metadata, tmp_path / "base") is None


def test_outlines_are_drawn_with_their_notes(data: Any) -> None:
    page = data.domain.draw(select(data.objects, [0, 1, 2]), ["a < b", "two\nlines", ""])
    assert page.count("<svg") == page.count("<figcaption>") == 3
    assert "a &lt; b" in page
    assert "<b>two</b><br>lines" in page
    assert "nan" not in page
