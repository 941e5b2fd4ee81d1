"""Guidance along a value: exact with the exact value, biased with an estimate, and well-behaved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from guidance_cases import (
    F64,
    VECTORS,
    condition_of,
    distance_from,
    mode_z,
    problem_of,
    seeded,
    states,
)

from payoff.denoisers import Counted, NetDenoiser
from payoff.errors import UserError
from payoff.guidance import Guided
from payoff.nets import ResidualMLP
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.rewards.metered import Metered
from payoff.samplers import DDIM, SAMPLERS, Ancestral
from payoff.targets import Target
from payoff.values import Learned, MonteCarlo, PlugIn, Posterior


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("time", [0.05, 0.4, 0.9, "rows"])
def test_the_exact_value_gives_the_denoiser_of_the_target(name: str, time: float | str) -> None:
    t = torch.linspace(0.1, 0.9, 6, dtype=F64) if time == "rows" else torch.tensor(time, dtype=F64)
    problem, x, cond = states(name, t)
    guided = Guided(problem.base, problem.value())
    assert guided.exact
    with torch.no_grad():
        found, right = guided(x, t, cond), problem.tilted()(x, t, cond)
    torch.testing.assert_close(found.x0, right.x0, rtol=1e-6, atol=1e-8)
    assert not found.x0.requires_grad
    # V is a log-ratio of densities, so its gradient and the two scores agree too
    torch.testing.assert_close(found.score, right.score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_the_exact_value_reaches_the_target_with_every_sampler(sampler: str) -> None:
    problem = MixtureProblem.two_modes()
    guided, n = Guided(problem.base, problem.value()), 4000
    steps = 60 if SAMPLERS[sampler].order == 2 else 200
    x = SAMPLERS[sampler](guided, (1,), steps).sample(n, generator=seeded())
    distance, floor = distance_from(problem, x)
    assert distance < 2.5 * floor, (distance, floor)
    assert abs(mode_z(problem, x)) < 4


def test_the_bias_of_the_plug_in_does_not_vanish_with_steps() -> None:
    """Right reward level, wrong mode weights, at 50 steps and at 400."""
    problem, n = MixtureProblem.two_modes(), 4000
    guided = Guided(problem.base, PlugIn(problem))
    assert not guided.exact
    for steps in (50, 300):
        x = Ancestral(guided, (1,), steps).sample(n, generator=seeded())
        distance, floor = distance_from(problem, x)
        assert distance > 5 * floor, (steps, distance, floor)
        assert abs(mode_z(problem, x)) > 5


def test_plug_in_is_exact_for_a_gaussian_with_a_linear_reward() -> None:
    """V differs from r(x̂0)/τ by the posterior variance, which does not depend on x_t."""
    t = torch.tensor(0.6, dtype=F64)
    problem, x, _ = states("gaussian", t)
    found = Guided(problem.base, PlugIn(problem))(x, t).x0
    torch.testing.assert_close(found, problem.tilted()(x, t).x0, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8])
def test_plug_in_on_a_quadratic_reward_is_off_by_a_known_factor(time: float) -> None:
    """x ~ N(0, 1), r = −q x²/2: the slope −q m of the plug-in is −q m / (1 + q v) in truth, with
    m the clean estimate and v its posterior variance.
    """
    q = 0.8
    problem = one_gaussian(q)
    t = torch.tensor(time, dtype=F64)
    x = problem.base.sample_t(5, t, generator=seeded())
    before = problem.base(x, t).x0
    alpha, sigma = problem.base.process.schedule(t)
    v = sigma**2 / (alpha**2 + sigma**2)
    exact = Guided(problem.base, problem.value())(x, t).x0 - before
    plug_in = Guided(problem.base, PlugIn(problem))(x, t).x0 - before
    torch.testing.assert_close(plug_in, (1 + q * v) * exact)


def test_lgd_goes_to_the_exact_value_on_a_gaussian() -> None:
    """Its error falls as the root of the draws, and what is left is not the plug-in's bias."""
    problem, t = one_gaussian(0.8), torch.tensor(0.6, dtype=F64)
    x = problem.base.sample_t(8, t, generator=seeded())
    exact = Guided(problem.base, problem.value())(x, t).x0.detach()
    errors = []
    for draws in (100, 10_000):
        value = Posterior(problem, draws, sigma_data=1.0)
        parts = [
            Guided(problem.base, value, generator=seeded(i))(x, t).x0.detach() for i in range(10)
        ]
        errors.append(float((torch.stack(parts) - exact).square().mean().sqrt()))
    assert errors[1] < 0.2 * errors[0], errors
    plug_in = Guided(problem.base, PlugIn(problem))(x, t).x0.detach()
    assert errors[1] < 0.1 * float((plug_in - exact).abs().mean()), errors


