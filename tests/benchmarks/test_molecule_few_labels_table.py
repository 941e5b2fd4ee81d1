"""Few labels at toy size: a row for every weight and aim, and no generator is trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from molecule_models import need_qm9, trained
from payoff.domains.molecules.qm9 import split
from payoff.training.loop import Loop

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    need_qm9()
    few = split("train")[:400]
    monkeypatch.setattr("payoff.domains.molecules.sources.split", lambda name, size: few)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import molecule_few_labels

    return molecule_few_labels


@pytest.mark.parametrize("conditioning", ["guide", "labels"])
def test_further_aims_are_drawn_from_what_was_trained(
    conditioning: str,
    module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = trained(tmp_path / "tiny", steps=5)
    asked = ["--evaluator", "qm9", "--out", str(tmp_path / "few"), "--base", str(base)]
    asked += ["--shares", "0.1", "--noises", "0.1", "--steps", "2", "--samples", "6"]
    asked += ["--conditioning", conditioning]
    module.main([*asked, "--aims", "70", "--guidance", "0"])
    updates: list[int] = []
    monkeypatch.setattr(Loop, "update", lambda self: updates.append(1))
    monkeypatch.setattr("payoff.jobs.fitting.fit", lambda *args, **more: updates.append(1))
    module.main([*asked, "--aims", "70", "90", "--guidance", "0", "1"])
    assert updates == []
    rows = [json.loads(line) for line in (tmp_path / "few" / "rows.jsonl").open()]
    assert [(r["guidance"], r["aim"]) for r in rows] == [(0, 70), (0, 90), (1, 70), (1, 90)]
    assert all(0 <= r["valid"] <= 1 and 0 <= r["unread"] <= 6 for r in rows)
    head, _rule, *told = [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
    assert {line.count("|") for line in told} == {head.count("|")}
