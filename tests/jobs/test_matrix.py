"""Every job on every kind of object, a foreign kind among them: files, record, ledger, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kind_cases import CASES, Case, foreign_kind, write_sources

from molecule_models import need_qm9, trained
from payoff.domains.installed import kinds
from payoff.errors import UserError
from payoff.jobs.base import start
from payoff.jobs.compare.job import Compare
from payoff.jobs.design.job import Design
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.model import Model
from payoff.jobs.sample import sample
from payoff.jobs.steer.job import Steer
from payoff.report import build
from payoff.rewards.ledger import Ledger

TUNING = {
    **{"calls": 80, "per_round": 20, "updates": 3, "batch_size": 16, "count": 6},
    **{"sampler_steps": 4, "evaluate": 16, "temperature": 1.0},
}
DESIGNING = {"count": 4, "aims": 3, "sampler_steps": 4, "regressor": "ridge"}
COMPARING = {
    **{"methods": "rwr,steer:best-of-n", "calls": "40", "baselines": "base", "samples": 20},
    **{"workers": 0, "score_invalid": True, "temperature": 1.0},
    "settings": ["per_round=20", "updates=3", "batch_size=16", "sampler_steps=4", "evaluate=16"],
}
STEERING = {"count": 4, "sampler_steps": 4, "temperature": 1.0, "particles": 2}
RUNS = [
    ("finetune", "rgdm"),
    ("finetune", "ddpo"),
    ("steer", "smc"),
    ("steer", "best-of-n"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all sources, in which the runs are made."""
    folder = tmp_path_factory.mktemp("matrix")
    write_sources(folder)
    before = os.getcwd()
    os.chdir(folder)
    os.environ["PAID"] = str(folder / "paid.txt")
    with foreign_kind(folder):
        yield folder
    os.chdir(before)


def case_of(name: str, place: Path) -> tuple[Case, str]:
    """A case and its source; molecules are drawn by a model of seconds."""
    case = CASES[name]
    if name == "airfoils":
        pytest.importorskip("neuralfoil")
    if name != "molecules":
        return case, case.source
    need_qm9()
    if not (place / "tiny").exists():
        trained(place / "tiny")
    return case, "tiny"


def options_of(job: str, case: Case, method: str) -> dict[str, Any]:
    own = {**TUNING} if job == "finetune" else {**STEERING}
    reward = case.reward or case.own
    return {**own, **case.options, "reward": reward, "method": method, "score_invalid": True}


@pytest.mark.parametrize(("job", "method"), RUNS, ids=[" ".join(run) for run in RUNS])
@pytest.mark.parametrize("name", list(CASES))
def test_a_run_leaves_its_files(name: str, job: str, method: str, place: Path) -> None:
    case, source = case_of(name, place)
    cls = {"finetune": Finetune, "steer": Steer}[job]
    out = place / f"{name}-{job}-{method}"
    outcome, _ = start(cls, source, options_of(job, case, method), out=out, quiet=True)
    assert outcome is not None
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["domain"]) == (job, name)
    designs = pl.read_csv(out / "designs.csv")
    assert designs.height == record["designs"]["count"] == (6 if job == "finetune" else 4)
    assert {"score", "valid"} <= set(designs.columns)
    for file in (*case.files, *record["files"]):
        assert (out / file).is_file(), file
    assert not (out / "state").exists()
    ledger = Ledger(out / "ledger.sqlite")
    reward = outcome.designs and record["score"]["reward"]
    known = ledger.count(reward, _version(name, source, reward, out))
    assert known >= record["calls"]["distinct"] > 0
    assert record["calls"]["spent"] <= (record["calls"]["budget"] or 10**9)
    model = Model.load(out / "base")
    objects = model.domain.read_back(out, "designs", designs)
    assert len(objects) == designs.height
    assert_page(out, name)
    if job == "finetune":
        assert len(sample(out, count=3, quiet=True).objects) == 3
    else:
        with pytest.raises(UserError, match="payoff steer"):
            sample(out, count=3, quiet=True)


def assert_page(out: Path, name: str) -> None:
    """The report of a run is one file with a figure."""
    page = build(out)
    assert page == out / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "</html>" in text, name
    assert "plotly" in text.lower(), name


