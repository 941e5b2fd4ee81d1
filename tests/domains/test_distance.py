from __future__ import annotations

import pytest
import torch

from payoff.domains.vectors import SupportDistance, novelty


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_novelty_is_the_distance_to_the_nearest_row() -> None:
    rows, x = normal(300, 6), normal(40, 6, seed=1)
    brute = torch.stack([(rows - point).norm(dim=1).min() for point in x])
    torch.testing.assert_close(novelty(x, rows), brute)
    assert novelty(rows.float(), rows.float()).max() == 0.0
    assert novelty(x[:0], rows).shape == (0,)


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, x = normal(50, 3), normal(33, 3, seed=1)
    whole = novelty(x, rows), SupportDistance(rows)(x)
    monkeypatch.setattr("payoff.metrics.support.CHUNK_CELLS", 100)
    torch.testing.assert_close(novelty(x, rows), whole[0])
    torch.testing.assert_close(SupportDistance(rows)(x), whole[1])


def test_new_rows_of_the_same_law_lie_below_one_as_often_as_the_quantile_says() -> None:
    rows, fresh = normal(2000, 5), normal(2000, 5, seed=1)
    share = float((SupportDistance(rows)(fresh) <= 1).double().mean())
    assert abs(share - 0.95) < 4 * (2 * 0.95 * 0.05 / 2000) ** 0.5 + 0.01


def test_support_grows_outwards() -> None:
    support = SupportDistance(normal(500, 4))
    direction = normal(20, 4, seed=1)
    values = torch.stack([support(far * direction) for far in (0.5, 2.0, 5.0, 20.0)])
    assert (values.diff(dim=0) > 0).all()
    assert values[-1].min() > 3


def test_a_broken_correlation_counts_although_every_column_is_in_range() -> None:
    first = normal(800, 1)
    rows = torch.cat([first, first + 0.05 * normal(800, 1, seed=1)], dim=1)
    support = SupportDistance(rows)
    inside, broken = support(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert inside < 1 < 5 < broken


def test_support_does_not_see_units() -> None:
    rows, x = normal(300, 3), normal(20, 3, seed=1)
    a = SupportDistance(rows, shrinkage=1e-9)(x)
    turn = normal(3, 3, seed=2)
    b = SupportDistance(rows @ turn + 5, shrinkage=1e-9)(x @ turn + 5)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_degenerate_data() -> None:
    rows = torch.cat([normal(30, 2), torch.zeros(30, 1)], dim=1)
    assert SupportDistance(rows)(rows).isfinite().all()
    assert SupportDistance(torch.ones(5, 2))(torch.zeros(1, 2)).isfinite().all()
    with pytest.raises(ValueError, match="m > 1"):
        SupportDistance(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"\(4, 3\) and the data \(30, 2\)"):
        novelty(normal(4, 3), normal(30, 2))
