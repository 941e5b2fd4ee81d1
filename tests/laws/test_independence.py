"""A row does not see its batch, padding does not change a result, dtype and device are followed."""

from __future__ import annotations

import itertools

import pytest
import torch
from law_cases import F64, PROBLEM_NAMES, condition, problems, ragged_mask, seeded
from torch import Tensor

from payoff.denoisers import NetDenoiser
from payoff.predictions import Prediction
from payoff.problems import CloudProblem, MixtureProblem
from payoff.processes import GaussianProcess
from payoff.samplers import SAMPLERS, Ancestral
from payoff.schedules import SCHEDULES

ROWS = 7
TIMES = torch.linspace(0.1, 0.9, ROWS, dtype=F64)


def row(cond: dict[str, Tensor] | None, i: int) -> dict[str, Tensor] | None:
    return None if cond is None else {k: v[i : i + 1] for k, v in cond.items()}


def clean(prediction) -> Tensor:
    return prediction.x0 if isinstance(prediction, Prediction) else prediction.log_probs


@pytest.mark.parametrize("name", PROBLEM_NAMES)
def test_denoiser_kernel_value_and_density_are_row_wise(name: str) -> None:
    problem, cond = problems()[name], condition(name, ROWS)
    base, process, value = problem.base, problem.base.process, problem.value()
    x = base.sample_t(ROWS, TIMES, cond, generator=seeded())
    target = base.sample(ROWS, cond, generator=seeded(1))
    t, s = TIMES, 0.5 * TIMES
    whole = base(x, t, cond)
    kernel = process.reverse(x, t, s, whole, 1.0, cond)
    drawn = kernel.sample(generator=seeded(2))
    density = kernel.log_prob(drawn)
    for i in range(ROWS):
        one, c, at = x[i : i + 1], row(cond, i), TIMES[i : i + 1]
        for when in (at, at[0]):  # a batch of times, and one time for all
            part = base(one, when, c)
            torch.testing.assert_close(clean(part), clean(whole)[i : i + 1])
            k = process.reverse(one, when, 0.5 * when, part, 1.0, c)
            torch.testing.assert_close(k.log_prob(drawn[i : i + 1]), density[i : i + 1])
            torch.testing.assert_close(value(one, when, c), value(x, t, cond)[i : i + 1])
            found = base.log_prob_t(one, when, c)
            torch.testing.assert_close(found, base.log_prob_t(x, t, cond)[i : i + 1])
    reward = problem.reward(target, cond)
    for i in range(ROWS):
        found = problem.reward(target[i : i + 1], row(cond, i))
        torch.testing.assert_close(found, reward[i : i + 1])


@pytest.mark.parametrize("sampler", ["ddim", "heun", "multistep"])
@pytest.mark.parametrize("name", ["gaussian", "mixture", "cloud"])
def test_deterministic_samplers_are_row_wise(name: str, sampler: str) -> None:
    problem, cond = problems()[name], condition(name, ROWS)
    walk = SAMPLERS[sampler](problem.base, problem.shape, 12)
    x = walk.start(ROWS, cond, generator=seeded())
    whole = walk.rollout(ROWS, cond, initial=x).x0
    early = walk.finish(x, TIMES, cond)
    for i in range(ROWS):
        part = walk.rollout(1, row(cond, i), initial=x[i : i + 1]).x0
        torch.testing.assert_close(part, whole[i : i + 1])
        part = walk.finish(x[i : i + 1], TIMES[i], row(cond, i))
        torch.testing.assert_close(part, early[i : i + 1])


