from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from payoff.errors import UserError
from payoff.rewards import Ensemble, LearnedReward, Ridge


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def bumpy(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1] + torch.sin(2 * x[:, 2]) + 0.3 * x[:, 3]


@pytest.fixture(scope="module")
def fitted() -> dict[str, LearnedReward]:
    x = normal(150, 5)
    y = 20 + 4 * bumpy(x) + normal(150, seed=1)
    return {"ridge": Ridge.fit(x, y), "ensemble": Ensemble.fit(x, y, generator=rng())}


KINDS = pytest.mark.parametrize("kind", ["ridge", "ensemble"])


def test_ridge_solves_the_normal_equations() -> None:
    x, y = normal(50, 4), normal(50, seed=1)
    lam = 0.7
    reward = Ridge.fit(x, y, lam=lam, intercept=False)
    gram = x.T @ x + lam * torch.eye(4, dtype=x.dtype)
    theta = torch.linalg.solve(gram, x.T @ y)
    torch.testing.assert_close(reward.coefficients, theta)
    torch.testing.assert_close(reward.Sigma, gram / 50)
    torch.testing.assert_close(reward(x), x @ theta)
    query = normal(9, 4, seed=2)
    moment = query.T @ query / 9
    trace = torch.linalg.solve(gram / 50, moment).diagonal().sum()
    torch.testing.assert_close(reward.shift(query), trace)


def test_ridge_shift_of_the_training_rows_is_their_dimension() -> None:
    x = normal(500, 6)
    reward = Ridge.fit(x, normal(500, seed=1), lam=1e-6)
    assert float(reward.shift(x)) == pytest.approx(6, rel=1e-6)
    assert float(reward.shift(3 * x)) > 50


def test_ridge_with_an_intercept_follows_a_shift_of_the_labels() -> None:
    x, y = normal(60, 3) + 5, normal(60, seed=1)
    a, b = Ridge.fit(x, y, lam=2.0), Ridge.fit(x, y + 1000, lam=2.0)
    torch.testing.assert_close(a(x) + 1000, b(x))
    torch.testing.assert_close(a.predict(x)[1], b.predict(x)[1])


def test_ridge_picks_more_shrinkage_for_noisier_labels() -> None:
    x = normal(60, 20)
    quiet = Ridge.fit(x, x[:, 0] + 0.01 * normal(60, seed=1))
    loud = Ridge.fit(x, 0.2 * x[:, 0] + 3 * normal(60, seed=1))
    assert loud.lam > 10 * quiet.lam


def test_ridge_picks_its_shrinkage_whatever_the_scale() -> None:
    x, y = normal(40, 60), normal(40, seed=1)
    a, b = Ridge.fit(x, y), Ridge.fit(1e4 * x, y)
    torch.testing.assert_close(a(x), b(1e4 * x))
    assert b.lam == pytest.approx(1e8 * a.lam)


def test_ridge_picks_the_least_leave_one_out_error() -> None:
    x = normal(30, 5)
    y = x[:, 0] + normal(30, seed=1)
    found = Ridge.fit(x, y).lam

    def left_out(lam: float) -> float:
        error = 0.0
        for i in range(30):
            rest = torch.arange(30) != i
            error += float((Ridge.fit(x[rest], y[rest], lam=lam)(x[i : i + 1]) - y[i]).square())
        return error

    # the fits without a row centre on the others, which the closed form allows for
    assert left_out(found) <= min(left_out(found / 3), left_out(found * 3)) + 1e-9