def one_gaussian(curvature: float) -> MixtureProblem:
    from payoff.problems.quadratic import Quadratic

    reward = Quadratic(torch.zeros(1, dtype=F64), torch.tensor([[curvature]], dtype=F64))
    return MixtureProblem(torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64), None, reward)


@pytest.mark.parametrize("name", VECTORS)
def test_the_move_is_the_gradient_of_the_value(name: str) -> None:
    """Against finite differences of the value, along random directions inside the space."""
    t = torch.tensor(0.5, dtype=F64)
    problem, x, cond = states(name, t)
    value = PlugIn(problem)
    space = problem.base.process.space
    alpha, sigma = problem.base.process.schedule(t)
    move = Guided(problem.base, value)(x, t, cond).x0 - problem.base(x, t, cond).x0
    step = space.noise(tuple(x.shape), cond, like=x, generator=seeded(3))
    h = 1e-5
    slope = (value(x + h * step, t, cond) - value(x - h * step, t, cond)) / (2 * h)
    found = (move * step).flatten(1).sum(1) * alpha / sigma**2
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8)


def test_clouds_stay_centred_and_padding_stays_zero() -> None:
    """With a reward that pulls at every member, the padded ones and the centre too."""
    problem = CloudProblem(4)
    pull = FunctionReward(lambda x, cond: (x * torch.arange(12.0).view(4, 3)).sum((1, 2)))
    target = Target(problem.base, pull)
    cond = condition_of("cloud", 60)
    assert cond is not None
    for value in (PlugIn(target), Posterior(target, 3)):
        guided = Guided(problem.base, value, generator=seeded())
        x = DDIM(guided, (4, 3), 20, eta=1.0).sample(60, cond, generator=seeded())
        assert (x[~cond["mask"]] == 0).all()
        assert x.sum(1).abs().max() < 1e-4
        assert x.isfinite().all()


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("kind", ["exact", "plug-in", "unit", "limit"])
def test_a_batch_of_one_is_its_row(name: str, kind: str) -> None:
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    problem, x, cond = states(name, t)
    options = {"unit": {"normalise": "unit"}, "limit": {"limit": 0.05}}.get(kind, {})
    value = problem.value() if kind == "exact" else PlugIn(problem)
    guided = Guided(problem.base, value, **options)  # type: ignore[arg-type]
    whole = guided(x, t, cond).x0
    for i in range(6):
        part = None if cond is None else {k: v[i : i + 1] for k, v in cond.items()}
        torch.testing.assert_close(guided(x[i : i + 1], t[i : i + 1], part).x0[0], whole[i])


def test_one_forward_and_one_backward_pass_a_call() -> None:
    problem = problem_of("mixture", torch.float32)
    counted, metered = Counted(problem.base), Metered(problem.reward)
    target = Target(counted, metered, problem.temperature)
    t, n = torch.tensor(0.5), 7
    x = problem.base.sample_t(n, t, generator=seeded())
    wanted = {
        "plug-in": (PlugIn(target), n, n, n),
        "posterior": (Posterior(target, 5), n, n, 5 * n),
        "exact": (problem.value(), n, 0, 0),
        "learned": (Learned(ResidualMLP(3, 8, 1), target), n, 0, 0),
    }
    for name, (value, rows, backward, rewards) in wanted.items():
        counted.rows = counted.backward = metered.meter.rows = 0
        with torch.no_grad():
            Guided(counted, value)(x, t)
        assert (counted.rows, counted.backward) == (rows, backward), name
        assert metered.meter.rows == rewards, name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_gradient_mode_and_leaves_none_behind(mode) -> None:  # type: ignore[no-untyped-def]
    """With a network, whose weights are parameters, and a mask made in that mode."""
    process = GaussianProcess()
    torch.manual_seed(0)
    net = ResidualMLP(3, 8, 1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)  # a new network returns zeros
    base = NetDenoiser(net, process)
    reward = FunctionReward(lambda x, cond: (x * cond["weight"]).sum(1))
    guided = Guided(base, PlugIn(Target(base, reward)))
    g = seeded()
    with mode():
        x, t = torch.randn(4, 3, generator=g), torch.full((4,), 0.5)
        cond = {"weight": torch.ones(4, 3)}
        found = guided(x, t, cond).x0
        assert found.requires_grad == torch.is_grad_enabled()
    assert x.grad is None
    assert all(p.grad is None for p in base.parameters())
    assert found.isfinite().all()
    torch.testing.assert_close(found.detach().clone(), guided(x.clone(), t.clone(), {
        "weight": torch.ones(4, 3)}).x0.detach())  # fmt: skip


