"""RGDM's shift at sampling: guidance of an exact model by its exact value must reach the target."""

from __future__ import annotations

import pytest
import torch

from payoff.finetuning import ShiftedSampler
from payoff.metrics import Estimate
from payoff.problems import MixtureProblem
from payoff.processes import GaussianProcess
from payoff.samplers import Ancestral
from payoff.schedules import Cosine

PROCESS = GaussianProcess(schedule=Cosine(-8.0, 8.0))


@pytest.mark.parametrize("shift", ["gradient", "candidates"])
def test_the_exact_value_of_a_base_model_leads_to_the_target(shift: str) -> None:
    problem = MixtureProblem.two_modes(process=PROCESS)
    value = problem.value()
    options = {"shift": shift, "candidates": 64, "radius": float("inf")}
    if shift == "candidates":
        options |= {"proposal": "gaussian", "radius": 1.0}
    sampler = ShiftedSampler(problem.base, (1,), value, 100, **options)
    x = sampler.sample(4000, generator=torch.Generator().manual_seed(0))
    plain = Ancestral(problem.tilted(), (1,), 100)
    y = plain.sample(4000, generator=torch.Generator().manual_seed(1))
    mine, exact = Estimate.of(problem.reward(x)), Estimate.of(problem.reward(y))
    start = float(problem.base_reward())
    assert mine.value - start > 0.9 * (exact.value - start)
    left = Estimate.of((x[:, 0] < 0.5).double())
    assert left.agrees(Estimate.of((y[:, 0] < 0.5).double()), 4)


def test_a_shift_is_never_longer_than_the_radius() -> None:
    problem = MixtureProblem.two_modes(process=PROCESS)

    def steep(x: torch.Tensor, s: torch.Tensor, cond: object) -> torch.Tensor:
        return 1e6 * x[:, 0]

    for proposal in ("kernel", "ball"):
        sampler = ShiftedSampler(problem.base, (1,), steep, 10, radius=0.3, proposal=proposal)
        x, times = torch.zeros(5, 1), sampler.times(torch.device("cpu"), torch.float32)
        kernel = sampler.step(x, times[4], times[5], None, {})
        draw = kernel.inner.sample(generator=torch.Generator().manual_seed(0))
        moved = kernel.sample(generator=torch.Generator().manual_seed(0))
        std = float(kernel.inner.std)
        torch.testing.assert_close(
            moved - draw, torch.full((5, 1), 0.3 * std), rtol=1e-3, atol=1e-6
        )


def test_a_shifted_kernel_has_no_density() -> None:
    problem = MixtureProblem.two_modes(process=PROCESS)
    sampler = ShiftedSampler(problem.base, (1,), problem.value(), 5)
    path = sampler.rollout(3, generator=torch.Generator().manual_seed(0))
    assert path.log_probs is None
    with pytest.raises(ValueError, match="unknown shift"):
        ShiftedSampler(problem.base, (1,), problem.value(), 5, shift="sideways")