@pytest.mark.parametrize("name", PROBLEM_NAMES)
def test_ancestral_is_row_wise_given_its_noise(name: str) -> None:
    """A stochastic path is fixed by its states: their densities must not depend on the batch."""
    problem, cond = problems()[name], condition(name, ROWS)
    sampler = Ancestral(problem.base, problem.shape, 6)
    path = sampler.rollout(ROWS, cond, generator=seeded())
    assert path.log_probs is not None
    for i in range(ROWS):
        for n, (t, s) in enumerate(itertools.pairwise(path.times)):
            x = path.states[n, i : i + 1]
            kernel = sampler.step(x, t, s, row(cond, i), {})
            found = kernel.log_prob(path.states[n + 1, i : i + 1])
            torch.testing.assert_close(found[0], path.log_probs[n, i])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_batch_size_and_streaming_do_not_change_the_law(sampler: str) -> None:
    problem = problems()["mixture"]
    walk = SAMPLERS[sampler](problem.base, problem.shape, 5)
    counts: list[int] = []
    parts = list(walk.stream(10, generator=seeded(), batch_size=4, progress=counts.append))
    assert [len(p) for p in parts] == counts == [4, 4, 2]
    same = walk.sample(10, generator=seeded(), batch_size=4)
    assert torch.equal(torch.cat(parts), same)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_padding_never_changes_a_result(name: str) -> None:
    """The same clouds with three more empty rows: same estimate, density, value and samples."""
    small, large = CloudProblem(4, dtype=F64), CloudProblem(7, dtype=F64)
    mask = ragged_mask(ROWS, 4)
    wide = torch.nn.functional.pad(mask, (0, 3))

    def pad(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 3))

    c, w = {"mask": mask}, {"mask": wide}
    x = small.base.sample_t(ROWS, TIMES, c, generator=seeded())
    torch.testing.assert_close(large.base(pad(x), TIMES, w).x0, pad(small.base(x, TIMES, c).x0))
    for find in (lambda p: p.value(), lambda p: p.base.log_prob_t):
        torch.testing.assert_close(find(large)(pad(x), TIMES, w), find(small)(x, TIMES, c))
    for find in (lambda p: p.log_partition, lambda p: p.kl, lambda p: p.target_reward):
        torch.testing.assert_close(find(large)(cond=w), find(small)(cond=c))
    step, wide_step = (SAMPLERS[name](p.base, p.shape, 4) for p in (small, large))
    memory, wide_memory, y, z = {}, {}, x, pad(x)
    for t, s in itertools.pairwise(step.times(x.device, F64)):
        a, b = step.step(y, t, s, c, memory), wide_step.step(z, t, s, w, wide_memory)
        torch.testing.assert_close(b.mean, pad(a.mean))
        y = a.sample(generator=seeded())
        z = pad(y)
        if not a.deterministic:
            torch.testing.assert_close(b.log_prob(z), a.log_prob(y))


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_denoiser(name: str, dtype: torch.dtype) -> None:
    problem = MixtureProblem.two_modes(dtype=torch.float32)
    law = problem.base.to(dtype)
    x = SAMPLERS[name](law, problem.shape, 4).sample(3, generator=seeded())
    assert x.dtype == dtype
    t = torch.full((3,), 0.5, dtype=dtype)
    assert law(x, t).x0.dtype == law.log_prob_t(x, t).dtype == dtype
    assert law.sample(3).dtype == dtype
    assert law.tilt(problem.reward, 1.0).sample(3).dtype == dtype


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_nothing_is_made_on_a_device_of_its_own(schedule: str) -> None:
    """On the meta device any tensor that does not follow its inputs is an error."""
    process = GaussianProcess(schedule=SCHEDULES[schedule]())
    x, t = torch.zeros(3, 2, device="meta"), torch.zeros(3, device="meta")
    x_t, noise = process.corrupt_with_noise(x, t)
    prediction = Prediction.of("noise", noise, x_t, *process.schedule(t))
    kernel = process.reverse(x_t, t, 0.5 * t, prediction)
    assert kernel.log_prob(x_t).device.type == kernel.kl(kernel).device.type == "meta"
    law = MixtureProblem.two_modes(process).base.to("meta")
    y = torch.zeros(3, 1, device="meta")
    assert law(y, t).x0.device.type == law.log_prob_t(y, t).device.type == "meta"

    class Net(torch.nn.Module):
        def forward(self, x, level, cond):
            return x * level.unsqueeze(1)

    for spelling in ("edm", "x0", "noise", "velocity", "flow", "score"):
        denoiser = NetDenoiser(Net(), process, spelling)
        assert denoiser(x, t).x0.device.type == denoiser.loss(x, t).device.type == "meta"
