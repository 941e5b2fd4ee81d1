"""Objects are scored in one place: each once, remembered when answered, failures kept apart."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
import toy_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_kind import KIND, Numbers

from payoff.domains.base import Judge
from payoff.errors import UserError
from payoff.jobs import judges
from payoff.jobs.judges import find_judge
from payoff.jobs.rewards import ObjectReward
from payoff.jobs.workers import Executed, load_executor
from payoff.rewards.ledger import Ledger
from payoff.rewards.pooled import Lost, PooledObjects


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "kinds", lambda: {"numbers": KIND})


class Counted:
    """A function that counts what it answered and what it was asked for."""

    def __init__(self, function) -> None:
        self.function, self.asked, self.answered = function, Counter(), Counter()

    def __call__(self, objects):
        self.asked.update(objects)
        found = self.function(objects)
        self.answered.update(objects)
        return found


def reward(ledger: Ledger, function, **options) -> ObjectReward:
    judge = function if isinstance(function, Judge) else Judge("lab:f", function)
    return ObjectReward(Numbers(), judge, ledger, **options)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(-30, 30), max_size=12), max_size=5), st.booleans())
def test_each_object_is_asked_once_and_answers_are_in_order(batches, minimize) -> None:
    counted, ledger = Counted(toy_kind.identity), Ledger(Path(mkdtemp()) / "ledger.sqlite")
    asked = reward(ledger, counted, minimize=minimize)
    for batch in batches:
        values = asked.values(batch)
        for thing, value in zip(batch, values.tolist(), strict=True):
            valid = thing is not None and not (thing < 0 and thing % 2)
            assert value == float(thing) if valid else math.isnan(value)
    assert all(times == 1 for times in counted.asked.values())
    assert asked.fresh == len(counted.asked) == asked.answers_known()
    assert asked.asked == sum(map(len, batches))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_samples_become_objects_and_keep_their_gradient(ledger: Ledger) -> None:
    judge = find_judge(Numbers(), KIND, "square")
    for minimize in (False, True):
        asked = ObjectReward(Numbers(), judge, ledger, minimize=minimize)
        x = torch.tensor([[3.0], [-2.0], [math.nan], [-1.0]], requires_grad=True)
        values = asked(x)
        sign = -1.0 if minimize else 1.0
        assert values[:2].tolist() == [9.0 * sign, 4.0 * sign]
        assert values[2:].isnan().all()
        (gradient,) = torch.autograd.grad(values[:2].sum(), x)
        assert gradient[:2, 0].tolist() == [6.0 * sign, -4.0 * sign]
    assert asked.refused == "no number"


def test_a_row_that_raises_costs_itself_only(ledger: Ledger) -> None:
    counted = Counted(toy_kind.picky)
    asked = reward(ledger, counted, give_up=None)
    values = asked.values(range(1, 41))
    for n, value in zip(range(1, 41), values.tolist(), strict=True):
        assert math.isnan(value) if n % 5 == 0 or n % 7 == 0 else value == float(n)
    assert all(times == 1 for times in counted.answered.values())
    # one batch at most is asked for again, that in which the first row raised
    assert sum(times > 1 for times in counted.asked.values()) < 8
    asked.values(range(1, 41))  # and in this run no failure is asked for again
    assert all(times <= 2 for times in counted.asked.values())


def test_what_raised_is_asked_again_by_the_next_run_and_nan_is_not(ledger: Ledger) -> None:
    reward(ledger, toy_kind.picky, give_up=None).values(range(1, 15))
    counted = Counted(toy_kind.identity)
    again = reward(ledger, counted)
    values = again.values(range(1, 15))
    assert sorted(counted.asked) == [7, 14]
    assert values[6] == 7.0
    assert math.isnan(values[4])


def test_an_answer_is_kept_when_the_run_is_stopped_later(ledger: Ledger) -> None:
    def stops(objects):
        if 13 in objects:
            raise KeyboardInterrupt
        return toy_kind.picky(objects)

    with pytest.raises(KeyboardInterrupt):
        reward(ledger, stops).values(range(1, 30))
    counted = Counted(toy_kind.identity)
    reward(ledger, counted).values(range(1, 30))
    assert not {1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12} & set(counted.asked)


@pytest.mark.parametrize("fails", ["raises", "nan"])
def test_a_reward_that_always_fails_stops_the_run_and_says_why(ledger: Ledger, fails: str) -> None:
    def never(objects):
        if fails == "raises":
            raise RuntimeError("no licence")
        return [math.nan] * len(objects)

    asked = reward(ledger, never)
    with pytest.raises(UserError, match="no licence" if fails == "raises" else "NaN"):
        asked.values(range(200))
    assert asked.fresh == 20
    assert reward(ledger, never, give_up=None).values(range(100, 200)).isnan().all()


def test_one_number_is_enough_to_go_on(ledger: Ledger) -> None:
    one = reward(ledger, lambda objects: [1.0 if o == 0 else math.nan for o in objects])
    assert one.values(range(100)).isnan().sum() == 99


def test_a_wrong_number_of_values_is_a_failure(ledger: Ledger) -> None:
    asked = reward(ledger, lambda objects: [1.0], give_up=None)  # right for single objects only
    assert asked.values(range(9)).tolist() == [1.0] * 9
    asked = reward(ledger, Judge("lab:g", lambda objects: []), give_up=None)
    assert asked.values(range(3)).isnan().all()
    assert asked.failure is not None
    assert "0 values for 1" in asked.failure


def test_parts_of_a_combination_are_remembered_by_themselves(ledger: Ledger) -> None:
    domain = Numbers()
    first = ObjectReward(domain, find_judge(domain, KIND, "itself + 2*square"), ledger)
    assert first.values([1, 2, 3]).tolist() == [3.0, 10.0, 21.0]
    assert first.fresh == 6 == first.answers_known()
    other = ObjectReward(domain, find_judge(domain, KIND, "square - itself"), ledger)
    assert other.values([3, 2]).tolist() == [6.0, 2.0]
    assert other.fresh == 0


def test_nothing_is_asked_behind_a_gate_that_is_shut(ledger: Ledger) -> None:
    domain, counted = Numbers(), Counted(toy_kind.identity)
    judge = find_judge(domain, KIND, counted, gate="positive")
    values = ObjectReward(domain, judge, ledger).values([4, -2, 0, 5])
    assert values[[0, 3]].tolist() == [4.0, 5.0]
    assert values[[1, 2]].isnan().all()
    assert sorted(counted.asked) == [4, 5]


RECIPE = ("numbers", {}, "toy_kind:picky", None)


def test_workers_lose_no_row_but_those_that_kill_or_hang(ledger: Ledger) -> None:
    judge = find_judge(Numbers(), KIND, "toy_kind:picky")
    make = "toy_kind:worker"
    with PooledObjects(make, *RECIPE, workers=2, chunk=1, timeout=5.0) as pool:
        asked = ObjectReward(Numbers(), judge, ledger)
        asked.evaluated_in(pool)
        with pytest.warns(Lost):
            values = asked.values([1, 7, 1000, 2, 5, 2000, 3])
    assert values[[0, 3, 6]].tolist() == [1.0, 2.0, 3.0]
    assert values[[1, 2, 4, 5]].isnan().all()
    counted = Counted(toy_kind.identity)
    again = reward(ledger, Judge(judge.name, counted, version=judge.version))
    again.values([1, 7, 1000, 2, 5, 2000, 3])
    assert sorted(counted.asked) == [7, 1000, 2000]  # NaN is final, what killed is not


def test_an_executor_gives_the_same_answers_and_outlives_its_workers(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from payoff.domains import installed

    monkeypatch.setattr(installed, "kinds", lambda: {"numbers": KIND})
    judge = find_judge(Numbers(), KIND, "toy_kind:picky")
    factory = load_executor("toy_kind:two_processes")
    with Executed(factory, pickle.dumps(RECIPE), 0, None) as place:
        assert place.workers == 2
        asked = ObjectReward(Numbers(), judge, ledger)
        asked.evaluated_in(place)
        values = asked.values([1, 7, 1000, 2, 5, 3])
    assert values[[0, 3, 5]].tolist() == [1.0, 2.0, 3.0]
    assert values[[1, 2, 4]].isnan().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [("toy_kind:nothing", "has no"), ("toy_kind:KIND", "not a function"), ("toy_kind", "write it")],
)
def test_what_is_wrong_with_an_executor_is_said(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_executor(name)
    with pytest.raises(UserError, match="no method submit"):
        load_executor("toy_kind:Numbers")()
