"""The Gaussian on a subspace against facts of the RCGDM theory and plain linear algebra."""

from __future__ import annotations

import pytest
import torch

from payoff.problems import GaussianMixture, GaussianSubspace, LabelledGaussian
from payoff.processes import GaussianProcess
from payoff.samplers import Ancestral
from payoff.schedules import SCHEDULES, Cosine

F64 = torch.float64
NU = 1 / 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_closed_forms_of_the_tilt(tau: float) -> None:
    """p* is the base shifted by Cθ/τ: log Z = θᵀCθ/2τ², E[r] = θᵀCθ/τ, KL = θᵀCθ/2τ²."""
    problem = GaussianSubspace.random(7, 3, tau, isotropic=False, dtype=F64)
    power = problem.direction @ problem.covariance @ problem.direction
    torch.testing.assert_close(problem.log_partition(), power / (2 * tau**2))
    torch.testing.assert_close(problem.target_reward(), power / tau)
    torch.testing.assert_close(problem.kl(), power / (2 * tau**2))
    law = problem.tilted()
    mean, covariance = law.moments()  # type: ignore[attr-defined]
    shift = problem.frame @ problem.covariance @ problem.direction / tau
    torch.testing.assert_close(mean, shift)
    expected = problem.frame @ problem.covariance @ problem.frame.T
    torch.testing.assert_close(covariance, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_score_is_the_encoder_decoder_form(schedule: str) -> None:
    """A (α²Σ + σ²I)⁻¹(−Aᵀx) − (I − AAᵀ)x/σ²: on-support plus off-support."""
    process = GaussianProcess(schedule=SCHEDULES[schedule]())
    problem = GaussianSubspace.random(6, 2, process=process, isotropic=False, dtype=F64)
    frame, eye = problem.frame, torch.eye(2, dtype=F64)
    x = torch.randn(5, 6, dtype=F64)
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor(time, dtype=F64)
        alpha, sigma = process.schedule(t)
        inner = torch.linalg.inv(alpha**2 * problem.covariance + sigma**2 * eye)
        z = x @ frame
        expected = -(z @ inner) @ frame.T - (x - z @ frame.T) / sigma**2
        torch.testing.assert_close(problem.base(x, t).score, expected)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_labelled_law_is_joint_gaussian_conditioning(time: float) -> None:
    """From the joint law of (x_0, x_t, y), with no formula of the module used."""
    problem = GaussianSubspace.random(5, 2, isotropic=False, dtype=F64)
    law = problem.conditional(0.3)
    t = torch.tensor(time, dtype=F64)
    alpha, sigma = problem.base.process.schedule(t)  # type: ignore[attr-defined]
    c = problem.frame @ problem.covariance @ problem.frame.T
    gain = c @ problem.theta
    total = problem.theta @ gain + 0.3**2
    eye = torch.eye(5, dtype=F64)
    cross = torch.cat([alpha * c, gain[:, None]], 1)
    seen = torch.cat(
        [
            torch.cat([alpha**2 * c + sigma**2 * eye, alpha * gain[:, None]], 1),
            torch.cat([alpha * gain[None], total.reshape(1, 1)], 1),
        ]
    )
    label = torch.tensor([[-1.0], [0.0], [2.5], [6.0]], dtype=F64)
    x = torch.randn(4, 5, dtype=F64)
    data = torch.cat([x, label], 1)
    cond = {"label": label}
    expected = data @ torch.linalg.solve(seen, cross.T)
    torch.testing.assert_close(law(x, t, cond).x0, expected)
    joint = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), seen)
    alone = torch.distributions.Normal(torch.zeros((), dtype=F64), total.sqrt())
    ratio = joint.log_prob(data) - alone.log_prob(label[:, 0])
    torch.testing.assert_close(law.log_prob_t(x, t, cond), ratio)
    # the null label asks for the base law, whatever the label says
    null = {"label": label, "label_known": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    mixed = law(x, t, null).x0
    torch.testing.assert_close(mixed[::2], expected[::2])
    torch.testing.assert_close(mixed[1::2], problem.base(x[1::2], t).x0)
    torch.testing.assert_close(law(x, t).x0, problem.base(x, t).x0)


def test_paper_facts_at_the_simulation_size() -> None:
    """Exact Gaussian facts at D = 64, d = 16, Σ = I, ‖β‖ = 1, ν = 1/8."""
    problem = GaussianSubspace.random(dtype=F64)
    assert problem.frame.shape == (64, 16)
    law, s2 = problem.conditional(NU), 1 + NU**2
    for a in (0.0, 5.0, 10.0):
        mean, covariance = law.moments(a)
        torch.testing.assert_close(mean @ problem.theta, torch.tensor(a / s2, dtype=F64))
        spread = (problem.theta @ covariance @ problem.theta).sqrt()
        assert float(spread) == pytest.approx(NU / s2**0.5)
        trace = float(covariance.diagonal().sum() + mean @ mean)  # E‖x‖² with Σ = I
        assert trace == pytest.approx(16 + (a**2 / s2 - 1) / s2)


def test_sampling_at_an_aim_follows_the_closed_form() -> None:
    problem = GaussianSubspace.random(dtype=F64)
    law, n, a = problem.conditional(NU), 1000, 10.0
    cond = {"label": torch.full((1, 1), a, dtype=F64)}
    x = Ancestral(law, law.shape, 100).sample(n, cond, generator=seeded())
    direct = law.sample(n, {"label": cond["label"].expand(n, 1)}, generator=seeded())
    mean, covariance = law.moments(a)
    r = x @ problem.theta
    # ancestral steps are of first order: at 100 steps the bias of the mean is below 0.2 %
    assert abs(float(r.mean() - mean @ problem.theta)) < 0.02 + 4 * float(r.std()) / n**0.5
    for draws in (x, direct):
        size = draws.square().sum(1)
        expected = covariance.diagonal().sum() + mean @ mean
        assert abs(float(size.mean() / expected) - 1) < 0.01
        assert float(problem.off_support(draws).mean()) < 1e-3


@pytest.mark.parametrize("stop", [0.1, 0.3, 0.6])
def test_off_support_part_is_the_noise_it_stops_at(stop: float) -> None:
    process = GaussianProcess(schedule=Cosine())
    problem = GaussianSubspace.random(20, 5, process=process, dtype=F64)
    t, n = torch.tensor(stop, dtype=F64), 4000
    x = problem.base.sample_t(n, t, generator=seeded())
    off = problem.off_support(x)
    expected = problem.expected_off_support(t)
    assert float(expected) == pytest.approx(15 * float(process.schedule(t)[1]) ** 2)
    assert abs(float((off.mean() - expected) / (off.std() / n**0.5))) < 4


def test_labels_have_the_stated_law() -> None:
    problem = GaussianSubspace.random(8, 3, dtype=F64)
    x = problem.sample_base(20_000, generator=seeded())
    y = problem.labels(x, 0.5, generator=seeded(1))
    assert y.shape == (20_000, 1)
    rest = y[:, 0] - problem.reward(x)
    assert abs(float(rest.mean())) < 4 * 0.5 / 20_000**0.5
    assert float(rest.square().mean()) == pytest.approx(0.25, rel=4 * (2 / 20_000) ** 0.5)


def test_bad_arguments_are_errors() -> None:
    frame, beta = torch.eye(4)[:, :2], torch.ones(2)
    with pytest.raises(ValueError, match="orthonormal"):
        GaussianSubspace(2 * frame, beta)
    with pytest.raises(ValueError, match="direction"):
        GaussianSubspace(frame, torch.ones(3))
    with pytest.raises(ValueError, match="covariance"):
        GaussianSubspace(frame, beta, torch.eye(3))
    problem = GaussianSubspace(frame, beta)
    with pytest.raises(ValueError, match="label noise"):
        problem.conditional(0.0)
    with pytest.raises(ValueError, match="zero mean"):
        LabelledGaussian(GaussianMixture(torch.ones(1, 2), torch.ones(1)), torch.ones(2), 0.1)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        problem.conditional(0.1)(torch.zeros(3, 4), torch.tensor(0.5), {"label": torch.zeros(3)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_stay_on_the_subspace_to_rounding(dtype: torch.dtype) -> None:
    """A singular covariance has no variance off its range, not even the root of rounding."""
    problem = GaussianSubspace.random(dtype=dtype)
    x = problem.sample_base(500, generator=torch.Generator().manual_seed(0))
    outside = x - x @ problem.frame @ problem.frame.T
    assert float(outside.norm(dim=1).max()) < 100 * torch.finfo(dtype).eps
