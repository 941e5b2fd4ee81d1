"""Molecules as a user types them: drawn, trained, tuned; what is said, left and refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import polars as pl
import pytest
import torch

from jobs.command_line import call
from jobs.design_cases import files
from molecule_models import SMALL, need_qm9, trained
from payoff import pretrained
from payoff.domains.molecules import train as training
from payoff.domains.molecules.train import CHECKPOINT, MODEL, Run
from payoff.finetuning import RGDM
from payoff.pretrained import from_pretrained, read_config

WITH_THE_PACKAGE = pretrained.SHIPPED


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a model called tiny."""
    need_qm9()
    folder = tmp_path_factory.mktemp("weights")
    trained(folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def _here(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and «tiny» among the weights that come with the package."""
    monkeypatch.setattr(pretrained, "SHIPPED", weights)
    monkeypatch.chdir(tmp_path)


def sampled(monkeypatch: pytest.MonkeyPatch, name: str | Path, *more: str) -> int:
    return call(monkeypatch, "sample", str(name), "--count", "6", "--sampler-steps", "4", *more)


@pytest.mark.parametrize(
    ("suffix", "entries"),
    [
        (".sdf", lambda text: text.count("$$$$")),
        (".xyz", lambda text: sum(line.isdecimal() for line in text.splitlines())),
        (".csv", lambda text: len(text.splitlines()) - 1),
    ],
)
def test_molecules_are_written_as_the_suffix_says(
    suffix, entries, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(f"molecules{suffix}")
    assert sampled(monkeypatch, "tiny", "--out", str(out)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("6 molecules: ")
    assert "valid" in said[0]
    assert "stable" in said[0]
    assert said[1] == f"molecules: {out} ({entries(out.read_text())})"
    assert files(Path()) == {out.name}
    if suffix != ".csv":
        assert entries(out.read_text()) == 6


def test_the_seed_decides_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert sampled(monkeypatch, "tiny", "--seed", seed, "--out", f"{name}.xyz") == 0
    a, b, c = (Path(f"{name}.xyz").read_text() for name in "abc")
    assert a == b
    assert a != c


def test_the_terminal_gets_the_table_and_the_shares_stand_beside(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the folder's path, and nothing is written."""
    assert sampled(monkeypatch, weights / "tiny", "--quiet") == 0
    said = capsys.readouterr()
    assert said.err.startswith("6 molecules: ")
    assert "valid" in said.err
    assert pl.read_csv(said.out.encode()).shape == (6, 2)
    assert not files(Path())


def test_properties_are_asked_of_the_guide_that_comes_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "SHIPPED", WITH_THE_PACKAGE)
    assert sampled(monkeypatch, "qm9", "--property", "alpha=85", "--out", "along.sdf") == 0
    assert files(Path()) == {"along.sdf"}
    capsys.readouterr()
    assert sampled(monkeypatch, "qm9", "--property", "qed=1") == 2
    assert "the guide qm9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample tinny", "there is no model 'tinny'"),
        ("sample nowhere/", "there is no"),
        ("sample tiny --out molecules.mol", "the format is told from the file's ending"),
        ("sample tiny --out nowhere/m.sdf", "there is no folder nowhere"),
        ("sample tiny --aim 3", "--aim is for runs of payoff design"),
        ("sample tiny --property gap", "takes a name and a number"),
        ("sample tiny --guide nowhere --property gap=5", "nowhere holds no guide"),
        ("sample nowhere/run --guide nowhere", "--guide needs a value"),
        ("sample tiny --sampler-steps 0", "--sampler-steps must be at least 1"),
        ("sample tiny --count 0", "--count must be at least 1"),
        ("sample tiny --seed -1", "--seed must be at least 0"),
        ("finetune tiny", "which reward? Name it with --reward: molecules:qed"),
        ("finetune tinny --reward molecules:qed", "there is no file tinny"),
        ("finetune nowhere/ --reward molecules:qed", "nowhere"),
        (
            "finetune tiny --reward molecules:quod",
            "--reward molecules:quod: there is no such reward",
        ),
        ("finetune tiny --reward molecules:qed --method draft", "is a black box"),
        (
            "finetune tiny --reward molecules:qed --base nowhere",
            "--base nowhere: tiny is a model already",
        ),
        ("finetune tiny --reward molecules:qed --base-width 3", "--base-width does not apply to"),
        ("finetune tiny --reward molecules:qed --workers -1", "--workers must not be negative"),
        ("finetune tiny --reward molecules:qed --count 0", "--count must be at least 1"),
        ("finetune tiny --reward molecules:qed --calls 20", "--calls 20 is too few"),
        ("train qm8", "there is: qm9"),
        ("train qm9 --codec atoms", "codec must be one of"),
        ("train qm9 --width 20 --batch-size 8", "multiples of heads"),
        ("train qm9 --batch-size 1000000", "is more than the"),
        ("train qm9 --part tests", "part must be one of"),
        ("train qm9 --learning-rate 0", "learning_rate must be above 0"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    command: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(40))
    assert call(monkeypatch, *command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("payoff: ")
    assert message in said
    assert "Traceback" not in said
    assert not files(Path())


def test_weights_that_are_no_molecules_are_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model folder without a codec belongs to no kind of object."""
    config = json.loads((weights / "tiny" / "config.json").read_text())
    del config["metadata"]["codec"]
    Path("other").mkdir()
    Path("other/config.json").write_text(json.dumps(config))
    assert call(monkeypatch, "sample", "other") == 2
    assert "does not say which kind of object its model draws" in capsys.readouterr().err


# Training


def words(out: str, *more: str) -> list[str]:
    options = {k: v for k, v in SMALL.items() if k != "compile"}
    flags = [w for k, v in options.items() for w in ("--" + k.replace("_", "-"), str(v))]
    return ["train", "qm9", "--out", out, "--no-compile", "--evaluate-minutes", "0", *flags, *more]


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(40))


@pytest.mark.usefixtures("_few")
def test_a_stopped_training_names_the_command_that_continues_it_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words("whole", "--steps", "6")) == 0
    assert "checkpoint: whole after 6 steps" in capsys.readouterr().out
    update = Run.update

    def interrupted(self: Run):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    monkeypatch.setattr(Run, "update", interrupted)
    assert call(monkeypatch, *words("parts", "--steps", "6")) == 130
    hint = capsys.readouterr().err.partition("continue with: ")[2].split()
    assert hint[:3] == ["payoff", "train", "qm9"]
    assert hint[-1] == "--resume"
    assert call(monkeypatch, *words("parts", "--steps", "6")) == 2
    assert "add --resume to continue it" in capsys.readouterr().err
    assert call(monkeypatch, *hint[1:]) == 0
    states = [
        torch.load(Path(name) / CHECKPOINT, weights_only=True)["average"]
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.usefixtures("_few")
def test_training_starts_from_exported_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 0 of the new run is the last of the old one; its options and metadata go along."""
    seen = {}

    def watched(self: Run):
        seen.update({k: v.clone() for k, v in self.denoiser.state_dict().items()})
        self.stopped = True
        return torch.zeros(())

    monkeypatch.setattr(Run, "update", watched)
    monkeypatch.setattr(Run, "save", lambda self: None)
    assert call(monkeypatch, *words("more", "--start", "tiny")) == 0
    expected = from_pretrained("tiny").state_dict()
    assert all(torch.equal(seen[key], expected[key]) for key in expected)


@pytest.mark.usefixtures("_few")
def test_weights_of_another_network_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("more", "--start", "tiny", "--width", "64")
    assert call(monkeypatch, *given) == 2
    said = capsys.readouterr().err
    assert "width = 32 where 64 is asked for" in said
    assert call(monkeypatch, *words("more", "--start", "tinny")) == 2
    assert "the weights of: tiny" in capsys.readouterr().err
    assert not files(Path())


@pytest.mark.usefixtures("_few")
def test_a_trained_run_can_be_sampled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("run", "--steps", "3", "--samples", "4", "--evaluate-minutes", "60")
    assert call(monkeypatch, *given) == 0
    said = capsys.readouterr()
    assert "molecule stability" in said.err
    assert "model: run/model" in said.out
    facts = read_config(Path("run") / MODEL)["metadata"]
    assert facts["steps"] == 3
    assert "validity" in facts["metrics"]
    assert read_config(Path("run") / MODEL)["metadata"]["training"]["width"] == SMALL["width"]
    assert sampled(monkeypatch, "run", "--out", "m.xyz") == 0


# Fine-tuning

TUNE = ["--calls", "48", "--per-round", "16", "--updates", "2", "--batch-size", "8"]
TUNE += ["--sampler-steps", "4", "--evaluate", "16", "--count", "6", "--score-invalid"]


@pytest.fixture(scope="module")
def tuned(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in the folder «tuned», made by the command line."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "SHIPPED", weights)
        patch.chdir(folder)
        given = ["finetune", "tiny", "--reward", "molecules:stability", "--out", "run", *TUNE]
        assert call(patch, *given) == 0
    return folder / "run"


def test_a_tuned_run_is_sampled_listed_and_reported(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sampled(monkeypatch, tuned, "--out", "more.sdf") == 0
    assert Path("more.sdf").read_text().count("$$$$") == 6
    assert call(monkeypatch, "list", str(tuned.parent)) == 0
    told = capsys.readouterr().out
    assert "tiny: stability: rgdm with 48 reward calls, maximize stability" in told
    page = (tuned / "report.html").read_text()
    assert call(monkeypatch, "report", str(tuned)) == 0
    assert (tuned / "report.html").read_text() == page


def test_the_record_holds_the_command_that_makes_it_again(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *command = json.loads((tuned / "run.json").read_text())["command"]
    assert program == "payoff"
    command[command.index("--out") + 1] = "again"
    assert call(monkeypatch, *command) == 0
    said = capsys.readouterr()
    assert "rgdm on molecules:stability (share of atoms with the right valence)" in said.err
    assert f"designs: {Path('again/designs.sdf').absolute()}" in said.out
    for name in ("designs.csv", "designs.sdf"):
        assert (Path("again") / name).read_bytes() == (tuned / name).read_bytes()
    # and --overwrite leaves nothing of the first
    assert call(monkeypatch, *command, "--overwrite", "--count", "2") == 0
    assert len((Path("again") / "designs.csv").read_text().splitlines()) == 3


def test_a_folder_in_place_of_the_name_and_a_function_of_ones_own(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("lab_of_atoms.py").write_text(
        "def carbons(molecule):\n    return float((molecule.numbers == 6).sum())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ["--reward", "lab_of_atoms:carbons", "--method", "rwr", "--minimize", *TUNE]
    for name, more in (("alone", []), ("pooled", ["--workers", "2"])):
        command = ["finetune", str(weights / "tiny"), *given, "--out", name, "--quiet", *more]
        assert call(monkeypatch, *command) == 0
    score = json.loads(Path("alone/run.json").read_text())["score"]
    assert score["direction"] == "minimize"
    assert score["name"] == "carbons"
    made = [Path(f"{name}/designs.csv").read_bytes() for name in ("alone", "pooled")]
    assert made[0] == made[1]


def test_an_interrupted_run_is_continued(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play, stopped = RGDM.play, []

    def once(self: RGDM, run) -> None:
        play(self, run)
        if run.round == 1 and not stopped:
            stopped.append(run.round)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RGDM, "play", once)
    given = ["finetune", "tiny", "--reward", "molecules:stability", "--out", "run", *TUNE]
    assert call(monkeypatch, *given) == 130
    hint = capsys.readouterr().err.partition("continue with: ")[2].split()
    assert call(monkeypatch, *hint[1:]) == 0
    assert Path("run/designs.csv").read_bytes() == (tuned / "designs.csv").read_bytes()
