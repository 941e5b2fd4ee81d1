"""Label likelihoods: against the closed form of a Gaussian, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from payoff.guidance import Guided
from payoff.nets import ResidualMLP
from payoff.nets.invariant import InvariantTransformer
from payoff.problems import GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.samplers import Ancestral
from payoff.schedules import Cosine, LogLinear
from payoff.spaces import Centered
from payoff.values import LabelLikelihood
from payoff.values.label import SMALLEST, log_normal

F64 = torch.float64
NOISE = 0.3  # of the label


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane() -> GaussianSubspace:
    return GaussianSubspace.random(4, 2, isotropic=False, dtype=F64)


def spread_of(problem: GaussianSubspace) -> float:
    """The label's standard deviation; its mean is 0."""
    covariance = problem.denoiser.covariances()[0]
    return float(problem.theta @ covariance @ problem.theta + NOISE**2) ** 0.5


class Posterior(nn.Module):
    """The exact moments of the standardised label, as a network would give them."""

    def __init__(self, problem: GaussianSubspace) -> None:
        super().__init__()
        self.problem, self.spread = problem, spread_of(problem)

    def forward(self, x, level, cond):
        # variance preserving and unit data: the network's input is x_t itself
        t = self.problem.base.process.schedule.time(8 * level)
        theta = self.problem.theta
        mean = self.problem.base(x, t).x0 @ theta
        (alpha, sigma), c = self.problem.base.process.schedule(t), self.problem.denoiser
        c = c.covariances()[0]
        noisy = alpha[:, None, None] ** 2 * c + sigma[:, None, None] ** 2 * torch.eye(4).to(c)
        rest = c - alpha[:, None, None] ** 2 * c @ torch.linalg.solve(noisy, c)
        variance = (rest @ theta) @ theta + NOISE**2
        raw = torch.log(torch.expm1(variance / self.spread**2 - SMALLEST))
        return torch.stack([mean / self.spread, raw], dim=1)


def exact() -> tuple[GaussianSubspace, LabelLikelihood]:
    problem = plane()
    return problem, LabelLikelihood(Posterior(problem), problem.base.process, 1)


@pytest.mark.parametrize("time", [0.05, 0.4, 0.8, 0.98])
def test_with_the_posteriors_moments_it_is_the_denoiser_given_the_label(time: float) -> None:
    problem, value = exact()
    t = torch.tensor(time, dtype=F64)
    x = problem.base.sample_t(6, t, generator=seeded())
    label = torch.linspace(-2, 2, 6, dtype=F64).unsqueeze(1)
    known = torch.tensor([1.0, 1, 1, 0, 1, 0], dtype=F64)
    right = problem.conditional(NOISE)
    expected = right(x, t, {"label": label * spread_of(problem), "label_known": known}).x0
    found = Guided(problem.base, value)(x, t, {"label": label, "label_known": known}).x0
    torch.testing.assert_close(found, expected)
    # and in nats it is the likelihood: p(x_t | y) = p(x_t) p(y | x_t) / p(y)
    told = {"label": label * spread_of(problem)}
    ratio = right.log_prob_t(x, t, told) - problem.base.log_prob_t(x, t)
    of_label = -0.5 * (label[:, 0] ** 2 + math.log(2 * math.pi))
    torch.testing.assert_close(value(x, t, {"label": label}), ratio + of_label)


@pytest.mark.parametrize("time", [0.05, 0.8])
def test_noise_on_what_is_asked_for_is_noise_on_the_label(time: float) -> None:
    problem, value = exact()
    t, noise = torch.tensor(time, dtype=F64), 0.4
    x = problem.base.sample_t(6, t, generator=seeded())
    label = torch.linspace(-2, 2, 6, dtype=F64).unsqueeze(1)
    blurred = value.of(problem.base.process, noise=noise)
    right = problem.conditional(math.hypot(NOISE, noise * spread_of(problem)))
    expected = right(x, t, {"label": label * spread_of(problem)}).x0
    found = Guided(problem.base, blurred)(x, t, {"label": label}).x0
    torch.testing.assert_close(found, expected)
    assert blurred.of(problem.base.process, "wanted").noise == noise


