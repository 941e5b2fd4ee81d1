"""Generators of molecules with a label: where they begin, what they read, what they keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from molecule_models import SMALL, need_qm9, trained
from payoff.domains.molecules.codecs import CODECS
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.train import Run, TrainConfig
from payoff.errors import UserError


@pytest.fixture(autouse=True)
def _data() -> None:
    need_qm9()


def labelled(out: Path, n: int = 48, **changes) -> Run:
    config = TrainConfig(**{**SMALL, "label": "alpha", **changes})
    data = load_qm9()
    rows = split("second_half", len(data))[:n]
    x, cond = CODECS[config.codec]().encode(data.molecules(rows))
    out.mkdir(exist_ok=True)
    return Run(config, x, cond["mask"], out, data.column("alpha")[rows])


def asked(run: Run, label: float, known: float = 1.0):
    flags = {"label": torch.full((4, 1), label), "label_known": torch.full((4,), known)}
    x, cond = run.x[:4], {"mask": run.mask[:4], **flags}
    return run.denoiser(x, torch.full((4,), 0.3), cond).x0


def test_from_unlabelled_weights_the_label_is_at_first_as_if_it_were_not_there(
    tmp_path: Path,
) -> None:
    start = trained(tmp_path / "base", steps=8)
    run = labelled(tmp_path / "run", learning_rate=3e-3)
    run.begin_from(str(start))
    before = asked(run, 2.0)
    assert torch.allclose(before, asked(run, 0.0, known=0.0), atol=1e-6)
    plain = trained(tmp_path / "again", steps=8)
    assert (plain / "model.safetensors").read_bytes() == (start / "model.safetensors").read_bytes()
    for _ in range(10):
        run.update()
    assert (asked(run, 2.0) - asked(run, -2.0)).abs().max() > 1e-4


def test_other_widths_are_refused_all_the_same(tmp_path: Path) -> None:
    start = trained(tmp_path / "base", steps=1, width=16)
    with pytest.raises(UserError, match="width = 16 where 32 is asked for"):
        labelled(tmp_path / "run").begin_from(str(start))


def test_labels_are_standardised_and_what_undoes_it_is_kept(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run")
    assert abs(float(run.labels.mean())) < 1e-5
    assert float(run.labels.std(correction=0)) == pytest.approx(1, abs=1e-5)
    told = run.metadata({})["label"]
    assert told["name"] == "alpha"
    rows = split("second_half")[:48]
    undone = told["location"] + told["spread"] * run.labels
    assert torch.allclose(undone, load_qm9().column("alpha")[rows], atol=1e-3)


def test_the_stated_share_is_told_and_noise_has_the_stated_size(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run", label_dropout=0.25, label_noise=0.5)
    rows = torch.zeros(20_000, dtype=torch.long)
    cond = run._labelled(rows)
    assert float(cond["label_known"].mean()) == pytest.approx(0.75, abs=0.02)
    noise = cond["label"] - run.labels[0]
    assert float(noise.std()) == pytest.approx(0.5, abs=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)


def test_a_resumed_labelled_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = labelled(tmp_path / "whole", label_noise=0.2)
    losses = [float(whole.update()) for _ in range(5)]
    first = labelled(tmp_path / "parts", label_noise=0.2)
    begun = [float(first.update()) for _ in range(3)]
    first.save()
    second = labelled(tmp_path / "parts", label_noise=0.2, seed=3)
    second.load()
    assert begun + [float(second.update()) for _ in range(2)] == losses
    other = labelled(tmp_path / "parts", label="mu")
    with pytest.raises(UserError, match="made with label = alpha"):
        other.load()


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run")
    with pytest.raises(ValueError, match="must be \\(48,\\) and finite"):
        Run(run.config, run.x, run.mask, tmp_path, torch.full((48,), torch.nan))
