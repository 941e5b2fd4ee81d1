"""What is built is what is scored: decoding, limits, gradients, the ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from finetune_runs import config, table
from torch import Tensor, nn

from payoff.denoisers import NetDenoiser
from payoff.domains import airfoils
from payoff.domains.airfoils.rewards import REWARDS, TrustedLiftToDrag
from payoff.errors import UserError
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.model import PROCESS
from payoff.experiments.finetune.base import Base
from payoff.experiments.finetune.rewards import (
    BlackBox,
    Designs,
    Judge,
    cells_of,
    frame_of,
    load_judge,
)
from payoff.experiments.finetune.tables import read_job
from payoff.nets import ResidualMLP
from payoff.rewards.ledger import Ledger
from payoff.whitening import Whitening


def base_of(job: Job) -> Base:
    whitening = Whitening(job.x)
    net: nn.Module = ResidualMLP(whitening.dim, width=8, depth=1)
    return Base(NetDenoiser(net, PROCESS), whitening, whitening.dim, [], [])


@pytest.fixture(scope="module")
def foils() -> Designs:
    job = read_job(config("airfoils:lift_to_drag", source="airfoils"), 0)
    return Designs(job, base_of(job))


@pytest.fixture(scope="module")
def boards() -> Designs:
    job = read_job(config("none:none", source=table()), 0)
    return Designs(job, base_of(job))


class Counted:
    """A judge of boards that remembers the tables it was given."""

    def __init__(self) -> None:
        self.asked: list[pl.DataFrame] = []

    def judge(self) -> Judge:
        return Judge("counted", self.score)

    def score(self, frame: pl.DataFrame) -> tuple[np.ndarray, str | None]:
        self.asked.append(frame)
        return frame["width"].to_numpy() - frame["holes"].to_numpy(), None

    @property
    def rows(self) -> int:
        return sum(len(frame) for frame in self.asked)


def test_an_evaluation_fails_where_its_answer_means_nothing() -> None:
    _, values = airfoils.load_airfoils()
    noise = np.random.default_rng(0).normal(0, 0.05, values[:400].shape)
    rows = torch.from_numpy(values[:400] + noise)
    found = TrustedLiftToDrag()(rows).numpy()
    confident = airfoils.aerodynamics(rows)["confidence"] >= 0.9
    fine = confident & airfoils.positive_thickness(rows)
    assert 0 < fine.sum() < len(fine)
    np.testing.assert_array_equal(np.isfinite(found), fine)
    np.testing.assert_array_equal(found[fine], airfoils.oracle(rows)[fine])
    raw = REWARDS["lift_to_drag_raw"].score(rows.numpy())
    np.testing.assert_array_equal(raw, airfoils.oracle(rows))
    larger = REWARDS["lift_to_drag_xlarge"].score(rows.numpy())
    both = np.isfinite(larger) & fine
    assert np.corrcoef(larger[both], found[both])[0, 1] > 0.9
    assert (larger[both] != found[both]).all()


def test_a_failed_row_has_the_gradient_of_the_smooth_ratio() -> None:
    _, values = airfoils.load_airfoils()
    crossed = torch.from_numpy(values[:8].copy())
    crossed[:4, 8:16] -= 0.3  # the upper surface below the lower one
    reward = TrustedLiftToDrag()
    x = crossed.requires_grad_(True)
    found = reward(x)
    assert found[:4].isnan().all()
    (gradient,) = torch.autograd.grad(found.sum(), x)
    (smooth,) = torch.autograd.grad(reward.smooth(x).sum(), x)
    assert gradient.isfinite().all()
    assert torch.equal(gradient, smooth)


def test_cells_and_rows_are_the_same_thing(boards: Designs) -> None:
    frame = boards.job.table.frame.select(boards.codec.columns)
    cells = cells_of(boards.codec, frame)
    again = frame_of(boards.codec, cells)
    assert again.equals(frame)
    assert again.schema == frame.schema


def test_a_design_is_whole_and_inside_the_data_before_it_is_scored(
    boards: Designs, tmp_path: Path
) -> None:
    counted = Counted()
    reward = BlackBox(boards, counted.judge(), Ledger(tmp_path / "ledger.sqlite"))
    z = 8 * torch.randn(200, boards.base.dim)
    values = reward(z)
    frame, data = pl.concat(counted.asked), boards.job.table.frame
    assert frame["holes"].dtype.is_integer()
    assert set(frame["wood"]) <= {"ash", "oak"}
    for name in ("width", "holes"):
        assert frame[name].min() >= data[name].min() - 1e-6
        assert frame[name].max() <= data[name].max() + 1e-6
    built = boards.frame(z)
    assert torch.equal(
        values.double(), torch.from_numpy(built["width"].to_numpy() - built["holes"].to_numpy())
        .float().double(),
    )  # fmt: skip
    # far outside many samples stand for one design: it is paid for once
    assert counted.rows == built.n_unique() < len(z)


def test_an_answer_is_paid_for_once_whatever_the_coordinates(
    boards: Designs, tmp_path: Path
) -> None:
    """The ledger's key is the design in the user's units, not a model's."""
    counted, ledger = Counted(), Ledger(tmp_path / "ledger.sqlite")
    z = torch.randn(50, boards.base.dim)
    first = BlackBox(boards, counted.judge(), ledger)(z)
    paid = counted.rows
    job = read_job(config("none:none", source=table()[:200]), 0)  # another mean, another scale
    other = Designs(job, base_of(job))
    cells = cells_of(boards.codec, boards.frame(z))
    reward = BlackBox(other, counted.judge(), ledger, minimize=True)
    assert torch.equal(reward.values(cells).float(), first)
    assert counted.rows == paid
    assert reward.asked == 50
    assert reward.fresh == 0


