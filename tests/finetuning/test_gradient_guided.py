"""Adaptive gradient guidance: it climbs beyond the frozen score, and stays on the subspace."""

from __future__ import annotations

import pytest
import torch
from finetuning_cases import corrected, seeded, small
from torch import Tensor

from payoff.denoisers import Denoiser, NetDenoiser, Subspace
from payoff.errors import UserError
from payoff.finetuning import METHODS, FinetuneConfig, GradientGuided, Monitor
from payoff.nets import ResidualMLP
from payoff.problems import GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.rewards.metered import Metered
from payoff.samplers import DDIM
from payoff.targets import Target


def on_a_subspace(problem: GaussianSubspace) -> Denoiser:
    """The score class of the subspace; inside, the exact denoiser of N(0, I) to start with."""
    dim, latent = problem.frame.shape
    torch.manual_seed(0)
    inner = NetDenoiser(ResidualMLP(latent, 32, 1), GaussianProcess())
    found = Subspace(inner, dim, latent, problem.frame)
    found.columns.requires_grad_(False)
    return found


def peak(problem: GaussianSubspace, off: float) -> tuple[FunctionReward, Tensor]:
    """10 − (g·x − 3)², its g with ``off`` times as much outside the subspace as on it."""
    outside = torch.randn(len(problem.theta), generator=seeded(1))
    outside = outside - problem.frame @ (problem.frame.T @ outside)
    g = problem.theta + off * outside / outside.norm()
    return FunctionReward(lambda x, cond: 10 - (x @ g - 3).square()), g


def draws(denoiser: Denoiser, n: int = 500) -> Tensor:
    return DDIM(denoiser, (16,), 25, eta=1.0).sample(n, generator=seeded(9)).clone()


def test_it_climbs_past_the_frozen_score_and_stays_on_the_subspace() -> None:
    """24 rounds at means of 8 samples, of a reward that points out of the subspace.

    With the score frozen the samples stop at the maximum with a penalty of λ = ν²/δ, here λ = 2:
    −(z − 3)² − z² is largest at 1.5. Fine-tuned on their own they go on to 3, to within less than
    a sixth of the way.
    """
    problem = GaussianSubspace.random(16, 4)
    reward, g = peak(problem, 9.0)
    config = FinetuneConfig(
        calls=24 * 16, per_round=16, updates=20, batch_size=128, learning_rate=1e-3,
        sampler_steps=15, evaluate=200, evaluate_every=8, ema_decay=0.9, keep="last",
    )  # fmt: skip
    reached, held = {}, {}
    for start in (0, 1000):
        watched, monitor = Watched(reward), Monitor(held_out=reward)
        method = GradientGuided(noise=3.0, rise=4.5, group=8, start=start)
        target = Target(on_a_subspace(problem), watched, 1.0)
        tuned = method.fit(target, config, shape=(16,), monitor=monitor)
        assert len(watched.means) == 24
        reached[start] = float(torch.stack([m @ g for m in watched.means[-6:]]).mean())
        held[start] = [entry["held_out"] for entry in monitor.history]
        if start == 0:
            x = draws(tuned)
            left = problem.expected_off_support(torch.zeros(()))
            assert float(problem.off_support(x).mean()) < 2 * float(left)
            assert float((x @ g).mean()) > 2.0
    assert abs(reached[0] - 3) < 0.5, reached
    assert abs(reached[1000] - 1.5) < 0.3, reached
    assert held[0][-1] > held[0][0] + 6, held
    assert abs(held[1000][-1] - held[1000][0]) < 2  # its weights have not moved


class Watched(FunctionReward):
    """Keeps the mean of every batch it is asked about."""

    def __init__(self, reward: FunctionReward) -> None:
        super().__init__(reward.fn)
        self.means: list[Tensor] = []

    def __call__(self, x, cond=None):
        self.means.append(x.detach().mean(0))
        return super().__call__(x, cond)


def test_a_call_is_one_reward_with_its_gradient() -> None:
    """24 calls in rounds of 8: three rounds, whatever the size of a group."""
    problem = GaussianSubspace.random(4, 2)
    for group in (1, 5):
        metered = Metered(problem.reward)
        GradientGuided(group=group).fit(
            Target(corrected(problem), metered, 1.0), small(per_round=8), shape=(4,)
        )
        assert metered.meter.rows == 24
        assert metered.meter.batches == 3


def test_registered_and_refusals() -> None:
    assert METHODS["gradient"] is GradientGuided
    target = Target(corrected(GaussianSubspace.random(4, 2)), FunctionReward(lambda x, c: x[:, 0]))
    for wrong in ({"form": "best"}, {"variance": "none"}, {"group": 0}, {"noise": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            GradientGuided(**wrong).fit(target, small(), shape=(4,))  # type: ignore[arg-type]
