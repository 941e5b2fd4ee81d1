"""Configurations: defaults and help in one place, and nothing unknown accepted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from payoff.configs import from_dict, option, suggest, to_dict
from payoff.errors import UserError


@dataclass
class Net:
    width: int = option(64, "width of the network")


@dataclass
class Job:
    source: str = option("table.csv", "a table", metavar="FILE")
    columns: list[str] = option([], "columns to use")
    weights: dict[str, float] = option({"a": 1.0}, "weight of a column")
    net: Net = dataclasses.field(default_factory=Net, metadata={"help": "the network"})


def test_help_and_other_metadata_stand_by_the_field() -> None:
    fields = {f.name: f for f in dataclasses.fields(Job)}
    assert fields["source"].metadata == {"help": "a table", "metavar": "FILE"}
    assert fields["columns"].metadata["help"] == "columns to use"


def test_mutable_defaults_are_not_shared() -> None:
    a, b = Job(), Job()
    a.columns.append("width")
    a.weights["b"] = 2.0
    assert b.columns == []
    assert b.weights == {"a": 1.0}


def test_there_and_back() -> None:
    job = Job(source="x.csv", columns=["a"], net=Net(width=8))
    values = to_dict(job)
    assert values == {
        "source": "x.csv",
        "columns": ["a"],
        "weights": {"a": 1.0},
        "net": {"width": 8},
    }
    assert from_dict(Job, values) == job
    assert from_dict(Job, {}) == Job()


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown option 'sorce' for Job, did you mean 'source'\?"):
        from_dict(Job, {"sorce": "x"})
    with pytest.raises(UserError, match="'widht' for Net, did you mean 'width'"):
        from_dict(Job, {"net": {"widht": 3}})
    with pytest.raises(UserError, match=r"unknown option 'zzz' for Net \(known: width\)"):
        from_dict(Net, {"zzz": 3})


def test_a_nested_configuration_may_be_given_as_it_is() -> None:
    assert from_dict(Job, {"net": Net(width=3)}).net.width == 3


def test_suggestions() -> None:
    assert suggest("lenght", ["length", "width"]) == ", did you mean 'length'?"
    assert suggest("zzz", ["length", "width"]) == ""
