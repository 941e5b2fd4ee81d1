"""DNO and Fast Direct: what they climb, by which gradient, and how far from noise they get."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.errors import UserError
from payoff.metrics import Estimate
from payoff.problems import CloudProblem, MixtureProblem
from payoff.rewards import FunctionReward
from payoff.steering.best_of_n import BestOfN
from payoff.steering.dno import DNO, improbability
from payoff.steering.fast_direct import FastDirect, Surrogate
from payoff.steering.noises import draw_noises, play
from payoff.targets import Target

ALL = 10**6  # one batch
F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def black_box(problem) -> Target:
    reward = FunctionReward(lambda x, cond: problem.reward(x), differentiable=False)
    return Target(problem.base, reward, problem.temperature)


def test_play_is_the_ancestral_sampler() -> None:
    """Same law as the walk: mean and spread of many plays against many walks."""
    problem = MixtureProblem.random(2, temperature=1.0)
    method = DNO(problem, problem.shape, steps=12)
    like = method.start(20_000)
    grid = method.time_grid(like)
    z = draw_noises(problem.base, like, 12, generator=seeded())
    x = play(problem.base, z, grid)
    y = method.walk.sample(20_000, generator=seeded(1), batch_size=ALL)
    for power in (1, 2):
        for a, b in zip((x**power).T, (y**power).T, strict=True):
            assert abs(Estimate.of(a).z(Estimate.of(b))) < 4
    # checkpointed, it is the same map with the same gradient
    few = z[:, :3].clone().requires_grad_(True)
    plain = torch.autograd.grad(play(problem.base, few, grid).square().sum(), few)[0]
    saved = torch.autograd.grad(play(problem.base, few, grid, saving=True).square().sum(), few)[0]
    torch.testing.assert_close(saved, plain)


def test_improbability_is_nothing_for_noise_and_grows_outside() -> None:
    z = torch.randn(51, 200, 8, generator=seeded(), dtype=F64)
    assert improbability(z, generator=seeded(1)).mean() < 0.3
    for moved, least in ((z + 1.0, 5), (2 * z, 5), (0.3 * z, 0.5)):  # shrinking counts least
        assert improbability(moved, generator=seeded(1)).min() > least
    # a chance event of that probability: P = −log(2 e^{−m‖mean‖²/2k}) for noises that are all equal
    equal = torch.full((10, 1, 4), 0.5, dtype=F64)
    shown = improbability(equal, group=4, shuffles=2, generator=seeded())
    spread = 4 * 0.25 - 1  # the only eigenvalue of zzᵀ − I that is not −1, in size 0
    excess = math.sqrt(1 + max(1.0, abs(spread))) - 1 - math.sqrt(0.4)
    expected = max(0, 10 * 1.0 / 8 - math.log(2)) + max(0, 5 * max(excess, 0) ** 2 - math.log(2))
    assert float(shown) == pytest.approx(expected)


def test_the_zeroth_order_gradient_is_right_on_average() -> None:
    problem = MixtureProblem.random(5, temperature=0.7, dtype=F64)
    x = problem.sample_base(3, generator=seeded())
    y = x.clone().requires_grad_(True)
    exact = torch.autograd.grad(problem.reward(y).sum() / 0.7, y)[0]
    method = DNO(black_box(problem), problem.shape, probes=1, radius=0.5)
    repeats = 4000
    found = method.probe(x.repeat(repeats, 1), generator=seeded(1)).view(repeats, 3, 5)
    # a quadratic reward: unbiased at any radius
    z = (found.mean(0) - exact) / (found.std(0) / math.sqrt(repeats))
    assert z.abs().max() < 4


def test_reward_rises_and_the_regulariser_keeps_noise_probable() -> None:
    problem = MixtureProblem.random(4, temperature=0.5)
    n = 32
    found = {}
    for penalty in (0.0, 10.0):
        method = DNO(problem, problem.shape, steps=15, iterations=40, rate=0.05, penalty=penalty)
        x = method.sample(n, generator=seeded(), batch_size=ALL)
        found[penalty] = method.summary
        gain = problem.reward(x) / 0.5 - method.summary["first"]
        assert Estimate.of(gain).z(0.0) > 4
    assert found[0.0]["improbability"] > 10 * max(found[10.0]["improbability"], 0.1)
    assert found[0.0]["last"] > found[10.0]["last"]
    # ‖z‖² over its 64 degrees of freedom has a standard deviation of √(2/64) = 0.18
    assert abs(found[10.0]["norm"] - 1) < 0.36


def test_a_black_box_is_climbed_like_the_reward_itself() -> None:
    problem = MixtureProblem.random(3, temperature=1.0)
    options = {"steps": 10, "iterations": 30, "rate": 0.03}
    exact = DNO(problem, problem.shape, **options)
    probed = DNO(black_box(problem), problem.shape, probes=8, **options)
    assert exact.exactly
    assert not probed.exactly
    x = exact.sample(100, generator=seeded(), batch_size=ALL)
    y = probed.sample(100, generator=seeded(), batch_size=ALL)
    gain = problem.reward(x).mean() - exact.summary["first"]
    assert problem.reward(y).mean() - exact.summary["first"] > 0.6 * gain > 0
    with pytest.raises(UserError, match="zeroth-order"):
        DNO(black_box(problem), problem.shape, gradient="exact")
    with pytest.raises(UserError, match="gradient"):
        DNO(problem, problem.shape, gradient="none")


def test_masked_clouds_keep_their_space_and_failures_stay_where_they_are() -> None:
    cloud = CloudProblem(4)
    mask = torch.arange(4) < torch.tensor([2, 3, 4, 4]).unsqueeze(1)
    for method in (
        DNO(cloud, cloud.shape, steps=8, iterations=5),
        FastDirect(cloud, cloud.shape, steps=8, queries=5),
    ):
        x = method.sample(4, {"mask": mask}, generator=seeded())
        assert (x[~mask] == 0).all()
        assert x.sum(1).abs().max() < 1e-4
    problem = MixtureProblem.two_modes()
    half = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, math.nan, x[:, 0]))
    target = Target(problem.base, half)
    for method in (
        DNO(target, problem.shape, steps=8, iterations=5, gradient="zeroth-order"),
        DNO(target, problem.shape, steps=8, iterations=5),
        FastDirect(target, problem.shape, steps=8, queries=1, explore=1.0),
    ):
        with pytest.warns(match="could be scored"):
            x = method.sample(60, generator=seeded(), batch_size=ALL)
        assert x.isfinite().all()
        assert method.summary["failed"] == int((x > 0).sum())


def test_the_surrogate_goes_through_what_it_has_seen_and_climbs() -> None:
    x = torch.randn(200, 3, generator=seeded())
    y = -(x - 0.5).square().sum(1)
    model = Surrogate.fitted(x, torch.cat([y[:150], torch.full((50,), math.nan)]))
    assert model is not None
    assert len(model.x) == 150
    scaled = (y - y[:150].mean()) / y[:150].std()
    assert (model.mean(x[:150]) - scaled[:150]).abs().max() < 0.05
    assert (model.mean(x[150:]) - scaled[150:]).abs().quantile(0.8) < 0.05
    way = model.way(x[150:])
    assert way.norm(dim=1).max() < 1 + 1e-9
    assert (model.mean(x[150:] + model.length * way) >= model.mean(x[150:]) - 1e-9).all()
    assert Surrogate.fitted(x[:1], y[:1]) is None
    assert Surrogate.fitted(x[:5], torch.ones(5)) is None


def test_fast_direct_beats_best_of_n_at_equal_calls() -> None:
    """Sixteen dimensions, a smooth reward, ten calls a sample."""
    problem = MixtureProblem.random(16)
    black = black_box(problem)
    fast = FastDirect(black, problem.shape, steps=20, queries=10)
    flat = BestOfN(black, problem.shape, steps=20, candidates=10, choice="argmax")
    assert fast.cost().rewards == flat.cost().rewards
    # chains share their queries, so the batch is the unit that is independent
    rewards = torch.stack(
        [problem.reward(fast.sample(16, generator=seeded(i))).mean() for i in range(6)]
    )
    other = Estimate.of(problem.reward(flat.sample(400, generator=seeded(9), batch_size=ALL)))
    assert Estimate.of(rewards).z(other) > 4
    # a lone chain learns from itself alone, and needs two scores that differ before it does
    alone = FastDirect(black, problem.shape, steps=5, queries=6, explore=0.0)
    assert alone.sample(1, generator=seeded()).isfinite().all()
    assert alone.summary["best"] >= alone.summary["first"]