def test_samples_have_the_law_given_the_label() -> None:
    problem, value = exact()
    n, aim = 4000, 1.5
    cond = {"label": torch.full((n, 1), aim, dtype=F64)}
    walk = Ancestral(Guided(problem.base, value), (4,), 150)
    x = walk.sample(n, cond, generator=seeded())
    mean, covariance = problem.conditional(NOISE).moments(aim * spread_of(problem))
    basis = problem.frame
    z = (x - mean) @ basis
    expected = basis.T @ covariance @ basis
    assert ((z.mean(0) / (expected.diag() / n).sqrt()).abs() < 4).all()
    # 150 first-order steps are within 3 % of the variances
    error = z.T.cov() - expected
    scale = (expected.diag()[:, None] * expected.diag() + expected**2).sqrt()
    assert (error.abs() < (4 / n**0.5 + 0.03) * scale).all()


class Two(nn.Module):
    """A perceptron of four inputs with two outputs, mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = ResidualMLP(4, width=64, depth=2), nn.Linear(8, 2)

    def forward(self, x, level, cond):
        return self.out(torch.cat([self.body(x, level, None), x], dim=1))


def test_learned_it_comes_near_the_denoiser_given_the_label() -> None:
    """A fit of seconds leaves at most half of the root mean square move of guidance."""
    torch.manual_seed(0)
    problem = GaussianSubspace.random(4, 2, isotropic=False)
    x0 = problem.sample_base(20_000, generator=seeded())
    label = problem.labels(x0, NOISE, generator=seeded(1)) / spread_of(problem)
    value = LabelLikelihood(Two(), problem.base.process, 1)
    losses: list[float] = []
    value.fit(
        x0, label, steps=500, generator=seeded(2), progress=lambda step, loss: losses.append(loss)
    )
    assert sum(losses[-4:]) < sum(losses[:4])
    right = problem.conditional(NOISE)
    for time in (0.2, 0.5, 0.8):
        t = torch.tensor(time)
        x = problem.base.sample_t(500, t, generator=seeded(3))
        asked = torch.randn(500, 1, generator=seeded(4))
        told = right(x, t, {"label": asked * spread_of(problem)}).x0
        with torch.no_grad():
            free = problem.base(x, t).x0
            found = Guided(problem.base, value)(x, t, {"label": asked}).x0
        assert (found - told).norm() < 0.5 * (free - told).norm(), time


def test_every_beta_has_the_same_minimiser() -> None:
    """A constant Gaussian fitted to a label that the samples say nothing of."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Parameter(torch.zeros(2))

        def forward(self, x, level, cond):
            return self.c.expand(len(x), 2)

    label = 0.4 + 0.7 * torch.randn(4000, 1, generator=seeded())
    for beta in (0.0, 0.5, 1.0):
        value = LabelLikelihood(Constant(), GaussianProcess(), 1, beta=beta)
        value.fit(torch.zeros(4000, 2), label, steps=250, rate=0.04, generator=seeded(1))
        moments = value.moments(torch.zeros(1, 2), torch.tensor(0.5))
        mean, variance = (m.detach() for m in moments)
        assert float(mean) == pytest.approx(0.4, abs=0.06)
        assert float(variance) == pytest.approx(0.49, abs=0.06)


def cloud(dtype: torch.dtype = F64) -> tuple[LabelLikelihood, torch.Tensor, torch.Tensor, dict]:
    torch.manual_seed(0)
    net = InvariantTransformer(2, outputs=6, width=16, depth=2, pair_width=8, vectors=4)
    process = GaussianProcess(Centered())
    value = LabelLikelihood(net.to(dtype), process, 3)
    cond = {
        "mask": torch.tensor([[True] * 4, [True, True, True, False]]),
        "label": torch.randn(2, 3, generator=seeded(1), dtype=dtype),
        "label_known": torch.tensor([[1.0, 0, 1], [0, 1, 0]], dtype=dtype),
    }
    x = process.space.noise((2, 4, 5), cond, like=torch.zeros(0, dtype=dtype), generator=seeded())
    return value, x, torch.tensor([0.3, 0.6], dtype=dtype), cond


