"""Finding a part by its name, telling its kind, staying within limits, printing what was found."""

from __future__ import annotations

import io
from pathlib import Path

import broken_parts as broken
import pytest
import torch
from rich.console import Console

from payoff.checks import (
    FAILS,
    KINDS,
    SKIPPED,
    Finding,
    check,
    command,
    failed,
    print_findings,
    run,
)
from payoff.checks.parts import resolve
from payoff.errors import UserError
from payoff.nets import ResidualMLP
from payoff.problems import MixtureProblem
from payoff.samplers import Ancestral
from payoff.schedules import Cosine
from payoff.values import PlugIn

MODULE = """
import torch
from payoff.rewards import Reward

class Sound(Reward):
    differentiable = True

    def __call__(self, x, cond=None):
        return x[:, 0] + 0 * x.sum(1)

class Weighted(Sound):
    def __init__(self, weight):
        self.weight = weight

class Abstract(Reward):
    pass

def weighted():
    return Weighted(2.0)

def plain(x, cond=None):
    return x.sum(1)

def average(x, cond):
    return x.sum(1) - x.mean()

def of_a_table(designs):
    return designs["a"]

def puzzling(alpha, beta, gamma):
    return alpha

def raises():
    raise RuntimeError("no licence")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lab_parts.py").write_text(MODULE)
    (tmp_path / "lab_broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "lab_raising.py").write_text("1 / 0\n")
    return tmp_path


@pytest.mark.parametrize("name", ["Sound", "weighted", "plain"])
def test_by_name(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"lab_parts:{name}") == 0
    out = capsys.readouterr().out
    assert f"lab_parts:{name}" in out
    assert "one number a row" in out


def test_exit_code_of_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("lab_parts:average", shape="3") == 2
    assert "no mean, rank" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Sound", ["MODULE:NAME"]),
        ("lab_parts.py:Sound", ["name the module", "lab_parts:Sound"]),
        ("lab_party:Sound", ["no module 'lab_party'"]),
        ("lab_broken:Sound", ["imports 'a_module_that_is_not_there'"]),
        ("lab_raising:Sound", ["ZeroDivisionError", "lab_raising.py, line 1"]),
        ("lab_parts:Sounds", ["did you mean 'Sound'"]),
        ("lab_parts:Weighted", ["needs weight", "function without arguments"]),
        ("lab_parts:Abstract", ["abstract", "__call__"]),
        ("lab_parts:puzzling", ["--kind", "alpha, beta, gamma"]),
        ("lab_parts:raises", ["no licence"]),
        ("lab_parts:number", ["type int"]),
    ],
)
def test_messages(folder: Path, name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        run(name)
    for word in words:
        assert word in str(caught.value)


def test_an_oracle_is_no_reward(folder: Path) -> None:
    (found, _) = run("lab_parts:of_a_table")
    assert found.status == FAILS
    assert "--oracle" in found.measured


def test_kinds() -> None:
    cases = {
        "reward": broken.Size,
        "network": ResidualMLP(2),
        "denoiser": MixtureProblem.two_modes().base,
        "sampler": Ancestral,
        "schedule": Cosine,
        "process": lambda: MixtureProblem.two_modes().base.process,
        "value": PlugIn,
        "method": broken.Tuner,
    }
    assert set(cases) == set(KINDS)
    for kind, part in cases.items():
        assert resolve(part)[0] == kind
    for guessed, function in {
        "reward": lambda x: x,
        "network": lambda x, noise_level, cond: x,
        "sampler": lambda denoiser, shape, steps: None,
        "value": lambda target: None,
    }.items():
        assert resolve(function)[0] == guessed
    assert resolve(lambda a, b: a, kind="reward")[0] == "reward"


@pytest.mark.parametrize(
    ("part", "kind", "word"),
    [
        (broken.Size, "schedule", "must derive from payoff.schedules.Schedule"),
        (broken.Size, "rewards", "choose one of"),
        (Ancestral(MixtureProblem.two_modes().base, (1,)), None, "finished sampler"),
    ],
)
def test_kinds_that_do_not_fit(part, kind, word) -> None:
    with pytest.raises(UserError, match=word):
        check(part, kind=kind)


class Five(broken.Size):
    """Knows only five coordinates."""

    def __call__(self, x, cond=None):
        return x @ torch.arange(5.0, dtype=x.dtype)


def test_shapes_are_found_or_asked_for() -> None:
    findings = check(Five)
    assert not failed(findings)
    assert "shape (5,)" in findings[0].measured
    for shape in ((4,), (2, 2)):
        (found, _) = check(Five, shape=shape)
        assert found.status == FAILS
        assert "--shape" in found.measured


@pytest.mark.parametrize("text", ["a", "0", "3,-1", ""])
def test_bad_shapes(folder: Path, text: str) -> None:
    with pytest.raises(UserError, match="--shape"):
        command("lab_parts:Sound", shape=text)


def test_bad_limits(folder: Path) -> None:
    for option in ({"calls": 0}, {"seconds": 0.0}, {"tokens": 1}):
        with pytest.raises(UserError, match=f"--{next(iter(option))}"):
            command("lab_parts:Sound", **option)


class Counting(broken.Size):
    rows = 0

    def __call__(self, x, cond=None):
        type(self).rows += len(x)
        return super().__call__(x)


@pytest.mark.parametrize("calls", [1, 10, 30, 1000])
def test_no_more_calls_than_allowed(calls: int) -> None:
    Counting.rows = 0
    findings = check(Counting, calls=calls)
    assert Counting.rows <= calls
    assert not failed(findings)
    assert f"{Counting.rows} rows" in findings[-1].measured
    assert any(f.status == SKIPPED for f in findings) == (calls < 1000)


def test_no_call_after_the_time_is_over() -> None:
    findings = check(broken.Size, seconds=1e-9)
    assert [f.status for f in findings[:-1]] == [SKIPPED]
    assert "--seconds" in findings[0].measured


def test_the_same_seed_finds_the_same() -> None:
    one, two, other = (check(broken.Ranks, seed=seed)[:-1] for seed in (0, 0, 1))
    assert one == two
    assert one != other


def test_the_global_random_state_is_left_alone() -> None:
    network = ResidualMLP(2, width=8, depth=1)
    before = torch.get_rng_state()
    for part in (broken.Size, broken.Net, network, Ancestral, PlugIn):
        check(part)
    assert torch.equal(torch.get_rng_state(), before)


def test_printing_shows_everything_as_it_is() -> None:
    findings = [
        Finding("a [bold]law[/bold]", "holds", "[1, 2] and [red]"),
        Finding("another", "fails", "0.1", "do this"),
        Finding("a third", "skipped", "no calls left"),
    ]
    out = io.StringIO()
    print_findings(findings, "lab:Thing[0]", Console(file=out, width=100))
    text = out.getvalue()
    words = (
        "[bold]law[/bold]",
        "[red]",
        "→ do this",
        "lab:Thing[0]",
        "1 holds, 1 fails, 1 skipped",
    )
    for word in words:
        assert word in text
