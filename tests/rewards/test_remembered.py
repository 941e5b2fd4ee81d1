from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from torch import Tensor

from payoff.errors import UserError
from payoff.rewards import BudgetSpent, FunctionReward, Metered, Reward
from payoff.rewards.ledger import Entry, Ledger
from payoff.rewards.remembered import Remembered, design_keys


class Counting(Reward):
    """Row sums, with a list of the batches that were asked for; NaN where the first is negative."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        self.batches.append(x[:, 0].tolist())
        total = x.sum(1) if cond is None else x.sum(1) * cond["scale"]
        return torch.where(x[:, 0] < 0, math.nan, total)

    @property
    def asked(self) -> list[float]:
        return [first for batch in self.batches for first in batch]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", timeout=5.0)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


# Keys


def test_keys_are_those_of_the_content_whatever_the_memory_layout() -> None:
    x, mask = torch.randn(5, 4, 3, 2), torch.rand(5, 4) > 0.5
    keys = design_keys(x, {"mask": mask, "label": x[:, 0, 0]})
    assert len(set(keys)) == 5
    assert {len(key) for key in keys} == {64}
    wide = torch.randn(5, 4, 3, 4)
    wide[..., ::2] = x
    for same in (
        x.transpose(1, 3).contiguous().transpose(1, 3),
        x.contiguous(memory_format=torch.channels_last),
        wide[..., ::2],
        x.clone().requires_grad_(),
        x.flip(0).flip(0),
        torch.complex(x, x).conj().real,
        torch.complex(x, -x).conj().imag,
    ):
        torch.testing.assert_close(same, x, rtol=0, atol=0)
        again = {"label": x[:, 0, 0].clone(), "mask": mask.T.contiguous().T}
        assert design_keys(same, again) == keys
    lazy = torch.complex(x, x).conj()  # a flag, not yet other bytes
    assert design_keys(lazy) == design_keys(lazy.resolve_conj())
    assert design_keys(x[3:4], {"mask": mask[3:4], "label": x[3:4, 0, 0]}) == keys[3:4]
    assert design_keys(x) == design_keys(x, {})
    assert design_keys(x[:0]) == []


@given(st.integers(0, 11), st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
def test_any_element_changes_the_key_of_its_row_alone(element: int, dtype: torch.dtype) -> None:
    x = (torch.arange(12).reshape(3, 4) % 2).to(dtype)
    other = x.clone()
    other.view(-1)[element] = 1 - x.view(-1)[element].int()
    changed = [a != b for a, b in zip(design_keys(x), design_keys(other), strict=True)]
    assert changed == [row == element // 4 for row in range(3)]
    plain = torch.zeros(3, 1)
    changed = [
        a != b
        for a, b in zip(design_keys(plain, {"c": x}), design_keys(plain, {"c": other}), strict=True)
    ]
    assert changed == [row == element // 4 for row in range(3)]


def test_shape_dtype_names_and_places_change_the_key() -> None:
    x = torch.arange(1.0, 7.0)[None]
    bits = x.view(torch.int32)
    kinds = [
        (x, None),
        (x.reshape(1, 2, 3), None),
        (x.reshape(1, 3, 2), None),
        (x[..., None], None),
        (bits, None),  # the same bytes
        (x.view(torch.float64), None),
        (x.double(), None),
        (x.half(), None),
        (x.bfloat16(), None),
        (torch.complex(x, 0 * x), None),
        (x, {"a": x}),
        (x, {"b": x}),
        (x, {"a": bits}),
        (x, {"a": x, "b": x}),
        (x, {"a": x[:, :0]}),
        (x, {"ax": x}),
        (x[:, :3], {"x": x[:, 3:]}),
        (x[:, :4], {"x": x[:, 4:]}),
        (x[:, :0], {"x": x}),
        (x[:, :0], None),
        (torch.zeros(1, 2, 0), None),
        (torch.zeros(1, 0, 2), None),
        (torch.zeros(1), None),
        (-torch.zeros(1), None),
        (torch.zeros(1, 1), None),
        (torch.zeros(1, 1, dtype=torch.bool), None),
        (torch.zeros(1, 1, dtype=torch.uint8), None),
    ]
    keys = [design_keys(*kind)[0] for kind in kinds]
    assert len(set(keys)) == len(keys)


def test_a_batch_without_rows_to_match_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cond mask has shape \(2,\), x has \(3, 1\)"):
        design_keys(torch.zeros(3, 1), {"mask": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"x has shape \(\)"):
        design_keys(torch.tensor(1.0))


# Answers


@settings(deadline=None, max_examples=25)
@given(
    batches=st.lists(st.lists(st.integers(-2, 6), max_size=8), max_size=5),
    size=st.none() | st.integers(1, 4),
    reopen=st.booleans(),
)
def test_any_batches_evaluate_a_distinct_design_once(
    batches: list[list[int]],
    size: int | None,
    reopen: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("once") / "ledger.db"
    counting, rows, fresh, hits = Counting(), 0, 0, 0
    remembered = Remembered(counting, Ledger(path), "sum", batch_size=size)
    for batch in batches:
        x = torch.tensor(batch, dtype=torch.float32).reshape(-1, 1) * torch.tensor([[1.0, 0.1]])
        expected = torch.where(x[:, 0] < 0, math.nan, x.sum(1))
        torch.testing.assert_close(remembered(x), expected, rtol=0, atol=0, equal_nan=True)
        rows += len(batch)
        if reopen:
            fresh, hits = fresh + remembered.fresh, hits + remembered.hits
            remembered = Remembered(counting, Ledger(path), "sum", batch_size=size)
    fresh, hits = fresh + remembered.fresh, hits + remembered.hits
    distinct = {first for batch in batches for first in batch}
    assert sorted(counting.asked) == sorted(distinct)
    assert fresh == len(distinct) == len(remembered.ledger)
    assert fresh + hits == rows
    assert all(len(batch) <= (size or 99) for batch in counting.batches)


@settings(deadline=None, max_examples=25)
@example(values=[-0.0, 0.0, 5e-324, math.inf, 0.1], dtype=torch.float64)
@given(
    values=st.lists(st.floats(width=64), min_size=1, max_size=20),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_a_known_answer_is_the_fresh_one_bit_for_bit(
    values: list[float], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bits") / "ledger.db"
    answers = torch.tensor(values, dtype=torch.float64).to(dtype)
    x = torch.arange(len(values))[:, None]
    fresh = Remembered(FunctionReward(lambda x, cond: answers[x[:, 0]]), Ledger(path), "r")(x)
    broken = FunctionReward(lambda x, cond: 1 / 0)
    known = Remembered(broken, Ledger(path), "r")(x)
    assert fresh.dtype == known.dtype == dtype
    assert fresh.isnan().equal(known.isnan())
    assert fresh.isnan().equal(answers.isnan())
    bits = [t[~t.isnan()].view(torch.uint8) for t in (fresh, known, answers + 0.0)]
    assert bits[0].equal(bits[1])
    assert bits[0].equal(bits[2])


def test_conditions_are_part_of_the_design_and_reach_the_reward(ledger: Ledger) -> None:
    counting = Counting()
    remembered = Remembered(counting, ledger, "scaled", batch_size=2)
    x, scale = column(1, 2, 3, 2), torch.tensor([1.0, 10.0, 100.0, 10.0])
    assert remembered(x, {"scale": scale}).tolist() == [1, 20, 300, 20]
    assert remembered(x, {"scale": scale * 2}).tolist() == [2, 40, 600, 40]
    assert remembered(x).tolist() == [1, 2, 3, 2]
    assert remembered(x.flip(0), {"scale": scale.flip(0)}).tolist() == [20, 300, 20, 1]
    assert (remembered.fresh, remembered.hits) == (9, 7)


def test_what_another_process_has_answered_meanwhile_is_not_evaluated(ledger: Ledger) -> None:
    class Busy(Counting):
        def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
            ledger.record("sum", "1", {design_keys(column(3))[0]: Entry(30.0, "float32")})
            return super().__call__(x, cond)

    busy = Busy()
    remembered = Remembered(busy, ledger, "sum", batch_size=2)
    assert remembered(column(1, 2, 3, 4)).tolist() == [1, 2, 30, 4]
    assert busy.batches == [[1, 2], [4]]
    assert (remembered.fresh, remembered.hits) == (3, 1)


def test_names_and_versions_do_not_share_answers(ledger: Ledger) -> None:
    x = column(1, 2)
    for name, version, factor in (("a", "1", 1.0), ("a", "2", 2.0), ("b", "1", 3.0)):
        reward = Remembered(Counting() * factor, ledger, name, version)
        assert reward(x).tolist() == [factor, 2 * factor]
    assert (len(ledger), ledger.count("a"), ledger.count("a", "2")) == (6, 4, 2)
    assert ledger.count("c") == 0
    for bad in ("", "x" * 201, "a\0b", 3):
        with pytest.raises(ValueError, match="1 to 200 characters"):
            Remembered(Counting(), ledger, bad)  # type: ignore[arg-type]


def test_it_is_a_reward_in_the_algebra(ledger: Ledger) -> None:
    remembered = Remembered(Counting(), ledger, "sum")
    assert (2 * remembered - 1.0)(column(1, 2)).tolist() == [1, 3]
    assert (2 * remembered - 1.0)(column(2, 1)).tolist() == [3, 1]
    assert remembered.fresh == 2
    assert remembered(torch.zeros(0, 1)).shape == (0,)


# Gradients


def test_a_gradient_is_evaluated_and_its_values_are_recorded(ledger: Ledger) -> None:
    calls = []

    def square(x: Tensor, cond: object) -> Tensor:
        calls.append(len(x))
        return x.square().sum(1)

    remembered = Remembered(FunctionReward(square), ledger, "square", batch_size=2)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], requires_grad=True)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(remembered(x).sum(), x)
        torch.testing.assert_close(gradient, 2 * x.detach(), rtol=0, atol=0)
    assert calls == [2, 1, 2, 1]
    with torch.no_grad():
        assert remembered(x).tolist() == [5, 25, 5]
    assert remembered(x.detach()).tolist() == [5, 25, 5]
    assert (len(calls), remembered.fresh, remembered.hits) == (4, 6, 6)

    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    product = FunctionReward(lambda x, cond: x[:, 0] * cond["weight"])
    Remembered(product, ledger, "product")(x.detach(), {"weight": weight}).sum().backward()
    torch.testing.assert_close(weight.grad, x.detach()[:, 0])


def test_a_reward_without_gradient_stays_without(ledger: Ledger) -> None:
    class Plain(Counting):
        def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
            assert not x.requires_grad
            return super().__call__(x, cond)

    remembered = Remembered(Plain(), ledger, "sum")
    assert not remembered.differentiable
    x = column(1, 2).requires_grad_()
    assert not remembered(x).requires_grad
    assert not remembered(x).requires_grad
    assert remembered.fresh == 2


# Failures


def test_a_failure_is_an_answer_and_may_be_asked_again(ledger: Ledger) -> None:
    mood = {"well": False}
    asked = []

    def moody(x: Tensor, cond: object) -> Tensor:
        asked.append(x[:, 0].tolist())
        return x[:, 0] if mood["well"] else torch.where(x[:, 0] > 1, math.nan, x[:, 0])

    plain = Remembered(FunctionReward(moody), ledger, "moody")
    again = Remembered(FunctionReward(moody), ledger, "moody", retry_failed=True)
    x = column(1, 2)
    assert plain(x).isnan().tolist() == plain(x).isnan().tolist() == [False, True]
    assert asked == [[1, 2]]
    entry = ledger.lookup("moody", "1", design_keys(x))[design_keys(x)[1]]
    assert entry.failed
    assert entry.error == "the reward answered NaN"
    assert again(x).isnan().tolist() == [False, True]
    mood["well"] = True
    assert plain(x).isnan().tolist() == [False, True]
    assert asked == [[1, 2], [2]]
    assert again(x).tolist() == plain(x).tolist() == [1, 2]
    assert asked == [[1, 2], [2], [2]]


def test_a_reward_that_raises_gives_no_answer_and_loses_none(ledger: Ledger) -> None:
    mood = {"well": False}

    def crashing(x: Tensor, cond: object) -> Tensor:
        if not mood["well"] and (x == 3).any():
            raise RuntimeError("mesh\0 has holes \ud800")
        return x[:, 0]

    remembered = Remembered(FunctionReward(crashing), ledger, "crash", batch_size=2)
    x = column(1, 2, 3, 4, 5)
    with pytest.raises(RuntimeError, match="has holes"):
        remembered(x)
    assert ledger.lookup("crash", "1", design_keys(x)).keys() == set(design_keys(x)[:2])
    assert len(ledger) == 2
    with sqlite3.connect(str(ledger.place)) as raw:
        noted = raw.execute("SELECT error FROM payoff_reward_calls WHERE state='raised'").fetchall()
    assert noted == [("one of 2 designs, or all: RuntimeError: mesh has holes ?",)] * 2
    mood["well"] = True
    assert remembered(x).tolist() == [1, 2, 3, 4, 5]
    assert remembered.fresh == 5


def test_the_wrong_shape_is_no_answer(ledger: Ledger) -> None:
    remembered = Remembered(FunctionReward(lambda x, cond: x), ledger, "wide")
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        remembered(column(1, 2))
    assert len(ledger) == 0


def test_a_full_disk_loses_no_answer(ledger: Ledger) -> None:
    limit = {"pages": 3}

    @event.listens_for(ledger._engine, "connect")
    def small(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={limit['pages']}").close()

    counting = Counting()
    remembered = Remembered(counting, ledger, "sum")
    x = torch.arange(200.0)[:, None]
    with pytest.raises(UserError, match=r"cannot be written: .*full. Make room on the disk"):
        remembered(x)
    assert len(ledger) == 0, "all or none"
    limit["pages"] = 10000
    assert remembered(x).tolist() == x[:, 0].tolist()
    assert len(counting.batches) == 1, "what was paid for was kept and is written first"


# Budgets


def test_the_budget_of_a_metered_reward_counts_what_is_evaluated(ledger: Ledger) -> None:
    counting = Counting()
    metered = Metered(counting, budget=4)
    remembered = Remembered(metered, ledger, "sum", batch_size=1)
    remembered(column(1, 2, 1, 2))
    assert metered.remaining == 2
    with pytest.raises(BudgetSpent, match=r"3 of 6 designs have to be evaluated .* 2 evaluations"):
        remembered(column(1, 2, 3, 4, 5, 5))
    assert metered.remaining == 2, "refused as a whole: nothing is spent"
    assert remembered(column(1, 2, 3, 4, 4)).tolist() == [1, 2, 3, 4, 4]
    assert remembered(column(4, 3, 2, 1)).tolist() == [4, 3, 2, 1], "known designs are free"
    assert (metered.remaining, counting.asked) == (0, [1, 2, 3, 4])


def test_a_budget_further_down_loses_nothing_that_was_paid(ledger: Ledger) -> None:
    remembered = Remembered(2 * Metered(Counting(), budget=3), ledger, "sum", batch_size=2)
    with pytest.raises(BudgetSpent):
        remembered(column(1, 2, 3, 4))
    assert remembered(column(1, 2)).tolist() == [2, 4]
    with sqlite3.connect(str(ledger.place)) as raw:
        assert raw.execute("SELECT count(*) FROM payoff_reward_calls").fetchone() == (2,)


def test_a_meter_outside_counts_every_row_asked_for(ledger: Ledger) -> None:
    metered = Metered(Remembered(Counting(), ledger, "sum"), budget=5)
    metered(column(1, 2))
    metered(column(1, 2))
    with pytest.raises(BudgetSpent):
        metered(column(1, 2))
    assert metered.remaining == 1
