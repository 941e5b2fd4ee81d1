"""Policy gradients against pathwise ones, where both exist: z-tests in double precision.

A mixture in one dimension with a quadratic reward; the model is the exact base with a correction of
three numbers, and the policy is not at the base. The kernels have a floor of noise, without which
nearly all variance of a score-function gradient sits in the last step.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from finetuning_cases import F64, gradients_of, run_of, seeded, z_scores
from torch import Tensor, nn

from payoff.denoisers import Corrected, Denoiser
from payoff.finetuning import (
    AWM,
    DDPO,
    DPOK,
    GRPO,
    AdjointMatching,
    DRaFT,
    FinetuneConfig,
    adjoint,
    losses,
)
from payoff.finetuning.dpok import kl_advantages
from payoff.finetuning.rollouts import Samples
from payoff.finetuning.run import Run
from payoff.predictions import Prediction
from payoff.problems import GaussianSubspace, MixtureProblem
from payoff.processes import GaussianProcess
from payoff.spaces import expand_to
from payoff.targets import Target

STEPS, PATHS, REPEATS = 4, 2000, 30
POINT = (0.5, -0.4, 0.2)  # where the policy is


class Affine(nn.Module):
    """a + b x + c λ: three numbers, zero in the base."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(3, dtype=F64))

    def forward(self, x, level, cond=None):
        a, b, c = self.numbers
        return a + b * x + c * level.unsqueeze(1)


def bent(temperature: float = 1.0) -> Target:
    process = GaussianProcess(noise_floor=0.4)
    problem = MixtureProblem.two_modes(process, temperature, F64)
    return Target(Corrected(problem.base, Affine()), problem.reward, temperature)


def by_hand(method, target: Target, seed: int, calls: int = PATHS) -> Run:
    config = FinetuneConfig(
        **{"calls": calls, "per_round": calls, "updates": 1, "batch_size": calls * STEPS},
        **{"sampler_steps": STEPS, "ema_decay": 0.0, "seed": seed, "learning_rate": 1e-3},
    )
    run = run_of(method, target, (1,), config)
    run.trainable[0].data = torch.tensor(POINT, dtype=F64)
    return run


def pathwise(target: Target, **options: Any) -> Tensor:
    """∇(KL of the path − E[r]/τ) in nats, or without the KL: (REPEATS, 3)."""
    found = []
    for seed in range(REPEATS):
        run = by_hand(DRaFT(**options), target, 1000 + seed)
        with gradients_of(run) as gradients:
            DRaFT(**options).play(run)
        found += gradients[:1]
    return torch.stack(found)


def played(method, target: Target, scale) -> Tensor:
    """Gradients of one round before any update, (REPEATS, 3); ``scale(run)`` undoes its units."""
    found = []
    for seed in range(REPEATS):
        run = by_hand(method, target, seed)
        with gradients_of(run) as gradients:
            method.play(run)
        found.append(gradients[0] * scale(run))
    return torch.stack(found)


def agree(one: Tensor, two: Tensor) -> Tensor:
    """z-scores of the difference of two means of independent observations."""
    spread = one.var(0) / len(one) + two.var(0) / len(two)
    return (one.mean(0) - two.mean(0)) / spread.sqrt()


def deviation(run: Run) -> float:
    assert run.last_rewards is not None
    return float(run.last_rewards.std(correction=0))


def test_the_pathwise_gradient_is_that_of_the_reward() -> None:
    """The yardstick itself, against differences of the mean reward with common noise."""
    target = bent()
    exact = pathwise(target)
    method, h = DRaFT(), 1e-4
    slopes = []
    for seed in range(10):
        run = by_hand(method, target, 1000 + seed)
        numbers, row = run.trainable[0].data, []
        for i in range(3):
            ends = []
            for sign in (1, -1):
                numbers[i] += sign * h
                run.generator.manual_seed(1000 + seed)
                x0, _ = method.sample(run, PATHS, None)
                ends.append(float(target.reward(x0.detach()).mean()))
                numbers[i] -= sign * h
            row.append(-(ends[0] - ends[1]) / (2 * h))
        slopes.append(row)
    assert torch.allclose(torch.tensor(slopes, dtype=F64), exact[:10], rtol=1e-4, atol=1e-6)


