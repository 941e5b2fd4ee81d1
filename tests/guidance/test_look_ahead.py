"""Gradient guidance: the law of a label on a Gaussian, the subspace kept, rounds that converge."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_cases import F64, condition_of, seeded
from torch import Tensor

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.guidance import LookAhead
from payoff.guidance.gradient import asked
from payoff.metrics.distances import moment_scores
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.problems.quadratic import Quadratic
from payoff.rewards import FunctionReward
from payoff.samplers import DDIM, Ancestral


def plane(isotropic: bool = False, dtype: torch.dtype = F64) -> GaussianSubspace:
    return GaussianSubspace.random(6, 2, isotropic=isotropic, dtype=dtype)


def asking(direction: Tensor, aim: float, rows: int) -> dict[str, Tensor]:
    return {
        "direction": direction.expand(rows, -1),
        "aim": torch.full((rows,), aim, dtype=direction.dtype),
    }


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("aim", [-1.0, 2.5])
def test_on_a_gaussian_it_is_the_denoiser_given_a_label(time: float, aim: float) -> None:
    """Also for a direction with a part outside the subspace: the data do not see that part."""
    problem, t = plane(), torch.tensor(time, dtype=F64)
    x = problem.base.sample_t(5, t, generator=seeded())
    outside = torch.randn(6, generator=seeded(1), dtype=F64)
    outside = outside - problem.frame @ (problem.frame.T @ outside)
    exact = problem.conditional(0.3)(x, t, {"label": torch.full((5, 1), aim, dtype=F64)}).x0
    for g in (problem.theta, problem.theta + 9 * outside):
        found = LookAhead(problem.base, 0.3)(x, t, asking(g, aim, 5)).x0
        torch.testing.assert_close(found, exact)


def test_the_published_variance_is_the_gaussian_one_for_isotropic_data() -> None:
    t = torch.tensor(0.6, dtype=F64)
    for isotropic in (True, False):
        problem = plane(isotropic)
        x, cond = problem.base.sample_t(5, t, generator=seeded()), asking(problem.theta, 2.0, 5)
        one, two = (
            LookAhead(problem.base, 0.3, variance=v)(x, t, cond).x0
            for v in ("gaussian", "published")
        )
        assert torch.allclose(one, two) == isotropic


def test_samples_have_the_law_given_the_label() -> None:
    problem, n = plane(dtype=torch.float32), 3000
    cond = asking(problem.theta, 1.5, n)
    x = DDIM(LookAhead(problem.base, 0.5), (6,), 150, eta=1.0).sample(
        n, cond, generator=seeded(), batch_size=1500
    )
    mean, covariance = problem.conditional(0.5).moments(1.5)
    first, second = moment_scores(x @ problem.frame, mean @ problem.frame,
                                  problem.frame.T @ covariance @ problem.frame)  # fmt: skip
    assert first.abs().max() < 4
    assert second.abs().max() < 5


@pytest.mark.parametrize("form", ["look-ahead", "naive"])
def test_only_the_naive_guide_leaves_the_subspace(form: str) -> None:
    """‖θ_off‖ = 9 ‖θ_on‖ as in the paper; what the exact score itself leaves is σ_0² (D − d)."""
    problem = GaussianSubspace.random(16, 4)
    outside = torch.randn(16, generator=seeded(1))
    outside = outside - problem.frame @ (problem.frame.T @ outside)
    g = problem.theta + 9 * outside / outside.norm()
    x = Ancestral(LookAhead(problem.base, 0.1, form), (16,), 100).sample(
        200, asking(g, 2.0, 200), generator=seeded()
    )
    off = problem.off_support(x).mean().sqrt()
    on = (x @ problem.frame).norm(dim=1).mean()
    if form == "look-ahead":
        left = problem.expected_off_support(torch.zeros(())).sqrt()
        assert off < 3 * left
        assert float((x @ problem.theta).mean()) == pytest.approx(2.0, abs=0.1)
    else:
        assert off > 0.05 * on


def climb(problem: MixtureProblem, noise: float, rise: float, rounds: int, pace: float, n: int):  # type: ignore[no-untyped-def]
    """Algorithm 1 at the mean of n samples: (points (rounds + 1, D), rewards (rounds,))."""
    guided = LookAhead(problem.base, noise)
    point = DDIM(problem.base, problem.shape, 20).sample(n, generator=seeded()).mean(0)
    points, rewards = [point], []
    for k in range(rounds):
        cond, found = asked(problem.reward, point.unsqueeze(0), rise, problem.base.process.space)
        rewards.append(found)
        rows = {name: v.expand(n, *v.shape[1:]) for name, v in cond.items()}
        x = DDIM(guided, problem.shape, 20).sample(n, rows, generator=seeded(k + 1))
        point = (1 - pace) * point + pace * x.mean(0)
        points.append(point)
    return torch.stack(points), torch.cat(rewards)


def concave(curvature: float) -> MixtureProblem:
    """A Gaussian on a plane in 5 dimensions and a concave quadratic reward, τ = 0.5."""
    frame = torch.linalg.qr(torch.randn(5, 2, generator=seeded(3), dtype=F64))[0]
    spread = torch.diag(torch.tensor([1.0, 0.4], dtype=F64))
    reward = Quadratic(
        torch.tensor([1.0, -0.5, 0.3, 0.8, 0.2], dtype=F64), curvature * torch.eye(5, dtype=F64)
    )
    covariance = (frame @ spread @ frame.T).unsqueeze(0)
    return MixtureProblem(torch.zeros(1, 5, dtype=F64), covariance, None, reward, 0.5)


@pytest.mark.parametrize(("curvature", "pace"), [(0.2, 1.0), (0.2, 0.5), (1.5, 0.3)])
def test_rounds_converge_to_the_regularised_optimum(curvature: float, pace: float) -> None:
    r"""The maximum of r − (λ/2)‖x‖²_{Σ⁻¹}, λ = ν²/δ; with λ = τ the mean of p*, a Gaussian here.

    The error after k rounds stays below a constant over k, and rewards rise until it is small.
    """
    problem = concave(curvature)
    tau, noise = problem.temperature, 1.0
    optimum = problem.tilted().moments()[0]
    points, rewards = climb(problem, noise, noise**2 / tau, 20, pace, 1000)
    errors = (points - optimum).norm(dim=1)
    noise_floor = 3 / math.sqrt(1000)
    assert errors[-1] < noise_floor, errors
    rounds = torch.arange(1, len(errors), dtype=F64)
    assert (errors[1:] < 3 * errors[0] / rounds + noise_floor).all(), errors
    assert rewards[1] > rewards[0]
    assert rewards[-1] > rewards[0] + 0.5 * (problem.reward(optimum[None]) - rewards[0])


def test_undamped_rounds_swing_where_the_reward_bends_more_than_the_penalty() -> None:
    """Curvature over λ above 1: the plain iteration does not settle, the damped one does."""
    problem = concave(3.0)
    optimum = problem.tilted().moments()[0]
    plain, _ = climb(problem, 1.0, 2.0, 15, 1.0, 300)
    damped, _ = climb(problem, 1.0, 2.0, 15, 0.2, 300)
    errors = [(points[-4:] - optimum).norm(dim=1).mean() for points in (plain, damped)]
    assert errors[0] > 5 * errors[1], errors


def test_another_ratio_of_noise_and_rise_is_another_temperature() -> None:
    problem = concave(0.2)
    points, _ = climb(problem, 0.8, 0.3, 20, 0.5, 1000)
    optimum = problem.tilted(0.8**2 / 0.3).moments()[0]
    assert (points[-1] - optimum).norm() < 3 / math.sqrt(1000)


def test_points_that_fail_are_drawn_unguided() -> None:
    problem = concave(0.2)
    bad = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, math.nan, x.square().sum(1)))
    z = torch.tensor([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]], dtype=F64)
    with torch.inference_mode():
        cond, rewards = asked(bad, z, 1.0, problem.base.process.space)
    assert rewards[0].isnan()
    torch.testing.assert_close(cond["direction"], torch.stack([0 * z[0], 2 * z[1]]))
    torch.testing.assert_close(cond["aim"], torch.tensor([1.0, 3.0], dtype=F64))
    t = torch.tensor(0.5, dtype=F64)
    x = problem.base.sample_t(2, t, generator=seeded())
    found, free = LookAhead(problem.base, 0.3)(x, t, cond).x0, problem.base(x, t).x0
    torch.testing.assert_close(found[0], free[0])
    assert (found[1] - free[1]).abs().max() > 1e-3


def test_rows_modes_masks_and_calls() -> None:
    problem = CloudProblem(4)
    counted, cond = Counted(problem.base), condition_of("cloud", 6)
    assert cond is not None
    g = problem.base.process.space.noise((6, 4, 3), cond, generator=seeded())
    cond = {**cond, "direction": g, "aim": torch.linspace(-1, 1, 6)}
    guided = LookAhead(counted, 0.3)
    x = DDIM(guided, (4, 3), 10, eta=1.0).sample(6, cond, generator=seeded())
    assert (x[~cond["mask"]] == 0).all()
    assert x.sum(1).abs().max() < 1e-4
    assert (counted.rows, counted.backward) == (60, 60)
    t = torch.linspace(0.1, 0.9, 6)
    x = problem.base.sample_t(6, t, cond, generator=seeded())
    whole = guided(x, t, cond).x0
    for i in range(6):
        part = {k: v[i : i + 1] for k, v in cond.items()}
        torch.testing.assert_close(guided(x[i : i + 1], t[i : i + 1], part).x0[0], whole[i])


def test_refusals() -> None:
    problem, chain = plane(), TokenChain.random(3, 3)
    with pytest.raises(UserError, match="token"):
        LookAhead(chain.base, 0.1)
    with pytest.raises(UserError, match="noise"):
        LookAhead(problem.base, 0.0)
    with pytest.raises(UserError, match="naive"):
        LookAhead(problem.base, 0.1, "wise")
    with pytest.raises(ValueError, match="direction"):
        LookAhead(problem.base, 0.1)(torch.zeros(1, 6, dtype=F64), torch.tensor(0.5))
