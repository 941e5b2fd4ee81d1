"""The report of a steering run, and steering in that of a comparison, on fabricated folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fabricated_tuning import EXACT_MEASURES, compare_run, tune_run
from test_browser import BROWSER, Drawn, dom_of
from test_report import SCRIPT, Structure, figures_of, page_of, words_of

from payoff.errors import UserError
from payoff.report import build
from payoff.report.compare import load as load_comparison
from payoff.report.steer import load

WARNED = "smc: ESS 1.2 of 64 <b>particles</b> (in 3 of 3 batches)"


def steer_run(folder: Path, *, batches: int = 3, ess: bool = True, **options: Any) -> Path:
    """A steering run: designs and base of an invented fine-tuning run, three batches."""
    record = {k: options.pop(k) for k in ("exact", "warned") if k in options}
    tune_run(folder, **options)
    found = json.loads((folder / "run.json").read_text())
    for name in ("tuning", "ledger"):
        found.pop(name)
    found |= {
        "kind": "steer",
        "command": ["payoff", "steer", "boards.csv", "--particles", "64"],
        "warnings": [WARNED] if record.get("warned", True) else [],
        "method": {
            "name": "smc",
            "options": {"particles": 64, "every": 1},
            "size": {"name": "particles", "value": 64},
            "exact": record.get("exact", True),
            "cost": {"rewards": 640, "network": 640, "backward": 0},
        },
        "calls": {
            **{"budget": 20000, "pilot": 100, "steering": 15360, "spent": 15460},
            **{"failed": 7, "judging": 24, "each": 640.0, "distinct": 15400},
        },
        "network": {"evaluations": 15360, "backward": 0, "each": 640.0, "pilot": 2500},
        "steering": {
            **{"batches": batches, "workers": 2, "warned": batches * record.get("warned", True)},
            "reported": {"ess": 1.4, "least_ess": 1.0} if ess else {},
        },
    }
    (folder / "run.json").write_text(json.dumps(found), encoding="utf-8")
    history: dict[str, list[Any]] = {
        **{"batch": list(range(batches)), "designs": [8] * batches, "calls": [5120] * batches},
        **{"failed": [2] * batches, "network": [5120] * batches, "backward": [0] * batches},
        **{"seconds": [3.0] * batches, "reward_seconds": [1.0] * batches},
    }
    if ess:
        history |= {"ess": [1.4] * batches, "least_ess": [1.0] * batches, "note": ["x"] * batches}
    pl.DataFrame(history).write_csv(folder / "history.csv")
    return folder


def test_a_whole_run_shows_every_part(tmp_path: Path) -> None:
    page = page_of(steer_run(tmp_path / "foils", airfoils=True))
    words = words_of(page)
    assert set(figures_of(page)) == {"scores", "support", "ess"}
    for part in (
        "payoff steer", "drawn with smc", "at most 20,000 reward calls",
        "A design took 640 reward calls and 640 evaluations of the network",
        "agrees that the gain is real", "smc is declared exact", "ESS 1.2 of 64",
        "The method warned in 3 of 3 batches", "hardly more than one", "1 at worst on the way",
        "15,460", "15,400 of them were designs that the ledger did not know yet", "2 workers",
        "design 14", "--particles 64", "a tenth of the standard deviation",
        "effective sample size", "history.csv",
    ):  # fmt: skip
        assert part in words, part
    found = Structure(page)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)


def test_a_biased_method_without_a_judge_and_without_warnings(tmp_path: Path) -> None:
    folder = steer_run(
        tmp_path / "run", held_gain=None, exact=False, warned=False, ess=False, minimize=True
    )
    page = page_of(folder)
    words = words_of(page)
    assert set(figures_of(page)) == {"scores", "support"}
    assert "smc is declared biased" in words
    assert "No held-out reward judged this run" in words
    assert "did the method warn" in words
    assert "fell from" in words
    assert "Effective sample size" not in words


def test_a_gain_within_chance_and_a_loss_are_not_called_gains(tmp_path: Path) -> None:
    assert "no more than chance could do" in words_of(page_of(steer_run(tmp_path / "a", gain=0.3)))
    assert "did not improve" in words_of(page_of(steer_run(tmp_path / "b", gain=-20.0)))


def test_what_a_user_wrote_is_text(tmp_path: Path) -> None:
    names = (SCRIPT, "wood")
    page = page_of(steer_run(tmp_path / "run", names=names))
    assert SCRIPT not in page
    assert "<b>particles</b>" not in page.partition("<main>")[0]


@pytest.mark.parametrize("name", ["history.csv", "designs.csv", "base_designs.csv"])
def test_a_damaged_folder_names_the_file(tmp_path: Path, name: str) -> None:
    folder = steer_run(tmp_path / "run")
    (folder / name).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=rf"{name}.*payoff steer --resume"):
        build(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load(folder)


def test_an_unfinished_run_names_its_command(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"method": "smc", "particles": null}')
    with pytest.raises(UserError, match="payoff steer --resume"):
        build(tmp_path)


def both(folder: Path) -> Path:
    """A closed form with a tuned model, two steering methods, and one that does not apply."""
    told = EXACT_MEASURES | {"w1": "distance", "diversity": "spread", "network": "evaluations"}
    rows: list[dict[str, Any]] = []
    for seed in (0, 1):
        own = {"seed": seed, "samples": 400, "seconds": 1.0 + seed, "memory": 300.0, "w1": 0.1}
        own |= {"diversity": 2.0, "reward_stderr": 0.01}
        on = {"kl": 0.25, "frontier": 0.3, "share_stderr": 0.02}
        rows.append({**own, "label": "base", "calls": 0, "reward": -1.0, "gain": 0.0, "kl": 0.0})
        star = {"reward": -0.7, "gain": 0.3, "share": 1.0}
        rows.append({**own, "label": "p* (exact)", "calls": 0, **on, **star})
        tuned = {"label": "rwr", "calls": 400, "declared": "p*", "reward": -0.8, "gain": 0.2}
        rows.append({**own, **on, **tuned, "share": 0.66, "network": 900})
        smc = {"label": "steer:smc", "declared": "exact", "size": "particles=4"}
        rows.append({**own, **smc, "calls": 400, "reward": -0.7, "gain": 0.3, "network": 400})
        more = {"calls": 0, "network_budget": 2000, "reward": -0.71, "gain": 0.29, "network": 2000}
        rows.append({**own, **smc, **more, "size": "particles=20"})
        note = {"label": "steer:dps", "calls": 400, "declared": "biased", "seed": seed}
        rows.append({**note, "note": "dps needs the gradient of the <i>reward</i>"})
    compare_run(folder, {}, measures=told)
    columns = dict.fromkeys(k for row in rows for k in row)
    table = {c: [row.get(c) for row in rows] for c in columns}
    pl.DataFrame(table, strict=False, infer_schema_length=None).write_csv(folder / "compare.csv")
    return folder


def test_a_comparison_of_both_families(tmp_path: Path) -> None:
    page = page_of(both(tmp_path / "both"))
    words = words_of(page)
    for part in (
        "steer:smc", "particles=4", "particles=20", "does not apply",
        "dps needs the gradient of the <i>reward</i>", "At equal network evaluations",
        "2,000 network evaluations for 100 samples", "spend the calls on every 100 samples",
        "Declared",
    ):  # fmt: skip
        assert part in words, part
    assert "<i>reward</i>" not in page
    assert {"trade-diversity", "trade-w1", "kl-score"} <= set(figures_of(page))
    run = load_comparison(tmp_path / "both")
    assert run.budgets == [400]
    view = run.by_network
    assert view is not None
    assert view.budgets == [2000]
    assert view.values("steer:smc", 2000, "reward").tolist() == [-0.71, -0.71]
    assert run.values("steer:smc", 400, "reward").tolist() == [-0.7, -0.7]


@pytest.mark.skipif(BROWSER is None, reason="needs a headless Chromium")
def test_figures_are_really_drawn(tmp_path: Path) -> None:
    for page, least in (
        (build(steer_run(tmp_path / "run", airfoils=True)), {"support": 60, "ess": 6}),
        (build(both(tmp_path / "both")), {"trade-diversity": 4, "trade-w1": 4}),
    ):
        dom, log = dom_of(page, tmp_path / "profile")
        marks = Drawn(dom).marks
        for figure, n in least.items():
            assert marks.get(figure, 0) >= n, marks
        assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]
