"""Resampling schemes: unbiased, and as even as they say."""

from __future__ import annotations

import pytest
import torch
from particle_laws import seeded

from payoff.steering.resampling import SCHEMES, normalised, pick, shuffled

POPULATIONS = 20_000


def masses(k: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return (1.5 * torch.randn(rows, k, generator=seeded(seed))).exp()


def offspring(index: torch.Tensor) -> torch.Tensor:
    k = index.shape[1]
    return torch.nn.functional.one_hot(index, k).sum(1).double()


@pytest.mark.parametrize("k", [2, 7, 32])
@pytest.mark.parametrize("name", SCHEMES)
def test_expected_offspring_are_the_shares(name: str, k: int) -> None:
    mass = masses(k, seed=k)
    index = SCHEMES[name](mass.expand(POPULATIONS, k), seeded(1))
    counts, expected = offspring(index), k * (mass / mass.sum())[0].double()
    assert (counts.sum(1) == k).all()
    # a scheme may leave a particle no freedom at all: then rounding is all there is
    error = (counts.var(0) / POPULATIONS).sqrt() + 1e-6 * k
    assert ((counts.mean(0) - expected) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", SCHEMES)
def test_populations_have_their_own_masses(name: str) -> None:
    mass = masses(5, 3).repeat(POPULATIONS // 4, 1)
    counts = offspring(SCHEMES[name](mass, seeded(2))).view(-1, 3, 5)
    expected = 5 * (mass[:3] / mass[:3].sum(1, keepdim=True)).double()
    error = (counts.var(0) / len(counts)).sqrt() + 5e-6
    assert ((counts.mean(0) - expected) / error).abs().max() < 4.5


def test_variances_are_ordered_and_bounded() -> None:
    mass = masses(16)
    shares = 16 * (mass / mass.sum())[0].double()
    counts = {n: offspring(f(mass.expand(4000, 16), seeded(3))) for n, f in SCHEMES.items()}
    slack = 1e-4
    assert (counts["systematic"] >= (shares - slack).floor()).all()
    assert (counts["systematic"] <= (shares + slack).ceil()).all()
    assert (counts["residual"] >= (shares - slack).floor()).all()
    assert ((counts["stratified"] - shares).abs() < 2).all()
    spread = {n: float(c.var(0).sum()) for n, c in counts.items()}
    assert spread["systematic"] < spread["residual"] < spread["multinomial"]
    assert spread["stratified"] < spread["multinomial"]
    binomial = float((shares * (1 - shares / 16)).sum())
    assert spread["multinomial"] == pytest.approx(binomial, rel=0.1)


@pytest.mark.parametrize("name", SCHEMES)
def test_no_mass_no_offspring(name: str) -> None:
    mass = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]]).repeat(5000, 1)
    index = SCHEMES[name](mass, seeded())
    assert ((index == 1) | (index == 3)).all()
    only = torch.zeros(100, 6)
    only[:, 5] = 1e-30
    assert (SCHEMES[name](only, seeded()) == 5).all()
    equal = SCHEMES[name](torch.ones(50, 8), seeded())
    if name in ("systematic", "residual", "stratified"):
        assert (equal == torch.arange(8)).all()


def test_normalised_survives_any_log_mass() -> None:
    inf = float("inf")
    logs = torch.tensor([[1e4, 1e4, -inf], [-1e4, -1e4 + 1, -1e4], [-inf, -inf, -inf]])
    weights = normalised(logs)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(weights[0], torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(weights[2], torch.full((3,), 1 / 3))


def test_one_pick_follows_the_masses() -> None:
    mass = masses(6)
    share = torch.bincount(pick(mass.expand(40_000, 6), seeded()), minlength=6) / 40_000
    expected = (mass / mass.sum())[0]
    error = (expected * (1 - expected) / 40_000).sqrt()
    assert ((share - expected) / error).abs().max() < 4.5


def test_every_place_of_a_shuffled_population_is_a_fair_draw() -> None:
    """Sorted ancestors are not: with systematic points the first place favours low numbers."""
    mass = torch.tensor([[8.0, 1.0, 1.0]]).expand(30_000, 3)
    index = SCHEMES["systematic"](mass, seeded())
    mixed = shuffled(index, seeded(1))
    assert (mixed.sort(1).values == index.sort(1).values).all()
    error = (0.8 * 0.2 / 30_000) ** 0.5
    heavy = (mixed == 0).float().mean(0)
    assert ((heavy - 0.8) / error).abs().max() < 4.5
    assert ((index == 0).float().mean(0) - 0.8).abs().max() > 10 * error
