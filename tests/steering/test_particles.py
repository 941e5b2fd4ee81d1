"""What particle methods promise beside their law: cost, failures, warnings, options, summaries."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from particle_laws import Reference, cloud, nan_above, seeded, two_modes

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.kernels import GaussianKernel
from payoff.metrics import Estimate
from payoff.nets import ResidualMLP
from payoff.problems import MixtureProblem, TokenChain
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward, Metered
from payoff.samplers import Ancestral
from payoff.schedules import Cosine
from payoff.spaces import Centered
from payoff.steering.base import AllFailed, Degenerate
from payoff.steering.das import DAS
from payoff.steering.fk import FeynmanKac
from payoff.steering.particles import Particles, log_ratio
from payoff.steering.potentials import POTENTIALS, geometric
from payoff.steering.tds import TDS
from payoff.steering.values_of import value_cost, value_for
from payoff.steering.vasr import VASR
from payoff.targets import Target
from payoff.values import Learned, MonteCarlo, PlugIn, Posterior

METHODS = (Particles, FeynmanKac, TDS, DAS, VASR)
QUIET = pytest.mark.filterwarnings("ignore::payoff.steering.base.Degenerate")


def counted(problem, failing: float | None = None) -> Target:
    reward = problem.reward
    if failing is not None:
        reward = FunctionReward(nan_above(failing, problem))
    return Target(Counted(problem.denoiser), Metered(reward), problem.temperature)


@QUIET
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"every": 1, "initial": True},
        {"value": "posterior", "draws": 3},
        {"keep": "all"},
        {"keep": "best", "potential": "max"},
        {"proposal": "base"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", METHODS)
def test_declared_cost_is_the_cost(cls: type[Particles], options: dict) -> None:
    target = counted(MixtureProblem.two_modes())
    if "proposal" in options:
        options = {"proposal": Counted(target.denoiser)}
    method = cls(target, (1,), steps=7, particles=4, **options)
    method.sample(8, generator=seeded())
    cost = method.cost()
    assert target.reward.meter.rows == 8 * cost.rewards
    assert target.denoiser.rows == 8 * cost.network
    assert target.denoiser.backward == 8 * cost.backward
    assert (cost.backward > 0) == issubclass(cls, TDS)


@QUIET
def test_cost_of_other_values() -> None:
    target = counted(MixtureProblem.two_modes())
    rolled = MonteCarlo(target, 2, 3)
    method = Particles(target, (1,), steps=4, particles=3, every=2, value=rolled)
    method.sample(5, generator=seeded())
    assert target.reward.meter.rows == 5 * method.cost().rewards == 5 * 3 * (2 + 1)
    assert target.denoiser.rows == 5 * method.cost().network == 5 * 3 * (4 + 6)
    exact = TDS(target, (1,), steps=4, particles=3, value=MixtureProblem.two_modes().value())
    assert exact.cost().backward == 0
    assert exact.cost().rewards == 3
    before = target.denoiser.backward
    exact.sample(5, generator=seeded())
    assert target.denoiser.backward == before


def test_a_budget_sets_the_particles() -> None:
    problem = MixtureProblem.two_modes()
    method = Particles.within(problem, (1,), rewards=100, steps=10, every=5)
    assert method.particles == 50
    assert method.cost().rewards == 100
    with pytest.raises(UserError, match="cannot stay within"):
        TDS.within(problem, (1,), rewards=10, steps=50)


def test_values_by_name() -> None:
    problem, chain = MixtureProblem.two_modes(), TokenChain.random(3, 3)
    assert isinstance(value_for(problem), PlugIn)
    assert isinstance(value_for(chain), Posterior)
    assert isinstance(value_for(problem, "posterior", 3, 2.0), Posterior)
    assert value_for(problem, "posterior", 3, 2.0).sigma_data == 2.0  # type: ignore[attr-defined]
    assert isinstance(value_for(problem, "monte-carlo", 5), MonteCarlo)
    given = problem.value()
    assert value_for(problem, given) is given
    assert value_cost(given).rewards == 0
    assert value_cost(value_for(problem, "posterior", 3)).rewards == 3
    with pytest.raises(UserError, match="did you mean 'plug-in'"):
        value_for(problem, "plugin")
    with pytest.raises(UserError, match="posterior"):
        value_for(chain, "plug-in")
    with pytest.raises(UserError, match="draws"):
        value_for(problem, "posterior", 0)


def test_options_are_checked() -> None:
    problem, chain = MixtureProblem.two_modes(), TokenChain.random(3, 3)
    for options, words in (
        ({"resampling": "systematik"}, "did you mean 'systematic'"),
        ({"potential": "min"}, "difference, max, sum"),
        ({"keep": "some"}, "draw, best, all"),
        ({"every": 0}, "every"),
        ({"threshold": 1.5}, "threshold"),
        ({"particles": 0}, "particles"),
        ({"value": "nothing"}, "unknown value"),
    ):
        with pytest.raises(UserError, match=words):
            Particles(problem, (1,), **options)
    other = MixtureProblem.two_modes(GaussianProcess(schedule=Cosine(-5, 5))).denoiser
    with pytest.raises(UserError, match="proposal"):
        Particles(problem, (1,), proposal=other)
    with pytest.raises(UserError, match="gamma"):
        DAS(problem, (1,), gamma=0.0)
    with pytest.raises(UserError, match="form"):
        VASR(problem, (1,), form="min")
    with pytest.raises(UserError, match="token"):
        TDS(chain, (3,))
    black = Target(problem.denoiser, FunctionReward(problem.reward, differentiable=False))
    with pytest.raises(UserError, match="gradient"):
        TDS(black, (1,))
    with pytest.raises(UserError, match="MonteCarlo has none"):
        TDS(black, (1,), value=MonteCarlo(black, 2, 2))


@QUIET
def test_a_learned_value_lets_tds_steer_by_a_black_box() -> None:
    problem = MixtureProblem.two_modes()
    black = Target(problem.denoiser, FunctionReward(problem.reward, differentiable=False))
    value = Learned(ResidualMLP(1, width=8, depth=1), black)
    method = TDS(black, (1,), steps=5, particles=4, value=value)
    assert method.sample(6, generator=seeded()).shape == (6, 1)
    assert method.cost().rewards == 4


def test_potentials_and_tempering() -> None:
    values = torch.tensor([[1.0, 4.0, 2.0, 3.0]])
    found = {}
    for name, potential in POTENTIALS.items():
        seen = torch.full((1, 1), potential.start)
        path = []
        for value in values[0]:
            seen = potential.update(seen, value.view(1, 1))
            path.append(float(seen))
        found[name] = path
    assert found == {"difference": [1, 4, 2, 3], "max": [1, 4, 4, 4], "sum": [1, 5, 7, 10]}
    steps = [geometric(i / 50) for i in range(51)]
    assert steps[0] == 0
    assert steps[-1] == 1
    assert steps == sorted(steps)


@QUIET
@pytest.mark.parametrize("cls", METHODS)
def test_populations_hand_over_particles_weights_and_normaliser(cls: type[Particles]) -> None:
    case = two_modes(1.0, 20)
    reference = Reference(case, 50_000)
    method = case.method(cls, particles=16)
    population = method.populations(800, generator=seeded())
    assert population.particles.shape == (800, 16, 1)
    torch.testing.assert_close(population.values.flatten(), case.problem.reward(population.states))
    # one weighted mean over all particles, each population by its own Ẑ, is unbiased too
    weights = population.log_weights.exp().double()
    left = (population.particles[..., 0] < 0.5).double()
    ratio = (weights * (left - reference.mean[0])).mean(1)
    assert Estimate.of(ratio).agrees(0.0, 4.5)
    z = Estimate.of(population.log_z.exp()).z(math.exp(reference.log_z.value))
    assert abs(z) < 4.5
    assert set(method.summary) >= {"ess", "log_z", "log_z_stderr", "ancestors", "failed"}
    assert 1 <= method.summary["ancestors"] <= 16
    assert 1 <= method.summary["ess"] <= 16


@QUIET
def test_keeping_all_hands_out_whole_populations_under_the_same_law() -> None:
    case = two_modes(1.0, 20)
    reference = Reference(case)
    method = case.method(Particles, particles=8, keep="all", every=4)
    x = method.sample(8 * 500, generator=seeded(), batch_size=1600)
    assert x.shape == (4000, 1)
    means = case.features(x).view(500, 8, -1).mean(1).double()  # populations are independent
    z = (means.mean(0) - reference.mean) / (means.var(0) / 500 + reference.error**2).sqrt()
    assert z.abs().max() < 4.5 + 1.0  # and eight particles still have a bias of order 1/8
    assert method.summary["distinct"] > 2
    assert method.sample(11, generator=seeded()).shape == (11, 1)


@QUIET
def test_keeping_the_best_is_better_than_a_draw() -> None:
    case = two_modes(1.0, 10)
    rewards = {}
    for keep in ("draw", "best"):
        method = case.method(Particles, particles=8, keep=keep)
        x = method.sample(300, generator=seeded())
        rewards[keep] = Estimate.of(case.problem.reward(x))
    assert rewards["best"].z(rewards["draw"]) > 10
    population = method.populations(300, generator=seeded())
    best = method.sample(300, generator=seeded(), batch_size=300 * 8)
    torch.testing.assert_close(case.problem.reward(best), population.values.amax(1))


@QUIET
def test_conditions_follow_their_population() -> None:
    case = cloud(steps=8)
    cond = case.cond(10)
    assert cond is not None
    x = case.method(TDS, particles=6).sample(10, cond, generator=seeded())
    assert (x[~cond["mask"]] == 0).all()
    assert x.sum(1).abs().max() < 1e-4
    shared = {"mask": torch.tensor([[True] * 3 + [False] * 2])}
    every = case.method(Particles, particles=4, keep="all")
    assert (every.sample(9, shared, generator=seeded())[:, 3:] == 0).all()
    with pytest.raises(UserError, match="keep = draw"):
        every.sample(8, case.cond(8), generator=seeded())


def test_failures_on_the_way_keep_the_last_value_and_cost_no_exactness() -> None:
    """Clean estimates above 1.5 fail, samples do not: draws still follow p*."""
    case = two_modes(0.7, 20)
    reference = Reference(case)
    problem, calls = case.problem, []

    def half_blind(x, cond=None):
        calls.append(len(x))
        last = len(calls) % 5 == 0  # 4 checks, then the end
        return problem.reward(x) if last else nan_above(1.5, problem)(x)

    target = Target(problem.denoiser, FunctionReward(half_blind), problem.temperature)
    method = Particles(target, (1,), 20, particles=32, every=4)
    x = method.sample(1000, generator=seeded(), batch_size=32_000)
    assert len(calls) == 5
    assert method.summary["missing_values"] > 1000
    assert method.summary["failed"] == 0
    found = case.features(x).double()
    z = (found.mean(0) - reference.mean) / (found.var(0) / 1000 + reference.error**2).sqrt()
    assert z.abs().max() < 4.5


def test_failed_rewards_at_the_end_have_no_weight() -> None:
    problem = MixtureProblem.two_modes()
    target = Target(problem.denoiser, FunctionReward(nan_above(0.5, problem)))
    for keep in ("draw", "best", "all"):
        method = Particles(target, (1,), 10, particles=32, keep=keep)
        x = method.sample(320, generator=seeded())
        assert (x <= 0.5).all()
        assert method.summary["failed"] > 0
        assert method.summary["failed_populations"] == 0
        assert math.isfinite(method.summary["log_z"])


def test_minus_infinity_is_a_hard_wall() -> None:
    problem = MixtureProblem.two_modes()

    def wall(x, cond=None):
        return torch.where(x[:, 0] > 0.5, -math.inf, 0.0)

    method = Particles(
        Target(problem.denoiser, FunctionReward(wall)), (1,), 30, particles=16, every=3
    )
    population = method.populations(1000, generator=seeded())
    assert method.summary["failed"] == 0
    # Z is the probability of the left mode, 0.7 up to the discretisation
    assert Estimate.of(population.log_z.exp()).value == pytest.approx(0.7, abs=0.03)


def test_a_population_that_failed_returns_the_base_with_a_warning() -> None:
    problem = MixtureProblem.two_modes()
    target = Target(problem.denoiser, FunctionReward(nan_above(-1.0, problem)))
    method = Particles(target, (1,), 30, particles=2, every=10)
    with pytest.warns(Degenerate, match=r"every reward was NaN or -inf in \d+ of 2000") as caught:
        x = method.sample(2000, generator=seeded(), batch_size=500)
    dead = method.summary["failed_populations"]
    assert dead > 0
    # both particles outside of x <= −1, which holds 0.7 · P(z < 2) of the base
    inside = 0.7 * 0.9772
    assert dead / 2000 == pytest.approx((1 - inside) ** 2, abs=0.05)
    assert torch.isfinite(x).all()
    assert int((x[:, 0] > -1).sum()) == dead
    assert sum("every reward" in str(w.message) for w in caught) == 1  # not one a batch


@pytest.mark.parametrize("cls", METHODS)
def test_when_all_fail_it_raises_and_keeps_the_state(cls: type[Particles]) -> None:
    problem = MixtureProblem.two_modes()
    never = FunctionReward(lambda x, cond: x[:, 0] * math.nan)
    method = cls(Target(problem.denoiser, never), (1,), 6, particles=4)
    with pytest.raises(AllFailed, match="every one of 20 rewards was NaN") as caught:
        method.sample(5, generator=seeded())
    assert caught.value.state.particles.shape == (5, 4, 1)
    with pytest.raises(AllFailed):
        method.populations(5, generator=seeded())


def test_too_small_a_temperature_is_named_with_a_number() -> None:
    problem = MixtureProblem.two_modes(temperature=0.01)
    method = Particles(problem, (1,), 20, particles=8)
    with pytest.warns(Degenerate, match=r"temperature 0\.01 is too small for 8 .* about 0\.\d+"):
        method.sample(50, generator=seeded(), batch_size=80)
    mild = MixtureProblem.two_modes(temperature=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Degenerate)
        for cls in METHODS:
            cls(mild, (1,), 20, particles=16).sample(50, generator=seeded())


def test_identical_offspring_and_a_collapse_at_the_end_are_named() -> None:
    problem = MixtureProblem.two_modes(temperature=0.005)
    late = {"every": 40, "particles": 32}  # no check on the way
    with pytest.warns(Degenerate, match="identical offspring") as caught:
        Particles(problem, (1,), 20, keep="all", **late).sample(320, generator=seeded())
    assert any("temperature" in str(w.message) for w in caught)

    def narrow(x, cond=None):
        return torch.where((x[:, 0] + 2).abs() > 0.05, -math.inf, 0.0)

    gate = Target(problem.denoiser, FunctionReward(narrow))
    with (
        pytest.warns(Degenerate, match=r"32 particles .* worth 1\.\d+ at the end"),
        pytest.warns(Degenerate, match="NaN or -inf"),
    ):
        Particles(gate, (1,), 20, **late).sample(200, generator=seeded())


def test_values_that_always_fail_on_the_way_are_named() -> None:
    problem, calls = MixtureProblem.two_modes(), []

    def only_at_the_end(x, cond=None):
        calls.append(len(x))
        return problem.reward(x) * (1.0 if len(calls) == 4 else math.nan)

    target = Target(problem.denoiser, FunctionReward(only_at_the_end))
    with pytest.warns(Degenerate, match="100 % of the values on the way failed"):
        Particles(target, (1,), 20, particles=8, every=5).sample(100, generator=seeded())


def test_the_ratio_of_two_kernels_is_the_difference_of_their_log_densities() -> None:
    space, cond = Centered(), {"mask": torch.tensor([[True, True, True, False]] * 6)}

    def draw(seed: int) -> torch.Tensor:
        like = torch.zeros((), dtype=torch.float64)
        return space.noise((6, 4, 3), cond, like=like, generator=seeded(seed))

    p, q = (GaussianKernel(draw(i), 0.3, space, cond) for i in (0, 1))
    x = draw(2)
    torch.testing.assert_close(log_ratio(p, q, x), p.log_prob(x) - q.log_prob(x))
    wide = GaussianKernel(q.mean, torch.linspace(0.2, 0.7, 6).double(), space, cond)
    torch.testing.assert_close(log_ratio(p, wide, x), p.log_prob(x) - wide.log_prob(x))


@QUIET
def test_generators_make_runs_repeatable_and_dtypes_stay() -> None:
    problem = MixtureProblem.two_modes(dtype=torch.float64)
    for cls in METHODS:
        method = cls(problem, (1,), 6, particles=4)
        x, y = (method.sample(5, generator=seeded(3)) for _ in range(2))
        assert x.dtype == torch.float64
        assert (x == y).all()
        assert method.sample(0).shape == (0, 1)
        assert method.populations(2, generator=seeded()).log_weights.dtype == torch.float64


@QUIET
def test_one_particle_is_the_base() -> None:
    problem = MixtureProblem.two_modes()
    x = Particles(problem, (1,), 8, particles=1).sample(4000, generator=seeded())
    y = Ancestral(problem.denoiser, (1,), 8).sample(4000, generator=seeded(1))
    one, other = (Estimate.of((v[:, 0] < 0.5).float()) for v in (x, y))
    assert one.agrees(other, 4.5)
