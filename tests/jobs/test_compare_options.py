"""Comparisons as they are written: read right, or refused with a message."""

from __future__ import annotations

from typing import Any

import pytest

from payoff.errors import UserError
from payoff.jobs.compare.job import Compare
from payoff.jobs.compare.options import BASELINES
from payoff.jobs.compare.plan import parse_method, plan


def test_a_method_carries_its_options_in_a_word_that_shells_leave_alone() -> None:
    asked = parse_method("rgdm:level=sample:radius=0.25:per-round=50")
    assert asked.label == "rgdm:level=sample:radius=0.25:per-round=50"
    assert (asked.family, asked.name) == ("tune", "rgdm")
    assert asked.settings == ["level=sample", "radius=0.25"]
    assert asked.learning == {"per_round": 50}


def test_every_method_meets_every_budget_and_seed_once() -> None:
    cells = plan(
        Compare(methods="rwr,ddpo:clip=0.1", calls="2000,500", seeds=2, seed=5), trained=True
    )
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert all("/" not in name and ":" not in name for name in names)
    assert [c.seed for c in cells if c.kind == "base"] == [5, 6]
    assert {c.calls for c in cells if c.kind == "tune"} == {500, 2000}
    assert {c.label for c in cells} >= {*BASELINES, "rwr", "ddpo:clip=0.1"}
    every = {(c.label, c.calls, c.seed) for c in cells if c.kind == "tune"}
    assert len(every) == 2 * 2 * 2


def test_a_base_that_nobody_asked_for_is_drawn_only_where_it_is_trained() -> None:
    alone = plan(Compare(methods="rgdm", baselines="none", seeds=2), trained=False)
    assert [cell.kind for cell in alone] == ["tune", "tune"]
    both = plan(Compare(methods="rgdm", baselines="base", seeds=2), trained=False)
    assert [cell.kind for cell in both] == ["base", "base", "tune", "tune"]
    table = plan(Compare(methods="rgdm", baselines="none"), trained=True)
    assert [cell.kind for cell in table] == ["base", "tune"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": "many"}, "'many' is not a whole number"),
        ({"calls": "0"}, "must be at least 1"),
        ({"baselines": "best-of-m"}, "did you mean 'best-of-n'"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"samples": 5}, "--samples must be at least 20"),
        ({"methods": "rwr,rwr"}, "is there twice"),
        ({"methods": "rwt"}, "did you mean 'rwr'"),
        ({"methods": "rwr:shares=0.5"}, "did you mean 'share'"),
        ({"methods": "rwr:calls=7"}, "neither rwr nor the learning has an option 'calls'"),
        ({"settings": ["per_rond=50"]}, "did you mean 'per_round'"),
        ({"settings": ["evaluate=2"]}, "evaluate must be at least 16"),
        ({"methods": "", "baselines": "none"}, "nothing to compare"),
    ],
)
def test_a_wrong_comparison(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(Compare(**options), trained=True)
