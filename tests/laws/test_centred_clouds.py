"""Centred clouds stay centred, padding stays empty, and sizes are counted by member."""

from __future__ import annotations

import pytest
import torch
from law_cases import F64, ragged_mask, seeded, z_scores
from torch import Tensor

from payoff.problems import CloudProblem
from payoff.processes import GaussianProcess
from payoff.samplers import SAMPLERS
from payoff.schedules import SCHEDULES
from payoff.spaces import Centered, Euclidean

ROWS, SIZE = 9, 4


def assert_inside(x: Tensor, mask: Tensor, tolerance: float = 1e-10) -> None:
    assert (x[~mask] == 0).all()
    assert x.sum(1).abs().max() < tolerance


@pytest.mark.parametrize("channels", [3, 5])
def test_projection_is_an_orthogonal_projection(channels: int) -> None:
    space, cond = Centered(3), {"mask": ragged_mask(ROWS, SIZE)}
    x, y = torch.randn(2, ROWS, SIZE, channels, dtype=F64)
    px, py = space.project(x, cond), space.project(y, cond)
    torch.testing.assert_close(space.project(px, cond), px)
    torch.testing.assert_close((px * y).sum((1, 2)), (x * py).sum((1, 2)))
    assert_inside(px[..., :3], cond["mask"])
    if channels > 3:  # atom features are not centred
        torch.testing.assert_close(px[..., 3:][cond["mask"]], x[..., 3:][cond["mask"]])


@pytest.mark.parametrize("space", [Euclidean(), Centered(3), Centered(2)], ids=str)
def test_noise_has_unit_variance_per_degree_of_freedom(space) -> None:
    cond = {"mask": ragged_mask(3, SIZE).repeat_interleave(10_000, 0)}
    x = space.noise((30_000, SIZE, 3), cond, like=torch.zeros((), dtype=F64), generator=seeded())
    square = x.flatten(1).square().sum(1).view(3, 10_000)
    dof = space.dof(x, cond).view(3, 10_000)[:, 0]
    assert z_scores(square.T, dof).abs().max() < 4
    # a chi-square law of that many degrees of freedom: its variance is twice the number
    spread = (square.T - dof).square()
    assert z_scores(spread, 2 * dof).abs().max() < 4


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_corrupt_and_reverse_stay_inside(schedule: str) -> None:
    problem = CloudProblem(
        SIZE, process=GaussianProcess(Centered(), SCHEDULES[schedule]()), dtype=F64
    )
    mask = ragged_mask(ROWS, SIZE)
    cond, g = {"mask": mask}, seeded()
    t, s = torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64)
    x0 = problem.sample_base(ROWS, cond, generator=g)
    x_t = problem.base.process.corrupt(x0, t, cond, generator=g)
    kernel = problem.base.process.reverse(x_t, t, s, problem.base(x_t, t, cond), 1.0, cond)
    prior = problem.base.process.prior((ROWS, SIZE, 3), cond, like=x0, generator=g)
    for x in (x0, x_t, kernel.mean, kernel.sample(generator=g), prior):
        assert_inside(x, mask)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_sampling_stays_inside_and_has_the_right_size(name: str) -> None:
    problem = CloudProblem(SIZE, dtype=F64)
    rows = 3 * 2000
    cond = {"mask": ragged_mask(rows, SIZE)}
    x = SAMPLERS[name](problem.base, problem.shape, 100).sample(rows, cond, generator=seeded())
    assert_inside(x, cond["mask"])
    for size in (2, 3, 4):
        chosen = x[cond["mask"].sum(1) == size].flatten(1).square().sum(1, keepdim=True)
        one = {"mask": ragged_mask(3, SIZE)[size - 2 : size - 1]}
        expected = -2 * problem.base_reward(one)  # E Σ‖x_i‖², k (n − 1) dimensions each
        # the end of the schedule adds σ_0² per dimension, 1e-6 of it: far below one z
        assert z_scores(chosen, expected).abs().max() < 4


def test_a_density_that_counts_3n_would_be_wrong() -> None:
    """The tilted weights depend on the number of degrees of freedom, so miscounting shows."""
    problem = CloudProblem(SIZE, dtype=F64)
    cond = {"mask": ragged_mask(3, SIZE)}
    log_z = problem.log_partition(cond=cond)
    scales, tau = torch.tensor([0.5, 1.5], dtype=F64), 1.0
    for i, n in enumerate((2, 3, 4)):
        right = (0.5 * (1 + scales**2 / tau) ** (-0.5 * 3 * (n - 1))).sum().log()
        wrong = (0.5 * (1 + scales**2 / tau) ** (-0.5 * 3 * n)).sum().log()
        torch.testing.assert_close(log_z[i], right)
        assert abs(float(log_z[i] - wrong)) > 0.1


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="B, N, C"):
        Centered().project(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        Centered().project(torch.zeros(2, 3, 3), {"mask": torch.ones(2, 4, dtype=torch.bool)})