def test_ddpo_has_the_gradient_of_the_mean_reward() -> None:
    target = bent()
    found = played(DDPO(advantage_clip=0.0), target, lambda run: STEPS * deviation(run))
    assert agree(found, pathwise(target)).abs().max() < 4
    assert z_scores(found).abs().max() > 8  # and the test has power


@pytest.mark.parametrize("trust", ["clip", "kl"])
def test_grpo_has_the_gradient_of_the_mean_reward(trust: str) -> None:
    target, size = bent(), 20
    method = GRPO(group=size, scale="none", trust=trust)
    # a mean over the group holds the sample itself: its share of the advantage is lost
    found = played(method, target, lambda run: STEPS / (1 - 1 / size))
    assert agree(found, pathwise(target)).abs().max() < 4
    assert z_scores(found).abs().max() > 8


def test_grpo_with_a_divergence_adds_its_gradient_at_the_visited_states() -> None:
    target, size = bent(), 20
    plain = played(GRPO(group=size, scale="none"), target, lambda run: STEPS)
    with_kl = played(GRPO(group=size, scale="none", beta=0.7), target, lambda run: STEPS)
    alone = torch.stack([visited(target, seed) for seed in range(REPEATS)])
    # the same seeds: what differs is the divergence alone
    assert torch.allclose(with_kl - plain, 0.7 * alone, rtol=1e-6, atol=1e-9)
    assert z_scores(alone).abs().max() > 8


def visited(target: Target, seed: int) -> Tensor:
    """∇ Σ_t KL_t at states that are held fixed."""
    run = by_hand(DDPO(), target, seed)
    path = run.rollout(PATHS)
    rows, total = torch.arange(PATHS), torch.zeros(PATHS, dtype=F64)
    for step in range(STEPS):
        batch = path.at(torch.full_like(rows, step), rows)
        total = total + run.kernel(batch).kl(run.kernel(batch, run.base))
    (found,) = torch.autograd.grad(total.mean(), run.trainable)
    return found


def test_dpok_has_the_gradient_of_reward_minus_divergence() -> None:
    r"""To-go returns: ∇(KL − E[r]/τ) in full; as published, the later divergences are missing."""
    target = bent(temperature=3.0)

    def scale(run: Run) -> float:
        return STEPS  # the spread of r/τ is below 1, so that the loss is not scaled

    exact = pathwise(target, kl=True)
    found = played(DPOK(), target, scale)
    assert agree(found, exact).abs().max() < 4
    assert z_scores(found).abs().max() > 8
    published = played(DPOK(to_go=False), target, scale)
    parts = pathwise(target) + torch.stack([visited(target, 500 + s) for s in range(REPEATS)])
    assert agree(published, parts).abs().max() < 4
    # the same paths: what is missing is not nothing
    assert z_scores(found - published).abs().max() > 4


class Bell(Denoiser):
    """The exact denoiser of N(m, e^{2v}), a family of laws with two numbers."""

    process: GaussianProcess

    def __init__(self, mean: float, log_std: float) -> None:
        super().__init__()
        self.process = GaussianProcess()
        self.numbers = nn.Parameter(torch.tensor([mean, log_std], dtype=F64))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.process.schedule(t)
        a, s = expand_to(alpha, x_t), expand_to(sigma, x_t)
        mean, variance = self.numbers[0], (2 * self.numbers[1]).exp()
        gain = a * variance / (a**2 * variance + s**2)
        return Prediction(mean + gain * (x_t - a * mean), x_t, alpha, sigma)

    def draw(self, n: int, seed: int) -> Tensor:
        noise = torch.randn(n, 1, dtype=F64, generator=seeded(seed))
        return (self.numbers[0] + self.numbers[1].exp() * noise).detach()


def test_the_elbo_is_a_log_density_for_policy_gradients() -> None:
    """−A ∇(−ELBO) of exact draws has the mean −∇E[r], of mean and deviation alike."""
    model = Bell(0.4, -0.2)
    m, v = 0.4, float(torch.tensor(-0.4, dtype=F64).exp())
    # r = x − x²/2: E[r] = m − (m² + v)/2, and v = e^{2 log_std}
    expected = torch.tensor([1 - m, -v], dtype=F64)
    found = []
    for seed in range(40):
        x0 = model.draw(4000, seed)
        reward = (x0 - 0.5 * x0**2)[:, 0]
        t = losses.draw_times(model.process, len(x0), like=x0, generator=seeded(seed + 100))
        x_t = model.process.corrupt(x0, t, generator=seeded(seed + 200))
        elbo = -losses.elbo_error(model(x_t, t), x0, model.process, t)
        loss = losses.policy_gradient(elbo, reward - reward.mean())
        (slope,) = torch.autograd.grad(loss.mean(), model.numbers)
        found.append(-slope)
    z = z_scores(torch.stack(found), expected, floor=1e-3)
    assert z.abs().max() < 4
    assert z_scores(torch.stack(found)).abs().min() > 4


