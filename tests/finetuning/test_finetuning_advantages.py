"""Advantages, exponential weights and tempering."""

from __future__ import annotations

import math

import pytest
import torch
from finetuning_cases import F64, seeded
from hypothesis import given
from hypothesis import strategies as st

from payoff.finetuning.advantages import (
    group_advantages,
    mixture_log_weights,
    next_inverse_temperature,
    optimality,
    replace_failed,
    standardise,
)
from payoff.finetuning.pool import Pool
from payoff.finetuning.rollouts import Samples, shuffled
from payoff.metrics.weights import effective_sample_size, weighted_mean
from payoff.problems import GaussianSubspace

REWARDS = st.lists(st.integers(-20, 20), min_size=12, max_size=12).map(
    lambda v: torch.tensor(v, dtype=F64)
)


@given(REWARDS, st.floats(-10, 10), st.floats(0.1, 10))
def test_advantages_know_neither_shift_nor_scale(rewards, shift, scale) -> None:
    """Mean zero, unit deviation, and the same for any other unit of the reward."""
    found = standardise(rewards, 0)
    assert abs(float(found.mean())) < 1e-9
    if float(rewards.std()) > 0:
        assert float(found.square().mean()) == pytest.approx(1.0)
    assert torch.allclose(standardise(scale * rewards + shift, 0), found, atol=1e-6)
    assert standardise(rewards, 1.0).abs().max() <= 1


@given(REWARDS, st.floats(-10, 10), st.floats(0.1, 10), st.sampled_from([2, 3, 4, 6]))
def test_group_advantages(rewards, shift, scale, size) -> None:
    found = group_advantages(rewards, size, clip=0)
    groups = found.view(-1, size)
    assert groups.mean(1).abs().max() < 1e-9
    varied = rewards.view(-1, size).std(1) > 0
    assert torch.allclose(groups[varied].square().mean(1), torch.ones(int(varied.sum()), dtype=F64))
    assert (groups[~varied] == 0).all()
    # each group may be shifted by its own amount: an easy condition is no merit
    offsets = shift * torch.arange(12 // size).repeat_interleave(size)
    again = group_advantages(scale * rewards + offsets, size, clip=0)
    assert torch.allclose(again, found, atol=1e-6)
    raw = group_advantages(rewards, size, scale="none")
    means = rewards.view(-1, size).mean(1).repeat_interleave(size)
    assert torch.allclose(raw, rewards - means)
    by_round = group_advantages(rewards, size, scale="round", clip=0)
    spread = raw.square().mean().sqrt()
    assert torch.allclose(by_round * spread, raw, atol=1e-9)


def test_broken_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="7 samples cannot be split into whole groups of 3"):
        group_advantages(torch.zeros(7), 3)
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(torch.zeros(7), 1)
    with pytest.raises(ValueError, match="unknown scale"):
        group_advantages(torch.zeros(4), 2, scale="sd")


def test_a_failed_design_is_the_worst_of_its_round() -> None:
    found = replace_failed(torch.tensor([2.0, math.nan, -1.0]))
    assert found.tolist() == [2.0, -1.0, -1.0]
    with pytest.raises(ValueError, match="NaN"):
        replace_failed(torch.tensor([math.nan]))


@pytest.mark.parametrize(("share", "bad"), [(0.0, 0.0), (0.02, 2.0), (0.5, 50.0)])
def test_a_failed_design_may_be_one_of_the_worst(share: float, bad: float) -> None:
    """Of 0 to 99 the share that is worse than the one that stands for a failure."""
    rewards = torch.cat([torch.arange(100.0).flip(0), torch.tensor([math.nan])])
    assert replace_failed(rewards, share)[-1] == bad
    assert torch.equal(replace_failed(rewards, share)[:-1], rewards[:-1])


def test_optimality_is_a_chance() -> None:
    a = torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0])
    assert optimality(a, 5.0).tolist() == [0, 0, 0.5, 0.75, 1, 1]


@given(REWARDS, st.floats(0.01, 3))
def test_of_one_round_from_the_base_the_weights_are_plain_exponentials(rewards, beta) -> None:
    found = mixture_log_weights(rewards, [0.0], [12], beta)
    assert torch.allclose(found.softmax(0), (beta * rewards).softmax(0))


@given(REWARDS, st.floats(-3, 3))
def test_weights_do_not_know_the_zero_of_the_reward(rewards, shift) -> None:
    one = mixture_log_weights(rewards, [0.0, 0.1], [6, 6], 0.3)
    two = mixture_log_weights(rewards + shift, [0.0, 0.1], [6, 6], 0.3)
    assert torch.allclose(one, two)


def test_a_round_at_the_tilt_itself_is_taken_as_it_is() -> None:
    rewards = torch.randn(20, dtype=F64, generator=seeded())
    weights = mixture_log_weights(rewards, [0.0, 0.7], [8, 12], 0.7).softmax(0)
    assert torch.allclose(weights[8:], weights[8].expand(12))
    assert weights[8:].sum() > 0.6


