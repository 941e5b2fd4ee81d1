"""One generator for several labels: any subset of them known, on real molecules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from molecule_models import SMALL, need_qm9, trained
from payoff.domains.molecules.codecs import CODECS
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.train import Run, TrainConfig, train
from payoff.errors import UserError
from payoff.guidance import ClassifierFree
from payoff.pretrained import from_pretrained, read_config, save_pretrained
from payoff.training.conditional import drop_columns, drop_labels
from payoff.training.labels import Labels, Scales

NAMES = "alpha,gap,mu"
T = torch.full((4,), 0.3)


@pytest.fixture(autouse=True)
def _data() -> None:
    need_qm9()


def properties(names: str, n: int) -> Tensor:
    data = load_qm9()
    rows = split("second_half", len(data))[:n]
    return torch.stack([data.column(name)[rows] for name in names.split(",")], dim=1)


def labelled(out: Path, names: str = NAMES, n: int = 48, **changes) -> Run:
    config = TrainConfig(**{**SMALL, "label": names, **changes})
    data = load_qm9()
    x, cond = CODECS[config.codec]().encode(data.molecules(split("second_half", len(data))[:n]))
    out.mkdir(exist_ok=True)
    return Run(config, x, cond["mask"], out, properties(names, n))


def moved(out: Path, steps: int = 12, **changes) -> Run:
    """A run whose network reads its labels."""
    run = labelled(out, learning_rate=3e-3, **changes)
    for _ in range(steps):
        run.update()
    return run


def asked(run: Run, label: Tensor, known: Tensor) -> Tensor:
    cond = {"mask": run.mask[:4], "label": label, "label_known": known}
    with torch.no_grad():
        return run.denoiser(run.x[:4], T, cond).x0


def test_flags_by_column_that_agree_are_the_flag_of_the_row(tmp_path: Path) -> None:
    run = moved(tmp_path / "run")
    label = run.labels[:4]
    row = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert torch.equal(asked(run, label, row), asked(run, label, row[:, None].expand(4, 3)))


def test_an_unknown_column_is_never_read(tmp_path: Path) -> None:
    run = moved(tmp_path / "run")
    known = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
    hidden = run.labels[:4].masked_fill(known == 0, float("nan"))
    found = asked(run, hidden, known)
    assert torch.equal(found, asked(run, run.labels[:4], known))
    # while one that is known is, and so is the flag
    assert (found[:3] - asked(run, run.labels[:4] + known, known)[:3]).abs().max() > 1e-5
    assert not torch.allclose(found, asked(run, torch.zeros(4, 3), known * 0))


def test_turning_the_molecule_turns_the_answer_whatever_is_known(tmp_path: Path) -> None:
    run = moved(tmp_path / "run")
    known = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    before = asked(run, run.labels[:4], known)
    run.x = torch.cat([run.x[..., :3] @ turn, run.x[..., 3:]], dim=-1)
    after = asked(run, run.labels[:4], known)
    assert torch.allclose(before[..., :3] @ turn, after[..., :3], atol=1e-4)
    assert torch.allclose(before[..., 3:], after[..., 3:], atol=1e-4)


def test_guidance_extrapolates_from_nothing_known(tmp_path: Path) -> None:
    run = moved(tmp_path / "run")
    known = torch.tensor([[1.0, 0, 0]]).expand(4, 3)
    cond = {"mask": run.mask[:4], "label": run.labels[:4], "label_known": known}
    guided = ClassifierFree(run.denoiser, 2.0)(run.x[:4], T, cond).x0
    one, none = (asked(run, run.labels[:4], flags) for flags in (known, 0 * known))
    assert torch.allclose(guided, one + 2 * (one - none), atol=1e-5)


def test_from_unlabelled_weights_labels_are_at_first_as_if_they_were_not_there(
    tmp_path: Path,
) -> None:
    start = trained(tmp_path / "base", steps=8)
    run = labelled(tmp_path / "run")
    run.begin_from(str(start))
    plain = from_pretrained(start)(run.x[:4], T, {"mask": run.mask[:4]}).x0
    for known in (torch.ones(4, 3), torch.eye(4)[:, :3]):
        assert torch.allclose(asked(run, run.labels[:4], known), plain, atol=1e-6)
    for _ in range(10):
        run.update()
    one = torch.tensor([[0.0, 1, 0]]).expand(4, 3)
    assert (asked(run, run.labels[:4] + 2, one) - asked(run, run.labels[:4], one)).abs().max() > 0


def test_other_labels_are_refused_as_a_start(tmp_path: Path) -> None:
    one = labelled(tmp_path / "one", "alpha")
    start = save_pretrained(one.averaged(), tmp_path / "start", one.metadata({}))
    with pytest.raises(UserError, match="label_dim = 1 where 3 is asked for"):
        labelled(tmp_path / "run").begin_from(str(start))


def test_one_label_has_the_numbers_that_it_always_had(tmp_path: Path) -> None:
    """The draws and the standardised values, written out; a column of one is the same."""
    y = properties("alpha", 48)[:, 0]
    run = labelled(tmp_path / "run", "alpha", label_noise=0.3)
    location, spread = float(y.double().mean()), float(y.double().std(correction=0))
    assert (run.location, run.spread) == (location, spread)
    assert torch.equal(run.labels, (y - location) / spread)
    assert run.metadata({})["label"] == {"name": "alpha", "location": location, "spread": spread}
    rows, draws = torch.arange(20), torch.Generator()
    draws.set_state(run.generator.get_state())
    label = ((y - location) / spread)[rows] + 0.3 * torch.randn(20, generator=draws)
    wanted = drop_labels({"label": label.unsqueeze(-1)}, 0.2, generator=draws)
    found = run._labelled(rows)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    other = Run(run.config, run.x, run.mask, tmp_path, y)
    again = labelled(tmp_path / "again", "alpha", label_noise=0.3)
    assert float(other.update()) == float(again.update())
    assert run.denoiser.net.label_flags == "row"


def test_every_number_of_labels_is_told_as_often_as_stated() -> None:
    n, k, rate, alone = 60_000, 4, 0.2, 0.3
    cond = {"label": torch.zeros(n, k)}
    known = drop_columns(cond, rate, alone, generator=torch.Generator().manual_seed(0))
    flags = known["label_known"]
    told = flags.sum(1)
    for count in range(k + 1):
        share = rate if count == 0 else (1 - rate) * (alone * (count == 1) + (1 - alone) / k)
        error = (share * (1 - share) / n) ** 0.5
        assert abs(float((told == count).double().mean()) - share) < 4 * error, count
        if count:  # no column is preferred
            each = flags[told == count].mean(0)
            spread = (count / k * (1 - count / k) / int((told == count).sum())) ** 0.5
            assert ((each - count / k).abs() <= 4 * spread).all()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = labelled(tmp_path / "whole", label_noise=0.2)
    losses = [float(whole.update()) for _ in range(5)]
    first = labelled(tmp_path / "parts", label_noise=0.2)
    begun = [float(first.update()) for _ in range(3)]
    first.save()
    second = labelled(tmp_path / "parts", label_noise=0.2, seed=3)
    second.load()
    assert begun + [float(second.update()) for _ in range(2)] == losses
    other = labelled(tmp_path / "parts", "alpha,gap")
    with pytest.raises(UserError, match="made with label = alpha,gap,mu"):
        other.load()


def test_what_was_learned_is_kept_with_the_weights(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run")
    folder = save_pretrained(run.averaged(), tmp_path / "model", run.metadata({}))
    scales = Scales.read(read_config(folder)["metadata"], "it")
    assert scales.names == ("alpha", "gap", "mu")
    y = properties(NAMES, 48)
    assert torch.allclose(scales.standardised(y), run.labels, atol=1e-5)
    loaded = from_pretrained(folder)
    assert (loaded.net.label_dim, loaded.net.label_flags) == (3, "column")
    one = labelled(tmp_path / "one", "mu")
    assert Scales.read(one.metadata({}), "it").names == ("mu",)


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names a property twice: 'mu,alpha, mu'"):
        TrainConfig(label="mu,alpha, mu")
    with pytest.raises(UserError, match="label_alone must be between 0 and 1"):
        TrainConfig(label_alone=1.5)
    with pytest.raises(UserError, match="QM9 has no property 'beta'"):
        train(TrainConfig(**{**SMALL, "label": "mu,beta"}), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="has learned no label"):
        Scales.read({}, "runs/plain")
    with pytest.raises(UserError, match="does not say how its labels are scaled"):
        Scales.read({"label": {"names": ["mu"], "locations": [1.0]}}, "runs/odd")
    with pytest.raises(ValueError, match="need as many names"):
        Labels(["mu"], torch.zeros(5, 2), torch.zeros(5, 3, 4))
    with pytest.raises(ValueError, match="or \\(5, k\\)"):
        Labels(["mu"], torch.zeros(4, 2), torch.zeros(5, 3, 4))
    run = labelled(tmp_path / "run")
    with pytest.raises(ValueError, match=r"\(4, 2\), expected \(4,\) or \(4, 3\)"):
        asked(run, run.labels[:4], torch.ones(4, 2))
    row = labelled(tmp_path / "row", "mu")
    with pytest.raises(ValueError, match='label_flags="column"'):
        asked(row, row.labels[:4, None], torch.ones(4, 2))
