from __future__ import annotations

import json
from pathlib import Path

import pytest

from payoff.errors import UserError
from payoff.jobs.records import RunFolder, read_record


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"seed": 0})
    (folder.path / "designs.csv").write_text("old")

    def fails() -> None:
        with folder.replacing("designs.csv") as path:
            path.write_text("half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fails()
    assert (folder.path / "designs.csv").read_text() == "old"
    assert sorted(p.name for p in folder.path.iterdir()) == ["designs.csv", "request.json"]


def test_an_earlier_run_is_not_lost_by_accident(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"seed": 0}).finish({"command": "design"})
    with pytest.raises(UserError, match="already holds a finished run"):
        RunFolder(tmp_path / "run", {"seed": 0})
    (tmp_path / "run" / "notes.txt").write_text("mine")
    RunFolder(tmp_path / "run", {"seed": 0}, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").exists()
    assert not (tmp_path / "run" / "run.json").exists()


def test_resuming_asks_for_the_same_options(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"seed": 0, "aim": "auto"})
    with pytest.raises(UserError, match="unfinished run"):
        RunFolder(tmp_path / "run", {"seed": 0, "aim": "auto"})
    RunFolder(tmp_path / "run", {"seed": 0, "aim": "auto"}, resume=True)
    with pytest.raises(UserError, match="seed = 0, now it is 1"):
        RunFolder(tmp_path / "run", {"seed": 1, "aim": "auto"}, resume=True)


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    with folder.stage("training"):
        pass
    folder.finish({"best": float("nan"), "out": tmp_path, "list": (1, 2)})
    record = read_record(folder.path)
    assert record["best"] is None
    assert record["list"] == [1, 2]
    assert {"training", "total"} <= set(record["timings"])
    json.dumps(record, allow_nan=False)


def test_unreadable_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        read_record(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_record(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "run", {})
