"""Steering and fine-tuning in one table: names, equal prices, closed forms, what does not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from jobs.compare_runs import compare, paid, write
from payoff.denoisers import Corrected
from payoff.domains.closed.domain import Closed
from payoff.domains.closed.model import make_problem
from payoff.errors import UserError
from payoff.jobs.compare.options import CompareOptions
from payoff.jobs.compare.plan import parse_method, plan
from payoff.jobs.compare.table import both_tables, summary_table
from payoff.jobs.counting import Evaluations
from payoff.jobs.records import read_record
from payoff.nets import ResidualMLP

MODULE = "boards_to_compare_steering"
LOAD = f"{MODULE}:load"
FAST: dict[str, Any] = {
    **{"source": "boards.csv", "reward": LOAD, "calls": "400", "baselines": "base,best-of-n"},
    **{"base_width": 32, "base_depth": 1, "base_steps": 60, "samples": 40, "workers": 0},
    "settings": ["per_round=100", "updates=5", "sampler_steps=5", "evaluate=16"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished comparison of both families."""
    folder = tmp_path_factory.mktemp("compare-steering")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        methods = "rwr,best-of-n:choice=argmax,svdd,dps"
        compare({**FAST, "methods": methods}, "whole", quiet=True)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("text", "label", "family"),
    [
        ("smc", "steer:smc", "steer"),
        ("steer:smc", "steer:smc", "steer"),
        ("rwr", "rwr", "tune"),
        ("tune:rwr:share=0.5", "rwr:share=0.5", "tune"),
        ("gradient", "steer:gradient", "steer"),
        ("tune:gradient", "tune:gradient", "tune"),
        ("steer:gradient", "steer:gradient", "steer"),
        ("best-of-n:choice=argmax", "steer:best-of-n:choice=argmax", "steer"),
    ],
)
def test_a_name_of_both_is_steerings_and_a_prefix_says_which(
    text: str, label: str, family: str
) -> None:
    asked = parse_method(text)
    assert (asked.label, asked.family) == (label, family)
    again = parse_method(asked.label)
    assert (again.label, again.family) == (label, family)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("tune:smc", "there is no method 'smc'"),
        ("steer:rwr", "there is no method 'rwr'"),
        ("svd", "did you mean 'svdd'"),
        ("svdd:candidate=3", "did you mean 'candidates'"),
    ],
)
def test_a_wrong_name_or_option(methods: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(CompareOptions(methods=methods), trained=True)


def test_every_cell_has_a_folder_of_its_own() -> None:
    config = CompareOptions(
        methods="rwr,smc,gradient,tune:gradient", calls="100,200", network="5000", seeds=2,
        baselines="base",
    )  # fmt: skip
    cells = plan(config, trained=True)
    assert len({c.name for c in cells}) == len(cells) == 2 * (1 + 2 * 4 + 2)
    assert {c.label for c in cells if c.network} == {"steer:smc", "steer:gradient"}


def test_all_paid_the_same_and_say_who_they_are() -> None:
    frame = pl.read_csv("whole/compare.csv")
    rows = {row["label"]: row for row in frame.iter_rows(named=True)}
    svdd, best = rows["steer:svdd"], rows["steer:best-of-n:choice=argmax"]
    assert [rows[x]["family"] for x in ("base", "best-of-n", "rwr")] == ["base", "baseline", "tune"]
    # a hundred calls are the pilot's, and three are left for each of a hundred designs
    assert best["size"] == "candidates=3"
    assert best["spent"] == 100 + 300 == rows["rwr"]["spent"]
    assert best["samples"] == 100
    assert best["network"] == (100 + 300) * 5
    assert rows["best-of-n"]["network"] == 400 * 5
    assert rows["rwr"]["network"] > 0
    assert best["kl"] is None
    assert best["declared"] == "biased"  # the arg-max is
    # five steps cost svdd at least five calls a design
    assert "cannot stay within 3 reward calls" in svdd["note"]
    assert "is a black box here" in rows["steer:dps"]["note"]
    assert not read_record("whole")["crashed"]
    for name in ("median", "best", "valid", "support", "diversity", "vendi", "seconds"):
        assert best[name] is not None, name


def test_what_was_steered_is_judged_as_it_was_scored() -> None:
    """The measures are those of the designs in the cell's own folder."""
    row = pl.read_csv("whole/compare.csv").filter(label="steer:best-of-n:choice=argmax")
    cell = Path("whole/cells", row["folder"][0])
    designs = pl.read_csv(cell / "designs.csv")
    assert row["median"][0] == pytest.approx(designs.filter(pl.col("valid"))["score"].median())
    assert row["support"][0] == pytest.approx(designs["support"].median(), rel=1e-3)
    assert len(paid(Path())) > 0


def test_the_text_says_what_does_not_apply() -> None:
    text = Path("whole/table.md").read_text()
    assert "| steer:dps (does not apply) | 400 | biased |" in text
    assert "Does not apply: steer:dps, 400: dps needs the gradient of the reward" in text
    assert "the budget of a steering method is that of 100 samples" in text


def test_a_closed_form_at_equal_calls_and_at_equal_evaluations(tmp_path: Path) -> None:
    options = {"source": "mixture", "methods": "best-of-n,svdd,rwr", "calls": "800"}
    settings = ["per_round=400", "updates=5", "sampler_steps=8", "evaluate=16"]
    own = {"samples": 200, "workers": 0, "settings": settings, "baselines": "base"}
    config = {**options, "network": "1600", **own}
    frame = compare(config, tmp_path / "m", quiet=True)
    calls = frame.filter(pl.col("network_budget").is_null())
    network = frame.filter(pl.col("network_budget") == 1600)
    rows = {row["label"]: row for row in calls.iter_rows(named=True)}
    assert rows["steer:best-of-n"]["size"] == "candidates=8"
    assert rows["steer:best-of-n"]["spent"] == 800
    assert rows["steer:best-of-n"]["network"] == 800 * 8
    assert rows["steer:svdd"]["spent"] <= 800
    assert rows["rwr"]["spent"] == 800
    assert rows["rwr"]["network"] > 800
    assert network["label"].to_list() == ["steer:best-of-n", "steer:svdd"]
    assert (network["network"] <= 1600).all()
    for row in rows.values():
        for name in ("w1", "energy", "diversity", "mode_1"):
            assert row[name] is not None, (row["label"], name)
    assert rows["steer:svdd"]["declared"] == "biased"
    assert rows["p* (exact)"]["mode_1"] == pytest.approx(0.763, abs=1e-3)
    text = (tmp_path / "m/table.md").read_text()
    first, second = text.split("At equal network evaluations:")
    assert "| rwr | 800 |" in first
    assert "rwr" not in second.split("One seed.")[0]


def test_a_vector_method_on_tokens_has_a_row_that_says_so(tmp_path: Path) -> None:
    config = {
        **{"source": "chain", "methods": "best-of-n,dps", "calls": "400"},
        **{"samples": 100, "workers": 0, "baselines": "base"},
    }
    frame = compare(config, tmp_path / "chain", quiet=True)
    rows = {row["label"]: row for row in frame.iter_rows(named=True)}
    assert rows["steer:dps"]["note"] is not None
    assert rows["steer:best-of-n"]["energy"] is not None


@pytest.mark.parametrize("name", ["mixture", "subspace", "chain"])
def test_distances_tell_the_base_from_the_target(name: str) -> None:
    """Exact draws are within four standard errors of themselves, those of the base are not."""
    problem, domain = make_problem(name, 0.3), Closed(name)
    generator = torch.Generator().manual_seed(1)
    drawn = [
        draw(2000, generator=generator) for draw in (problem.sample_target, problem.sample_base)
    ]
    right, wrong = (
        domain.measures([tuple(row) for row in x.tolist()], frozenset(), temperature=0.3)
        for x in drawn
    )
    assert abs(right["energy"]) < 4 * right["energy_stderr"] + 1e-3
    assert wrong["energy"] > 4 * wrong["energy_stderr"]
    assert wrong["energy"] > right["energy"]
    if name != "chain":
        assert wrong["w1"] > right["w1"]


def test_evaluations_count_copies_too() -> None:
    import copy

    problem = make_problem("mixture")
    base = Corrected(problem.denoiser, ResidualMLP(1, width=8, depth=1))
    network = Evaluations()
    network.watch(base)
    x, t = torch.randn(5, 1), torch.tensor(0.5)
    base(x, t)
    copied = copy.deepcopy(base)
    copied(x, t)
    copy.deepcopy(copied)(x[:2], t)
    assert network.rows == 12


def test_one_seed_shows_its_own_error() -> None:
    row = {"label": "steer:a", "calls": 10, "seed": 0, "family": "steer", "declared": "exact"}
    rows = [{**row, "reward": 2.0, "reward_stderr": 0.05}]
    frame = summary_table(rows, ["reward"])
    assert frame["reward_stderr"].to_list() == [0.05]
    assert "| steer:a | 10 | exact | 2.000 (0.050) |" in both_tables(
        frame, {"reward": "r"}, ["reward"]
    )
    two = summary_table([*rows, {**rows[0], "seed": 1, "reward": 3.0}], ["reward"])
    assert two["reward_stderr"][0] == pytest.approx(0.05 * 2**0.5 / 2, rel=1e-4)
