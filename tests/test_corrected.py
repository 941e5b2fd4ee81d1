"""A frozen denoiser with a trainable correction."""

from __future__ import annotations

import pytest
import torch

from payoff.denoisers import Corrected, NetDenoiser
from payoff.nets import ResidualMLP
from payoff.problems import CloudProblem, GaussianSubspace, TokenChain
from payoff.problems.mixture import GaussianMixture
from payoff.problems.quadratic import Quadratic
from payoff.problems.sequence import EnumeratedTokens
from payoff.processes import GaussianProcess

F64 = torch.float64


class Constant(torch.nn.Module):
    """The same output everywhere: c of the shape of x, or logits."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(value)

    def forward(self, x, level, cond=None):
        assert level.shape == (len(x),)
        return self.value.expand(len(x), *self.value.shape)


def test_a_correction_that_starts_at_zero_leaves_the_base_as_it_is() -> None:
    problem = GaussianSubspace.random(4, 2)
    denoiser = Corrected(problem.base, ResidualMLP(4, 16, 1), sigma_data=0.7)
    x = torch.randn(6, 4)
    for t in (torch.tensor(0.0), torch.tensor(0.4), torch.linspace(0, 1, 6)):
        assert torch.equal(denoiser(x, t).x0, problem.base(x, t).x0)
    assert denoiser.process is problem.base.process


@pytest.mark.parametrize("sigma_data", [1.0, 2.0])
def test_a_constant_correction_is_the_tilt_of_normal_data_by_a_linear_reward(
    sigma_data: float,
) -> None:
    r"""F = σ_d b/τ: the network is asked for the reward's slope, at every noise level alike."""
    means, variance = torch.tensor([[1.0, 0.0, -2.0]], dtype=F64), torch.tensor([sigma_data**2])
    base = GaussianMixture(means, variance.double())
    slope, tau = torch.tensor([1.0, -2.0, 0.5], dtype=F64), 0.7
    tilted = base.tilt(Quadratic(slope), tau)
    x, t = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64)
    found = Corrected(base, Constant(sigma_data * slope / tau), sigma_data)(x, t)
    assert torch.allclose(found.x0, tilted(x, t).x0)


def test_the_network_sees_what_that_of_a_trained_denoiser_sees() -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, level, cond=None):
            seen.append((x, level, cond))
            return 0 * x

    problem = GaussianSubspace.random(3, 2, dtype=F64)
    x, t, cond = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64), {"label": torch.ones(5, 1)}
    Corrected(problem.base, Spy(), 1.7)(x, t, cond)
    NetDenoiser(Spy(), GaussianProcess(), sigma_data=1.7)(x, t, cond)
    (x1, level1, cond1), (x2, level2, cond2) = seen
    assert torch.allclose(x1, x2)
    assert torch.allclose(level1, level2)
    assert cond1 is cond2 is cond


def test_only_the_correction_is_trained() -> None:
    base = NetDenoiser(ResidualMLP(3, 8, 1), GaussianProcess())
    denoiser = Corrected(base, ResidualMLP(3, 8, 1))
    free = [name for name, p in denoiser.named_parameters() if p.requires_grad]
    assert free
    assert all(name.startswith("net.") for name in free)


def test_the_correction_of_a_cloud_stays_in_its_space() -> None:
    problem = CloudProblem(4, dtype=F64)
    denoiser = Corrected(problem.base, Constant(torch.randn(4, 3, dtype=F64)))
    cond = {"mask": torch.tensor([[True, True, True, False], [True, True, True, True]])}
    x = problem.base.process.space.noise((2, 4, 3), cond, like=torch.zeros((), dtype=F64))
    x0 = denoiser(x, torch.tensor(0.5, dtype=F64), cond).x0
    assert x0.sum(1).abs().max() < 1e-9
    assert (x0[~cond["mask"]] == 0).all()
    assert not torch.allclose(x0, problem.base(x, torch.tensor(0.5, dtype=F64), cond).x0)


def test_logits_of_tokens_are_added_to_log_probabilities() -> None:
    chain = TokenChain.random(3, 4, dtype=F64)
    logits = torch.randn(4, 3, dtype=F64)
    x = torch.tensor([[3, 0, 3, 2], [3, 3, 3, 3]])
    t = torch.tensor(0.5, dtype=F64)
    before = chain.base(x, t).log_probs
    assert torch.allclose(Corrected(chain.base, Constant(0 * logits))(x, t).log_probs, before)
    found = Corrected(chain.base, Constant(logits))(x, t).log_probs
    expected = (before + logits).log_softmax(-1)
    hidden = x == 3
    assert torch.allclose(found[hidden], expected[hidden])
    assert torch.equal(found[~hidden], before[~hidden])  # decided tokens stay


def test_an_impossible_token_leaves_the_gradient_finite() -> None:
    """−inf of the base becomes a chance of e^-30, not a NaN."""
    table = torch.zeros(2, 2, dtype=F64)
    table[0, 1] = -torch.inf
    table[1, 1] = -torch.inf
    denoiser = Corrected(EnumeratedTokens(table), Constant(torch.zeros(2, 2, dtype=F64)))
    found = denoiser(torch.tensor([[2, 2]]), torch.tensor(0.5, dtype=F64)).log_probs
    found[..., 0].sum().backward()
    assert denoiser.net.value.grad.isfinite().all()  # type: ignore[union-attr]
    assert float(found[0, 1, 1].detach()) == pytest.approx(-30, abs=0.1)
