"""Batches by size, and a training run that can be stopped anywhere and goes on the same."""

from __future__ import annotations

import json
import os
import signal
from importlib import metadata
from pathlib import Path

import pytest
import torch

from payoff.domains.molecules import train as training
from payoff.domains.molecules.codecs import CODECS, AllAtoms, UnitedAtoms
from payoff.domains.molecules.evaluate import draw_sizes, sample
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.train import CHECKPOINT, LOG, MODEL, Run, TrainConfig, build, train
from payoff.errors import UserError
from payoff.pretrained import from_pretrained, read_config
from payoff.training.batches import Batches

TINY = {
    **{"width": 16, "depth": 1, "pair_width": 8, "vectors": 4, "batch_size": 4, "log_every": 1},
    **{"compile": False, "precision": "fp32", "evaluate_minutes": 0.0, "samples": 4},
}


def chains(codec: UnitedAtoms | AllAtoms):
    """Eleven straight chains of two to six carbons, which is enough for a loop to turn."""
    molecules = [
        Molecule(torch.full((n,), 6), 1.3 * torch.arange(n).float()[:, None] * torch.eye(3)[:1])
        for n in (2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 6)
    ]
    return codec.encode(molecules)


def new_run(out: Path, **changes) -> Run:
    config = TrainConfig(**{**TINY, **changes})
    x, cond = chains(CODECS[config.codec]())
    out.mkdir(exist_ok=True)
    return Run(config, x, cond["mask"], out)


def qm9_or_skip() -> None:
    pytest.importorskip("rdkit")
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")


def test_an_epoch_shows_every_row_once_and_holds_its_nodes():
    sizes = torch.randint(3, 30, (40,), generator=torch.Generator().manual_seed(0))
    batches = Batches(sizes, 4, 3, torch.Generator().manual_seed(1))
    seen = []
    for _ in range(10):
        rows, nodes = batches.next()
        assert int(sizes[rows].max()) <= nodes <= int(sizes.max())
        seen.append(rows)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(40))


def test_batches_by_size_leave_little_padding():
    sizes = torch.randint(3, 30, (4000,), generator=torch.Generator().manual_seed(0))
    batches = Batches(sizes, 50, 3, torch.Generator().manual_seed(1))
    nodes = sum(50 * batches.next()[1] for _ in range(80))
    assert nodes < 1.12 * int(sizes.sum())


def test_one_rounded_size_sorts_nothing():
    sizes = torch.arange(1, 10).repeat(100)
    batches = Batches(sizes, 100, 9, torch.Generator().manual_seed(0))
    rows, nodes = batches.next()
    assert nodes == 9
    assert len(sizes[rows].unique()) == 9


