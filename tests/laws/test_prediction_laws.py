"""The spellings of a prediction say the same thing, and the losses have the right minimiser."""

from __future__ import annotations

import itertools

import pytest
import torch
from law_cases import F64, mask_processes, seeded, z_scores
from torch import Tensor

from payoff.denoisers import NetDenoiser, Subspace, TokenDenoiser
from payoff.predictions import SPELLINGS, Prediction
from payoff.problems import (
    AdditiveReward,
    EnumeratedTokens,
    GaussianMixture,
    GaussianSubspace,
    TokenChain,
)
from payoff.processes import GaussianProcess
from payoff.schedules import KEEP_SCHEDULES, SCHEDULES
from payoff.spaces import expand_to

NAMES = list(SCHEDULES)
STD = 0.6


def gaussian(schedule: str, dim: int = 2, mean: float = 0.0) -> GaussianMixture:
    process = GaussianProcess(schedule=SCHEDULES[schedule]())
    return GaussianMixture(
        torch.full((1, dim), mean, dtype=F64), torch.tensor([STD**2], dtype=F64), process=process
    )


class Perfect(torch.nn.Module):
    """The network that makes ``NetDenoiser`` exact for the Gaussian, plus an error."""

    def __init__(self, law: GaussianMixture, spelling: str, shift: float = 0.0, gain: float = 1.0):
        super().__init__()
        self.law, self.spelling, self.shift, self.gain = law, spelling, shift, gain

    def forward(self, x: Tensor, level: Tensor, cond: dict[str, Tensor] | None) -> Tensor:
        schedule = self.law.process.schedule
        t = schedule.time(8 * level)
        alpha, sigma = (expand_to(v, x) for v in schedule(t))
        if self.spelling == "edm":
            c_in = torch.rsqrt((alpha * STD) ** 2 + sigma**2)
            x_t = x / c_in
            out = self.law(x_t, t).x0 - alpha * STD**2 * c_in**2 * x_t
            out = out / (sigma * STD * c_in)
        else:
            out = getattr(self.law(x, t), self.spelling)
        return self.gain * out + self.shift


@pytest.mark.parametrize(("name", "spelling"), list(itertools.product(NAMES, SPELLINGS)))
def test_spellings_round_trip(name: str, spelling: str) -> None:
    law = gaussian(name)
    t = torch.linspace(0.05, 0.95, 8, dtype=F64)
    x = law.sample_t(8, t, generator=seeded())
    exact = law(x, t)
    again = Prediction.of(spelling, getattr(exact, spelling), x, exact.alpha, exact.sigma)
    for other in SPELLINGS:
        a, b = getattr(again, other), getattr(exact, other)
        # the ill-conditioned way round loses α/σ of digits
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize(("name", "spelling"), list(itertools.product(NAMES, ["edm", *SPELLINGS])))
def test_net_denoiser_is_exact_with_the_exact_network(name: str, spelling: str) -> None:
    law = gaussian(name)
    denoiser = NetDenoiser(Perfect(law, spelling), law.process, spelling, STD)
    t = torch.linspace(0.05, 0.95, 8, dtype=F64)
    x = law.sample_t(8, t, generator=seeded())
    torch.testing.assert_close(denoiser(x, t).x0, law(x, t).x0, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(denoiser(x, t[3]).x0, law(x, t[3]).x0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "spelling"), list(itertools.product(NAMES, ["edm", *SPELLINGS])))
def test_the_exact_denoiser_minimises_the_loss(name: str, spelling: str) -> None:
    """Around the exact output F the loss is (F − target)² + 2δ(F − target) + δ²: on the same noise
    the part that is odd in δ has zero mean (a z-test), and the even part is positive."""
    law = gaussian(name, mean=0.5)
    t = torch.rand(4000, generator=seeded(), dtype=F64)
    x0 = law.sample(4000, generator=seeded(1))

    def loss(shift: float, gain: float) -> Tensor:
        net = Perfect(law, spelling, shift, gain)
        denoiser = NetDenoiser(net, law.process, spelling, STD)
        return denoiser.loss(x0, t, generator=seeded(2))

    best = loss(0.0, 1.0)
    assert best.shape == (4000,)
    for shift, gain in ((0.3, 0.0), (0.0, 0.3)):
        up, down = loss(shift, 1 + gain), loss(-shift, 1 - gain)
        assert (0.5 * (up + down) - best).mean() > 1e-4
        assert z_scores((up - down).unsqueeze(1), torch.zeros(1, dtype=F64)).abs() < 4, (
            shift,
            gain,
        )


