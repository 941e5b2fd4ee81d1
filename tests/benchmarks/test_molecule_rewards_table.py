"""The table of the molecule rewards at toy size: a row each, sound numbers."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from payoff.domains.molecules.rewards import REWARDS, NamedReward

for package in ("rdkit", "tblite", "dftd4"):
    pytest.importorskip(package)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module():
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import molecule_rewards

        yield molecule_rewards
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_table_has_every_reward(module, capsys) -> None:
    module.main(["--molecules", "3", "--rounds", "1", "--fit", "20"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [f"`{name}`" for name in REWARDS]
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
    assert all(row.split("|")[5].strip() == "0 %" for row in rows), "a real molecule has no value"
    explained = {row.split("|")[1].strip(" `"): row.split("|")[8].strip() for row in rows}
    assert {name for name, value in explained.items() if value} == set(module.COLUMN)
    assert "nan" not in "".join(rows)


def test_agreement_is_one_for_the_property_itself_and_lower_for_a_spoiled_one(module) -> None:
    """A linear fit forgives shift, scale and sign; failures are left out, noise is not."""
    data = module.load_qm9()
    rows = module.split("test")[:40]
    truth = dict(zip(rows.tolist(), data.column("gap")[rows].tolist(), strict=True))
    values = iter([5 - 3 * truth[i] if k else float("nan") for k, i in enumerate(rows.tolist())])
    exact = NamedReward("xtb_gap", lambda molecule: next(values), "", "")
    assert module.agreement(exact, data, 40) == pytest.approx(1.0)
    drawn = iter(np.random.default_rng(0).normal(size=40))
    assert module.agreement(NamedReward("alpha", lambda m: next(drawn), "", ""), data, 40) < 0.3
