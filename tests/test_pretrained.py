from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

from payoff import pretrained
from payoff.denoisers import NetDenoiser
from payoff.errors import UserError
from payoff.guidance import ClassifierFree
from payoff.nets import ResidualMLP
from payoff.pretrained import (
    CONFIG,
    WEIGHTS,
    build,
    describe,
    find_pretrained,
    from_pretrained,
    save_pretrained,
    shipped,
    trusting,
)
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
    with pytest.raises(UserError, match="would import the package"):
        from_pretrained(folder)
    with trusting(), pytest.raises(UserError, match="refusing to call it"):
        from_pretrained(folder)
    inside = {
        "denoiser": {"class": "payoff.pretrained:push_to_hub", "folder": ".", "repository": ""}
    }
    (folder / CONFIG).write_text(json.dumps(inside))
    with pytest.raises(UserError, match="refusing to call it"):
        from_pretrained(folder)


PLANTED = """
from pathlib import Path
from payoff.denoisers import Denoiser

Path(__file__).with_name("ran.txt").write_text("code of a stranger")


class Theirs(Denoiser):
    pass
"""


def test_a_strangers_model_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted module is not imported, wherever in the description its class is named."""
    (tmp_path / "planted_by_them.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = save_pretrained(model(), tmp_path / "m")
    whole = json.loads((folder / CONFIG).read_text())
    for place in ("denoiser", "net"):
        config = json.loads(json.dumps(whole))
        part = config["denoiser"] if place == "denoiser" else config["denoiser"]["net"]
        part["class"] = "planted_by_them:Theirs"
        (folder / CONFIG).write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"'planted_by_them' and run its code.*--trust"):
            from_pretrained(folder)
    assert not (tmp_path / "ran.txt").exists()
    with trusting(), pytest.raises(UserError):
        from_pretrained(folder)
    assert (tmp_path / "ran.txt").exists()


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


@pytest.mark.parametrize(("half", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_the_size_and_rounded_to_its_digits(tmp_path: Path, half: str, bits: int) -> None:
    saved = model()
    whole = save_pretrained(saved, tmp_path / "whole")
    folder = save_pretrained(saved, tmp_path / "half", half=half)
    size = [(f / WEIGHTS).stat().st_size for f in (folder, whole)]
    assert size[0] < 0.75 * size[1]  # the names of the tensors stay
    loaded = from_pretrained(folder)
    for mine, theirs in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert theirs.dtype == mine.dtype
        assert not torch.equal(mine, theirs)
        tiny = 2.0**-24 if half == "float16" else 0.0  # below its normal numbers
        assert bool(((mine - theirs).abs() <= 2.0**-bits * mine.abs() + tiny).all())


def test_what_is_no_parameter_keeps_its_digits(tmp_path: Path) -> None:
    saved = model()
    saved.net.register_buffer("table", torch.tensor([1.00001, 3.00001]))
    folder = save_pretrained(saved, tmp_path / "m", half="float16")
    stored = pretrained.load_file(folder / WEIGHTS)
    assert torch.equal(stored["net.table"], saved.net.table)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    saved = model()
    with torch.no_grad():
        next(saved.parameters()).view(-1)[0] = 1e6
    with pytest.raises(ValueError, match="float16 cannot hold"):
        save_pretrained(saved, tmp_path / "m", half="float16")
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="must be one of float16, bfloat16"):
        save_pretrained(saved, tmp_path / "m", half="int8")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights called «seven» in place of the package's own, and an empty folder to work in."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "weights")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return save_pretrained(model(), tmp_path / "weights" / "seven", {"from": "package"})


def test_shipped_weights_are_found_by_name(packaged: Path) -> None:
    assert shipped() == {"seven": packaged}
    assert find_pretrained("seven") == packaged
    x, t = torch.randn(3, 4), torch.rand(3)
    cond = {"label": torch.randn(3, 1)}
    assert torch.equal(from_pretrained("seven")(x, t, cond).x0, model()(x, t, cond).x0)


def test_a_model_folder_of_the_same_name_wins_and_another_folder_does_not(packaged: Path) -> None:
    Path("seven").mkdir()
    assert find_pretrained("seven") == packaged
    save_pretrained(model(), "seven")
    assert find_pretrained("seven") == Path("seven")


def test_an_unknown_name_lists_the_shipped_ones(packaged: Path) -> None:
    with pytest.raises(UserError, match="the weights of: seven, did you mean 'seven'"):
        from_pretrained("sevne")


def test_the_package_takes_its_weights_along() -> None:
    """Every file below weights/ matches a pattern of the package's data."""
    package = Path(pretrained.__file__).parent
    root = package.parents[1]
    with (root / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["payoff"]
    matched = {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "py.typed" in matched
    assert {f for f in (package / "weights").rglob("*") if f.is_file()} <= matched
    assert (package / "weights" / "name" / WEIGHTS).match("weights/*/*")
    assert "weights/*/*" in patterns
