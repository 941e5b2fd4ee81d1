"""Guidance as steering methods: what they cost, what they reach, what they refuse and report."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.guidance import Guided
from payoff.metrics import Estimate
from payoff.metrics.distances import wasserstein
from payoff.nets.invariant import InvariantTransformer
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.rewards.metered import Metered
from payoff.samplers import Ancestral
from payoff.steering import METHODS, AllFailed, Degenerate
from payoff.steering.guided import CFG, DPS, LGD, ClassifierGuidance, FreeDoM, GradientGuidance
from payoff.targets import Target
from payoff.values import PlugIn

BY_REWARD = ("classifier", "dps", "lgd", "universal", "freedom", "tfg", "gradient")
GRADIENT = tuple(name for name in BY_REWARD if name != "classifier")
SMALL: dict[str, dict[str, Any]] = {"classifier": {"value_steps": 20, "value_width": 16}}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BY_REWARD),
    ("dps", {"eta": 0.0, "grid": "log_snr"}),
    ("lgd", {"draws": 3}),
    ("universal", {"recurrences": 3, "iterations": 2}),
    ("freedom", {"recurrences": 4, "window_from": 0.2, "window_to": 0.5}),
    ("tfg", {"rho": 0.0, "draws": 2}),
    ("tfg", {"mu": 0.0, "recurrences": 2}),
    ("gradient", {"rounds": 1}),
    ("gradient", {"rounds": 4, "batch": 3}),
    ("gradient", {"form": "naive", "rounds": 3}),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(name: str, target: Target, shape: tuple[int, ...], **options: Any):  # type: ignore[no-untyped-def]
    return METHODS[name](target, shape, **{"steps": 10, **SMALL.get(name, {}), **options})


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_declared_cost_is_what_is_spent(name: str, options: dict[str, Any]) -> None:
    problem = MixtureProblem.random(3, 2)
    counted, metered = Counted(problem.base), Metered(problem.reward)
    method = made(name, Target(counted, metered, 1.3), (3,), **options)
    cost, n = method.cost(), 7
    # in batches that do not divide it
    x = method.sample(n, generator=seeded(), batch_size=5)
    assert x.shape == (n, 3)
    assert x.isfinite().all()
    assert metered.meter.rows == cost.rewards * n
    assert counted.rows == cost.network * n
    assert counted.backward == cost.backward * n


@pytest.mark.parametrize("name", BY_REWARD)
def test_a_budget_sets_the_size(name: str) -> None:
    problem = MixtureProblem.two_modes()
    options = {} if name == "dps" else {"steps": 10}
    method = METHODS[name].within(problem, (1,), rewards=200, **options)
    larger = getattr(method, method.size) + 1
    assert method.cost().rewards <= 200
    more = METHODS[name](problem, (1,), **{**options, method.size: larger})
    assert more.cost().rewards > 200
    assert (
        METHODS[name].within(problem, (1,), rewards=200, network=2000, **options).cost().network
        <= 2000
    )
    with pytest.raises(UserError, match="cannot stay within"):
        METHODS[name].within(problem, (1,), rewards=0.5, **options)


@pytest.mark.parametrize("name", BY_REWARD)
def test_every_method_raises_the_reward(name: str) -> None:
    """On the linear reward of a Gaussian subspace, against the base's own samples."""
    problem, n = GaussianSubspace.random(6, 2, 0.5), 400
    options = {"classifier": {"calls": 10, "value_steps": 200}}.get(name, {})
    method = made(name, problem, (6,), steps=20, **options)
    gain = Estimate.of(problem.reward(method.sample(n, generator=seeded())))
    base = Estimate.of(problem.reward(problem.sample_base(n, generator=seeded(1))))
    assert gain.z(base) > 6, (gain, base)
    assert not method.exact


@pytest.mark.parametrize("name", ["dps", "lgd", "classifier"])
def test_a_given_value_takes_the_place_of_their_own(name: str) -> None:
    """With the exact one the draws are those of the target, and no reward call is made."""
    problem, n = MixtureProblem.two_modes(), 4000
    metered = Metered(FunctionReward(lambda x, cond: problem.reward(x), differentiable=False))
    method = METHODS[name](Target(problem.base, metered), (1,), steps=150, value=problem.value())
    x = method.sample(n, generator=seeded())
    assert metered.meter.rows == method.cost().rewards == 0
    assert method.cost().backward == 0
    draws = [problem.sample_target(n, generator=seeded(i))[:, 0] for i in (5, 6, 7, 8)]
    floor = sum(float(wasserstein(a, b)) for a, b in zip(draws[1:], draws[:-1], strict=True)) / 3
    assert float(wasserstein(x[:, 0], draws[0])) < 2.5 * floor