def test_minimising_negates_the_reward_and_not_the_ledger(boards: Designs, tmp_path: Path) -> None:
    counted, ledger = Counted(), Ledger(tmp_path / "ledger.sqlite")
    z = torch.randn(20, boards.base.dim)
    up, down = (BlackBox(boards, counted.judge(), ledger, minimize=m) for m in (False, True))
    assert torch.equal(up(z), -down(z))
    assert down.fresh == 0


def test_rows_that_are_not_finite_are_failed_and_never_asked_for(
    boards: Designs, tmp_path: Path
) -> None:
    counted = Counted()
    reward = BlackBox(boards, counted.judge(), Ledger(tmp_path / "ledger.sqlite"))
    z = torch.randn(6, boards.base.dim)
    z[2] = float("nan")
    values = reward(z)
    assert values.isnan().tolist() == [False, False, True, False, False, False]
    assert all(frame["width"].is_not_null().all() for frame in counted.asked)
    assert reward.failed == 1


def airfoil_reward(foils: Designs, folder: Path) -> BlackBox:
    judge = load_judge("airfoils:lift_to_drag", foils.job)
    return BlackBox(foils, judge, Ledger(folder / "ledger.sqlite"))


def test_a_gradient_changes_no_value(foils: Designs, tmp_path: Path) -> None:
    reward = airfoil_reward(foils, tmp_path)
    assert reward.differentiable
    z = foils.base.to_model(foils.job.x[:40])
    plain = reward(z)
    fresh = reward.fresh
    with_gradient = reward(z.clone().requires_grad_(True))
    assert with_gradient.requires_grad
    assert torch.equal(plain.nan_to_num(), with_gradient.detach().nan_to_num())
    assert torch.equal(plain.isnan(), with_gradient.isnan())
    assert reward.fresh == fresh + len(z)  # a gradient has to be computed anew
    assert reward.remembered.ledger.count() == fresh  # but it is the same design


def test_the_gradient_is_that_of_the_score(foils: Designs, tmp_path: Path) -> None:
    """Central differences of what the black box answers, in ten directions."""
    reward = airfoil_reward(foils, tmp_path)
    # halfway to the mean: on the edge of a column's range there are two slopes
    z = 0.5 * foils.base.to_model(foils.job.x[100:130]).double()
    z = z[reward(z).isfinite()][:10].requires_grad_(True)
    (gradient,) = torch.autograd.grad(reward(z).sum(), z)
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    step = 1e-3 * step / step.norm(dim=1, keepdim=True)

    def score(at: Tensor) -> Tensor:
        return reward(at.detach()).double()

    slope = (score(z + step) - score(z - step)) / 2
    expected = (gradient * step).sum(1)
    assert slope.isfinite().all()
    # decoding runs in single precision: differences of 1e-3 keep three digits or so
    assert torch.allclose(slope, expected, rtol=0.05, atol=float(expected.abs().max()) * 0.05)


def test_limits_have_no_gradient_beyond_them(foils: Designs) -> None:
    z = foils.base.to_model(foils.job.x[:3]).requires_grad_(True)
    far = foils.cells(20 * z)
    inside = (far > far.amin()).any()
    assert inside
    (gradient,) = torch.autograd.grad(far.sum(), z)
    assert gradient.isfinite().all()


def test_a_table_with_categories_has_no_gradient(boards: Designs) -> None:
    z = torch.randn(4, boards.base.dim, requires_grad=True)
    assert not boards.cells(z).requires_grad


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("airfoils:lift_to_drg", "did you mean 'lift_to_drag'"),
        ("airfoils:lift_to_drag", "has no 'lower_0'"),
        ("nowhere:score", "--reward nowhere:score: there is no module 'nowhere'"),
        ("score", "--reward score: write it as MODULE:FUNCTION"),
    ],
)
def test_a_reward_that_cannot_be_is_named(name: str, message: str, boards: Designs) -> None:
    with pytest.raises(UserError, match=message):
        load_judge(name, boards.job)
