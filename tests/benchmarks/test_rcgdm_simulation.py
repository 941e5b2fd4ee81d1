"""The simulation of the RCGDM paper: its closed forms at toy size, and that the study runs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import rcgdm_simulation as module

        out = tmp_path_factory.mktemp("rcgdm")
        yield module, module.main(["--quick", "--out", str(out)]), out
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_it_writes_what_it_says(study) -> None:
    module, result, out = study
    assert json.loads((out / "results.json").read_text())["networks"] == result["networks"]
    text = (out / "results.md").read_text()
    names = module.Config(quick=True).networks.split(";")
    assert all(name in text for name in names)
    assert "nan" not in text
    assert "plotly" in (out / "curves.html").read_text()
    assert {run["network"] for run in result["networks"]} == set(names)


def test_the_gap_splits_exactly_into_its_four_terms(study) -> None:
    _, result, _ = study
    for run in result["networks"]:
        for row in run["rows"]:
            terms = row["exact_term0"] + row["exact_E1"] + row["E2"] + row["E3"]
            assert math.isclose(row["aim"] - row["reward"], terms, abs_tol=1e-4)


def test_the_exact_denoiser_samples_the_closed_forms(study) -> None:
    module, _, _ = study
    from rcgdm_closed_forms import exact_sampling

    config = module.Config(quick=True)
    config.samples = 4096
    for row in exact_sampling(config)["multistep, 50 calls"]:
        se = row["exact_sd_fhat"] / math.sqrt(config.samples)
        assert abs(row["fhat"] - row["exact_fhat"]) < 4.5 * se
        assert abs(row["sd_fhat"] / row["exact_sd_fhat"] - 1) < 4.5 / math.sqrt(2 * config.samples)
        # the multistep sampler's own error is below 2 % of a shift at 50 calls
        assert abs(row["shift"] / row["exact_shift"] - 1) < 0.06


def test_off_support_and_label_noise_terms(study) -> None:
    _, result, _ = study
    for row in result["theory"]["off_support"] + result["theory"]["label_noise"]:
        assert abs(row["measured"] - row["exact"]) < 4.5 * row["se"]


def test_rates(study) -> None:
    _, result, _ = study
    assert abs(result["theory"]["regret_rate"]["slope"] + 0.5) < 0.06
    angle = result["theory"]["angle_rate"]
    assert abs(angle["slope"] + 1) < 0.06
    assert all(row["angle"] < row["bound"] for row in angle["rows"])


def test_a_network_name_that_does_not_exist_is_named(study, tmp_path) -> None:
    module, _, _ = study
    with pytest.raises(SystemExit, match="unet"):
        module.study(module.Config(quick=True, networks="unet", out=str(tmp_path)))


def test_the_report_of_an_angle_is_zero_for_the_true_frame(study) -> None:
    module, _, _ = study
    config = module.Config(quick=True)
    world = module.World(config, 0)
    torch.manual_seed(0)
    denoiser = module.make_denoiser("encoder-decoder", config, world.process)
    assert module.subspace_angle(denoiser, world) > 0.1
    same = module.Subspace(denoiser.inner, config.dim, config.latent, world.problem.frame)
    assert module.subspace_angle(same, world) < 1e-10