def awm_gradients(policy: Bell, options: dict[str, Any], temperature: float) -> Tensor:
    """Gradients of AWM's first step on exact draws of the policy; the base is N(0, 1)."""
    problem = GaussianSubspace.random(1, 1, temperature, dtype=F64)
    sign = float(problem.theta)
    found = []
    for seed in range(40):
        config = FinetuneConfig(
            calls=4000, per_round=4000, updates=1, batch_size=16_000, ema_decay=0.0, seed=seed
        )
        target = Target(Bell(0.0, 0.0), problem.reward * sign, temperature)
        run = run_of(AWM(draws=4, **options), target, (1,), config)
        run.policy.load_state_dict(policy.state_dict())

        def exact(n: int, run: Run = run, seed: int = seed, target: Target = target) -> Samples:
            x0 = policy.draw(n, seed)
            return Samples(x0, target.reward(x0))

        run.samples = exact  # type: ignore[method-assign, assignment]
        with gradients_of(run) as gradients:
            AWM(draws=4, **options).play(run)
        found += gradients
    return torch.stack(found)


def test_awm_rests_at_the_target_and_nowhere_else() -> None:
    """r = x, base N(0, 1): at p* = N(1/τ, 1) the mean gradient vanishes, else it leads there."""
    tau = 2.0
    at_target = awm_gradients(Bell(1 / tau, 0.0), {}, tau)
    assert z_scores(at_target).abs().max() < 4
    before = awm_gradients(Bell(0.0, 0.0), {}, tau)
    assert float(z_scores(before)[0]) < -8  # descent raises the mean
    assert abs(float(z_scores(before)[1])) < 4
    beyond = awm_gradients(Bell(2 / tau, 0.3), {}, tau)
    assert float(z_scores(beyond)[0]) > 8
    assert float(z_scores(beyond)[1]) > 8
    # the paper's pull in the space of velocities rests elsewhere
    other = awm_gradients(Bell(1 / tau, 0.0), {"kl": "velocity"}, tau)
    assert z_scores(other).abs().max() > 4


def test_the_switch_takes_values_above_and_slopes_below(monkeypatch) -> None:
    """The same paths, so the identity is exact: 2 g_dpok is what the square of a control has."""
    target, halves = bent(), []

    def first(method) -> Tensor:
        run = by_hand(method, target, 5)
        with gradients_of(run) as gradients:
            method.play(run)
        return gradients[0]

    run = by_hand(DPOK(), target, 5)
    path = run.rollout(run.affordable())
    scale = kl_advantages(run, path).square().mean().sqrt().clamp(min=1.0)
    slopes, values = first(AdjointMatching()), 2 * first(DPOK()) * scale
    for noisy in (0.0, 1.0):  # nowhere, everywhere
        with monkeypatch.context() as patch:
            patch.setattr(adjoint, "noise_share", lambda run, t, at=noisy: torch.full_like(t, at))
            halves.append(first(AdjointMatching(switch=0.5)))
    assert torch.allclose(halves[0], slopes, rtol=1e-9)
    assert torch.allclose(halves[1], values, rtol=1e-9)
    assert not torch.allclose(slopes, values, rtol=1e-3)
    both = first(AdjointMatching(switch=0.5))  # the real shares: some of each
    assert not torch.allclose(both, slopes, rtol=1e-3)
    assert not torch.allclose(both, values, rtol=1e-3)


def test_the_share_of_noise() -> None:
    run = by_hand(AdjointMatching(), bent(), 0)
    t = torch.linspace(0, 1, 9, dtype=F64)
    share = adjoint.noise_share(run, t)
    alpha, sigma = run.base.process.schedule(t)
    assert torch.allclose(share / (1 - share), (sigma / alpha) ** 2)  # sigma_data is 1 here
    assert (share.diff() > 0).all()
