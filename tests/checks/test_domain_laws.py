"""Every installed kind keeps the laws of a kind, and the laws see what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from designs_of_kinds import broken_table, molecules, table

from payoff.checks import check
from payoff.checks.domains import LAWS, check_kind
from payoff.checks.findings import FAILS, HOLDS, SKIPPED, Finding
from payoff.configs import option
from payoff.domains.installed import kinds
from payoff.domains.kind import Kind
from payoff.domains.vectors.domain import Vectors
from payoff.domains.vectors.kind import KIND
from payoff.errors import UserError


@dataclass
class Example:
    """Data of a kind: ``make(folder)`` gives a source, and a broken one or None."""

    make: Callable[[Path], tuple[Any, Any]]
    options: dict[str, Any]
    score: str | None = None
    needs: tuple[str, ...] = ()


def _tables(folder: Path) -> tuple[Any, Any]:
    table().write_csv(folder / "boards.csv")
    (folder / "broken.csv").write_text(broken_table())
    return folder / "boards.csv", folder / "broken.csv"


def _molecules(folder: Path) -> tuple[Any, Any]:
    molecules().write_csv(folder / "molecules.csv")
    with_error = molecules().with_columns(
        smiles=pl.when(pl.col("smiles") == "CCO").then(pl.lit("C(C")).otherwise("smiles")
    )
    with_error.write_csv(folder / "broken.csv")
    return folder / "molecules.csv", folder / "broken.csv"


EXAMPLES = {
    "vectors": Example(_tables, {"identifiers": ["name"], "fixed": ["coated=true"]}, "load"),
    "airfoils": Example(
        lambda folder: ("airfoils", None), {}, "", needs=("aerosandbox", "neuralfoil")
    ),
    "closed mixture": Example(lambda folder: ("mixture", None), {"draws": 400}, "reward"),
    "closed subspace": Example(lambda folder: ("subspace", None), {"draws": 400}, "reward"),
    "molecules": Example(_molecules, {"smiles": "smiles"}, "load", needs=("rdkit",)),
}


def test_every_installed_kind_has_an_example() -> None:
    assert set(kinds()) <= {name.partition(" ")[0] for name in EXAMPLES}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_installed_kinds_keep_the_laws(name: str, tmp_path: Path) -> None:
    example, kind = EXAMPLES[name], kinds()[name.partition(" ")[0]]
    if not all(find_spec(module) for module in example.needs):
        pytest.skip(f"needs {', '.join(example.needs)}")
    source, broken = example.make(tmp_path)
    findings = check_kind(kind, source, options=example.options, score=example.score, broken=broken)
    assert not [f for f in findings if f.status == FAILS], findings
    assert len([f for f in findings if f.status == HOLDS]) > len(LAWS) // 2, findings


class Broken(Vectors):
    """Tables with a fault."""

    fault = ""


def _faulty(fault: str) -> type[Vectors]:
    """A domain with one fault."""

    class Faulty(Broken):
        def decode(self, x, cond=None):
            if fault == "raises" and not bool(x.isfinite().all()):
                raise ValueError("not a number")
            if fault == "raises" and bool((x.abs() > 1e20).any()):
                raise ValueError("too large")
            if fault == "nan":
                x = torch.nan_to_num(x)
            if fault == "shifts":
                x = x + 1
            return super().decode(x, cond or {})

        def keys(self, objects):
            own = super().keys(objects)
            return [f"{i}{key}" for i, key in enumerate(own)] if fault == "batch" else own

        def features(self, objects):
            x = super().features(objects)
            return x - x.mean(0) if fault == "centred" else x

        def check(self, objects):
            found = super().check(objects)
            return [why is None for why in found] if fault == "bool" else found  # type: ignore[misc]

        def config(self):
            found = super().config()
            if fault == "config":
                found["low"] = [None] * len(found["low"])
            return found

        def read_back(self, folder, name, table):
            back = super().read_back(folder, name, table)
            return back.select(range(len(back))[::-1]) if fault == "order" else back

        def denoiser(self, labels=0, **size):
            return super().denoiser(0 if fault == "labels" else labels, **size)

        def conditions(self, n, weights, generator):
            found = super().conditions(n, weights, generator)
            return {k: v[:1] for k, v in found.items()} if fault == "conditions" else found

    return Faulty


FAULTS = {
    "raises": "decode never raises",
    "nan": "a row of NaN is None",
    "shifts": "decode(encode(o)) has o's key",
    "batch": "keys and features do not depend on the batch",
    "centred": "keys and features do not depend on the batch",
    "bool": "check gives a text or None",
    "config": "config makes the domain again",
    "order": "table, write and read_back agree",
    "labels": "the network trains and draws",
    "conditions": "conditions are as in the data",
}


def _findings(kind: Kind, folder: Path, **more: Any) -> list[Finding]:
    source, broken = _tables(folder)
    example = EXAMPLES["vectors"]
    return check_kind(kind, source, options=example.options, broken=broken, **more)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_planted_fault_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kind, "load", lambda self: _faulty(fault))
    failing = [f.name for f in _findings(KIND, tmp_path) if f.status == FAILS]
    assert FAULTS[fault] in failing, failing


def test_errors_and_options_are_examined(tmp_path: Path) -> None:
    """A kind that reads everything silently, and one that takes another's option for itself."""

    @dataclass
    class Clashing:
        labelled: str = option("all", "something else")
        identifiers: list[str] = option(["name", "load"], "columns to ignore")
        categorical: list[str] = option([], "columns")
        fixed: list[str] = option(["coated=true"], "hold")
        bounds: list[str] = option([], "keep")
        network: str = option("mlp", "network")
        latent_dim: int = option(0, "dimension")
        dropout: float = option(0.0, "share")

    source, _ = _tables(tmp_path)
    other = replace(KIND, name="others", options=Clashing)
    findings = {f.name: f for f in check_kind(other, source, broken=source)}
    assert findings["options do not clash"].status == FAILS
    assert findings["read errors name the row and the cure"].status == FAILS
    without = {f.name: f for f in check_kind(KIND, source, options=EXAMPLES["vectors"].options)}
    assert without["read errors name the row and the cure"].status == SKIPPED


def test_an_unreadable_source_stops_the_rest() -> None:
    findings = check_kind(KIND, pl.DataFrame({"a": [1.0]}))
    assert findings[0].status == FAILS
    assert {f.status for f in findings[1:]} == {SKIPPED}


def test_check_takes_a_kind(tmp_path: Path) -> None:
    source, _ = _tables(tmp_path)
    findings = check(KIND, source=source)
    assert [f.name for f in findings[:-1]] == [law.name for law in LAWS]
    assert "checked as a kind of object" in findings[-1].measured
    with pytest.raises(UserError, match="name some to check it on"):
        check(KIND)
