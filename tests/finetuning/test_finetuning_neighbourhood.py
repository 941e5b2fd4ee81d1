"""The pay-off law on a neighbourhood: closed forms, and draws against them."""

from __future__ import annotations

import math

import pytest
import scipy.special
import torch
from finetuning_cases import F64, seeded, z_scores
from hypothesis import given
from hypothesis import strategies as st

from payoff.finetuning.neighbourhood import (
    bessel_ratio,
    candidates,
    chosen,
    mean_shift,
    within,
    zeroth_order_gradient,
)
from payoff.spaces import Centered


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.5, 16.0, 150.0])
def test_the_bessel_ratio_against_scipy(order: float) -> None:
    x = torch.tensor([0.0, 1e-6, 0.1, 1.0, 7.0, 40.0, 300.0, 3000.0], dtype=F64)
    found = bessel_ratio(torch.full_like(x, order), x)
    top, bottom = (scipy.special.ive(v, x.numpy()) for v in (order + 1, order))
    known = torch.from_numpy(bottom) > 0  # scipy's own underflow
    expected = torch.from_numpy(top)[known] / torch.from_numpy(bottom)[known]
    assert int(known.sum()) >= 4
    gap = (found[known] - expected).abs()
    assert (gap <= 1e-12 + 1e-9 * expected).all()


@given(st.floats(0, 200), st.floats(0, 1e5), st.floats(0.01, 10))
def test_the_bessel_ratio_rises_from_zero_to_one(order, x, more) -> None:
    one, two = bessel_ratio(
        torch.tensor([order] * 2, dtype=F64), torch.tensor([x, x + more], dtype=F64)
    )
    assert 0 <= one <= two <= 1


def test_the_bessel_ratio_keeps_single_precision() -> None:
    found = bessel_ratio(torch.tensor([1.0]), torch.tensor([2.0]))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("choice", ["soft", "argmax"])
def test_the_shift_in_a_ball_against_draws(dim: int, choice: str) -> None:
    """Uniform draws weighed by e^{g·δ} have the mean the closed form says."""
    n, radius = 100_000, 0.7
    slope = torch.randn(1, dim, dtype=F64, generator=seeded())
    slope = 3.0 * slope / slope.norm()
    one = torch.tensor([radius], dtype=F64)
    dof = torch.tensor([float(dim)], dtype=F64)
    found = mean_shift(slope, one, "ball", choice, dof)
    if choice == "argmax":
        assert torch.allclose(found, radius * slope / slope.norm())
        return
    moves = radius * candidates(slope.expand(n, -1), 2, "ball", generator=seeded(1))[1]
    w = (moves @ slope[0]).exp()
    # the self-normalised mean, tested without its ratio: E[w (δ − mean)] = 0
    assert z_scores(w.unsqueeze(1) * (moves - found)).abs().max() < 4


def test_the_shift_of_a_gaussian_proposal_is_linear() -> None:
    slope = torch.randn(5, 3, dtype=F64, generator=seeded())
    radius = torch.rand(5, dtype=F64, generator=seeded(1)) + 0.1
    dof = torch.full((5,), 3.0, dtype=F64)
    for proposal in ("gaussian", "kernel"):
        found = mean_shift(slope, radius, proposal, "soft", dof)
        assert torch.allclose(found, radius.square().unsqueeze(1) * slope)
    held = mean_shift(slope, radius, "kernel", "soft", dof, limit=0.05 * radius)
    assert (held.norm(dim=1) <= 0.05 * radius + 1e-12).all()
    assert (torch.cosine_similarity(held, slope) > 1 - 1e-9).all()
    assert (mean_shift(0 * slope, radius, "kernel", "soft", dof) == 0).all()
    assert (mean_shift(0 * slope, radius, "ball", "argmax", dof) == 0).all()


def test_a_ball_is_a_gaussian_for_gentle_slopes() -> None:
    """κ → 0: the mean is the variance R²/(k+2) of a coordinate times the slope."""
    slope = 1e-4 * torch.randn(4, 6, dtype=F64, generator=seeded())
    radius, dof = torch.full((4,), 0.5, dtype=F64), torch.full((4,), 6.0, dtype=F64)
    found = mean_shift(slope, radius, "ball", "soft", dof)
    assert torch.allclose(found, 0.25 / 8 * slope, rtol=1e-6)


