"""Guides: training, saving, and sampling along them, on real molecules."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from molecule_models import need_qm9, trained
from payoff.domains.molecules import qm9
from payoff.domains.molecules.codecs import UnitedAtoms
from payoff.domains.molecules.conditional import ask
from payoff.domains.molecules.config import GuideConfig, PropertyConfig
from payoff.domains.molecules.guide import GuideRun, LabelGuide, main, train
from payoff.domains.molecules.guided import KEY, ByGuide, guided, sizes_given
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.property import PropertyRun
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.errors import UserError
from payoff.jobs.sample import Guidance, sample
from payoff.training.labels import Scales
from payoff.training.loop import LOG, MODEL
from payoff.values import LabelLikelihood

TINY = {
    **{"width": 16, "depth": 1, "pair_width": 8, "vectors": 4, "batch_size": 16},
    **{"compile": False, "precision": "fp32", "warmup": 5, "learning_rate": 3e-3},
    **{"evaluate_minutes": 0.0, "log_every": 5, "properties": "alpha,gap", "samples": 20},
}
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(autouse=True)
def _data() -> None:
    need_qm9()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    need_qm9()
    return trained(tmp_path_factory.mktemp("model"), steps=5)


@pytest.fixture(scope="module")
def guide(folder: Path, tmp_path_factory) -> Path:
    run = new_run(tmp_path_factory.mktemp("run"), folder)
    for _ in range(30):
        run.update()
    return run.averaged().save_pretrained(tmp_path_factory.mktemp("guide"))


def new_run(out: Path, folder: Path, n: int = 64, **changes) -> GuideRun:
    config = GuideConfig(**{**TINY, "model": str(folder), **changes})
    data = load_qm9()
    rows = split("second_half", len(data))[:n]
    values = torch.stack([data.column(name)[rows] for name in config.names], dim=1)
    out.mkdir(exist_ok=True)
    model = MoleculeModel.load(folder)
    x, cond = model.codec.encode(data.molecules(rows))
    return GuideRun(config, model, x, cond["mask"], values, out)


def test_it_learns_from_molecules_that_are_seen_through_noise(tmp_path, folder) -> None:
    run = new_run(tmp_path / "run", folder, n=32, batch_size=32)
    data = load_qm9()
    rows = split("second_half", len(data))[:32]
    values = torch.stack([data.column(name)[rows] for name in run.scales.names], dim=1)
    found = []
    for steps in (0, 60):  # the loss itself is weighted by variances that are learned
        for _ in range(steps):
            run.update()
        guide = LabelGuide(run.value, run.codec, run.scales, {})
        found.append(guide.errors(data.molecules(rows), values, 6.0)[1])
    assert found[1] < found[0] - 0.1
    times = run._times(1000)  # stratified: one in every thousandth
    assert torch.equal(times.mul(1000).long().sort().values, torch.arange(1000))


def test_a_resumed_run_is_the_uninterrupted_one_and_the_rate_ends_at_zero(tmp_path, folder) -> None:
    whole = new_run(tmp_path / "whole", folder, steps=5)
    rates = [whole._learning_rate()]
    losses = []
    for _ in range(5):
        losses.append(float(whole.update()))
        rates.append(whole._learning_rate())
    assert rates[-1] == 0
    assert rates[1] == pytest.approx(3e-3 * (2 / 5) * (4 / 5))
    assert new_run(tmp_path / "other", folder)._learning_rate() == pytest.approx(3e-3 / 5)
    first = new_run(tmp_path / "parts", folder, steps=5)
    begun = [float(first.update()) for _ in range(3)]
    first.save()
    second = new_run(tmp_path / "parts", folder, steps=5, seed=3)
    second.load()
    assert begun + [float(second.update()) for _ in range(2)] == losses
    with pytest.raises(UserError, match="made with properties = alpha,gap"):
        new_run(tmp_path / "parts", folder, properties="alpha,mu").load()


def test_the_command_leaves_a_guide_that_loads(tmp_path, folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(qm9, "split", lambda name, size: torch.arange(20, 60))
    out = tmp_path / "run"
    options = {**TINY, "model": str(folder), "steps": 4}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if k != "compile"]
    main(["--out", str(out), "--no-compile", *flags])
    line = json.loads((out / LOG).read_text().splitlines()[-1])
    assert {"mae_alpha_0", "mae_gap_10", "nll_-2"} <= set(line)
    loaded = LabelGuide.from_pretrained(out)
    assert loaded.scales.names == ("alpha", "gap")
    assert loaded.codec == UnitedAtoms()
    assert loaded.metadata["steps"] == 4
    data = load_qm9()
    molecules = data.molecules(torch.arange(20, 40))
    values = torch.stack([data.column(n)[20:40] for n in loaded.scales.names], dim=1)
    error, nats = loaded.errors(molecules, values, 4.0)
    assert float(error[1]) == pytest.approx(line["mae_gap_4"], rel=1e-5)
    assert nats == pytest.approx(line["nll_4"], rel=1e-5)
    # half the size, and nearly the same
    small = loaded.save_pretrained(tmp_path / "half", half="float16")
    size = [(f / "model.safetensors").stat().st_size for f in (small, out / MODEL)]
    assert size[0] < 0.7 * size[1]
    rounded, _ = LabelGuide.from_pretrained(small).errors(molecules, values, 4.0)
    assert torch.allclose(rounded, error, rtol=1e-2)
    with pytest.raises(SystemExit):
        main(["--out", str(out), "--no-compile", *flags])
    assert "add --resume" in capsys.readouterr().err


def test_what_cannot_be_trained_or_loaded_is_said(tmp_path, folder, guide, monkeypatch) -> None:
    monkeypatch.setattr(qm9, "split", lambda name, size: torch.arange(20, 60))
    for wrong, message in (
        ({"properties": "gap,gap"}, "different names"),
        ({"beta": 2.0}, "beta must be"),
        ({"width": 12}, "multiples of heads"),
        ({"model": str(tmp_path)}, "holds no saved model"),
    ):
        with pytest.raises(UserError, match=message):
            train(GuideConfig(**{**TINY, "model": str(folder), **wrong}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"holds no guide \(config.json is missing\)"):
        LabelGuide.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no guide that loads"):
        LabelGuide.from_pretrained(folder)
    damaged = tmp_path / "damaged"
    LabelGuide.from_pretrained(guide).save_pretrained(damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no guide that loads"):
        LabelGuide.from_pretrained(damaged)


def asking(n: int, names=("gap",)):
    data, draws = load_qm9(), torch.Generator().manual_seed(0)
    return ask(data, split("second_half", len(data)), names, UnitedAtoms(), n, draws)


def test_any_generator_draws_along_it_and_strength_nought_is_the_generator(folder, guide) -> None:
    model, read = MoleculeModel.load(folder), LabelGuide.from_pretrained(guide)
    asked = asking(6)

    def drawn(plain: bool = False, **options):
        source = ByGuide(model, read, steps=3, batch_size=4, precision="fp32", **options)
        source.denoiser = model.denoiser if plain else source.denoiser
        heavy = [m.positions[m.numbers > 1] for part in source(asked) for m in part]
        return torch.cat(heavy)

    plain, found = drawn(plain=True), drawn()
    assert torch.allclose(drawn(strength=0.0), plain, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(found, drawn())
    told = ByGuide(model, read).label(asked)
    assert torch.equal(told[KEY + "_known"], torch.tensor([[0.0, 1.0]]).expand(6, 2))
    undone = told[KEY] * read.scales.spread + read.scales.location
    assert torch.allclose(undone[:, 1].float(), asked.values[:, 0], atol=1e-4)
    both = ByGuide(model, read).label(asking(6, ("gap", "alpha")))
    assert torch.allclose(both[KEY][:, 1], told[KEY][:, 1])
    assert bool(both[KEY + "_known"].all())


def test_what_does_not_fit_together_is_refused(folder, guide, tmp_path) -> None:
    read = LabelGuide.from_pretrained(guide)
    model = MoleculeModel.load(folder)
    other = MoleculeModel.load(trained(tmp_path / "all", steps=1, codec="all"))
    with pytest.raises(UserError, match="and runs/it draws AllAtoms"):
        guided(other, read, "runs/it")
    with pytest.raises(UserError, match="the guide has not learned mu: its labels are alpha, gap"):
        ByGuide(model, read).check(["gap", "mu"])
    with pytest.raises(UserError, match="has learned no label"):
        ByGuide(model, read, tell=True)


def test_bfloat16_products_leave_the_guided_estimate_what_it_is(folder, guide) -> None:
    model, read = MoleculeModel.load(folder), LabelGuide.from_pretrained(guide)
    denoiser = guided(model, read)
    data = load_qm9()
    x, cond = model.codec.encode(data.molecules(torch.arange(50, 58)))
    t = torch.tensor(0.4)
    draws = torch.Generator().manual_seed(0)
    x = denoiser.process.corrupt(x, t, cond, generator=draws)
    cond |= {KEY: torch.ones(8, 2), KEY + "_known": torch.ones(8, 2)}
    moves = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.inference_mode():
            moves.append(denoiser(x, t, cond).x0 - model.denoiser(x, t, cond).x0)
    assert (moves[1] - moves[0]).norm() < 5e-2 * moves[0].norm()


def test_sizes_are_drawn_given_the_property() -> None:
    """A guide that knows the size and nothing else: p(n | y) in closed form."""

    class Size(torch.nn.Module):
        def forward(self, x, level, cond):
            n = cond["mask"].sum(1).to(x)
            return torch.stack([n - 7.0, torch.full_like(n, 0.5413 - 1e-4)], dim=1)  # variance 1

    model = MoleculeModel.load("qm9")
    value = LabelLikelihood(Size(), model.denoiser.process, 1)
    scales = Scales(("gap",), torch.tensor([5.0]).double(), torch.tensor([2.0]).double())
    sizes, weights = sizes_given(model, LabelGuide(value, model.codec, scales, {}), {"gap": 4.0})
    assert sizes.tolist() == list(range(1, 10))
    expected = model.counts[1:].double() * torch.exp(-0.5 * (sizes - 7.0 + 0.5) ** 2)
    assert torch.allclose(weights, expected / expected.sum(), atol=1e-4)


def test_more_molecules_are_drawn_along_a_guide(folder, guide) -> None:
    along = Guidance.of(["gap=5", "alpha = 80"], str(guide), 1.5)
    assert along is not None
    assert along.wanted == {"gap": 5.0, "alpha": 80.0}
    found = sample(folder, count=4, steps=2, guidance=along, quiet=True)
    assert len(found.objects) == 4
    again = sample(folder, count=4, steps=2, guidance=along, quiet=True)
    assert found.table.equals(again.table)
    for asked, strength, message in (
        (["gap"], 1.0, "takes a name and a number"),
        ([], 1.0, "needs a value to ask for"),
        (["gap=nan"], 1.0, "needs a value to ask for"),
        (["mu=1"], 1.0, "has not learned mu"),
        (["gap=5"], -1.0, "--strength must be"),
    ):
        with pytest.raises(UserError, match=message):
            sample(folder, count=2, guidance=Guidance.of(asked, str(guide), strength), quiet=True)


def test_the_benchmark_draws_along_a_guide(folder, guide, tmp_path, capsys, monkeypatch) -> None:
    data = load_qm9()
    rows = split("first_half", len(data))[:32]
    tiny = {k: v for k, v in TINY.items() if k != "properties"}
    config = PropertyConfig(**tiny, properties="gap")
    y = data.column("gap")[rows].unsqueeze(1)
    run = PropertyRun(config, data.molecules(rows), y, tmp_path)
    evaluator = run.averaged().save_pretrained(tmp_path / "evaluator")
    monkeypatch.syspath_prepend(BENCHMARKS)
    sys.modules.pop("molecule_conditioning", None)
    from molecule_conditioning import main as benchmark

    options = [str(folder), "--evaluator", str(evaluator), "--samples", "6", "--steps", "2"]
    along = ["--guide", str(guide), "--strength", "1", "2", "--limit", "0.1"]
    benchmark([*options, "--properties", "gap", *along])
    printed = [line for line in capsys.readouterr().out.splitlines() if "guide" in line]
    assert sum("guide, strength 1, auto" in line for line in printed) == 2
    assert sum("guide, strength 2, auto" in line for line in printed) == 2
    with pytest.raises(SystemExit):
        benchmark([*options, "--properties", "gap"])
    assert "has learned no label" in capsys.readouterr().err
