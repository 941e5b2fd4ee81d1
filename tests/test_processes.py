"""Behaviour at the edges; the laws are in tests/laws."""

from __future__ import annotations

import pytest
import torch

from payoff.predictions import Prediction, TokenPrediction
from payoff.processes import GaussianProcess, MaskProcess
from payoff.schedules import Karras
from payoff.spaces import Centered, Tokens

F64 = torch.float64


def test_prior_has_the_noise_scale_of_the_last_time() -> None:
    process = GaussianProcess(schedule=Karras())
    x = process.prior((4000, 2), like=torch.zeros((), dtype=F64))
    assert float(x.std()) == pytest.approx(80.0, rel=0.05)


def test_given_noise_is_used() -> None:
    process, t = GaussianProcess(), torch.tensor([0.2, 0.8], dtype=F64)
    x0, noise = torch.randn(2, 2, 3, dtype=F64)
    x_t, used = process.corrupt_with_noise(x0, t, noise=noise)
    assert used is noise
    alpha, sigma = process.schedule(t)
    torch.testing.assert_close(x_t, alpha[:, None] * x0 + sigma[:, None] * noise)


def test_a_step_to_the_same_time_does_not_move() -> None:
    process, t = GaussianProcess(), torch.tensor(0.4, dtype=F64)
    x = torch.randn(3, 2, dtype=F64)
    prediction = Prediction(torch.randn(3, 2, dtype=F64), x, *process.schedule(t))
    for eta in (0.0, 1.0):
        torch.testing.assert_close(process.reverse(x, t, t, prediction, eta).mean, x)


@pytest.mark.parametrize("process", [GaussianProcess(), GaussianProcess(Centered())])
def test_an_empty_batch_passes(process: GaussianProcess) -> None:
    x, t = torch.zeros(0, 4, 3), torch.zeros(0)
    assert process.corrupt(x, t).shape == (0, 4, 3)
    kernel = process.reverse(x, t, t, Prediction(x, x, *process.schedule(t)))
    assert kernel.log_prob(kernel.sample()).shape == (0,)


def test_decided_tokens_stay_and_the_last_step_reveals_all() -> None:
    process = MaskProcess(Tokens(3))
    x_t = torch.tensor([[0, 3, 2, 3]]).repeat(500, 1)
    prediction = TokenPrediction.of_logits(torch.randn(500, 4, 3), x_t, 3)
    half = process.reverse(x_t, torch.tensor(0.8), torch.tensor(0.4), prediction).sample()
    assert (half[:, [0, 2]] == torch.tensor([0, 2])).all()
    assert float((half[:, 1] == 3).float().mean()) == pytest.approx(0.5, abs=0.1)
    last = process.reverse(x_t, torch.tensor(0.8), torch.tensor(0.0), prediction).sample()
    assert (last < 3).all()


def test_times_per_row_are_the_rows_times() -> None:
    process, times = MaskProcess(Tokens(2)), torch.tensor([0.9, 0.5], dtype=F64)
    x_t = torch.full((2, 3), 2)
    prediction = TokenPrediction.of_logits(torch.randn(2, 3, 2, dtype=F64), x_t, 2)
    both = process.reverse(x_t, times, 0.5 * times, prediction)
    for i in range(2):
        one = TokenPrediction(prediction.log_probs[i : i + 1], x_t[i : i + 1])
        alone = process.reverse(x_t[i : i + 1], times[i], 0.5 * times[i], one)
        torch.testing.assert_close(both.log_probs[i], alone.log_probs[0])
