"""The objectives as pure functions: exact identities."""

from __future__ import annotations

import pytest
import torch
from finetuning_cases import F64, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.finetuning import losses
from payoff.predictions import Prediction, TokenPrediction
from payoff.problems import GaussianSubspace, TokenChain
from payoff.processes import GaussianProcess
from payoff.spaces import Centered

NUMBERS = st.floats(-3, 3, allow_nan=False)


def column(draw_from, n: int = 6):
    return st.lists(draw_from, min_size=n, max_size=n).map(lambda v: torch.tensor(v, dtype=F64))


@given(column(NUMBERS), column(NUMBERS), st.floats(0.05, 0.5))
def test_the_clipped_surrogate_is_the_smaller_of_two(log_ratio, advantage, clip) -> None:
    found = losses.clipped_surrogate(log_ratio, torch.zeros_like(log_ratio), advantage, clip)
    ratio = log_ratio.exp()
    inside = (ratio - 1).abs() <= clip
    assert torch.allclose(found[inside], -(ratio * advantage)[inside])
    # never below the unclipped loss: a step outside is never worth more than at the edge
    assert (found >= -(ratio * advantage) - 1e-12).all()
    edge = torch.where(advantage > 0, 1 + clip, 1 - clip)
    beyond = torch.where(advantage > 0, ratio > 1 + clip, ratio < 1 - clip)
    assert torch.allclose(found[beyond], -(edge * advantage)[beyond])


