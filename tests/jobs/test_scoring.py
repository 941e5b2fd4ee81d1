"""Objects and their table stay together: scored, ranked, summed up."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import mkdtemp

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_kind import Numbers

from payoff.domains.base import Judge
from payoff.jobs.rewards import ObjectReward
from payoff.jobs.scoring import Scored, free_name
from payoff.rewards.ledger import Ledger

OBJECTS = st.lists(st.none() | st.integers(-40, 40), max_size=25)


def scored(objects, *, held_out: bool = True, support: bool = True, domain=None) -> Scored:
    ledger, domain = Ledger(Path(mkdtemp()) / "ledger.sqlite"), domain or Numbers()
    thirds = Judge("thirds", lambda os: [math.nan if o % 5 == 0 else o / 3 for o in os])
    squares = Judge("squares", lambda os: [float(o * o) for o in os])
    reward = ObjectReward(domain, thirds, ledger, give_up=None)
    watched = ObjectReward(domain, squares, ledger) if held_out else None
    distance = (lambda os: domain.features(os)[:, 0].abs() / 7) if support else None
    return Scored.of(domain, objects, reward, watched, distance)


def test_columns_stand_in_one_order_and_have_their_digits() -> None:
    found = scored([1, None, -3, 5, 2])
    assert found.table.columns == ["number", "score", "held_out", "valid", "even", "support"]
    assert found.table["valid"].to_list() == [True, False, False, False, True]
    assert found.table["score"].to_list() == [0.3333333333, None, None, None, 0.6666666667]
    assert found.table["support"].to_list() == [0.142857, None, 0.428571, 0.714286, 0.285714]
    assert scored([1], held_out=False, support=False).table.columns == [
        *("number", "score", "valid", "even")
    ]


class Clashing(Numbers):
    def table(self, objects):
        return super().table(objects).with_columns(pl.lit(1).alias("score"))


def test_names_of_the_users_columns_are_left_alone() -> None:
    found = scored([1, 2], domain=Clashing())
    assert found.table["score"].to_list() == [1, 1]
    assert found.names["score"] == "_score"
    assert found.column("score").to_list() == [0.3333333333, 0.6666666667]
    assert free_name("score", found.table) == "__score"


@settings(max_examples=40, deadline=None)
@given(OBJECTS, st.booleans())
def test_the_order_is_valid_first_then_the_best_and_stable(objects, minimize: bool) -> None:
    before = scored(objects)
    after = before.ranked(minimize)
    assert after.table["number"].to_list() == list(after.objects)
    sign = 1.0 if minimize else -1.0

    def place(i: int):
        score = before.table["score"][i]
        return (not before.table["valid"][i], math.inf if score is None else sign * score, i)

    order = sorted(range(len(objects)), key=place)
    assert list(after.objects) == [objects[i] for i in order]


@settings(max_examples=40, deadline=None)
@given(OBJECTS, st.booleans())
def test_the_summary_counts_what_is_there(objects, minimize: bool) -> None:
    domain = Numbers()
    found = scored(objects).summary(domain, minimize)
    fine = [o for o in objects if o is not None and o % 5 and not (o < 0 and o % 2)]
    assert (found["count"], found["valid"]) == (len(objects), len(fine))
    assert found["failed"] == len(objects) - len(fine)
    assert found["different"] == len(set(fine))
    assert found["even"] == sum(o is not None and o % 2 == 0 for o in objects)
    if fine:
        values = torch.tensor([o / 3 for o in fine], dtype=torch.float64)
        best = values.min() if minimize else values.max()
        assert found["best"] == pytest.approx(float(best), rel=1e-9)
        assert found["mean"] == pytest.approx(float(values.mean()), rel=1e-8, abs=1e-8)
        assert found["held_out_median"] is not None
    else:
        assert (found["best"], found["median"], found["held_out_median"]) == (None, None, None)


def test_no_objects_at_all() -> None:
    assert len(scored([]).ranked(False).table) == 0
