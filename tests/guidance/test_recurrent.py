"""Time travel: it keeps the laws it should keep, and moves what is biased."""

from __future__ import annotations

import pytest
import torch
from guidance_cases import condition_of, distance_from, seeded

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.guidance import Guided, Recurrent
from payoff.guidance.recurrent import renoised
from payoff.metrics.distances import moment_scores, wasserstein
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.samplers import DDIM, Ancestral
from payoff.values import PlugIn


def test_noise_put_back_is_the_forward_process() -> None:
    """x_s of the base at s, noised to t, has the law of x_t: mean and covariance."""
    problem = GaussianSubspace.random(4, 2, isotropic=False)
    law, n = problem.base, 20_000
    s, t = torch.tensor(0.3), torch.tensor(0.7)
    x = renoised(law.process, law.sample_t(n, s, generator=seeded()), s, t, generator=seeded(1))
    alpha, sigma = law.process.schedule(t)
    covariance = alpha**2 * law.covariances()[0] + sigma**2 * torch.eye(4)
    first, second = moment_scores(x, torch.zeros(4), covariance)
    assert first.abs().max() < 4
    assert second.abs().max() < 4.5


def test_one_repeat_is_the_inner_sampler() -> None:
    problem = MixtureProblem.two_modes()
    inner = DDIM(problem.base, (1,), 10, eta=0.5)
    found = Recurrent(inner, 1).sample(50, generator=seeded())
    assert torch.equal(found, inner.sample(50, generator=seeded()))
    # so it is where no step lies in the window
    narrow = Recurrent(inner, 5, (0.55, 0.58))
    assert torch.equal(narrow.sample(50, generator=seeded()), found)


@pytest.mark.parametrize("guide", ["none", "exact"])
def test_a_right_denoiser_keeps_its_law(guide: str) -> None:
    problem, n = MixtureProblem.two_modes(), 4000
    denoiser = problem.base if guide == "none" else Guided(problem.base, problem.value())
    x = Recurrent(Ancestral(denoiser, (1,), 100), 3).sample(n, generator=seeded())
    if guide == "exact":
        distance, floor = distance_from(problem, x)
    else:
        draws = [problem.sample_base(n, generator=seeded(i))[:, 0] for i in (7, 8, 9, 10)]
        distance = float(wasserstein(x[:, 0], draws[0]))
        floor = sum(float(wasserstein(draws[i], draws[i + 1])) for i in range(3)) / 3
    assert distance < 2.5 * floor, (distance, floor)


def test_more_recurrence_of_a_biased_guide_is_more_reward() -> None:
    """Of r = −k(x − 2)², whose target lies to the right."""
    problem = MixtureProblem.two_modes()
    guided = Guided(problem.base, PlugIn(problem))
    means = [
        float(problem.reward(Recurrent(Ancestral(guided, (1,), 25), k).sample(4000,
              generator=seeded())).mean())
        for k in (1, 8)
    ]  # fmt: skip
    assert means[1] != pytest.approx(means[0], abs=0.02)


def test_declared_visits_are_those_made_and_masks_hold() -> None:
    problem = CloudProblem(4)
    counted = Counted(problem.base)
    cond = condition_of("cloud", 9)
    assert cond is not None
    sampler = Recurrent(Ancestral(counted, (4, 3), 20), 4, (0.3, 0.6))
    x = sampler.sample(9, cond, generator=seeded())
    assert counted.rows == 9 * sampler.visits()
    assert sampler.visits() == 20 + 3 * 7  # steps that start at 0.3, 0.35, …, 0.6
    assert (x[~cond["mask"]] == 0).all()
    assert x.sum(1).abs().max() < 1e-4


def test_refusals() -> None:
    problem, chain = MixtureProblem.two_modes(), TokenChain.random(3, 3)
    inner = Ancestral(problem.base, (1,), 5)
    with pytest.raises(UserError, match="repeats"):
        Recurrent(inner, 0)
    with pytest.raises(UserError, match="window"):
        Recurrent(inner, 2, (0.8, 0.2))
    with pytest.raises(UserError, match="token"):
        Recurrent(Ancestral(chain.base, (3,), 5), 2)
    with pytest.raises(ValueError, match="density"):
        Recurrent(inner, 2).step(torch.zeros(1, 1), torch.tensor(0.5), torch.tensor(0.4), None,
                                 {}).log_prob(torch.zeros(1, 1))  # fmt: skip