def test_candidates_start_with_the_draft_and_fill_the_ball() -> None:
    """‖u‖^k is uniform in [0, 1] for uniform draws of a k-ball, and directions have no mean."""
    like = torch.zeros(4000, 5, dtype=F64)
    moves = candidates(like, 4, "ball", generator=seeded())
    assert moves.shape == (4, 4000, 5)
    assert (moves[0] == 0).all()
    radius = moves[1:].norm(dim=-1).flatten()
    assert radius.max() <= 1
    level = (radius**5).sort().values
    n = len(level)
    deviation = (level - (torch.arange(n, dtype=F64) + 0.5) / n).abs().max()
    assert float(deviation) < 1.95 / math.sqrt(n)  # Kolmogorov: exceeded once in a thousand
    assert z_scores(moves[1:].flatten(0, 1)).abs().max() < 4
    assert candidates(like, 3, "gaussian", generator=seeded())[1:].std() == pytest.approx(
        1, abs=0.02
    )


def test_candidates_of_clouds_stay_centred_and_leave_padding_alone() -> None:
    space = Centered()
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]]).repeat(2000, 1)
    like = torch.zeros(4000, 4, 3, dtype=F64)
    moves = candidates(like, 2, "ball", space, {"mask": mask}, generator=seeded())[1]
    assert moves.sum(1).abs().max() < 1e-12
    assert (moves[~mask] == 0).all()
    for k, rows in ((6, slice(0, None, 2)), (9, slice(1, None, 2))):
        level = moves[rows].flatten(1).norm(dim=1) ** k
        assert abs(float(level.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 2000)


def test_the_choice_of_the_pay_off_law() -> None:
    moves = torch.randn(4, 3, 2, dtype=F64, generator=seeded())
    scores = torch.randn(4, 3, dtype=F64, generator=seeded(1))
    weights = scores.softmax(0).unsqueeze(-1)
    assert torch.allclose(chosen(moves, scores, "soft"), (weights * moves).sum(0))
    best = moves[scores.argmax(0), torch.arange(3)]
    assert torch.equal(chosen(moves, scores, "argmax"), best)
    cold = chosen(moves, 1e6 * scores, "soft")
    assert torch.allclose(cold, best)


def test_sampled_choices_have_the_frequencies_of_the_law() -> None:
    scores = torch.tensor([0.0, 1.0, -1.0], dtype=F64)
    n = 40_000
    moves = torch.eye(3, dtype=F64).unsqueeze(1).expand(3, n, 3)
    found = chosen(moves, scores.unsqueeze(1).expand(3, n), "sampled", generator=seeded())
    assert z_scores(found, scores.softmax(0)).abs().max() < 4
    assert ((found == 0) | (found == 1)).all()


@pytest.mark.parametrize("choice", ["soft", "sampled", "argmax"])
def test_failed_candidates_have_no_share_and_without_any_nothing_moves(choice: str) -> None:
    moves = torch.stack([torch.zeros(2, 1), torch.ones(2, 1), 5 * torch.ones(2, 1)])
    nan = math.nan
    scores = torch.tensor([[nan, nan], [0.3, nan], [nan, nan]])
    found = chosen(moves, scores, choice, generator=seeded())
    assert found[:, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("proposal", ["gaussian", "ball"])
def test_the_zeroth_order_gradient_is_unbiased_for_linear_rewards(proposal: str) -> None:
    n, dim = 20_000, 4
    like = torch.zeros(n, dim, dtype=F64)
    radius = torch.linspace(0.1, 2.0, n, dtype=F64)
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=F64)
    moves = candidates(like, 6, proposal, generator=seeded())
    ends = radius.view(1, n, 1) * moves
    dof = torch.full((n,), float(dim), dtype=F64)
    found = zeroth_order_gradient(moves, ends @ slope + 7.0, radius, proposal, dof)
    assert z_scores(found, slope).abs().max() < 4


def test_a_failed_candidate_tells_a_zeroth_order_gradient_nothing_wrong() -> None:
    like, one = torch.zeros(3, 2, dtype=F64), torch.ones(3, dtype=F64)
    moves = candidates(like, 5, "gaussian", generator=seeded())
    scores = torch.zeros(5, 3, dtype=F64)
    scores[2] = math.nan
    assert (zeroth_order_gradient(moves, scores, one, "gaussian", one) == 0).all()
    scores[:] = math.nan
    assert (zeroth_order_gradient(moves, scores, one, "gaussian", one) == 0).all()


@given(st.floats(0, 3), st.integers(0, 1000))
def test_moves_are_held_within_their_limit(limit, seed) -> None:
    move = torch.randn(6, 3, dtype=F64, generator=seeded(seed))
    move[0] = 0
    held = within(move, torch.full((6,), limit, dtype=F64))
    norm = move.norm(dim=1)
    assert torch.allclose(held.norm(dim=1), norm.clamp(max=limit))
    assert torch.equal(within(move, torch.full((6,), math.inf, dtype=F64)), move)
