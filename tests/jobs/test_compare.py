"""The comparison: equal budgets, honest rows, cells that may crash, closed forms."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from jobs.compare_runs import call, compare, paid, write
from payoff.domains.closed.domain import Closed
from payoff.domains.closed.model import make_problem
from payoff.errors import UserError
from payoff.jobs.compare.cell import exit_with_parent
from payoff.jobs.compare.table import markdown, summary_table
from payoff.jobs.records import read_record
from payoff.jobs.sample import sample

MODULE = "boards_to_compare"
LOAD = f"{MODULE}:load"
FAST: dict[str, Any] = {
    **{"source": "boards.csv", "reward": LOAD, "methods": "rwr", "calls": "80"},
    **{"base_width": 32, "base_depth": 1, "base_steps": 60, "samples": 40, "workers": 0},
    "settings": ["per_round=20", "updates=5", "sampler_steps=6", "evaluate=16"],
}
TIMES = ("seconds", "memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished comparison."""
    folder = tmp_path_factory.mktemp("compare")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        config = {**FAST, "methods": "rwr,ddpo:clip=0.1", "seeds": 2}
        compare(config, "whole", quiet=True)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


def test_every_row_had_the_same_budget() -> None:
    frame = pl.read_csv("whole/compare.csv")
    labels = ["base", "best-of-n", "rcgdm", "rcgdm-selected", "rwr", "ddpo:clip=0.1"]
    assert frame["label"].unique(maintain_order=True).to_list() == labels
    assert (frame.group_by("label").len()["len"] == 2).all()
    spending = frame.filter(pl.col("label") != "base")
    assert (spending["spent"] == 80).all()
    assert (spending["distinct"] <= 80).all()
    assert (frame.filter(pl.col("label") == "base")["spent"] == 0).all()
    assert frame["error"].is_null().all() if "error" in frame.columns else True


def test_what_a_row_says_can_be_had_again() -> None:
    """A cell is a fine-tuning run like any other, on the base of its seed."""
    for seed in (0, 1):
        cell, base = Path(f"whole/cells/rwr-80-seed{seed}"), f"whole/cells/base-seed{seed}/work"
        weights = [Path(at, "base/model.safetensors").read_bytes() for at in (cell, base)]
        assert weights[0] == weights[1]
        assert read_record(cell)["seed"] == seed
        assert len(sample(cell, count=4, quiet=True).objects) == 4
    with pytest.raises(UserError, match="compares several models"):
        sample("whole", quiet=True)


def test_the_measures_are_sound() -> None:
    frame = pl.read_csv("whole/compare.csv")
    assert (frame["valid"] == 1).all()
    assert (frame["best"] >= frame["median"]).all()
    assert (frame["kl"].drop_nulls() >= 0).all()
    base, best = (frame.filter(pl.col("label") == name) for name in ("base", "best-of-n"))
    assert (base["kl"] == 0).all()
    assert (best["samples"] == 80).all()  # one call each is no choice
    assert (best["kl"] == 0).all()


def test_best_of_n_has_the_divergence_of_its_formula() -> None:
    config = {**FAST, "methods": "", "calls": "400", "baselines": "best-of-n"}
    frame = compare(config, "best", quiet=True)
    assert frame["label"].to_list() == ["best-of-n"]
    assert frame["samples"][0] == 100
    assert frame["kl"][0] == pytest.approx(math.log(4) - 3 / 4)
    base = read_record("best")["baselines"]
    assert base == ["best-of-n"]


def test_the_tables_agree_with_the_cells() -> None:
    cells, table = pl.read_csv("whole/compare.csv"), pl.read_csv("whole/table.csv")
    for row in table.iter_rows(named=True):
        own = cells.filter(pl.col("label") == row["label"], pl.col("calls") == row["calls"])
        assert row["seeds"] == len(own) == 2
        for name in ("median", "diversity", "spent"):
            assert row[f"{name}_mean"] == pytest.approx(own[name].mean(), rel=1e-5)
            assert row[f"{name}_sd"] == pytest.approx(own[name].std(), rel=1e-4, abs=1e-9)
    text = Path("whole/table.md").read_text()
    assert "| ddpo:clip=0.1 | 80 |" in text
    assert "Mean ± sd over 2 seeds" in text


def test_a_comparison_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "list", ".") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("whole ")]
    assert "boards: 6 methods compared in 10 runs, maximize load" in line