def test_dps_is_the_guided_denoiser_and_the_ancestral_sampler() -> None:
    problem = MixtureProblem.two_modes()
    x = DPS(problem, (1,), steps=15).sample(50, generator=seeded())
    guided = Ancestral(Guided(problem.base, PlugIn(problem)), (1,), 15)
    assert torch.equal(x, guided.sample(50, generator=seeded()))


def test_the_biased_ones_keep_their_bias_when_their_size_grows() -> None:
    """LGD on two modes: more draws do not bring the mode weights."""
    problem, n = MixtureProblem.two_modes(), 3000
    share = float(problem.tilted().log_weights.exp()[1])
    for draws in (4, 16):
        x = LGD(problem, (1,), steps=30, draws=draws, sigma_data=2.4).sample(n, generator=seeded())
        found = float((x > 0.5).float().mean())
        assert (found - share) / math.sqrt(share * (1 - share) / n) > 4


def test_classifier_guidance_of_a_black_box_comes_near_the_target() -> None:
    problem, n = MixtureProblem.two_modes(), 1500
    black = FunctionReward(lambda x, cond: problem.reward(x), differentiable=False)
    method = ClassifierGuidance(
        Target(problem.base, black), (1,), steps=40, calls=10, value_steps=600, value_width=64
    )
    x = method.sample(n, generator=seeded())
    assert method.summary["learned_from"] == 10 * n
    right = problem.sample_target(n, generator=seeded(3))
    base = problem.sample_base(n, generator=seeded(4))
    near, far = (float(wasserstein(a[:, 0], right[:, 0])) for a in (x, base))
    assert near < 0.8 * far, (near, far)
    # the same seed gives the same samples, whatever the global generator does meanwhile
    torch.manual_seed(99)
    quick = ClassifierGuidance(Target(problem.base, black), (1,), steps=5, value_steps=5)
    one = quick.sample(20, generator=seeded(7))
    torch.manual_seed(1)
    assert torch.equal(one, quick.sample(20, generator=seeded(7)))


def test_cfg_asks_for_a_label_and_no_reward() -> None:
    problem, n = GaussianSubspace.random(6, 2), 1000
    counted, metered = Counted(problem.conditional(0.3)), Metered(problem.reward)
    target = Target(counted, metered)
    method = CFG(target, (6,), steps=30, weight=0.0, label=1.5)
    x = method.sample(n, generator=seeded())
    mean, _ = problem.conditional(0.3).moments(1.5)
    expected = float(mean @ problem.theta)
    assert Estimate.of(x @ problem.theta).z(expected) == pytest.approx(0, abs=6)
    assert (metered.meter.rows, counted.rows) == (0, 30 * n)
    more = CFG(target, (6,), steps=30, weight=2.0)
    y = more.sample(n, {"label": torch.full((1, 1), 1.5)}, generator=seeded())
    assert float((y @ problem.theta).mean()) > expected + 0.05
    assert more.cost().network == 60
    assert CFG.within(target, (6,), network=41).steps == 20
    assert CFG.within(target, (6,), rewards=10).steps == 50
    with pytest.raises(UserError, match="label"):
        more.sample(3, generator=seeded())


def test_gradient_guidance_stays_on_the_subspace_where_the_naive_form_does_not() -> None:
    problem = GaussianSubspace.random(16, 4)
    outside = torch.randn(16, generator=seeded(1))
    outside = outside - problem.frame @ (problem.frame.T @ outside)
    g = problem.theta + 9 * outside / outside.norm()
    target = Target(problem.base, FunctionReward(lambda x, cond: 10 - (x @ g - 3).square()))
    off = {}
    for form in ("look-ahead", "naive"):
        method = GradientGuidance(
            target, (16,), steps=30, rounds=20, form=form, noise=0.1, rise=0.9
        )
        x = method.sample(60, generator=seeded())
        off[form] = float(
            problem.off_support(x).mean().sqrt() / (x @ problem.frame).norm(dim=1).mean()
        )
        if form == "look-ahead":
            plain = target.reward(problem.sample_base(60, generator=seeded()))
            assert target.reward(x).mean() > plain.mean() + 3
    left = problem.expected_off_support(torch.zeros(())).sqrt()
    assert off["look-ahead"] < 3 * left
    assert off["naive"] > 10 * off["look-ahead"]


def test_with_a_wide_label_one_round_is_the_tilt_of_a_linear_reward() -> None:
    """ν → ∞ with δ = ν²/τ: the label's likelihood becomes e^{r/τ}."""
    problem, n = GaussianSubspace.random(6, 2, 0.5), 3000
    method = GradientGuidance(problem, (6,), steps=100, rounds=1, noise=200.0)
    x = method.sample(n, generator=seeded())
    scores = Estimate.of(problem.reward(x))
    assert scores.z(float(problem.target_reward())) == pytest.approx(0, abs=6)
    assert float(problem.reward(x).std()) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("name", [n for n in BY_REWARD if n != "classifier"])
