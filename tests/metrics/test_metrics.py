"""Metrics against closed forms; every standard error is checked to be one."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from payoff.metrics import (
    Estimate,
    bootstrap,
    coverage,
    effective_sample_size,
    energy_distance,
    log_mean_exp,
    mean_pairwise_distance,
    mean_reward,
    moment_scores,
    path_kl,
    paths,
    sliced_wasserstein,
    vendi_score,
    wasserstein,
    weighted_mean,
)
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.rewards import FunctionReward
from payoff.samplers import DDIM, Ancestral

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def calibrated(estimates: list[Estimate], truth: float) -> None:
    """z-scores over repeats have mean 0 and variance 1, within four of their own errors."""
    z = torch.tensor([e.z(truth) for e in estimates], dtype=F64)
    n = len(z)
    assert abs(float(z.mean())) < 4 / n**0.5
    assert abs(float(z.square().mean()) - 1) < 4 * (2 / n) ** 0.5 + 0.15


def test_estimate_of_a_mean_is_calibrated() -> None:
    calibrated([Estimate.of(normal(50, seed=i) + 3) for i in range(200)], 3.0)


def test_estimate_leaves_failures_out_and_compares() -> None:
    e = Estimate.of(torch.tensor([1.0, math.nan, 3.0]))
    assert (e.value, e.n) == (2.0, 2)
    assert e.stderr == pytest.approx(1.0)
    assert e.agrees(5.9)
    assert not e.agrees(6.1)
    assert e.z(Estimate(2.0, 3.0, 9)) == 0
    assert Estimate(1.0, 3.0, 5).z(Estimate(6.0, 4.0, 5)) == -1.0
    assert Estimate.of(torch.tensor([math.nan])).n == 0
    assert math.isinf(Estimate.of(torch.ones(1)).stderr)
    assert Estimate(1.0, 0.0, 1).z(1.0) == 0
    assert Estimate(2.0, 0.0, 1).z(1.0) == math.inf
    assert e.to_dict() == {"value": 2.0, "stderr": e.stderr, "n": 2}
    assert e.interval(1.0) == (2.0 - e.stderr, 2.0 + e.stderr)
    with pytest.raises(ValueError, match="observations"):
        Estimate.of(torch.zeros(2, 2))


def test_bootstrap_of_a_mean_is_the_textbook_error() -> None:
    x = normal(2000)
    found = bootstrap(lambda v: v.mean(), x, 400, generator=seeded())
    assert found.stderr == pytest.approx(float(x.std()) / 2000**0.5, rel=0.15)
    assert found.value == float(x.mean())


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 70), (64, 32), (1, 5)])
def test_wasserstein_matches_scipy(n: int, m: int) -> None:
    x, y = normal(n), 0.5 + 2 * normal(m, seed=1)
    expected = stats.wasserstein_distance(x.numpy(), y.numpy())
    assert float(wasserstein(x, y)) == pytest.approx(expected, rel=1e-9)
    two = wasserstein(torch.stack([x, x], 1), torch.stack([y, y + 1], 1))
    assert float(two[0]) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_of_a_shift() -> None:
    """Shifted by v, W1 along θ is |θ·v|, with mean |v| Γ(D/2)/(√π Γ((D+1)/2))."""
    x, v = normal(500, 5), torch.tensor([3.0, 0, 0, 0, 0], dtype=F64)
    found = sliced_wasserstein(x, x + v, 512, generator=seeded())
    expected = 3 * math.gamma(2.5) / (math.pi**0.5 * math.gamma(3))
    assert found.agrees(expected)
    assert found.n == 512
    assert sliced_wasserstein(x[:, :1], x[:, :1] + 2).value == pytest.approx(2.0)


def test_energy_distance_is_unbiased_and_calibrated_under_equal_laws() -> None:
    found = [energy_distance(normal(800, 2, seed=2 * i), normal(800, 2, seed=2 * i + 1), 80)
             for i in range(100)]  # fmt: skip
    values = torch.tensor([e.value for e in found])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 10
    share = sum(not e.agrees(0.0, 2.5) for e in found) / len(found)
    assert share < 0.12  # ten blocks: Student's t allows 3 %


def test_energy_distance_in_one_dimension_against_its_integral() -> None:
    """2 ∫ (F − G)² for two normals."""
    grid = torch.linspace(-12, 13, 200_001, dtype=F64)
    f, g = torch.special.ndtr(grid), torch.special.ndtr((grid - 1) / 1.5)
    expected = float(2 * torch.trapezoid((f - g) ** 2, grid))
    found = energy_distance(normal(20_000), 1 + 1.5 * normal(20_000, seed=1))
    assert found.agrees(expected)
    assert not found.agrees(0.0)
    with pytest.raises(ValueError, match="100 samples"):
        energy_distance(normal(50), normal(50))


def test_a_right_mean_reward_hides_wrong_mode_weights_and_a_distance_does_not() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    right = problem.sample_target(8000, generator=seeded())
    other = problem.sample_target(8000, generator=seeded(1))
    law = problem.tilted()
    modes = law.means[:, 0]  # type: ignore[attr-defined]
    spread = float(law.spectra[0].sqrt())  # type: ignore[attr-defined]
    wrong = torch.where(torch.rand(8000, generator=seeded(2)) < 0.5, *modes.float())
    wrong = wrong.double().unsqueeze(1) + spread * normal(8000, 1, seed=3)
    assert energy_distance(right, other).agrees(0.0)
    assert energy_distance(wrong, other).z(0.0) > 10
    assert wasserstein(wrong, other) > 10 * wasserstein(right, other)


@pytest.mark.parametrize("dim", [3, 70])
def test_moment_scores(dim: int) -> None:
    x = normal(20_000, dim)
    zero, eye = torch.zeros(dim, dtype=F64), torch.eye(dim, dtype=F64)
    first, second = moment_scores(x, zero, eye)
    assert first.abs().max() < 4
    assert second.abs().max() < 5
    first, second = moment_scores(1.1 * x + 0.1, zero, eye)
    assert first.abs().min() > 4
    assert second.diagonal().min() > 4


def test_pairwise_distance_of_normals() -> None:
    """E|x − x'| = 2/√π in one dimension; the error is that of a U-statistic."""
    estimates = [mean_pairwise_distance(normal(200, 1, seed=i), block=64) for i in range(200)]
    calibrated(estimates, 2 / math.pi**0.5)
    with pytest.raises(ValueError, match="at least 3"):
        mean_pairwise_distance(normal(2, 1))