@pytest.mark.parametrize("log_ratio", [-1000.0, -90.0, 90.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_ratio_out_of_all_bounds_leaves_the_weights_finite(log_ratio, advantage) -> None:
    """exp(90) is infinite in single precision, and clipping makes NaN of an infinite gradient."""
    log_prob = torch.tensor([log_ratio, 0.1], requires_grad=True)
    old, gain, moved = torch.zeros(2), torch.tensor([advantage, 1.0]), torch.tensor([9.0, 0.0])
    for loss in (
        losses.clipped_surrogate(log_prob, old, gain, 0.2),
        losses.kl_masked_surrogate(log_prob, old, gain, moved, 0.1),
    ):
        (gradient,) = torch.autograd.grad(loss.mean(), log_prob)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient[1] != 0


@given(column(NUMBERS), column(NUMBERS))
def test_at_ratio_one_all_surrogates_have_the_policy_gradient(log_prob, advantage) -> None:
    log_prob.requires_grad_(True)
    old = log_prob.detach()
    kl = torch.full_like(old, 9.0)
    for loss in (
        losses.policy_gradient(log_prob, advantage),
        losses.clipped_surrogate(log_prob, old, advantage, 0.2),
        losses.kl_masked_surrogate(log_prob, old, advantage, kl, 0.01),
    ):
        (found,) = torch.autograd.grad(loss.sum(), log_prob)
        assert torch.allclose(found, -advantage)


def test_beyond_the_clip_there_is_no_gradient_outwards() -> None:
    log_prob = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=F64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=F64)
    loss = losses.clipped_surrogate(log_prob, torch.zeros(4, dtype=F64), advantage, 0.2)
    (found,) = torch.autograd.grad(loss.sum(), log_prob)
    assert (found[:2] == 0).all()
    assert torch.allclose(found[2:], -(advantage * log_prob.exp())[2:])


@given(column(NUMBERS), column(NUMBERS), column(st.floats(0, 0.02)))
def test_the_divergence_mask_leaves_out_what_is_far_and_moving_away(log_prob, a, kl) -> None:
    log_prob.requires_grad_(True)
    loss = losses.kl_masked_surrogate(log_prob, torch.zeros_like(log_prob), a, kl, 0.01)
    ratio = log_prob.detach().exp()
    assert torch.allclose(loss, -ratio * a)  # the value is that of the plain surrogate
    (found,) = torch.autograd.grad(loss.sum(), log_prob)
    away = (kl > 0.01) & (a * (ratio - 1) > 0)
    assert torch.allclose(found, torch.where(away, 0.0, -ratio * a))


@given(column(NUMBERS), column(NUMBERS), st.floats(0.05, 2))
def test_the_two_estimates_lie_on_either_side_of_the_old_one(new, old, beta) -> None:
    towards, away = losses.mixed_estimates(new, old, beta)
    assert torch.allclose(towards + away, 2 * old)
    assert torch.allclose(towards - old, beta * (new - old))


def test_the_gradient_of_the_two_sided_error_is_that_of_a_weighted_one() -> None:
    """At new = old: (1/β)(ω|x⁺−x₀|² + (1−ω)|x⁻−x₀|²) has gradient 2(2ω−1)(x − x₀)."""
    new = torch.randn(5, dtype=F64, requires_grad=True)
    old, x0, chance = new.detach(), torch.randn(5, dtype=F64), torch.rand(5, dtype=F64)
    for beta in (0.3, 1.0):
        towards, away = losses.mixed_estimates(new, old, beta)
        loss = (chance * (towards - x0) ** 2 + (1 - chance) * (away - x0) ** 2) / beta
        (found,) = torch.autograd.grad(loss.sum(), new)
        assert torch.allclose(found, 2 * (2 * chance - 1) * (old - x0))


@given(column(NUMBERS), column(NUMBERS), st.floats(0.1, 5))
def test_preference_is_the_log_likelihood_of_the_choice(winner, loser, strength) -> None:
    found = losses.preference(winner, loser, strength)
    assert torch.allclose(found, -torch.sigmoid(strength * (winner - loser)).log())
    assert torch.allclose(
        (-found).exp() + (-losses.preference(loser, winner, strength)).exp(), torch.ones_like(found)
    )


def test_adjoint_matching_vanishes_at_the_optimal_control() -> None:
    adjoint, std = torch.randn(4, 3, dtype=F64), torch.rand(4, dtype=F64) + 0.1
    shift = -(std**2).unsqueeze(1) * adjoint
    assert losses.adjoint_matching(shift, std, adjoint).abs().max() < 1e-20
    plain = losses.adjoint_matching(torch.zeros_like(shift), std, adjoint)
    assert torch.allclose(plain, std**2 * adjoint.square().sum(1))


def noisy_pair(dim: int = 3):
    problem = GaussianSubspace.random(dim, 2, dtype=F64)
    t = torch.rand(7, dtype=F64, generator=seeded())
    x0 = problem.sample_base(7, generator=seeded(1))
    x_t = problem.base.process.corrupt(x0, t, generator=seeded(2))
    return problem, x0, x_t, t


@pytest.mark.parametrize("sigma_data", [1.0, 2.5])
def test_the_denoising_error_is_the_loss_that_the_library_trains_with(sigma_data: float) -> None:
    from payoff.denoisers import NetDenoiser

    net = torch.nn.Linear(3, 3).double()
    process = GaussianProcess()
    denoiser = NetDenoiser(lambda x, level, cond: net(x), process, sigma_data=sigma_data)  # type: ignore[arg-type]
    _, x0, _, t = noisy_pair()
    x_t = process.corrupt(x0, t, generator=seeded(3))
    found = losses.denoising_error(denoiser(x_t, t), x0, process, t, sigma_data=sigma_data)
    assert torch.allclose(found, denoiser.loss(x0, t, generator=seeded(3)))


def test_the_token_error_is_the_loss_that_the_library_trains_with() -> None:
    from payoff.denoisers import TokenDenoiser

    chain = TokenChain.random(3, 4, dtype=F64)
    table = torch.randn(4, 3, dtype=F64)
    process = chain.base.process
    denoiser = TokenDenoiser(lambda x, level, cond: table.expand(len(x), 4, 3), process)  # type: ignore[arg-type]
    x0 = chain.sample_base(50, generator=seeded())
    t = torch.rand(50, dtype=F64, generator=seeded(1))
    x_t = process.corrupt(x0, t, generator=seeded(3))
    found = losses.denoising_error(denoiser(x_t, t), x0, process, t)
    assert torch.allclose(found, denoiser.loss(x0, t, generator=seeded(3)))


def test_apart_is_the_error_between_two_estimates() -> None:
    problem, x0, x_t, t = noisy_pair()
    process, one = problem.base.process, problem.base(x_t, t)
    clean = Prediction(x0, x_t, one.alpha, one.sigma)
    error = losses.denoising_error(one, x0, process, t)
    assert torch.allclose(losses.apart(one, clean, process), error)
    assert (losses.apart(one, one, process) == 0).all()


def test_apart_of_tokens_is_a_divergence_with_a_gradient() -> None:
    chain = TokenChain.random(3, 4, dtype=F64)
    process = chain.base.process
    x_t = process.corrupt(
        chain.sample_base(9, generator=seeded()), torch.tensor(0.6), generator=seeded(1)
    )
    logits = torch.randn(9, 4, 3, dtype=F64, requires_grad=True)
    new = TokenPrediction.of_logits(logits, x_t, 3)
    old = chain.base(x_t, torch.tensor(0.6))
    found = losses.apart(new, old, process)
    hidden = x_t == 3
    p, q = old.log_probs.exp(), logits.log_softmax(-1)
    each = (torch.xlogy(p, p) - p * q).sum(-1)
    assert torch.allclose(found, torch.where(hidden, each, 0.0).sum(1) / 4)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert slope.isfinite().all()
    assert (losses.apart(old, old, process).abs() < 1e-12).all()


def test_errors_count_inside_the_space_only() -> None:
    """A common shift and the padding are no error of a centred cloud."""
    process = GaussianProcess(Centered())
    cond = {"mask": torch.tensor([[True, True, False], [True, True, True]])}
    x0 = process.space.noise((2, 3, 3), cond, like=torch.zeros((), dtype=F64), generator=seeded())
    t = torch.tensor([0.3, 0.6], dtype=F64)
    alpha, sigma = process.schedule(t)
    off = Prediction(x0 + 5.0, x0, alpha, sigma)
    exact = Prediction(x0, x0, alpha, sigma)
    for found in (
        losses.denoising_error(off, x0, process, t, cond),
        losses.elbo_error(off, x0, process, t, cond),
        losses.apart(off, exact, process, cond),
        losses.controlled_error(off, exact, x0, *torch.ones(2, 2, dtype=F64), process, cond),
    ):
        assert found.abs().max() < 1e-20


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_weights_of_one_make_the_controlled_error_a_distance(seed: int) -> None:
    problem, x0, x_t, t = noisy_pair()
    process, old = problem.base.process, problem.base(x_t, t)
    estimate = torch.randn(7, 3, dtype=F64, generator=seeded(seed))
    new = Prediction(estimate, x_t, old.alpha, old.sigma)
    ones = torch.ones(7, dtype=F64)
    found = losses.controlled_error(new, old, x0, ones, 0 * ones, process)
    assert torch.allclose(found, losses.apart(new, old, process))


def test_the_controlled_error_has_the_gradient_of_the_weighted_one_with_less_noise() -> None:
    r"""Gaussian law, weights of a linear tilt: E[w ∇|x̂−x₀|²] either way, and less variance."""
    problem = GaussianSubspace.random(3, 2, temperature=2.0, dtype=F64)
    process, n = problem.base.process, 40_000
    x0 = problem.sample_base(n, generator=seeded())
    t = losses.draw_times(process, n, like=x0, generator=seeded(1)).clamp(min=0.2)
    x_t = process.corrupt(x0, t, generator=seeded(2))
    w = (problem.reward(x0) / 2.0 - problem.log_partition()).exp()
    old = problem.base(x_t, t)
    shift = 0.3 * torch.randn(3, dtype=F64, generator=seeded(3))
    estimate = (old.x0 + shift).requires_grad_(True)
    new = Prediction(estimate, x_t, old.alpha, old.sigma)
    weighted = w * losses.denoising_error(new, x0, process, t)
    (plain,) = torch.autograd.grad(weighted.sum(), estimate)
    (controlled,) = torch.autograd.grad(
        losses.controlled_error(new, old, x0, w, w - 1, process).sum(), estimate
    )
    gap = plain - controlled
    z = gap.mean(0) / (gap.std(0) / n**0.5)
    assert z.abs().max() < 4
    # also against a feature of x_t: the means agree at every x_t, not only over all of them
    z = (gap * x_t).mean(0) / ((gap * x_t).std(0) / n**0.5)
    assert z.abs().max() < 4
    assert controlled.var() < 0.7 * plain.var()
