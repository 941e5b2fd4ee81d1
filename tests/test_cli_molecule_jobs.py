"""Every job of molecules by the name qm9, as a page of commands has it: real data, few steps.

Weights are tiny ones, but where a reward has to read bonds: no molecule of theirs has any.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import polars as pl
import pytest
import torch

from jobs.command_line import call
from jobs.design_cases import molecules as table
from molecule_models import SMALL, need_qm9, trained
from payoff import pretrained
from payoff.domains.molecules import train as training
from payoff.domains.molecules.qm9 import split
from payoff.domains.molecules.rewards import REWARDS
from payoff.domains.molecules.train import CHECKPOINT, Run

TUNE = ["--calls", "16", "--per-round", "8", "--updates", "1", "--batch-size", "8", "--quiet"]
TUNE += ["--sampler-steps", "10", "--evaluate", "16", "--count", "4", "--temperature", "0.5"]
DESIGN = ["--steps", "3", "--batch-size", "16", "--sampler-steps", "4", "--count", "5"]
DESIGN += ["--regressor", "ridge", "--quiet"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a model called qm9."""
    need_qm9()
    folder = tmp_path_factory.mktemp("weights")
    trained(folder / "qm9", steps=60)
    return folder


@pytest.fixture
def _tiny(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny «qm9» in place of the weights that come with the package."""
    monkeypatch.setattr(pretrained, "SHIPPED", weights)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and few molecules."""
    need_qm9()
    few = split("train")[:200]
    kind = "payoff.domains.molecules"
    monkeypatch.setattr(f"{kind}.sources.split", lambda name, size: few)
    monkeypatch.setattr(f"{kind}.domain.known_smiles", lambda part: frozenset({"C"}))
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(40))
    monkeypatch.chdir(tmp_path)


def record() -> dict:
    return json.loads(Path("run/run.json").read_text())


@pytest.mark.usefixtures("_tiny")
def test_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--count", "7", "--sampler-steps", "4", "--out", "molecules.sdf"]
    assert call(monkeypatch, "sample", "qm9", *given) == 0
    assert Path("molecules.sdf").read_text().count("$$$$") == 7


def test_finetune_for_drug_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--reward", "molecules:qed", "--method", "rgdm", *TUNE, "--out", "run"]
    assert call(monkeypatch, "finetune", "qm9", *given) == 0
    assert record()["calls"]["spent"] == 16
    assert record()["score"]["name"] == "qed"
    assert len(pl.read_csv("run/designs.csv")) == 4


def test_finetune_towards_a_small_gap_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of two processes are those of this one."""
    pytest.importorskip("tblite")
    given = ["--reward", "molecules:xtb_gap", "--minimize", "--method", "rgdm", "--workers", "2"]
    assert call(monkeypatch, "finetune", "qm9", *given, *TUNE, "--out", "run") == 0
    assert record()["score"]["direction"] == "minimize"
    assert record()["calls"]["spent"] == 16
    designs = pl.read_csv("run/designs.csv")
    assert len(designs) == 4
    assert REWARDS["xtb_gap"].unit == record()["score"]["unit"]


@pytest.mark.usefixtures("_tiny")
def test_design_of_qm9(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--score", "alpha", "--labelled", "0.2", "--aim", "80", *DESIGN, "--out", "run"]
    assert call(monkeypatch, "design", "qm9", *given) == 0
    assert record()["data"]["labelled"] == 40
    assert record()["aim"] == {"mode": "given", "chosen": 80.0, "reason": "asked for"}
    assert "shipped weights" in record()["training"]["start"]


@pytest.mark.usefixtures("_tiny")
def test_design_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    table(labelled_every=2).write_csv("mymols.csv")
    given = ["--smiles", "smiles", "--score", "logS", "--aims", "2", *DESIGN, "--out", "run"]
    assert call(monkeypatch, "design", "mymols.csv", *given) == 0
    assert record()["data"]["labelled"] == 20
    assert record()["aim"]["mode"] == "auto"
    assert call(monkeypatch, "sample", "run", "--count", "4", "--out", "more.sdf") == 0
    assert call(monkeypatch, "list", ".") == 0


def test_train_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {k: v for k, v in SMALL.items() if k != "compile"}
    flags = [w for k, v in options.items() for w in ("--" + k.replace("_", "-"), str(v))]
    command = ["train", "qm9", "--out", "run", "--no-compile", "--evaluate-minutes", "0", *flags]
    update = Run.update

    def interrupted(self: Run):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    monkeypatch.setattr(Run, "update", interrupted)
    assert call(monkeypatch, *command, "--steps", "5") == 130
    monkeypatch.setattr(Run, "update", update)
    assert call(monkeypatch, *command, "--steps", "5", "--resume") == 0
    assert torch.load(Path("run") / CHECKPOINT, weights_only=True)["step"] == 5
