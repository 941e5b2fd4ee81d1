"""Kernels are distributions: they normalise, agree with torch.distributions, and KL is KL."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from law_cases import F64, ragged_mask, seeded, z_scores
from torch.distributions import Categorical, Independent, Normal

from payoff.kernels import CategoricalKernel, GaussianKernel
from payoff.predictions import TokenPrediction
from payoff.processes import MaskProcess
from payoff.spaces import Centered, Euclidean, Tokens


def gaussian(seed: int = 0, rows: int = 6, dim: int = 3) -> GaussianKernel:
    g = seeded(seed)
    mean = torch.randn(rows, dim, generator=g, dtype=F64)
    return GaussianKernel(mean, 0.3 + torch.rand(rows, generator=g, dtype=F64))


def categorical(seed: int = 0, rows: int = 5, length: int = 3, v: int = 3) -> CategoricalKernel:
    """A reverse kernel of a masked process, so that it holds impossible tokens."""
    g, process = seeded(seed), MaskProcess(Tokens(v))
    x = torch.randint(0, v + 1, (rows, length), generator=g)
    logits = torch.randn(rows, length, v, generator=g, dtype=F64)
    prediction = TokenPrediction.of_logits(logits, x, v)
    t, s = torch.tensor(0.8, dtype=F64), torch.tensor(0.4, dtype=F64)
    return process.reverse(x, t, s, prediction)


def test_gaussian_matches_torch_distributions() -> None:
    kernel = gaussian()
    x = torch.randn(6, 3, dtype=F64)
    law = Independent(Normal(kernel.mean, kernel.std.unsqueeze(1)), 1)
    torch.testing.assert_close(kernel.log_prob(x), law.log_prob(x))
    other = gaussian(1)
    theirs = Independent(Normal(other.mean, other.std.unsqueeze(1)), 1)
    expected = torch.distributions.kl_divergence(law, theirs)
    torch.testing.assert_close(kernel.kl(other), expected)


def test_gaussian_density_integrates_to_one() -> None:
    kernel = gaussian(rows=1, dim=2)
    grid = torch.linspace(-9, 9, 361, dtype=F64)
    points = torch.cartesian_prod(grid, grid)
    wide = GaussianKernel(kernel.mean.expand(len(points), 2), kernel.std)
    total = wide.log_prob(points).exp().sum() * (grid[1] - grid[0]) ** 2
    assert abs(float(total) - 1) < 1e-9


def test_gaussian_score_matches_autograd() -> None:
    kernel = gaussian()
    x = torch.randn(6, 3, dtype=F64, requires_grad=True)
    score = torch.autograd.grad(kernel.log_prob(x).sum(), x)[0]
    torch.testing.assert_close(score, (kernel.mean - x) / kernel.std.unsqueeze(1) ** 2)


def test_gaussian_rsample_is_pathwise_and_distributed_as_said() -> None:
    mean, std = torch.zeros(20_000, 2, dtype=F64), torch.tensor(0.7, dtype=F64, requires_grad=True)
    x = GaussianKernel(mean, std).rsample(generator=seeded())
    assert z_scores(x.detach(), torch.zeros(2, dtype=F64)).abs().max() < 4
    assert z_scores(x.detach() ** 2, torch.full((2,), 0.49, dtype=F64)).abs().max() < 4
    gradient = torch.autograd.grad(x.sum(), std)[0]
    torch.testing.assert_close(gradient, (x / std).sum().detach())


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_kl_agrees_with_monte_carlo(make) -> None:
    one, other = make(0), make(0)
    if isinstance(other, GaussianKernel):
        other = GaussianKernel(other.mean + 0.2, 1.3 * other.std)
    else:
        flat = other.log_probs.exp() ** 0.7
        other = CategoricalKernel((flat / flat.sum(-1, keepdim=True)).log(), other.space)
    g = seeded(3)
    draws = [one.sample(generator=g) for _ in range(4000)]
    ratio = torch.stack([one.log_prob(x) - other.log_prob(x) for x in draws])
    moving = ratio.std(0) > 1e-9  # rows where every token is decided have no spread at all
    assert z_scores(ratio[:, moving], one.kl(other)[moving]).abs().max() < 4
    torch.testing.assert_close(ratio[0, ~moving], one.kl(other)[~moving])
    torch.testing.assert_close(one.kl(one), torch.zeros(len(draws[0]), dtype=F64))


def test_categorical_normalises_and_matches_torch_distributions() -> None:
    kernel = categorical(v=2)
    rows = torch.cartesian_prod(*[torch.arange(3)] * 3)
    law = Independent(Categorical(kernel.log_probs.exp()), 1)
    table = torch.stack([kernel.log_prob(x.expand(5, 3)) for x in rows])
    torch.testing.assert_close(table.logsumexp(0), torch.zeros(5, dtype=F64))
    possible = table > -math.inf
    theirs = torch.stack([law.log_prob(x.expand(5, 3)) for x in rows])
    torch.testing.assert_close(table[possible], theirs[possible])


def test_categorical_draws_have_the_stated_frequencies() -> None:
    kernel = categorical(rows=1)
    many = CategoricalKernel(kernel.log_probs.expand(20_000, -1, -1), kernel.space)
    x = many.sample(generator=seeded())
    seen = torch.nn.functional.one_hot(x, 4).to(F64).flatten(1)
    p = kernel.log_probs.exp().flatten()
    error = (p * (1 - p) / len(x)).sqrt()
    certain = error < 1e-9
    assert ((seen.mean(0) - p)[~certain] / error[~certain]).abs().max() < 4
    torch.testing.assert_close(seen.mean(0)[certain], p[certain])


@pytest.mark.parametrize("space", [Euclidean(), Centered(3)], ids=["euclidean", "centered"])
@pytest.mark.parametrize("masked", [False, True])
def test_density_on_a_space_is_that_on_an_orthonormal_basis(space, masked: bool) -> None:
    """log q counts 3(n − 1) dimensions of a centred cloud: the density in the coordinates of an
    explicit basis of the subspace is the ordinary Gaussian one."""
    mask = ragged_mask(4, 5) if masked else torch.ones(4, 5, dtype=torch.bool)
    cond = {"mask": mask}
    std = torch.tensor([0.4, 0.8, 1.1, 1.7], dtype=F64)
    mean = space.project(torch.randn(4, 5, 3, dtype=F64), cond)
    x = space.project(torch.randn(4, 5, 3, dtype=F64), cond)
    found = GaussianKernel(mean, std, space, cond).log_prob(x)
    for i, n in enumerate(mask.sum(1).tolist()):
        centre = torch.eye(n, dtype=F64)
        if isinstance(space, Centered):
            centre = centre - 1.0 / n
        values, vectors = torch.linalg.eigh(centre)
        basis = vectors[:, values > 0.5]
        assert basis.shape[1] == (n - 1 if isinstance(space, Centered) else n)
        y, m = ((basis.T @ v[i, :n]).flatten() for v in (x, mean))
        expected = Normal(m, std[i]).log_prob(y).sum()
        torch.testing.assert_close(found[i], expected)
        assert int(space.dof(x, cond)[i]) == y.numel()


def test_half_precision_still_gives_a_density_in_single() -> None:
    mean = torch.randn(3, 64)
    half = GaussianKernel(mean.bfloat16(), torch.tensor(0.1).bfloat16())
    assert half.log_prob(mean.bfloat16()).dtype == torch.float32


def test_a_point_has_no_density() -> None:
    with pytest.raises(ValueError, match="noise_floor"):
        GaussianKernel(torch.zeros(2, 2), None).log_prob(torch.zeros(2, 2))


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations([gaussian, categorical], 2)))
def test_kl_between_kinds_is_an_error(a, b) -> None:
    with pytest.raises(TypeError, match="KL"):
        a().kl(b())