def test_vendi_score_counts_distinct_samples() -> None:
    points = 100.0 * torch.arange(4, dtype=F64).unsqueeze(1)
    assert vendi_score(points.repeat(5, 1), bandwidth=1.0) == pytest.approx(4.0)
    assert vendi_score(torch.ones(7, 2)) == pytest.approx(1.0)
    wide, narrow = normal(200, 2), 0.2 * normal(200, 2)
    assert vendi_score(wide, 0.5) > 2 * vendi_score(narrow, 0.5)
    with pytest.raises(ValueError, match="take a subset"):
        vendi_score(torch.zeros(6000, 1))


def test_coverage_of_equal_laws_and_of_a_lost_mode() -> None:
    x, y = normal(3000, 2), normal(3000, 2, seed=1)
    # neighbours share samples, so the binomial error is a little small
    assert abs(coverage(x, y, k=3).value - (1 - 2**-3)) < 6 * coverage(x, y, k=3).stderr
    half = y[:, 0] > 0
    assert coverage(x[x[:, 0] > 0], y, 3).value == pytest.approx(0.5 * 0.95, abs=0.05)
    assert coverage(y[half], y[half], 1).value == 1.0
    with pytest.raises(ValueError, match="k must"):
        coverage(x, y[:3], 3)


def test_effective_sample_size() -> None:
    assert float(effective_sample_size(torch.zeros(10))) == pytest.approx(10)
    assert float(effective_sample_size(torch.tensor([0.0, -math.inf]))) == pytest.approx(1)
    assert float(effective_sample_size(torch.tensor([1e4, 1e4, 1e4]))) == pytest.approx(3)
    assert effective_sample_size(torch.zeros(4, 6)).shape == (4,)
    # log-normal weights of variance s²: n exp(−s²)
    w = 0.5 * normal(200_000)
    share = float(effective_sample_size(w)) / len(w)
    assert share == pytest.approx(math.exp(-0.25), rel=0.02)


