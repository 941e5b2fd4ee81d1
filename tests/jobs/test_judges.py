"""Judges by name, expression and file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import toy_kind
from hypothesis import assume, given
from hypothesis import strategies as st
from toy_kind import KIND, Numbers

from payoff.domains.base import Judge
from payoff.errors import UserError
from payoff.jobs import judges
from payoff.jobs.judges import Combined, find_held_out, find_judge, is_plain, short_name

NUMBERS = (-3, -1, 0, 2, 5)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "kinds", lambda: {"numbers": KIND})


def judge(name, **more) -> Judge:
    return find_judge(Numbers(), KIND, name, **more)


def test_a_name_with_and_without_its_kind_is_the_same_judge() -> None:
    plain, full = judge("itself"), judge("numbers:itself")
    assert (plain.name, plain.version) == (full.name, full.version) == ("numbers:itself", "1")
    assert not isinstance(plain, Combined)


def test_a_function_by_name_and_by_itself() -> None:
    for name in ("toy_kind:identity", toy_kind.identity):
        assert list(judge(name).of([3, 4])) == [3.0, 4.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("itsel", "itself"),
        ("numbers:sqare", "square"),
        ("toy_kind:identety", "identity"),
        ("no_such_module:f", "no module"),
        ("toy_kind:KIND", "not a function"),
        ("itself +", "no expression"),
        ("itself ** 2", "only"),
        ("itself if 1 else 2", "no expression"),
        ("__import__('os')", "only"),
        ("abs(itself)", "only"),
        ("itself[0]", "only"),
        ("(itself).real", "only"),
        ("2 + 3", "names no reward"),
        ("1 / itself", "by a number"),
        ("itself / 0", "zero"),
        ("1e999 * itself", "finite"),
        ("2itself", "no such reward|no expression"),
        ("clip(itself, 2, 1)", "wrong way"),
        ("clip(itself, 2)", "clip"),
        ("itself + sqare", "square"),
        ("(" * 300 + "itself" + ")" * 300, "no expression|nested"),
    ],
)
def test_what_is_wrong_is_said(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        judge(name)


@given(
    st.recursive(
        st.sampled_from(["itself", "numbers:square", "'toy_kind:identity'", "toy_kind:identity"])
        | st.integers(0, 9).map(str)
        | st.floats(0.01, 9.0).map(lambda v: f"{v:.3g}"),
        lambda inner: (
            st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
                lambda t: f"({t[0]} {t[1]} {t[2]})"
            )
            | inner.map(lambda t: f"(-{t})")
        ),
        max_leaves=8,
    ).filter(lambda t: "itself" in t or "square" in t or "identity" in t)
)
def test_an_expression_is_arithmetic_of_the_values(text: str) -> None:
    judges.kinds = lambda: {"numbers": KIND}
    assume(not is_plain(text))
    quoted = text.replace("'toy_kind:identity'", "i").replace("toy_kind:identity", "i")
    quoted = quoted.replace("numbers:square", "s").replace("itself", "i")
    expected = [eval(quoted, {"i": float(n), "s": float(n * n)}) for n in NUMBERS]
    found = judge(text).of(NUMBERS)
    assert torch.allclose(torch.tensor(list(found)), torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_a_part_that_stands_twice_is_asked_once() -> None:
    found = judge("itself*itself + numbers:itself - clip(itself, 0, 1)")
    assert isinstance(found, Combined)
    assert [part.name for part in found.parts] == ["numbers:itself"]
    assert list(found.of([3, -2])) == [9 + 3 - 1, 4 - 2 - 0]
    assert short_name(found) == "itself*itself + itself - clip(itself, 0, 1)"


def test_the_slope_of_a_combination_has_its_gradient() -> None:
    found = judge("itself*square - 3*itself")
    assert found.slope is not None
    x = torch.tensor([[1.5], [-2.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(found.slope(x).sum(), x)
    assert torch.allclose(gradient, 3 * x**2 - 3)
    assert judge("itself + positive").slope is None


def test_a_gate_makes_failures_and_keeps_the_rest() -> None:
    found = judge("itself", gate="positive")
    values = list(found.of([3, -2, 0]))
    assert values[0] == 3.0
    assert all(map(math.isnan, values[1:]))
    assert found.held_out == "square"
    assert found.unit == "unit"
    assert "itself" in found.name
    assert "positive" in found.name


def test_a_file_of_terms(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(
        'gate = "positive"\noffset = 1\n[[term]]\nreward = "itself"\nweight = 2\nclip = [0, 4]\n'
        '[[term]]\nreward = "toy_kind:identity"\nsigmoid = [3, 1.5]\n'
    )
    values = list(judge(str(path)).of([3, 9, -1]))
    assert values[0] == pytest.approx(1 + 6 + 0.5)
    assert values[1] == pytest.approx(1 + 8 + 1 / (1 + math.exp(-4.0)))
    assert math.isnan(values[2])
    path.write_text(path.read_text().replace("offset", 'combine = "product"\noffset'))
    assert next(iter(judge(str(path)).of([3]))) == pytest.approx(1 + 6 * 0.5)
    with pytest.raises(UserError, match="names the gate"):
        judge(str(path), gate="positive")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one"),
        ("term = 3", "at least one"),
        ("[[term]]\nweight = 1", "reward = NAME is missing"),
        ('[[term]]\nreward = "itself"\nwieght = 1', "weight"),
        ('[[term]]\nreward = "itself"\nweight = "a"', "number"),
        ('[[term]]\nreward = "itself"\nclip = [2, 1]', "wrong way"),
        ('[[term]]\nreward = "itself"\nsigmoid = [2, 0]', "width"),
        ('[[term]]\nreward = "itself"\nsigmoid = 2', "two numbers"),
        ('combine = "max"\n[[term]]\nreward = "itself"', "product"),
        ("[[term", "no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        judge(str(path))
    with pytest.raises(UserError, match="No such file"):
        judge(str(tmp_path / "missing.toml"))


def test_the_judge_that_watches() -> None:
    domain, reward = Numbers(), judge("itself")
    held = find_held_out(domain, KIND, None, reward)
    assert held is not None
    assert held.name == "numbers:square"
    assert find_held_out(domain, KIND, "none", reward) is None
    assert find_held_out(domain, KIND, None, judge("itself + square")) is None
