"""Molecules and closed forms through the jobs: what only a whole run can show."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from molecule_models import need_qm9
from payoff.domains.closed.domain import Closed
from payoff.domains.closed.kind import PROBLEMS
from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.jobs.base import start
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.model import Model
from payoff.jobs.steer.job import Steer
from payoff.pretrained import shipped


@pytest.mark.parametrize("job", [Finetune, Steer])
def test_own_molecules_begin_with_the_shipped_weights(job: type, tmp_path: Path) -> None:
    """Their base has the codec of these weights, not one that fits the file."""
    need_qm9()
    if "qm9" not in shipped():
        pytest.skip("no weights are shipped")
    molecules = load_qm9().molecules(split("test")[:40])
    small = list(molecules)[:24]
    write_molecules(tmp_path / "own.sdf", small)
    given = {
        **{"reward": "molecules:stability", "score_invalid": True, "count": 4, "calls": 40},
        **{"sampler_steps": 2, "base_steps": 1, "base_batch_size": 4, "temperature": 1.0},
    }
    given |= (
        {"method": "rwr", "evaluate": 16, "updates": 1, "batch_size": 4}
        if job is Finetune
        else {"particles": 2}
    )
    outcome, folder = start(job, str(tmp_path / "own.sdf"), given, out=tmp_path / "run", quiet=True)
    assert outcome is not None
    assert outcome.designs is not None
    base, whole = Model.load(folder.path / "base"), Model.load(shipped()["qm9"])
    assert base.domain.config()["codec"] == whole.domain.config()["codec"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_run_on_a_closed_form_repeats_with_its_seed(problem: str, tmp_path: Path) -> None:
    """Whatever was drawn from torch's own generator before."""
    given = {"method": "rwr", "calls": 200, "per_round": 100, "count": 20, "sampler_steps": 4}
    given |= {"evaluate": 32, "updates": 5, "temperature": 0.5}
    tables = []
    for run in ("first", "second"):
        torch.rand(3)
        start(Finetune, problem, given, out=tmp_path / run, quiet=True)
        tables.append(pl.read_csv(tmp_path / run / "designs.csv"))
    assert tables[0].equals(tables[1])
    history = pl.read_csv(tmp_path / "first" / "history.csv")
    assert {"gain", "gain_stderr"} <= set(history.columns)


def test_steering_a_closed_form_comes_nearer_to_the_exact_answer(tmp_path: Path) -> None:
    given = {"method": "smc", "particles": 32, "count": 800, "sampler_steps": 25}
    start(Steer, "chain", given, out=tmp_path / "run", quiet=True)
    domain = Closed("chain")
    found = {}
    for name in ("designs", "base_designs"):
        table = pl.read_csv(tmp_path / "run" / f"{name}.csv")
        points = domain.read_back(tmp_path / "run", name, table)
        found[name] = domain.measures(points, frozenset())
    exact = float(domain.exact.target_reward() - domain.exact.base_reward())
    base, designs = found["base_designs"], found["designs"]
    assert abs(base["gain"]) < 4 * base["gain_stderr"]
    assert 0.7 * exact < designs["gain"] < exact + 4 * designs["gain_stderr"]