def test_weights_estimate_z_and_means() -> None:
    problem = MixtureProblem.two_modes(dtype=F64)
    z, m = [], []
    for i in range(100):
        x = problem.sample_base(500, generator=seeded(i))
        log_w = problem.reward(x)
        z.append(log_mean_exp(log_w))
        m.append(weighted_mean(problem.reward(x), log_w))
    calibrated(z, float(problem.log_partition()))
    calibrated(m, float(problem.target_reward()))
    assert weighted_mean(torch.tensor([math.nan, 2.0, 2.0]), torch.zeros(3)).value == 2.0
    assert weighted_mean(torch.tensor([math.nan]), torch.zeros(1)).n == 0


def test_mean_reward_is_batched_and_counts_failures() -> None:
    r = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, x[:, 0], math.nan))
    x = torch.tensor([[1.0], [-1.0], [3.0]])
    assert mean_reward(r, x, batch_size=2) == Estimate(2.0, 1.0, 2)
    cloud = CloudProblem(3)
    cond = {"mask": torch.tensor([[True, True, False]])}
    many = {"mask": cond["mask"].expand(20_000, -1)}
    y = cloud.sample_base(20_000, many, generator=seeded())
    assert mean_reward(cloud.reward, y, cond).agrees(float(cloud.base_reward(cond)))


@pytest.mark.parametrize("name", ["gaussian", "two_modes", "cloud", "tokens"])
def test_path_kl_of_the_exact_tilt_is_the_kl_of_the_samples(name: str) -> None:
    """The exact reversal of p* differs from that of p by a factor of x_0 alone."""
    problem = {
        "gaussian": GaussianSubspace.random(4, 2, 0.8, dtype=F64),
        "two_modes": MixtureProblem.two_modes(temperature=0.5, dtype=F64),
        "cloud": CloudProblem(3, temperature=2.0, dtype=F64),
        "tokens": TokenChain.random(3, 4, dtype=F64),
    }[name]
    steps = 400 if name != "tokens" else 100
    mine = Ancestral(problem.tilted(), problem.shape, steps)
    base = Ancestral(problem.base, problem.shape, steps)
    found = path_kl(mine, base, 600, generator=seeded(), batch_size=256)
    # first-order steps: within 3 % here
    exact = float(problem.kl())
    assert abs(found.value - exact) < 4 * found.stderr + 0.03 * exact
    assert path_kl(base, base, 10, generator=seeded()).value == 0.0


def test_path_kl_needs_noise_and_one_grid() -> None:
    law = MixtureProblem.two_modes().base
    with pytest.raises(ValueError, match="deterministic"):
        path_kl(DDIM(law, (1,), 4), DDIM(law, (1,), 4), 2)
    with pytest.raises(ValueError, match="same steps"):
        path_kl(Ancestral(law, (1,), 4), Ancestral(law, (1,), 5), 2)


def test_paths_are_samples_with_their_divergence() -> None:
    """The samples are those of the sampler itself, the divergences those of path_kl, in batches."""
    problem = MixtureProblem.two_modes(temperature=0.5, dtype=F64)
    mine = Ancestral(problem.tilted(), problem.shape, 20)
    base = Ancestral(problem.base, problem.shape, 20)
    x, kl = paths(mine, base, 50, generator=seeded(), batch_size=20)
    assert torch.equal(x, mine.sample(50, generator=seeded(), batch_size=20))
    assert kl.shape == (50,)
    assert (kl >= 0).all()
    assert path_kl(mine, base, 50, generator=seeded(), batch_size=20) == Estimate.of(kl)


def test_paths_take_conditions_and_tokens() -> None:
    cloud = CloudProblem(3, temperature=2.0, dtype=F64)
    cond = {"mask": torch.tensor([[True, True, False], [True, True, True]])}
    mine, base = (Ancestral(law, cloud.shape, 6) for law in (cloud.tilted(), cloud.base))
    x, kl = paths(mine, base, 2, cond, generator=seeded(), batch_size=1)
    assert (x[~cond["mask"]] == 0).all()
    assert (kl > 0).all()
    chain = TokenChain.random(3, 4, dtype=F64)
    mine, base = (Ancestral(law, chain.shape, 4) for law in (chain.tilted(), chain.base))
    x, kl = paths(mine, base, 9, generator=seeded())
    assert ((x >= 0) & (x < 3)).all()
    assert kl.isfinite().all()
