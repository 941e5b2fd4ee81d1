"""Behaviour at the edges; convergence and exactness are in tests/laws."""

from __future__ import annotations

import pytest
import torch

from payoff.denoisers import Denoiser
from payoff.predictions import Prediction
from payoff.problems import GaussianSubspace, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess
from payoff.samplers import DDIM, SAMPLERS, Ancestral, Heun


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LAW = MixtureProblem.two_modes().base


class Counting(Denoiser):
    def __init__(self) -> None:
        super().__init__()
        self.process, self.calls, self.rows = GaussianProcess(), 0, 0

    def forward(self, x_t, t, cond=None):
        self.calls, self.rows = self.calls + 1, max(self.rows, len(x_t))
        shift = 0.0 if cond is None else cond["label"]
        return Prediction(0 * x_t + shift, x_t, *self.process.schedule(t))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_network_calls_are_as_declared_and_batches_fit(name: str) -> None:
    denoiser = Counting()
    sampler = SAMPLERS[name](denoiser, (2,), 7)
    sampler.sample(10, batch_size=4)
    assert denoiser.calls == 3 * 7 * sampler.calls_per_step
    assert denoiser.rows == 4


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_one_seed_one_sample_without_touching_the_global_generator(name: str) -> None:
    sampler = SAMPLERS[name](LAW, (1,), 5)
    before = torch.random.get_rng_state()
    one, two = (sampler.sample(4, generator=seeded()) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(one, sampler.sample(4, generator=seeded(1)))


@pytest.mark.parametrize("grid", ["time", "log_snr"])
def test_grids_run_from_the_start_to_zero(grid: str) -> None:
    sampler = DDIM(LAW, (1,), 8, grid)
    times = sampler.times(torch.device("cpu"), torch.float64)
    assert times.shape == (9,)
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert (times.diff() < 0).all()
    first = torch.tensor([0.3, 0.9], dtype=torch.float64)
    rows = sampler.times(torch.device("cpu"), torch.float64, first)
    assert torch.equal(rows[0], first)
    assert (rows[-1] == 0).all()
    assert (rows.diff(dim=0) < 0).all()
    if grid == "log_snr":
        levels = LAW.process.schedule.log_snr(times)
        torch.testing.assert_close(levels.diff(), levels.diff()[:1].expand(8), rtol=1e-6, atol=1e-6)


def test_rollouts_hold_states_and_true_densities() -> None:
    sampler = Ancestral(LAW, (1,), 6)
    path = sampler.rollout(5, generator=seeded())
    assert path.states.shape == (7, 5, 1)
    assert path.log_probs is not None
    assert path.log_probs.shape == (6, 5)
    assert torch.equal(path.x0, path.states[-1])
    assert torch.equal(path.times, sampler.times(torch.device("cpu"), torch.float32))
    again = sampler.rollout(5, generator=seeded(3), initial=path.states[0])
    assert torch.equal(again.states[0], path.states[0])
    assert DDIM(LAW, (1,), 6).rollout(5).log_probs is None


def test_conditions_have_one_row_or_all() -> None:
    sampler = DDIM(Counting(), (1,), 50)
    label = torch.arange(6.0).unsqueeze(1)
    every = sampler.sample(6, {"label": label}, batch_size=4)
    torch.testing.assert_close(every, label, atol=0.01, rtol=0.01)
    one = sampler.sample(6, {"label": label[3:4]}, batch_size=4)
    torch.testing.assert_close(one, torch.full((6, 1), 3.0), atol=0.01, rtol=0.01)
    with pytest.raises(ValueError, match=r"2 rows for 6 samples"):
        sampler.sample(6, {"label": label[:2]})


def test_no_samples_is_an_empty_tensor() -> None:
    assert DDIM(LAW, (1,), 3).sample(0).shape == (0, 1)


def test_samples_carry_no_graph() -> None:
    problem = GaussianSubspace.random(4, 2)
    assert not DDIM(problem.base, problem.shape, 3).sample(2).requires_grad


def test_tokens_need_a_stochastic_sampler_on_the_time_grid() -> None:
    chain = TokenChain.random(3, 4)
    x = Ancestral(chain.base, chain.shape, 5).sample(6, generator=seeded())
    assert x.dtype == torch.long
    assert (x < 3).all()
    with pytest.raises(ValueError, match="Ancestral"):
        Heun(chain.base, chain.shape, 3).sample(1)
    with pytest.raises(ValueError, match="eta"):
        DDIM(chain.base, chain.shape, 3).sample(1)
    with pytest.raises(ValueError, match="grid='time'"):
        Ancestral(chain.base, chain.shape, 3, "log_snr").sample(1)


def test_impossible_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="steps"):
        DDIM(LAW, (1,), 0)
    with pytest.raises(ValueError, match="grid"):
        DDIM(LAW, (1,), 3, "even")
    with pytest.raises(ValueError, match="eta"):
        DDIM(LAW, (1,), 3, eta=-0.5)


def test_a_noise_floor_gives_every_transition_a_density() -> None:
    process = GaussianProcess(noise_floor=0.02)
    law = MixtureProblem.two_modes(process).base
    path = DDIM(law, (1,), 10, eta=0.0).rollout(4, generator=seeded())
    assert path.log_probs is not None
    # at the floor a density is bounded: 1/(0.02 √2π) per dimension
    assert float(path.log_probs.max()) <= 3.0
