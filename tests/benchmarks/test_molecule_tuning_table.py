"""What tuning rests on, at toy size: a row each, and nothing comes of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from molecule_models import need_qm9, trained

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    need_qm9()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import molecule_tuning

    return molecule_tuning


def test_all_tables_are_complete(module, tmp_path: Path, capsys) -> None:
    model = trained(tmp_path / "tiny", steps=5)
    small = ["--paths", "8", "--scored", "24", "--others", "12", "--value-steps", "1", "2"]
    small += ["--failures", "0", "0.5", "--led", "10", "--bands=-2:2,0:4"]
    module.main([str(model), "--reward", "stability", *small])
    rounding, learned, led = capsys.readouterr().out.split("\n\n")
    _head, _rule, nothing, adam, random = (line.split("|") for line in rounding.splitlines())
    assert [cell.strip() for cell in nothing[2:4]] == ["0 ± 0"] * 2
    for row in (adam, random):
        assert 0 < float(row[2].split("±")[0]) < 1e-4
    head, _rule, *rows = learned.splitlines()
    assert len(rows) == 8
    assert [row.split("|")[2].strip() for row in rows[:4]] == ["0", "0", "0.5", "0.5"]
    assert {line.count("|") for line in rows} == {head.count("|")}
    assert [row.split("|")[1].strip() for row in led.splitlines()[2:]] == ["-2 to 2", "0 to 4"]
