"""The struct: what belongs to a particle moves with it."""

from __future__ import annotations

import math

import torch
from particle_laws import seeded

from payoff.predictions import Prediction, TokenPrediction
from payoff.steering.population import Population


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