def test_ridge_noise_estimates_the_noise() -> None:
    x = normal(2000, 8)
    reward = Ridge.fit(x, x @ normal(8, seed=3) + 0.5 * normal(2000, seed=1))
    # the sd of an sd estimate is about sd / sqrt(2 n)
    assert abs(float(reward.noise) - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_ridge_intervals_cover_the_truth_as_often_as_they_say() -> None:
    inside = total = 0
    for seed in range(40):
        x, theta = normal(80, 4, seed=seed), normal(4, seed=seed + 500)
        reward = Ridge.fit(x, x @ theta + normal(80, seed=seed + 1000), lam=1e-3)
        query = normal(1, 4, seed=seed + 2000)
        low, high = reward.interval(query, 0.9)
        inside += int((low <= query @ theta) & (query @ theta <= high))
        total += 1
    assert abs(inside - 0.9 * total) < 3 * math.sqrt(total * 0.9 * 0.1)


@KINDS
def test_gradients_of_mean_and_std_are_right(fitted: dict[str, LearnedReward], kind: str) -> None:
    reward = fitted[kind]
    assert reward.differentiable
    assert torch.autograd.gradcheck(reward.predict, normal(3, 5, seed=4).requires_grad_())


def test_gradients_are_finite_on_the_data_themselves() -> None:
    x = normal(40, 3)
    reward = Ensemble.fit(x, x[:, 0] ** 2, generator=rng())
    query = x.clone().requires_grad_()
    reward.lower_bound(query).sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


@KINDS
def test_a_row_does_not_depend_on_its_batch(fitted: dict[str, LearnedReward], kind: str) -> None:
    x = normal(6, 5, seed=5)
    together = torch.stack(fitted[kind].predict(x))
    alone = torch.cat([torch.stack(fitted[kind].predict(row[None])) for row in x], dim=1)
    torch.testing.assert_close(together, alone)


@KINDS
def test_call_is_the_predicted_mean_in_the_dtype_asked(
    fitted: dict[str, LearnedReward], kind: str
) -> None:
    x = normal(4, 5, seed=6)
    reward = fitted[kind]
    torch.testing.assert_close(reward(x), reward.predict(x)[0])
    assert reward(x.float()).dtype == torch.float32
    torch.testing.assert_close(reward(x.float()), reward(x).float(), rtol=1e-4, atol=1e-4)
    mean, std = reward.predict(x)
    torch.testing.assert_close(reward.lower_bound(x, 2.0), mean - 2 * std)
    assert reward(x[:0]).shape == reward.predict(x[:0])[1].shape == (0,)


@KINDS
def test_rows_that_are_not_finite_fail_alone(fitted: dict[str, LearnedReward], kind: str) -> None:
    x = normal(4, 5, seed=6)
    x[1, 2] = math.nan
    mean, std = fitted[kind].predict(x)
    assert mean.isnan().tolist() == std.isnan().tolist() == [False, True, False, False]


@KINDS
def test_uncertainty_grows_away_from_the_data(fitted: dict[str, LearnedReward], kind: str) -> None:
    direction = normal(20, 5, seed=7)
    stds = [float(fitted[kind].predict(far * direction)[1].mean()) for far in (0.5, 2.0, 8.0)]
    assert stds[0] < stds[1] < stds[2]


@KINDS
def test_saving_and_loading_changes_nothing(
    fitted: dict[str, LearnedReward], kind: str, tmp_path: Path
) -> None:
    reward = fitted[kind]
    reward.save(tmp_path)
    again = LearnedReward.load(tmp_path)
    x = normal(7, 5, seed=8)
    torch.testing.assert_close(torch.stack(again.predict(x)), torch.stack(reward.predict(x)))
    torch.testing.assert_close(again.noise, reward.noise)
    assert json.loads((tmp_path / "reward.json").read_text())["kind"] == kind
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reward.json", "reward.safetensors"]


def test_loading_something_else_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no learned reward could be read"):
        LearnedReward.load(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "os:system"}')
    with pytest.raises(UserError, match=r"no learned reward could be read"):
        LearnedReward.load(tmp_path)


def test_ensemble_finds_a_noiseless_function_again() -> None:
    x = normal(200, 3)
    reward = Ensemble.fit(x, bumpy(torch.cat([x, x], dim=1)), generator=rng())
    query = normal(200, 3, seed=9)
    query = query[query.norm(dim=1) < 2]
    truth = bumpy(torch.cat([query, query], dim=1))
    assert float((reward(query) - truth).square().mean() / truth.var()) < 0.01


def test_ensemble_does_not_see_the_common_scale_or_the_labels_units() -> None:
    x, y = normal(80, 4), bumpy(normal(80, 4)) + 0.1 * normal(80, seed=1)
    a = Ensemble.fit(x, y, generator=rng())
    b = Ensemble.fit(1000 * x, 50 * y - 7, generator=rng())
    query = normal(20, 4, seed=2)
    torch.testing.assert_close(50 * a(query) - 7, b(1000 * query), rtol=1e-3, atol=1e-2)


def test_ensemble_is_reproducible_and_copes_with_repeated_rows() -> None:
    x = normal(30, 4).repeat(3, 1)
    y = bumpy(x)
    first, second = (Ensemble.fit(x, y, generator=rng(3)) for _ in range(2))
    query = normal(5, 4, seed=1)
    assert torch.equal(first(query), second(query))
    assert first(query).isfinite().all()


def test_unlabelled_rows_help_where_columns_are_correlated() -> None:
    """The function varies along directions that only the rows' covariance singles out."""
    mix = normal(12, 12, seed=20) * torch.logspace(0, -2, 12, dtype=torch.float64)
    latent = normal(1500, 12, seed=21)
    rows = latent @ mix.T
    rows = (rows - rows.mean(0)) / rows.std(0)
    y = torch.sin(1.5 * latent[:, 4]) + torch.sin(1.5 * latent[:, 5])
    errors = []
    for context in (rows, None):
        reward = Ensemble.fit(rows[:80], y[:80], generator=rng(), context=context)
        errors.append(float((reward(rows[80:]) - y[80:]).square().mean()))
    assert errors[0] < errors[1]


def test_many_rows_are_used_in_bounded_time() -> None:
    x = normal(3000, 4)
    y = bumpy(x) + 0.3 * normal(3000, seed=1)
    reward = Ensemble.fit(x, y, generator=rng(), max_rows=400, learn_rows=150, steps=20)
    assert reward.config()["members"][0][0] == 400
    query = normal(500, 4, seed=2)
    assert float((reward(query) - bumpy(query)).square().mean() / bumpy(query).var()) < 0.1


def test_shapes_are_checked_where_data_enter(fitted: dict[str, LearnedReward]) -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*expects \(B, 5\)"):
        fitted["ridge"].predict(normal(3, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\) and y \(4,\)"):
        Ridge.fit(normal(3, 4), normal(4))
    with pytest.raises(ValueError, match="finite"):
        Ridge.fit(normal(3, 4), torch.tensor([1.0, math.nan, 2.0]))