def test_clouds_with_masks(name: str) -> None:
    problem = CloudProblem(4)
    mask = torch.arange(4) < (2 + torch.arange(9) % 3).unsqueeze(1)
    method = made(name, problem, (4, 3))
    x = method.sample(9, {"mask": mask}, generator=seeded(), batch_size=4)
    assert (x[~mask] == 0).all()
    assert x.sum(1).abs().max() < 1e-4


@pytest.mark.parametrize("name", GRADIENT)
def test_failures_are_told_with_their_number(name: str) -> None:
    problem = MixtureProblem.two_modes()
    half = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 2.9, math.nan, -x[:, 0].square()))
    method = made(name, Target(problem.base, half), (1,))
    with pytest.warns(Degenerate, match=r"% of|reward calls failed"):
        x = method.sample(200, generator=seeded())
    assert x.isfinite().all()
    assert 0 < method.summary["failed"] < 1
    never = FunctionReward(lambda x, cond: x[:, 0] * math.nan)
    method = made(name, Target(problem.base, never), (1,))
    with pytest.raises(AllFailed) as caught:
        method.sample(20, generator=seeded())
    assert caught.value.state["x0"].shape == (20, 1)


def test_nothing_is_told_where_nothing_failed() -> None:
    problem = MixtureProblem.two_modes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in GRADIENT:
            method = made(name, problem, (1,))
            method.sample(10, generator=seeded())
            assert method.summary["failed"] == 0
            assert method.sample(0).shape == (0, 1)


def test_a_regressor_with_nothing_to_learn_from() -> None:
    problem = MixtureProblem.two_modes()
    never = FunctionReward(lambda x, cond: x[:, 0] * math.nan, differentiable=False)
    with pytest.raises(AllFailed, match="every one of 40"):
        made("classifier", Target(problem.base, never), (1,), calls=10).sample(4)


@pytest.mark.parametrize("name", [*BY_REWARD, "cfg"])
def test_refusals(name: str) -> None:
    problem, chain = MixtureProblem.two_modes(), TokenChain.random(3, 3)
    smooth = Target(chain.base, FunctionReward(lambda x, cond: x.sum(1).float()))
    with pytest.raises(UserError, match="token"):
        made(name, smooth, (3,))
    black = Target(problem.base, FunctionReward(lambda x, cond: x[:, 0], differentiable=False))
    if name in GRADIENT:
        with pytest.raises(UserError, match="not differentiable"):
            made(name, black, (1,))
    else:
        made(name, black, (1,))
    method = METHODS[name]
    with pytest.raises(UserError, match=method.size):
        METHODS[name](problem, (1,), **{method.size: 0})
    with pytest.raises(UserError, match="eta"):
        made(name, problem, (1,), eta=2.0)
    if name == "classifier":
        flat = CloudProblem(4, process=GaussianProcess())  # rows without a common centre
        with pytest.raises(UserError, match="vectors and of centred sets"):
            made(name, flat, (4, 3))


def test_classifier_guidance_learns_a_value_of_ragged_sets() -> None:
    """That the value is right with enough steps is held in tests/values; here it is used."""
    problem, n = CloudProblem(4, stiffness=0.5), 6
    black = FunctionReward(problem.reward, differentiable=False)
    cond = {"mask": torch.arange(4) < torch.tensor([2, 3, 4, 4, 3, 2])[:, None]}
    method = made("classifier", Target(problem.base, black), (4, 3), calls=3, limit=0.1)
    x = method.sample(n, cond, generator=seeded())
    assert method.summary["learned_from"] == 3 * n
    assert isinstance(method.guide.value.net, InvariantTransformer)
    assert bool((x[~cond["mask"]] == 0).all())
    assert torch.allclose(x.sum(1), torch.zeros(n, 3), atol=1e-4)


def test_a_window_without_a_step_is_refused() -> None:
    with pytest.raises(UserError, match="noise level between"):
        FreeDoM(MixtureProblem.two_modes(), (1,), steps=1)


def test_they_nest() -> None:
    """A guided denoiser as the base of a target that is steered."""
    problem = GaussianSubspace.random(4, 2)
    inner = Guided(problem.base, PlugIn(problem))
    for name in GRADIENT:
        x = made(name, Target(inner, problem.reward), (4,)).sample(5, generator=seeded())
        assert x.isfinite().all()


def test_a_budget_that_does_not_limit_the_size_leaves_it_at_its_default() -> None:
    """Draws of a value cost no network evaluation: a budget of these says nothing about them."""
    problem = MixtureProblem.two_modes()
    default = METHODS["lgd"](problem, (1,))
    found = METHODS["lgd"].within(problem, (1,), network=10_000)
    assert found.options() == default.options()