def test_too_few_molecules_for_a_batch():
    with pytest.raises(ValueError, match="3 objects do not fill a batch of 4"):
        Batches(torch.ones(3), 4, 1, torch.Generator())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("codec", ["united", "all"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, optimizer, codec):
    """To the bit: weights, average and losses."""
    options = {"optimizer": optimizer, "codec": codec, "warmup": 3, "hold": 2}
    whole = new_run(tmp_path / "whole", **options)
    losses = [float(whole.update()) for _ in range(7)]
    first = new_run(tmp_path / "parts", **options)
    begun = [float(first.update()) for _ in range(4)]
    first.save()
    second = new_run(tmp_path / "parts", **options, seed=5)
    second.load()
    assert second.step == 4
    assert begun + [float(second.update()) for _ in range(3)] == losses
    for name in ("denoiser", "average"):
        for a, b in zip(
            getattr(whole, name).parameters(), getattr(second, name).parameters(), strict=True
        ):
            assert torch.equal(a, b)


def test_the_loss_falls(tmp_path):
    run = new_run(tmp_path / "run", batch_size=11, learning_rate=3e-3, warmup=10)
    losses = [float(run.update()) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_the_average_is_the_stated_one(tmp_path):
    """Step k counts with weight (k/K)^γ up to terms of order 1/K: here against the definition."""
    run = new_run(tmp_path / "run")
    history, decays = [], []
    for _ in range(5):
        run.update()
        history.append(run.denoiser.net.stem.weight.detach().clone())
        decays.append((1 - 1 / run.step) ** (training.GAMMA + 1))
    expected = torch.zeros_like(history[0])
    for weight, decay in zip(history, decays, strict=True):
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(run.average.module.net.stem.weight.detach(), expected)


def test_times_cover_the_stated_noise_levels(tmp_path):
    run = new_run(tmp_path / "run")
    times = run._times(4000)
    levels = run.denoiser.process.schedule.log_snr(times)
    assert float(levels.median()) == pytest.approx(2.0, abs=0.05)
    assert 2.5 < float(levels.std()) < 3.0  # cut off at both ends
    assert abs(float(torch.corrcoef(torch.stack([times, torch.arange(4000.0)]))[0, 1])) < 0.06


def test_a_resumed_run_must_be_the_same_run(tmp_path):
    new_run(tmp_path / "run").save()
    other = new_run(tmp_path / "run", batch_size=5)
    with pytest.raises(UserError, match="made with batch_size = 4, now it is 5"):
        other.load()


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    run = new_run(tmp_path / "run")
    run.update()
    run.log(loss=1.0)
    run.save()
    run.update()
    run.log(loss=2.0)
    again = new_run(tmp_path / "run")
    again.load()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert steps == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, monkeypatch, number):
    qm9_or_skip()
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(20))
    update = Run.update

    def interrupted(self: Run):
        if self.step == 2:
            os.kill(os.getpid(), number)
        return update(self)

    monkeypatch.setattr(Run, "update", interrupted)
    before = signal.getsignal(number)
    run = train(TrainConfig(**TINY), tmp_path / "run")
    assert signal.getsignal(number) is before
    assert (run.step, run.stopped) == (3, True)
    with pytest.raises(UserError, match="--resume"):
        train(TrainConfig(**TINY), tmp_path / "run")
    monkeypatch.setattr(Run, "update", update)
    assert train(TrainConfig(**TINY, steps=4), tmp_path / "run", resume=True).step == 4


def test_the_command_and_what_it_leaves_behind(tmp_path, monkeypatch):
    qm9_or_skip()
    monkeypatch.setattr(training, "split", lambda name, size: torch.arange(20))
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name != "compile"
    ]
    out = tmp_path / "run"
    training.main(
        ["--out", str(out), "--no-compile", "--steps=3", *flags, "--evaluate-minutes=1e-9"]
    )
    assert (out / CHECKPOINT).exists()
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    assert {"step", "seconds", "loss"} <= set(lines[0])
    assert any("molecule_stability" in line for line in lines)
    facts = read_config(out / MODEL)["metadata"]
    assert facts["codec"]["name"] == "united"
    assert facts["steps"] == 3
    model = from_pretrained(out / MODEL)
    generator = torch.Generator().manual_seed(0)
    assert len(sample(model, UnitedAtoms(), torch.tensor([3, 5]), 4, generator=generator)) == 4
    with pytest.raises(SystemExit):
        training.main(["--out", str(out), *flags])


def test_a_new_denoiser_depends_on_the_seed_only():
    one, same, other = (build(TrainConfig(**TINY, seed=s)) for s in (0, 0, 1))
    assert torch.equal(one.net.stem.weight, same.net.stem.weight)
    assert not torch.equal(one.net.stem.weight, other.net.stem.weight)


def test_drawn_sizes_follow_the_data():
    sizes = torch.tensor([3] * 30 + [7] * 70)
    mask = draw_sizes(sizes, 2000, generator=torch.Generator().manual_seed(0))["mask"]
    share = float((mask.sum(1) == 7).float().mean())
    assert abs(share - 0.7) < 3 * (0.7 * 0.3 / 2000) ** 0.5
    assert bool((mask.sum(1).diff() >= 0).all())


def test_unknown_choices_are_refused():
    with pytest.raises(UserError, match="codec must be one of"):
        TrainConfig(codec="atoms")