def test_a_failed_sample_is_as_bad_as_the_worst() -> None:
    pool = Pool()
    rewards = torch.tensor([1.0, math.nan, -2.0, 0.5], dtype=F64)
    pool.add(Samples(torch.zeros(4, 1), rewards), 0.0)
    known = torch.tensor([1.0, -2.0, -2.0, 0.5], dtype=F64)
    assert torch.allclose(pool.log_weights(0.8).softmax(0), (0.8 * known).softmax(0))
    assert torch.allclose(pool.step_weights(0.0, 0.8), 4 * (0.8 * known).softmax(0))


def test_rounds_of_the_law_itself_weigh_as_one() -> None:
    rewards = torch.randn(30, dtype=F64, generator=seeded())
    split = mixture_log_weights(rewards, [0.5, 0.5, 0.5], [10, 5, 15], 0.5).softmax(0)
    assert torch.allclose(split, torch.full_like(split, 1 / 30))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5])
def test_samples_of_several_tilts_estimate_another(beta: float) -> None:
    """Exact draws of tilts of a Gaussian law: E[r] at any β is that of the closed form."""
    problem = GaussianSubspace.random(4, 2, isotropic=False, dtype=F64)
    betas, counts, rewards = [0.0, 0.4, 1.0], [4000, 1000, 2000], []
    for i, b in enumerate(betas):
        law = problem.base if b == 0 else problem.tilted(1 / b)
        rewards.append(problem.reward(law.sample(counts[i], generator=seeded(i))))
    r = torch.cat(rewards)
    log_weights = mixture_log_weights(r, betas, counts, beta)
    law = problem.base if beta == 0 else problem.tilted(1 / beta)
    found = weighted_mean(r, log_weights)
    assert found.agrees(float(law.expected(problem.reward)))
    # more draws count than any one round has
    assert float(effective_sample_size(mixture_log_weights(r, betas, counts, 0.4))) > 1000


@given(REWARDS.filter(lambda r: float(r.std()) > 0), st.floats(0.2, 0.9), st.floats(0, 1))
def test_the_next_temperature_keeps_its_share(rewards, share, now) -> None:
    last = now + 5.0
    log_weights = now * rewards
    found = next_inverse_temperature(rewards, log_weights, now, last, share)
    assert now < found <= last

    def effective(b: float) -> float:
        return float(effective_sample_size(b * rewards))

    assert effective(found) >= share * effective(now) * (1 - 1e-9)
    if found < last:  # and no more could be had
        assert effective(found + 2e-3 * (last - now)) <= share * effective(now) * 1.0001


def filled_pool() -> tuple[Pool, GaussianSubspace]:
    problem = GaussianSubspace.random(3, 2, dtype=F64)
    pool = Pool()
    for i, b in enumerate([0.0, 0.6]):
        law = problem.base if b == 0 else problem.tilted(1 / b)
        x = law.sample(3000, generator=seeded(i))
        cond = {"label": x[:, :1]}
        pool.add(Samples(x, problem.reward(x), cond), b)
        pool.inverse = b
    return pool, problem


def test_a_pool_draws_the_tilt_and_keeps_rows_together() -> None:
    pool, problem = filled_pool()
    assert len(pool) == 6000
    rows = pool.draw(1.2, 20_000, generator=seeded(5))
    x, cond = pool.rows(rows)
    assert cond is not None
    assert torch.equal(cond["label"], x[:, :1])
    exact = float(problem.tilted(1 / 1.2).expected(problem.reward))
    spread = 1 / math.sqrt(min(pool.effective(1.2), 20_000))
    assert abs(float(problem.reward(x).mean()) - exact) < 4.5 * spread


def test_step_weights_have_mean_one_under_the_law_before() -> None:
    pool, _ = filled_pool()
    pool.counts, pool.inverses = [6000], [0.6]  # of one law, where the identity is exact
    now = pool.log_weights(0.6).softmax(0)
    w = pool.step_weights(0.6, 0.5)
    assert float((now * w).sum()) == pytest.approx(1.0)
    both = now * w
    assert torch.allclose(both, pool.log_weights(1.1).softmax(0))


def test_a_pool_is_advanced_to_its_end_and_no_further_and_survives_its_state() -> None:
    pool, _ = filled_pool()
    for _ in range(20):
        before = pool.inverse
        pool.advance(4.0, 0.5)
        assert before < pool.inverse <= 4.0 or before == 4.0
    assert pool.inverse == 4.0
    evenly, _ = filled_pool()
    for left in (4, 3, 2, 1):
        before = evenly.inverse
        evenly.advance(1.0, 0.1, left)
        assert evenly.inverse - before == pytest.approx(0.1)
    assert evenly.inverse == 1.0
    again = Pool.of_state(pool.state())
    assert torch.equal(again.log_weights(1.0), pool.log_weights(1.0))
    assert again.inverse == 4.0


def test_shuffled_batches_visit_all_before_any_comes_again() -> None:
    batches = list(shuffled(10, 4, 5, generator=seeded()))
    assert [len(b) for b in batches] == [4] * 5
    flat = torch.cat(batches)
    assert sorted(flat[:10].tolist()) == list(range(10))
    assert sorted(flat[10:].tolist()) == list(range(10))
    assert [len(b) for b in shuffled(3, 8, 2, generator=seeded())] == [3, 3]
