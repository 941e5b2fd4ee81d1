"""The struct: what belongs to a particle moves with it."""

from __future__ import annotations

import math

import pytest
import torch
from particle_laws import seeded, two_modes

from payoff.kernels import GaussianKernel
from payoff.predictions import Prediction, TokenPrediction
from payoff.steering.particles import Particles
from payoff.steering.population import History, Population


def marked(p: int = 3, k: int = 4) -> Population:
    """Every field of particle i of population j says 10 j + i."""
    mark = (10.0 * torch.arange(p)[:, None] + torch.arange(k)).float()
    rows = mark.flatten()
    population = Population.of(rows[:, None].repeat(1, 2), k)
    population.log_base, population.potential = mark.clone(), mark.clone()
    population.values, population.seen, population.roots = mark, mark, mark.long()
    population.gradient = rows[:, None].repeat(1, 2)
    population.prediction = Prediction(rows[:, None] + 0.0, population.states, 0.5, rows + 0.0)
    return population


def test_everything_is_taken_together() -> None:
    population = marked()
    index = torch.tensor([[0, 0, 3, 1], [3, 3, 3, 3], [2, 1, 0, 2]])
    wanted = (10.0 * torch.arange(3)[:, None] + index).float()
    weights = torch.randn(3, 4, generator=seeded())
    population.take(index, weights)
    for name in ("potential", "values", "seen"):
        torch.testing.assert_close(getattr(population, name), wanted, msg=name)
    assert (population.roots == wanted.long()).all()
    torch.testing.assert_close(population.log_weights, weights)
    rows = wanted.flatten()
    torch.testing.assert_close(population.states[:, 1], rows)
    torch.testing.assert_close(population.gradient[:, 0], rows)
    torch.testing.assert_close(population.prediction.x0[:, 0], rows)
    torch.testing.assert_close(population.prediction.x_t[:, 0], rows)
    torch.testing.assert_close(population.prediction.sigma, rows)
    assert population.prediction.alpha == 0.5
    assert population.particles.shape == (3, 4, 2)


def test_token_predictions_are_taken_too() -> None:
    states = torch.arange(8)[:, None].repeat(1, 3)
    population = Population.of(states, 4)
    logs = torch.arange(8.0)[:, None, None].expand(8, 3, 5)
    population.prediction = TokenPrediction(logs, states)
    population.take(torch.tensor([[1, 1, 1, 1], [0, 0, 0, 3]]), torch.zeros(2, 4))
    expected = torch.tensor([1, 1, 1, 1, 4, 4, 4, 7])
    assert (population.states[:, 0] == expected).all()
    assert (population.prediction.log_probs[:, 0, 0] == expected).all()
    assert population.log_weights.dtype == torch.float32


def test_kernels_of_the_next_move_are_taken_in_the_place_of_states() -> None:
    population = marked()
    rows = population.states[:, :1]
    base = GaussianKernel(rows.repeat(1, 2), rows[:, 0] + 1)
    population.aimed(base, GaussianKernel(rows.repeat(1, 2) + 0.5, 2.0))
    for gone in (population.prediction, population.gradient):
        assert gone is None
    with pytest.raises(AttributeError):
        _ = population.states  # those of other particles from here on
    index = torch.tensor([[0, 0, 3, 1], [3, 3, 3, 3], [2, 1, 0, 2]])
    wanted = (10.0 * torch.arange(3)[:, None] + index).float().flatten()
    population.take(index, torch.zeros(3, 4))
    torch.testing.assert_close(population.base.mean[:, 1], wanted)
    torch.testing.assert_close(population.base.std, wanted + 1)
    torch.testing.assert_close(population.other.mean[:, 0], wanted + 0.5)
    assert population.other.std == 2.0
    torch.testing.assert_close(population.potential.flatten(), wanted)
    population.moved(torch.zeros(12, 2))
    assert population.base is population.other is None
    assert population.states.shape == (12, 2)


def test_history_is_what_each_check_by_itself_would_have_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    g = seeded()
    logs = 2 * torch.randn(7, 3, 5, generator=g)
    logs[4, 1] = -math.inf  # no weights there: the population says nothing at this check
    due = torch.rand(7, 3, 1, generator=g) < 0.5
    due[4, 1] = False
    good = torch.rand(7, 3, 5, generator=g) < 0.8
    norm = logs.softmax(2).norm(dim=2, keepdim=True)
    assert due.any()
    for together in (1, 3, 100):
        monkeypatch.setattr("payoff.steering.population.TOGETHER", together)
        history = History(3, 5, torch.zeros(()))
        for check in zip(logs, norm, due, good, strict=True):
            history.add(*check)
        history.work()
        factor = sum(
            torch.where(d, x.exp().mean(1, True).log(), 0.0) for x, d in zip(logs, due, strict=True)
        )
        torch.testing.assert_close(history.log_factor, factor)
        assert (history.resampled[:, 0] == due.sum((0, 2))).all()
        assert (history.answered[:, 0] == good.sum((0, 2))).all()
        for p in range(3):
            known = [i for i in range(7) if (i, p) != (4, 1)]
            torch.testing.assert_close(history.norm[p, 0], norm[known, p, 0].amax())
            spread = logs[known, p].var(1, correction=0).sqrt().amax()
            torch.testing.assert_close(history.spread[p, 0], spread)


def test_a_long_run_does_not_depend_on_how_many_checks_are_worked_through_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, found = two_modes(1.0, 20), []
    for together in (1, 4, 100):
        monkeypatch.setattr("payoff.steering.population.TOGETHER", together)
        method = case.method(Particles, particles=8, every=1, threshold=0.95)
        population = method.populations(50, generator=seeded())
        found.append((population.log_weights, population.states, population.log_z))
        assert method.summary["resampled"] > 0.5
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same)


def test_moving_forgets_what_was_known_of_the_old_place() -> None:
    population = marked()
    before = population.log_weights
    population.moved(population.states + 1, torch.full((12,), 0.25))
    assert population.prediction is None
    assert population.gradient is None
    torch.testing.assert_close(population.log_weights, before + 0.25)


def test_numbers_of_a_population() -> None:
    population = Population.of(torch.zeros(12, 1), 4)
    inf = math.inf
    population.potential = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [5.0, -inf, -inf, -inf], [-inf, -inf, -inf, -inf]]
    )
    population.roots = torch.tensor([[0, 1, 2, 3], [2, 2, 2, 2], [1, 0, 1, 3]])
    torch.testing.assert_close(population.ess, torch.tensor([4.0, 1.0, 0.0]))
    assert population.ancestors.tolist() == [4, 1, 3]
    assert population.dead.tolist() == [False, False, True]
    torch.testing.assert_close(population.weights.sum(1), torch.ones(3))
    torch.testing.assert_close(population.log_z, torch.tensor([0.0, 5.0 - math.log(4), -inf]))
