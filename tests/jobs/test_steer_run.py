"""``payoff steer`` as a job: the same designs whatever the workers, resumable, never paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from design_cases import DESIGN
from tuning_cases import paid, steered, stopped_at, words, write

from payoff.errors import UserError
from payoff.jobs.methods import sized, steering_settings
from payoff.jobs.records import read_record
from payoff.jobs.sample import sample
from payoff.jobs.steer.drawing import sizes
from payoff.jobs.steer.remarks import gathered, kind
from payoff.problems import MixtureProblem
from payoff.steering.best_of_n import BestOfN
from payoff.steering.svdd import SVDD

MODULE = "boards_to_steer"
LOAD = f"{MODULE}:load"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and one finished run."""
    folder = tmp_path_factory.mktemp("steer")
    write(folder, MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        steered(LOAD, "whole")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


def results(out: str | Path) -> dict[str, Any]:
    """Everything that does not depend on the machine's speed."""
    times = ("seconds", "reward_seconds")
    found: dict[str, Any] = {
        name: Path(out, name).read_bytes() for name in ("designs.csv", "base_designs.csv")
    }
    return found | {"history": pl.read_csv(Path(out, "history.csv")).drop(times).to_dicts()}


def test_what_a_run_leaves() -> None:
    record = read_record("whole")
    assert record["kind"] == "steer"
    designs = pl.read_csv("whole/designs.csv")
    assert designs.columns == [*DESIGN, "score", "valid", "support"]
    assert len(designs) == 12
    assert designs["score"].to_list() == sorted(designs["score"], reverse=True)
    calls, network = record["calls"], record["network"]
    # the pilot takes a quarter of 100 calls, and 75 are shared by twelve designs: six each
    assert (calls["pilot"], calls["steering"], calls["spent"]) == (25, 72, 97)
    assert record["method"]["size"] == {"name": "candidates", "value": 6}
    assert network["evaluations"] == 12 * 6 * 5
    assert record["method"]["cost"]["network"] * 12 == network["evaluations"]
    history = pl.read_csv("whole/history.csv")
    assert history["designs"].to_list() == [4, 4, 4]
    assert history["calls"].sum() == 72
    assert not Path("whole/state").exists()
    assert {"base", "data.json", "data.parquet"} <= {p.name for p in Path("whole").iterdir()}


def test_degenerate_weights_are_kept_in_the_record_once() -> None:
    """At a tenth of the sd, six candidates are worth hardly more than one, in every batch."""
    (told,) = [w for w in read_record("whole")["warnings"] if "best-of-n" in w]
    assert "effective sample size" in told
    assert told.endswith("(in 3 of 3 batches)")


@pytest.mark.parametrize("method", ["best-of-n", "svdd"])
def test_workers_change_no_design(method: str, tmp_path: Path) -> None:
    found = []
    for workers in (0, 1, 2):
        options = {"method": method, "workers": workers, "particles": 3, "calls": None}
        steered(LOAD, tmp_path / str(workers), base="whole", **options)
        found.append(results(tmp_path / str(workers)))
    assert found[0] == found[1] == found[2]
    assert read_record(tmp_path / "2")["calls"]["failed"] == 0


def test_a_worker_killed_in_the_middle_changes_no_design(folder: Path, tmp_path: Path) -> None:
    for name in ("calls.txt", "cured"):
        (folder / name).unlink(missing_ok=True)
    steered(f"{MODULE}:deadly", tmp_path / "killed", base="whole", workers=1)
    assert (folder / "cured").exists(), "no worker was killed"
    assert results(tmp_path / "killed") == results("whole")


@pytest.mark.parametrize(
    ("target", "at"),
    [
        ("payoff.jobs.steer.drawing.BatchedSteering._draw", 2),
        ("payoff.jobs.steer.drawing.BatchedSteering._keep", 2),
        ("payoff.jobs.steer.job.find_temperature", 1),
        ("payoff.jobs.steer.job.history_table", 1),
    ],
)
def test_stopped_and_continued_it_is_the_same(
    target: str, at: int, folder: Path, tmp_path: Path
) -> None:
    (folder / "calls.txt").unlink(missing_ok=True)
    out = tmp_path / "run"
    with stopped_at(target, at, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        steered(LOAD, out, base="whole", workers=1)
    assert not (out / "run.json").exists()
    # the number of workers is free to change
    steered(LOAD, out, base="whole", workers=0, resume=True)
    assert results(out) == results("whole")
    asked = paid(folder)
    assert len(asked) == len(set(asked)), "a design was paid for twice"


def test_ctrl_c_with_workers_is_quick_and_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    """In the middle of a slow reward, with two batches under way."""
    (folder / "calls.txt").unlink(missing_ok=True)
    out = tmp_path / "run"
    more = ["--base", "whole", "--workers", "2", "--quiet"]
    program = [sys.executable, "-m", "payoff", *words("steer", f"{MODULE}:slow", out, *more)]
    with subprocess.Popen(program, text=True, stderr=subprocess.PIPE, cwd=folder) as process:
        for _ in range(1200):
            if len(paid(folder)) > 26:
                break
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "continue with: payoff steer" in said
    steered(f"{MODULE}:slow", out, base="whole", resume=True)
    assert results(out)["designs.csv"] == results("whole")["designs.csv"]


def test_when_all_fail_it_says_so_and_keeps_what_it_held(folder: Path, tmp_path: Path) -> None:
    (folder / "calls.txt").unlink(missing_ok=True)
    given = {"base": "whole", "ledger": str(tmp_path / "own.sqlite")}
    with pytest.raises(UserError, match=r"What it held is in .*failed-0000.safetensors"):
        steered(f"{MODULE}:nothing", tmp_path / "failed", **given)
    assert (tmp_path / "failed/state/failed-0000.safetensors").exists()


def test_a_time_limit_fails_the_rows_and_not_the_run(tmp_path: Path) -> None:
    given = {"workers": 1, "time_limit": 0.001, "temperature": 1.0, "calls": None}
    more = {"base": "whole", "particles": 2, "count": 2}
    with pytest.raises(UserError, match="failed"):
        steered(f"{MODULE}:slow", tmp_path / "late", **given, **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "smcc"}, "there is no such method, did you mean 'smc'"),
        ({"method": "dps"}, "boards_to_steer:load is a black box here"),
        ({"settings": ["candidate=3"]}, "did you mean 'candidates'"),
        ({"settings": ["candidates=3"], "particles": 4}, "give one of them"),
        ({"particles": 50}, "takes 50 reward calls a sample, and the budget allows 6.25"),
        ({"method": "svdd", "calls": 40}, "cannot stay within 2.5 reward calls"),
        ({"calls": 20}, "too few to find a temperature"),
        ({"time_limit": 3.0}, "it needs --workers"),
        ({"workers": -1}, "--workers must not be negative"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        steered(LOAD, "refused", **options)
    assert not Path("refused").exists()


def test_more_designs_cost_calls() -> None:
    with pytest.raises(UserError, match="payoff steer with --base whole"):
        sample("whole", quiet=True)


def test_batches_cover_the_count_and_fit() -> None:
    for count in (1, 3, 100, 101):
        for rows in (1, 64, 5000):
            plan = sizes(count, rows)
            assert sum(plan) == count
            assert max(plan) == 1 or max(plan) * rows <= 4096
    assert sizes(10, 1, 4) == [4, 4, 2]


def test_a_budget_sets_the_size_and_a_size_must_fit_it() -> None:
    problem = MixtureProblem.two_modes()
    method = sized(BestOfN, problem, (1,), {}, rewards=12.9)
    assert method.candidates == 12
    assert sized(BestOfN, problem, (1,), {"steps": 5}, network=30).candidates == 6
    assert sized(SVDD, problem, (1,), {"steps": 5}, rewards=100).cost().rewards <= 100
    with pytest.raises(UserError, match="the budget allows 10"):
        sized(BestOfN, problem, (1,), {"candidates": 11}, rewards=10)
    assert steering_settings(BestOfN, ["choice=argmax"], 5) == {"choice": "argmax", "candidates": 5}


def test_warnings_that_differ_by_numbers_are_one() -> None:
    texts = [["ESS 1.2 of 64"], [], ["ESS 3 of 64", "copies: 7"]]
    assert kind("ESS 1.2 of 64") == kind("ESS 3e-4 of 8")
    assert gathered(texts) == [
        "ESS 1.2 of 64 (in 2 of 3 batches)",
        "copies: 7 (in 1 of 3 batches)",
    ]
    assert gathered([["alone 3"]]) == ["alone 3"]


def test_the_record_names_what_makes_it_again() -> None:
    program, command, source, *words = json.loads(Path("whole/run.json").read_text())["command"]
    assert (program, command, source) == ("payoff", "steer", "boards.csv")
    assert words[words.index("--calls") + 1] == "100"
    assert torch.get_num_threads() >= 1
    assert os.path.exists("whole/ledger.sqlite")