def test_guided_denoisers_nest() -> None:
    """Two linear rewards one after the other are one; and a guided base makes a target."""
    problem = GaussianSubspace.random(4, 2, dtype=F64)
    base, t = problem.base, torch.tensor(0.5, dtype=F64)
    x = base.sample_t(6, t, generator=seeded())
    one = FunctionReward(lambda x, cond: x[:, 0] - 0.3 * x[:, 1])
    two = FunctionReward(lambda x, cond: 0.7 * x[:, 2])
    inner = Guided(base, PlugIn(Target(base, one)))
    outer = Guided(inner, PlugIn(Target(inner, two)))
    both = Guided(base, PlugIn(Target(base, one + two)))
    with torch.no_grad():
        torch.testing.assert_close(outer(x, t).x0, both(x, t).x0)
    # a curved reward inside: its second derivatives count in the outer gradient
    curved = FunctionReward(lambda x, cond: -0.5 * x.square().sum(1))
    inner = Guided(base, PlugIn(Target(base, curved)))
    value = PlugIn(Target(inner, two))
    outer = Guided(inner, value)
    with torch.no_grad():
        move = outer(x, t).x0 - inner(x, t).x0
        step, h = torch.randn(6, 4, generator=seeded(2), dtype=F64), 1e-5
        slope = (value(x + h * step, t) - value(x - h * step, t)) / (2 * h)
    alpha, sigma = base.process.schedule(t)
    torch.testing.assert_close((move * step).sum(1) * alpha / sigma**2, slope, rtol=1e-6, atol=1e-8)
    target = Target(inner, two, 0.5)
    assert Ancestral(Guided(inner, PlugIn(target)), (4,), 5).sample(
        3, generator=seeded()
    ).shape == ((3, 4))


def test_derivatives_reach_the_base_where_gradients_are_on() -> None:
    base = NetDenoiser(ResidualMLP(2, 8, 1), GaussianProcess()).double()
    for p in base.parameters():
        torch.nn.init.normal_(p, std=0.3)
    reward = FunctionReward(lambda x, cond: x.sin().sum(1))
    guided = Guided(base, PlugIn(Target(base, reward)))
    x = torch.randn(3, 2, generator=seeded(), dtype=F64, requires_grad=True)
    t = torch.tensor(0.5, dtype=F64)
    assert torch.autograd.gradcheck(lambda x: guided(x, t).x0, (x,))
    guided(x, t).x0.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in base.parameters())


def test_normalised_steps() -> None:
    t = torch.tensor(0.5, dtype=F64)
    problem, x, _ = states("mixture", t)
    before = problem.base(x, t)
    alpha, sigma = problem.base.process.schedule(t)
    unit = Guided(problem.base, PlugIn(problem), 0.1, normalise="unit")(x, t).x0 - before.x0
    expected = 0.1 * (sigma / alpha) * before.noise.norm(dim=1)
    torch.testing.assert_close(unit.norm(dim=1), expected)
    # least squares: half the gradient of −ρ² over ρ is that of −ρ
    squares = FunctionReward(lambda x, cond: -(x - 1).square().sum(1))
    target = Target(problem.base, squares)
    plain = Guided(problem.base, PlugIn(target))(x, t).x0 - before.x0
    residual = Guided(problem.base, PlugIn(target), normalise="residual")(x, t).x0 - before.x0
    rho = (before.x0 - 1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(residual, plain / (2 * rho))
    with pytest.raises(UserError, match="never positive"):
        Guided(problem.base, PlugIn(Target(problem.base, squares + 1e6)), normalise="residual")(
            x, t
        )
    small = Guided(problem.base, PlugIn(problem), limit=0.01)(x, t).x0 - before.x0
    assert small.square().mean(1).sqrt().max() <= 0.01 * (1 + 1e-9)
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(small, plain_of(problem, x, t)),
        torch.ones(6, dtype=F64),
    )