def test_finished_cells_are_not_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if it had been stopped just before its end."""
    before = pl.read_csv("whole/compare.csv")
    Path("whole/run.json").unlink()
    Path("whole/cells/rwr-80-seed1/result.json").unlink()
    asked = len(paid(Path()))
    config = {**FAST, "methods": "rwr,ddpo:clip=0.1", "seeds": 2}
    after = compare(config, "whole", resume=True, quiet=True)
    assert after.drop(TIMES).equals(before.drop(TIMES).cast(dict(after.drop(TIMES).schema)))
    assert len(paid(Path())) == asked, "a design was paid for twice"
    assert call(monkeypatch, "compare", "boards.csv", "--out", "whole") == 2
    assert "already holds a finished run" in capsys.readouterr().err


def test_a_crash_costs_one_cell_and_can_be_mended(folder: Path) -> None:
    """Two processes at a time; one is killed from within, and tried again on --resume."""
    (folder / "calls.txt").unlink(missing_ok=True)
    options = {**FAST, "reward": f"{MODULE}:mortal", "baselines": "base", "workers": 2}
    config = {**options, "samples": 20}
    frame = compare(config, "mortal", quiet=True)
    assert frame["error"][0] is None
    assert frame["error"][1].startswith("ended by SIGKILL")
    record = read_record("mortal")
    assert list(record["crashed"]) == ["rwr-80-seed0"]
    assert "(1 crashed)" in Path("mortal/table.md").read_text()
    (folder / "cured").touch()
    config["workers"] = 0
    mended = compare(config, "mortal", resume=True, quiet=True)
    assert mended["median"].is_not_null().all()
    assert not read_record("mortal")["crashed"]


def test_stopped_it_takes_its_processes_along_and_goes_on_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "boards.csv", "--reward", LOAD, "--methods", "rwr", "--calls", "80"]
    words += ["--baselines", "base", "--base-width", "32", "--base-depth", "1", "--samples", "40"]
    words += [w for text in FAST["settings"] for w in ("--set", text)]
    words += ["--base-steps", "60", "--out", "stopped", "--quiet"]
    program = [sys.executable, "-m", "payoff", *words]
    with subprocess.Popen(program, text=True, stderr=subprocess.PIPE) as process:
        cell = folder / "stopped/cells/base-seed0/log.txt"
        for _ in range(1200):
            if cell.exists():
                break
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.05)
        (child,) = children(process.pid)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "payoff: stopped; continue with: payoff compare" in said
    assert "Traceback" not in said
    assert not Path(f"/proc/{child}").exists()
    assert call(monkeypatch, *words, "--resume", "--workers", "0") == 0
    rows = pl.read_csv("stopped/compare.csv").drop(TIMES)
    whole = pl.read_csv("whole/compare.csv").filter(seed=0).filter(pl.col("label") != "rcgdm")
    for label in ("base", "rwr"):
        for name in ("median", "best", "diversity", "kl"):
            mine, its = (f.filter(pl.col("label") == label)[name][0] for f in (rows, whole))
            assert mine == its, (label, name)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("name", ["mixture", "subspace", "chain"])
def test_no_law_beats_the_frontier_and_the_tilt_is_on_it(name: str) -> None:
    problem = make_problem(name, 0.5, torch.float64)
    gain = float(problem.target_reward() - problem.base_reward())
    assert problem.frontier_gain(float(problem.kl())) == pytest.approx(gain, rel=1e-6)
    below = problem.frontier_gain(0.5 * float(problem.kl()))
    assert below is not None
    assert 0.5 * gain < below < gain  # the frontier is concave and rises
    domain, generator = Closed(name), torch.Generator().manual_seed(0)
    answer = domain.exact_answer(4000, 0.5, generator)
    assert answer is not None
    objects, known = answer
    found = domain.measures(objects, frozenset(), temperature=0.5, kl=known["kl"])
    assert abs(found["share"] - 1) < 4 * found["share_stderr"]
    assert known["share"] == pytest.approx(1.0, abs=1e-6)


def test_a_closed_form_from_end_to_end(tmp_path: Path) -> None:
    options = {"source": "mixture", "methods": "rwr", "calls": "200", "workers": 0, "samples": 200}
    options["baselines"] = "base"
    frame = compare({**options, "settings": FAST["settings"]}, tmp_path / "m")
    assert frame["label"].to_list() == ["base", "p* (exact)", "rwr"]
    assert frame["share"][1] == pytest.approx(1.0, abs=1e-6)
    assert frame["spent"].to_list() == [0, 0, 200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "chain", "methods": "draft"}, "works on real vectors only"),
        ({"source": "boards.csv", "reward": LOAD, "methods": "rwr,adjoint"}, "is a black box"),
        ({"source": "boards.csv"}, "which reward"),
        ({"source": "borads.csv"}, "there is no file borads.csv"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compare(options, "refused", quiet=True)
    assert not Path("refused").exists()


def test_a_table_of_one_seed_has_no_spread() -> None:
    rows = [{"label": "a", "calls": 10, "seed": 0, "median": 2.0, "kl": None}]
    frame = summary_table(rows, ["median", "kl"])
    assert frame["median_sd"].to_list() == [None]
    text = markdown(frame, {"median": "middle", "kl": "divergence"}, ["median", "kl"])
    assert text.splitlines()[2] == "| a | 10 | 2 |"
    assert "One seed" in text


def test_a_worker_without_its_parent_ends() -> None:
    """Given the number of a process that is not its parent, it asks itself to stop."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        exit_with_parent(os.getppid() + 10**7)
        assert asked.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
