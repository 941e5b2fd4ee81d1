"""Methods, budgets and options as they are written: read right, or refused with a message."""

from __future__ import annotations

from typing import Any

import pytest

from payoff.errors import UserError
from payoff.finetuning import METHODS
from payoff.jobs.finetune.options import FinetuneOptions
from payoff.jobs.methods import make_method, options_of
from payoff.jobs.options import without_password


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_with_its_defaults(name: str) -> None:
    method = make_method(name)
    assert type(method) is METHODS[name]
    assert all("help" in field.metadata for field in options_of(METHODS[name]).values())


def test_values_take_the_type_of_their_option() -> None:
    method: Any = make_method("rwr", ["tempered=false", "share=0.25"])
    assert method.tempered is False
    assert method.share == 0.25
    same: Any = make_method("rgdm", ["value-steps=100", "level=sample"])
    assert same.value_steps == 100
    assert same.level == "sample"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rgmd", [], "did you mean 'rgdm'"),
        ("rgdm", ["radios=0.5"], "rgdm has no option 'radios', did you mean 'radius'"),
        ("rgdm", ["radius"], "write it as NAME=VALUE"),
        ("rgdm", ["radius=wide"], "'wide' is not a number"),
        ("rgdm", ["radius=1", "radius=2"], "'radius' is set twice"),
        ("rwr", ["tempered=perhaps"], "'perhaps' is not true or false"),
    ],
)
def test_a_wrong_setting(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_method(name, settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count must be at least 1"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"temperature": float("nan")}, "--temperature must be a finite number"),
        ({"precision": 16}, "--precision 16"),
        ({"base_steps": 0}, "--base-steps must be at least 1"),
        ({"base_learning_rate": 0.0}, "--base-learning-rate must be above 0"),
    ],
)
def test_a_wrong_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FinetuneOptions(**options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, None),
        ("runs/ledger.db", "runs/ledger.db"),
        ("postgresql://me@host/calls", "postgresql://me@host/calls"),
        ("postgresql://me:s3cr@et@host:5432/calls", "postgresql://me:***@host:5432/calls"),
        ("postgresql+psycopg://me:secret@host/calls", "postgresql+psycopg://me:***@host/calls"),
    ],
)
def test_passwords_are_not_written_down(url: str | None, shown: str | None) -> None:
    assert without_password(url) == shown