@pytest.mark.parametrize("name", NAMES)
def test_edm_gives_the_network_unit_input_and_target(name: str) -> None:
    """For data of standard deviation σ_d, at every noise level."""
    law = gaussian(name, dim=16)
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, x, level, cond):
            seen.append(x)
            return torch.zeros_like(x)

    denoiser = NetDenoiser(Spy(), law.process, "edm", STD)
    for time in (0.0, 0.1, 0.5, 0.9, 1.0):
        t = torch.full((4000,), time, dtype=F64)
        x0 = law.sample(4000, generator=seeded(1))
        target = denoiser.loss(x0, t, generator=seeded(2)).unsqueeze(1)  # mean square of target
        one = torch.ones(1, dtype=F64)
        assert z_scores(target, one).abs() < 4
        assert z_scores(seen[-1].square().mean(1, keepdim=True), one).abs() < 4


def test_subspace_denoiser_with_the_exact_inner_one_is_exact() -> None:
    problem = GaussianSubspace.random(6, 2, dtype=F64)
    process = problem.base.process
    inner = GaussianMixture(
        torch.zeros(1, 2, dtype=F64), problem.covariance.unsqueeze(0), process=process
    )
    whole = Subspace(inner, 6, 2, frame=problem.frame).double()
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    x = problem.base.sample_t(5, t, generator=seeded())
    # the frame went through float32 once
    torch.testing.assert_close(whole(x, t).x0, problem.base(x, t).x0, atol=1e-5, rtol=1e-5)
    assert whole.loss(problem.base.sample(5), t).shape == (5,)


@pytest.mark.parametrize("keep", list(KEEP_SCHEDULES))
def test_token_loss_is_the_negative_log_likelihood_bound(keep: str) -> None:
    """With exact marginals the bound equals the entropy of the data, in expectation: masking is
    then an exact any-order decomposition of the likelihood."""
    # tokens that nearly copy each other: what a masked one costs depends strongly on how many are
    # visible, so that a wrong weight in t shows
    copying = 0.9 * torch.eye(3, dtype=F64) + 0.1 / 3
    start, reward = torch.full((3,), 1 / 3, dtype=F64), AdditiveReward(torch.zeros(3, 3, dtype=F64))
    law = TokenChain(start, copying, 3, reward, process=mask_processes(3)[keep]).base

    class Exact(torch.nn.Module):
        def forward(self, x, level, cond):
            return law(x, level).log_probs

    denoiser = TokenDenoiser(Exact(), law.process)
    n = 40_000
    x0 = law.sample(n, generator=seeded())
    t = torch.rand(n, generator=seeded(1), dtype=F64).clamp(min=1e-4)
    loss = denoiser.loss(x0, t, generator=seeded(2)).unsqueeze(1)
    entropy = -(law.log_table.exp() * law.log_table).sum() / 3  # nats per token
    assert z_scores(loss, entropy).abs() < 4


def test_marginals_of_tokens_are_the_best_prediction() -> None:
    problem = TokenChain.random(3, 3, dtype=F64)
    law: EnumeratedTokens = problem.base
    flat = torch.zeros(27, dtype=F64).view(3, 3, 3)

    def loss(weight: float) -> Tensor:
        other = EnumeratedTokens((1 - weight) * law.log_table.view(3, 3, 3) + weight * flat)

        class Net(torch.nn.Module):
            def forward(self, x, level, cond):
                return other(x, level).log_probs

        x0 = law.sample(4000, generator=seeded())
        t = torch.rand(4000, generator=seeded(1), dtype=F64)
        return TokenDenoiser(Net(), law.process).loss(x0, t, generator=seeded(2))

    worse = (loss(0.5) - loss(0.0)).unsqueeze(1)
    assert z_scores(worse, torch.zeros(1, dtype=F64)) > 4


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        Prediction.of("x0", torch.zeros(2, 3), torch.zeros(2, 4), *torch.ones(2))
    with pytest.raises(ValueError, match="unknown spelling"):
        Prediction.of("x1", torch.zeros(2, 3), torch.zeros(2, 3), *torch.ones(2))
