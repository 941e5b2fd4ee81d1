"""The training-free family: its members by switches."""

from __future__ import annotations

import pytest
import torch
from guidance_cases import F64, VECTORS, condition_of, problem_of, seeded, states

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.guidance import PRESETS, Guided, TrainingFree
from payoff.problems import CloudProblem, TokenChain
from payoff.rewards import FunctionReward
from payoff.rewards.metered import Metered
from payoff.samplers import Ancestral
from payoff.targets import Target
from payoff.values import PlugIn, Posterior


@pytest.mark.parametrize("name", VECTORS)
def test_with_its_switches_off_it_is_dps_to_the_bit(name: str) -> None:
    t = torch.tensor(0.4, dtype=F64)
    problem, x, cond = states(name, t)
    dps = Guided(problem.base, PlugIn(problem))
    family = TrainingFree.preset("dps", problem.base, problem)
    with torch.inference_mode():
        assert torch.equal(family(x, t, cond).x0, dps(x, t, cond).x0)
    one = Ancestral(family, problem.shape, 10).sample(6, cond, generator=seeded())
    two = Ancestral(dps, problem.shape, 10).sample(6, cond, generator=seeded())
    assert torch.equal(one, two)


def test_with_posterior_smoothing_it_is_lgd_to_the_bit() -> None:
    t = torch.tensor(0.4, dtype=F64)
    problem, x, _ = states("mixture", t)
    lgd = Guided(problem.base, Posterior(problem, 4, 0.8), generator=seeded())
    family = TrainingFree.preset("lgd", problem.base, problem, sigma_data=0.8, generator=seeded())
    assert torch.equal(family(x, t).x0, lgd(x, t).x0)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_on_isotropic_normal_data_rho_and_mu_are_one_move(time: float) -> None:
    """(σ²/α) ∂x̂0/∂x_t is the posterior variance there, so MPGD is DPS."""
    from payoff.problems.mixture import GaussianMixture

    base = GaussianMixture(torch.ones(1, 3, dtype=F64), torch.full((1,), 0.49, dtype=F64))
    t = torch.tensor(time, dtype=F64)
    x = base.sample_t(5, t, generator=seeded())
    target = Target(base, FunctionReward(lambda x, cond: x.sin().sum(1)), 0.6)
    dps = TrainingFree.preset("dps", base, target)
    mpgd = TrainingFree.preset("mpgd", base, target, sigma_data=0.7)
    torch.testing.assert_close(mpgd(x, t).x0, dps(x, t).x0)
    both = TrainingFree.preset("universal", base, target, sigma_data=0.7)
    torch.testing.assert_close(both(x, t).x0, dps(x, t).x0)


def test_moves_at_the_estimate_are_gradient_ascent() -> None:
    """m moves on −q x²/2 shrink the estimate by (1 − μ v q)^m."""
    problem = CloudProblem(4, dtype=F64)
    cond, t = condition_of("cloud", 6), torch.tensor(0.5, dtype=F64)
    x = problem.base.sample_t(6, t, cond, generator=seeded())
    alpha, sigma = problem.base.process.schedule(t)
    v = sigma**2 / (alpha**2 + sigma**2)
    guided = TrainingFree(problem.base, problem, rho=0.0, mu=0.3, iterations=4)
    expected = (1 - 0.3 * v) ** 4 * problem.base(x, t, cond).x0
    torch.testing.assert_close(guided(x, t, cond).x0, expected)


@pytest.mark.parametrize("schedule", ["constant", "increase", "decrease"])
def test_schedules_have_mean_one_and_the_direction_they_are_named_for(schedule: str) -> None:
    problem = problem_of("two_modes")
    guided = TrainingFree(problem.base, problem, rho=2.0, rho_schedule=schedule)
    times = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    strength = torch.as_tensor(guided.strength(times), dtype=F64).expand(2000)
    assert float(strength.mean()) == pytest.approx(2.0, rel=1e-4)
    gain = float(strength[0] - strength[-1])
    assert {"constant": gain == 0, "increase": gain > 1, "decrease": gain < -1}[schedule]


def test_smoothing_widths() -> None:
    problem, t = problem_of("two_modes"), torch.tensor(0.3, dtype=F64)
    alpha, sigma = problem.base.process.schedule(t)

    def width(smoothing: str) -> float:
        part = TrainingFree(problem.base, problem, draws=2, width=0.5, smoothing=smoothing)
        return float(part.smooth.width(t))

    assert width("constant") == 0.5
    assert width("decrease") == pytest.approx(float(0.5 * sigma / (alpha**2 + sigma**2) ** 0.5))
    assert width("posterior") == pytest.approx(float(0.5 * sigma / (alpha**2 + sigma**2) ** 0.5))


@pytest.mark.parametrize("preset", list(PRESETS))
def test_declared_calls_are_those_made(preset: str) -> None:
    problem = problem_of("mixture", torch.float32)
    counted, metered = Counted(problem.base), Metered(problem.reward)
    guided = TrainingFree.preset(preset, counted, Target(counted, metered, 1.3), iterations=3)
    x, t = torch.randn(5, 3, generator=seeded()), torch.tensor(0.5)
    with torch.no_grad():
        assert guided(x, t).x0.isfinite().all()
    assert metered.meter.rows == 5 * guided.reward_calls
    assert (counted.rows, counted.backward) == (5, 5 if PRESETS[preset]["rho"] else 0)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_clouds_stay_centred(preset: str) -> None:
    problem = CloudProblem(4)
    pull = FunctionReward(lambda x, cond: (x * torch.arange(12.0).view(4, 3)).sum((1, 2)))
    cond = condition_of("cloud", 30)
    assert cond is not None
    guided = TrainingFree.preset(
        preset, problem.base, Target(problem.base, pull), generator=seeded()
    )
    x = Ancestral(guided, (4, 3), 10).sample(30, cond, generator=seeded())
    assert (x[~cond["mask"]] == 0).all()
    assert x.sum(1).abs().max() < 1e-4


@pytest.mark.parametrize("preset", [p for p in PRESETS if p not in ("lgd", "tfg")])
def test_a_batch_of_one_is_its_row_and_it_nests(preset: str) -> None:
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    problem, x, _ = states("mixture", t)
    guided = TrainingFree.preset(preset, problem.base, problem, iterations=2)
    whole = guided(x, t).x0
    for i in range(6):
        torch.testing.assert_close(guided(x[i : i + 1], t[i]).x0[0], whole[i])
    value = PlugIn(Target(guided, problem.reward))
    with torch.no_grad():
        move = Guided(guided, value)(x, t).x0 - whole.detach()
        step, h = torch.randn(6, 3, generator=seeded(2), dtype=F64), 1e-5
        slope = (value(x + h * step, t) - value(x - h * step, t)) / (2 * h)
    alpha, sigma = problem.base.process.schedule(t)
    torch.testing.assert_close((move * step).sum(1) * alpha / sigma**2, slope, rtol=1e-5, atol=1e-7)


def test_refusals() -> None:
    chain, problem = TokenChain.random(3, 3), problem_of("two_modes")
    with pytest.raises(UserError, match="token"):
        TrainingFree(chain.base, chain)
    black = Target(problem.base, FunctionReward(lambda x, cond: x[:, 0], differentiable=False))
    with pytest.raises(UserError, match="black box"):
        TrainingFree(problem.base, black)
    for wrong in ({"rho_schedule": "up"}, {"smoothing": "wide"}, {"mu": -1.0}, {"width": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            TrainingFree(problem.base, problem, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="preset"):
        TrainingFree.preset("best", problem.base, problem)
