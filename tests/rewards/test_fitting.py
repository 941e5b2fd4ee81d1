from __future__ import annotations

import math
import time

import pytest
import scipy.stats
import torch
from torch import Tensor

from payoff.rewards import Ensemble, Ridge, fit_reward, spearman


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def test_the_ensemble_wins_where_the_data_bend() -> None:
    x = normal(150, 4)
    truth = x[:, 0] * x[:, 1] + x[:, 2] ** 2
    calls: list[tuple[int, int]] = []
    fit = fit_reward(
        x,
        truth + 0.2 * normal(150, seed=1),
        generator=rng(),
        progress=lambda done, total: calls.append((done, total)),
    )
    ridge, ensemble = fit.candidates
    assert fit.chosen.name == "ensemble"
    assert isinstance(fit.reward, Ensemble)
    assert ensemble.rmse < 0.5 * ridge.rmse
    assert ensemble.spearman > 0.9
    assert calls == [(i, 11) for i in range(1, 12)]
    query = normal(400, 4, seed=2)
    true = query[:, 0] * query[:, 1] + query[:, 2] ** 2
    low, high = fit.reward.interval(query)
    share = float(((low <= true) & (true <= high)).double().mean())
    assert 0.8 < share <= 1.0  # calibrated on 150 labels: about 3 sd either way


def test_ridge_is_kept_where_the_data_are_straight() -> None:
    kept = []
    for seed in range(3):
        x = normal(100, 6, seed=seed)
        y = x @ normal(6, seed=seed + 10) + 0.5 * normal(100, seed=seed + 20)
        fit = fit_reward(x, y, generator=rng(seed), folds=4)
        ridge, ensemble = fit.candidates
        kept.append(fit.chosen.name == "ridge" or ensemble.rmse <= ridge.rmse)
        assert abs(ensemble.rmse / ridge.rmse - 1) < 0.1
    assert all(kept)
    assert isinstance(fit.reward, Ridge)
    assert "simpler" in fit.reason


@pytest.mark.parametrize("candidate", ["ridge", "ensemble"])
def test_reported_coverage_is_what_new_labels_see(candidate: str) -> None:
    x = normal(600, 5)
    y = x[:, 0] + torch.sin(x[:, 1]) + 0.3 * normal(600, seed=1)
    fit = fit_reward(x[:200], y[:200], generator=rng(), candidates=(candidate,))
    mean, std = fit.reward.predict(x[200:])
    total = (std.square() + fit.reward.noise.square()).sqrt()
    share = float(((y[200:] - mean).abs() <= 1.645 * total).double().mean())
    spread = math.sqrt(0.09 / 400 + 0.09 / 200)
    assert abs(share - 0.9) < 3.5 * spread
    assert abs(fit.chosen.coverage - 0.9) < 3.5 * math.sqrt(0.09 / 200)


def test_held_out_predictions_have_not_seen_their_labels() -> None:
    """Pure noise cannot be predicted; a leak would show as a positive R2."""
    x, y = normal(120, 8), normal(120, seed=1)
    fit = fit_reward(x, y, generator=rng(), folds=4)
    assert all(candidate.r2 < 0.1 for candidate in fit.candidates)
    assert fit.held_out.shape == fit.held_out_std.shape == (120,)


def test_same_seed_same_fit() -> None:
    x, y = normal(60, 3), normal(60, seed=1)
    first, second = (fit_reward(x, y, generator=rng(5), folds=3) for _ in range(2))
    assert first.summary() == second.summary()
    assert torch.equal(first.reward(x), second.reward(x))


def test_a_few_hundred_rows_take_seconds() -> None:
    x = normal(217, 18)
    y = x[:, 0] * x[:, 1] + x[:, 2] + 0.1 * normal(217, seed=1)
    start = time.perf_counter()
    fit_reward(x, y, generator=rng(), context=normal(2000, 18, seed=2))
    assert time.perf_counter() - start < 25


def test_spearman_agrees_with_scipy_ties_included() -> None:
    a = torch.randint(0, 6, (50,), generator=rng()).double()
    b = a + 2 * normal(50)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(a, torch.ones(50)) == 0.0


def test_unknown_candidates_are_named() -> None:
    with pytest.raises(ValueError, match="ridge, ensemble"):
        fit_reward(normal(30, 2), normal(30), generator=rng(), candidates=("forest",))


def test_intervals_beyond_the_labels_are_wider_where_extrapolation_fails() -> None:
    """A curve that steepens beyond the labels: plain intervals miss it, the widened ones less."""
    x = normal(150, 3).abs()
    steep = lambda x: (1.5 * x[:, 0]).exp() + 0.1 * x[:, 1]  # noqa: E731
    y = steep(x) + 0.05 * normal(150, seed=1)
    fit = fit_reward(x, y, generator=rng(), candidates=("ensemble",))
    assert float(fit.reward.extrapolation) > 1.5
    beyond = x[y.argsort()[-30:]] * 1.2
    inside = []
    for widened in (False, True):
        low, high = fit.reward.interval(beyond, beyond=widened)
        inside.append(float(((steep(beyond) >= low) & (steep(beyond) <= high)).double().mean()))
    assert inside[1] > inside[0]


def test_a_line_needs_little_widening() -> None:
    x = normal(200, 3)
    fit = fit_reward(x, x[:, 0] + 0.3 * normal(200, seed=1), generator=rng(), candidates=("ridge",))
    assert 1.0 <= float(fit.reward.extrapolation) < 1.8
