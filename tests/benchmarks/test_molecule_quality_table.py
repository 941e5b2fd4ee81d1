"""The table of a model's molecules at toy size: a row each, shares that agree with the samples."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

from molecule_models import need_qm9, trained

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_row_for_every_setting_and_the_same_shares_again(tmp_path, capsys, monkeypatch) -> None:
    need_qm9()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import molecule_quality

    monkeypatch.setattr(molecule_quality, "REFERENCES", 200)  # scoring thousands takes a minute
    folder = trained(tmp_path / "model", steps=3)
    told = [str(folder), "--samples", "6", "--steps", "2", "3", "--precision", "fp32", "bf16"]
    kept = tmp_path / "results" / "quality.csv"
    tables, files = [], []
    for _ in range(2):
        molecule_quality.main([*told, "--samplers", "0", "2", "--csv", str(kept)])
        head, rule, *rows = capsys.readouterr().out.splitlines()
        assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
        assert len(rows) == 2 * 2 * 2 + 1  # the last one is the data's
        tables.append([row.split("|")[:-2] for row in rows])  # all but the speed
        files.append(pl.read_csv(kept, infer_schema_length=None))
    assert tables[0] == tables[1]
    shares = [float(cell.split("±")[0]) for row in tables[0] for cell in row[4:9]]
    assert all(0 <= share <= 100 for share in shares)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert files[0].drop("molecules_a_second").equals(files[1].drop("molecules_a_second"))
    for row, record in zip(tables[0], files[0].iter_rows(named=True), strict=True):
        assert row[1].strip() == record["sampler"]
        for cell, column in zip(row[4:9], molecule_quality.COLUMNS, strict=True):
            assert float(cell.split("±")[0]) == pytest.approx(100 * record[column], abs=0.051)
    real = files[0].row(-1, named=True)
    assert real["worst_distance"] == real[f"{real['worst_property']}_distance"] > 0
    assert real["worst_distance_error"] > 0
    with pytest.raises(SystemExit):
        molecule_quality.main([str(folder), "--samplers", "none"])
    del sys.modules["molecule_quality"]
