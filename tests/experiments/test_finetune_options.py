"""Methods, budgets and options as they are written: read right, or refused with a message."""

from __future__ import annotations

from typing import Any

import pytest

from payoff.errors import UserError
from payoff.experiments.compare.config import BASELINES, CompareConfig
from payoff.experiments.compare.plan import parse_method, plan
from payoff.experiments.finetune import TuneConfig
from payoff.experiments.finetune.config import without_password
from payoff.experiments.finetune.methods import make_method, options_of
from payoff.finetuning import METHODS


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
        TuneConfig(**options)


def test_a_method_carries_its_options_in_a_word_that_shells_leave_alone() -> None:
    asked = parse_method("rgdm:level=sample:radius=0.25:per-round=50")
    assert asked.label == "rgdm:level=sample:radius=0.25:per-round=50"
    assert (asked.family, asked.name) == ("tune", "rgdm")
    assert asked.settings == ["level=sample", "radius=0.25"]
    assert asked.learning == {"per_round": 50}


def test_every_method_meets_every_budget_and_seed_once() -> None:
    config = CompareConfig(methods="rwr,ddpo:clip=0.1", calls="2000,500", seeds=2, seed=5)
    cells = plan(config)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 2 + 2 * 2 * (2 + 2)
    assert all("/" not in name and ":" not in name for name in names)
    assert [c.seed for c in cells if c.kind == "base"] == [5, 6]
    assert {c.calls for c in cells if c.kind == "tune"} == {500, 2000}
    assert {c.label for c in cells} == {*BASELINES, "rwr", "ddpo:clip=0.1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": "many"}, "'many' is not a whole number"),
        ({"calls": "0"}, "must be at least 1"),
        ({"baselines": "best-of-m"}, "did you mean 'best-of-n'"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"samples": 5}, "--samples must be at least 20"),
        ({"methods": "rwr,rwr"}, "is there twice"),
        ({"methods": "rwt"}, "did you mean 'rwr'"),
        ({"methods": "rwr:shares=0.5"}, "did you mean 'share'"),
        ({"methods": "rwr:calls=7"}, "neither rwr nor the learning has an option 'calls'"),
        ({"settings": ["per_rond=50"]}, "did you mean 'per_round'"),
        ({"settings": ["evaluate=2"]}, "evaluate must be at least 16"),
        ({"methods": "", "baselines": "none"}, "nothing to compare"),
    ],
)
def test_a_wrong_comparison(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(CompareConfig(**options))


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