def plain_of(problem, x, t):  # type: ignore[no-untyped-def]
    return Guided(problem.base, PlugIn(problem))(x, t).x0 - problem.base(x, t).x0


def test_rows_whose_reward_fails_are_not_guided_and_counted() -> None:
    t = torch.tensor(0.5, dtype=F64)
    problem, x, _ = states("mixture", t)
    first = problem.base(x, t).x0[:, 0]
    middle = float(first.median())
    broken = FunctionReward(
        lambda x, cond: torch.where(x[:, 0] > middle, math.nan, x.sum(1).square())
    )
    guided = Guided(problem.base, PlugIn(Target(problem.base, broken)))
    found = guided(x, t).x0
    fails = first > middle
    torch.testing.assert_close(found[fails], problem.base(x, t).x0[fails])
    assert found.isfinite().all()
    assert (found[~fails] != problem.base(x, t).x0[~fails]).any(1).all()
    assert (guided.calls, int(guided.failed)) == (6, int(fails.sum()))


def test_refusals() -> None:
    chain, problem = TokenChain.random(3, 3), MixtureProblem.two_modes()
    with pytest.raises(UserError, match="token"):
        Guided(chain.base, chain.value())
    with pytest.raises(UserError, match="black box"):
        Guided(problem.base, MonteCarlo(problem))
    with pytest.raises(UserError, match="normalise"):
        Guided(problem.base, problem.value(), normalise="l2")
    with pytest.raises(UserError, match="limit"):
        Guided(problem.base, problem.value(), limit=-1.0)
    assert not Guided(problem.base, problem.value(), 2.0).exact
    assert copy.deepcopy(Guided(problem.base, problem.value(), generator=seeded())).exact


def test_a_reward_that_does_not_depend_on_x_moves_nothing() -> None:
    t = torch.tensor(0.5, dtype=F64)
    problem, x, _ = states("mixture", t)
    flat = FunctionReward(lambda x, cond: torch.ones(len(x), dtype=x.dtype))
    found = Guided(problem.base, PlugIn(Target(problem.base, flat)))(x, t).x0
    torch.testing.assert_close(found, problem.base(x, t).x0)


def test_outside_its_interval_the_value_is_not_called_and_moves_nothing() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    exact, calls = problem.value(), []

    class Watched(type(exact)):  # type: ignore[misc]
        def __call__(self, *args, **kwargs):
            calls.append(1)
            return super().__call__(*args, **kwargs)

    value = Watched.__new__(Watched)
    value.__dict__.update(exact.__dict__)
    everywhere = Guided(problem.base, exact)
    some = Guided(problem.base, value, interval=(-2.0, 2.0))
    assert everywhere.exact
    assert not some.exact
    time = problem.base.process.schedule.time
    for level, inside in ((-3.0, False), (0.5, True), (3.0, False)):
        t = time(torch.tensor(level, dtype=F64))
        x = problem.base.sample_t(5, t, generator=seeded())
        right = everywhere if inside else problem.base
        before = len(calls)
        torch.testing.assert_close(some(x, t).x0, right(x, t).x0)
        assert len(calls) - before == inside
    levels = torch.tensor([-3.0, 0.5, 3.0, 1.0, -1.0], dtype=F64)  # a level a row
    x = problem.base.sample_t(5, time(levels), generator=seeded())
    found, plain = some(x, time(levels)).x0, problem.base(x, time(levels)).x0
    inside = levels.abs() < 2
    expected = torch.where(inside[:, None], everywhere(x, time(levels)).x0, plain)
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="interval must be"):
        Guided(problem.base, exact, interval=(2.0, -2.0))