def test_far_from_a_label_the_gradient_leads_to_it_and_not_to_doubt() -> None:
    """One coordinate moves the mean, another the variance; the label is near or far."""

    class Doubt(nn.Module):
        def forward(self, x, level, cond):
            return x  # mean and, before the softplus, variance

    process = GaussianSubspace.random(4, 2).base.process
    value = LabelLikelihood(Doubt(), process, 1)
    label = torch.tensor([[1.0], [1.0], [30.0], [30.0]], dtype=F64)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0]] * 2, dtype=F64).requires_grad_(True)
    t = torch.tensor(1e-3, dtype=F64)
    (slope,) = torch.autograd.grad(value(x, t, {"label": label}).sum(), x)
    assert (slope[:, 0] > 0).all()
    assert (slope[:2, 1] != 0).all()
    assert (slope[2:, 1] == 0).all()
    mean, variance = value.moments(x, t)
    expected = log_normal(label, mean, variance)[:, 0]
    torch.testing.assert_close(value(x, t, {"label": label}), expected)
    torch.testing.assert_close(slope[:2], torch.autograd.grad(expected[:2].sum(), x)[0][:2])


def test_unknown_labels_and_padding_change_nothing() -> None:
    value, x, t, cond = cloud()
    found = value(x, t, cond)
    hidden = cond["label"].masked_fill(cond["label_known"] == 0, math.nan)
    assert torch.equal(value(x, t, {**cond, "label": hidden}), found)
    other = x.clone()
    other[1, 3] = 7.0
    assert torch.equal(value(other, t, cond), found)
    wide = torch.cat([x, torch.zeros_like(x)], dim=1)
    mask = torch.cat([cond["mask"], torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(value(wide, t, {**cond, "mask": mask}), found)
    for none in ({**cond, "label_known": torch.zeros(2)}, {"mask": cond["mask"]}):
        assert torch.equal(value(x, t, none), torch.zeros(2, dtype=F64))
    flag = {**cond, "label_known": torch.tensor([1, 0])}
    every = {**cond, "label_known": torch.tensor([[1.0] * 3, [0.0] * 3])}
    assert torch.equal(value(x, t, flag), value(x, t, every))
    # a row's labels are its own
    for i in range(2):
        row = {k: v[i : i + 1] for k, v in cond.items()}
        torch.testing.assert_close(value(x[i : i + 1], t[i], row)[0], found[i])


def test_rotations_turn_the_gradient_and_leave_the_value() -> None:
    value, x, t, cond = cloud()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(5), dtype=F64))[0]

    def of(x):
        x = x.clone().requires_grad_(True)
        found = value(x, t, cond)
        return found.detach(), torch.autograd.grad(found.sum(), x)[0]

    def turned(x):
        return torch.cat([x[..., :3] @ turn, x[..., 3:]], dim=-1)

    (before, slope), (after, new_slope) = of(x), of(turned(x))
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(new_slope, turned(slope))


def test_another_schedule_and_key_are_the_same_value() -> None:
    value, x, t, cond = cloud()
    process = GaussianProcess(Centered(), LogLinear(-9.0, 9.0))
    other = value.of(process, "wanted")
    level = value.process.schedule.log_snr(t)
    told = {"mask": cond["mask"], "wanted": cond["label"], "wanted_known": cond["label_known"]}
    found = other(x, process.schedule.time(level), told)
    torch.testing.assert_close(found, value(x, t, cond))
    assert torch.equal(other(x, t, cond), torch.zeros(2, dtype=F64))


def test_it_says_what_it_is_and_refuses_what_does_not_fit() -> None:
    value, x, t, cond = cloud()
    assert value.differentiable
    assert not value.exact
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(2, 3\)"):
        value(x, t, {**cond, "label": cond["label"][:, :2]})
    with pytest.raises(ValueError, match="labels have shape"):
        value.fit(x, cond["label"][:1])
    for wrong in ({"labels": 0}, {"labels": 1, "beta": 2.0}):
        with pytest.raises(ValueError, match="need labels"):
            LabelLikelihood(value.net, GaussianProcess(schedule=Cosine()), **wrong)