@pytest.mark.parametrize("name", list(CASES))
def test_a_design_run_leaves_its_files(name: str, place: Path) -> None:
    case, source = case_of(name, place)
    out = place / f"{name}-design"
    given = {**DESIGNING, **case.design, "score": case.score}
    if name == "molecules":
        source, given = "qm9", {**given, "base": source}
    outcome, _ = start(Design, source, given, out=out, preset="toy", quiet=True)
    assert outcome is not None
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["domain"]) == ("design", name)
    designs = pl.read_csv(out / "designs.csv")
    assert designs.height == record["designs"]["count"] > 0
    for file in (*case.files, *record["files"]):
        assert (out / file).is_file(), file
    assert_page(out, name)
    assert len(sample(out, count=3, quiet=True).objects) > 0


@pytest.mark.parametrize("name", list(CASES))
def test_a_comparison_leaves_its_tables(name: str, place: Path) -> None:
    case, source = case_of(name, place)
    out = place / f"{name}-compare"
    given = {**case.options, **COMPARING, "reward": case.reward or case.own}
    outcome, _ = start(Compare, source, given, out=out, quiet=True)
    assert outcome is not None
    frame = pl.read_csv(out / "compare.csv", infer_schema_length=None)
    assert {"base", "rwr", "steer:best-of-n"} <= set(frame["label"])
    assert frame.filter(pl.col("label") == "rwr")["spent"].to_list() == [40]
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["domain"], record["crashed"]) == ("compare", name, {})
    assert (out / "table.md").is_file()
    assert_page(out, name)
    with pytest.raises(UserError, match="compares several models"):
        sample(out, quiet=True)


DRIVER = """
import json, sys
from payoff.jobs.base import start
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.steer.job import Steer
job, source, options, out, resume = json.loads(sys.argv[1])
start({"finetune": Finetune, "steer": Steer}[job], source, options, out=out, resume=resume)
"""


def run_apart(place: Path, asked: list[Any], paid: Path, last: int = 0) -> int:
    """A run in a process of its own, which the reward ends after so many calls; its exit code."""
    search = os.pathsep.join([*sys.path, str(place)])
    env = {**os.environ, "PYTHONPATH": search, "PAID": str(paid), "LAST": str(last)}
    words = [sys.executable, "-c", DRIVER, json.dumps(asked)]
    return subprocess.run(words, cwd=place, env=env, capture_output=True, timeout=120).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("job", "method"), [("finetune", "rwr"), ("steer", "best-of-n")])
@pytest.mark.parametrize("name", list(CASES))
def test_a_killed_run_goes_on(name: str, job: str, method: str, place: Path) -> None:
    """Kill -9 in the middle: the resumed run has the same designs, and pays for one block again."""
    case, source = case_of(name, place)
    options = {**options_of(job, case, method), "reward": case.own}
    if job == "steer":
        options["batch"] = 2
    whole, stopped = place / f"{name}-{job}-whole", place / f"{name}-{job}-stopped"
    paid = [place / f"{name}-{job}-{i}.txt" for i in range(2)]
    assert run_apart(place, [job, source, options, str(whole), False], paid[0]) == 0
    calls = len(paid[0].read_text().splitlines())
    asked = [job, source, options, str(stopped)]
    assert run_apart(place, [*asked, False], paid[1], last=calls // 2) == -signal.SIGKILL
    assert not (stopped / "run.json").exists()
    assert run_apart(place, [*asked, True], paid[1]) == 0
    assert (stopped / "designs.csv").read_bytes() == (whole / "designs.csv").read_bytes()
    # an answer is paid for again only if its block was in flight
    assert len(paid[1].read_text().splitlines()) <= calls + calls // 2


def _version(name: str, source: str, reward: str, out: Path) -> str:
    """The version under which a run's ledger keeps the answers of a reward."""
    from payoff.jobs.rewards import ObjectReward, find_judge

    model = Model.load(out / "base")
    judge = find_judge(model.domain, kinds()[name], reward)
    return ObjectReward(model.domain, judge, Ledger(out / "ledger.sqlite")).version
