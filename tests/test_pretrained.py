from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from payoff.denoisers import NetDenoiser
from payoff.errors import UserError
from payoff.guidance import ClassifierFree
from payoff.nets import ResidualMLP
from payoff.pretrained import CONFIG, WEIGHTS, build, describe, from_pretrained, save_pretrained
from payoff.processes import GaussianProcess
from payoff.schedules import SCHEDULES
from payoff.spaces import Centered


def model() -> NetDenoiser:
    torch.manual_seed(0)
    net = ResidualMLP(4, width=16, depth=1, label_dim=1)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.1)
    return NetDenoiser(net, GaussianProcess(noise_floor=0.01), sigma_data=0.7)


def test_round_trip_keeps_every_prediction(tmp_path: Path) -> None:
    saved = model()
    loaded = from_pretrained(save_pretrained(saved, tmp_path / "m", {"unit": "mm"}))
    x, t = torch.randn(5, 4), torch.rand(5)
    cond = {"label": torch.randn(5, 1)}
    assert torch.equal(saved(x, t, cond).x0, loaded(x, t, cond).x0)
    assert loaded.process == saved.process
    assert not any(p.requires_grad for p in loaded.parameters())
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["metadata"] == {"unit": "mm"}


def test_wrapped_denoisers_save_too(tmp_path: Path) -> None:
    guided = ClassifierFree(model(), 1.5)
    loaded = from_pretrained(save_pretrained(guided, tmp_path / "m"))
    assert isinstance(loaded, ClassifierFree)
    assert loaded.weight == 1.5


@pytest.mark.parametrize("cls", SCHEDULES.values(), ids=SCHEDULES)
def test_processes_describe_themselves(cls: type) -> None:
    process = GaussianProcess(Centered(2), cls())
    assert build(json.loads(json.dumps(describe(process)))) == process


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "torch:load", "subprocess:Popen"])
def test_a_config_cannot_call_anything_else(tmp_path: Path, name: str) -> None:
    folder = save_pretrained(model(), tmp_path / "m")
    (folder / CONFIG).write_text(json.dumps({"denoiser": {"class": name, "command": "true"}}))
    with pytest.raises(UserError, match="refusing to call it"):
        from_pretrained(folder)


def test_missing_and_damaged_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no saved model"):
        from_pretrained(tmp_path / "empty")
    folder = save_pretrained(model(), tmp_path / "m")
    (folder / WEIGHTS).write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="do not load"):
        from_pretrained(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        from_pretrained(folder)


def test_a_part_that_forgets_its_arguments_cannot_be_saved(tmp_path: Path) -> None:
    class Forgetful(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="does not keep its argument 'width'"):
        describe(Forgetful(3))
