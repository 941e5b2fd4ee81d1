"""QM9: what is read, its split, and a cache that is whole or made again."""

from __future__ import annotations

import threading
from importlib import metadata

import numpy as np
import pytest
import torch

from payoff.domains.cache import cache_folder
from payoff.domains.molecules import qm9
from payoff.domains.molecules.cache import read_tensors, write_tensors
from payoff.errors import UserError

TENSORS = {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(4)}


@pytest.fixture
def data():
    pytest.importorskip("polars")
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")
    return qm9.load_qm9()


def test_the_whole_data_set_is_there(data):
    assert len(data) == sum(qm9.SPLITS.values()) == 130_831
    assert len(data.numbers) == len(data.positions) == 2_359_210
    assert (int(data.sizes.min()), int(data.sizes.max())) == (3, 29)
    assert set(data.numbers.unique().tolist()) == {1, 6, 7, 8, 9}
    assert bool(data.positions.isfinite().all())
    assert len(data.all_smiles()) == len(data)


def test_properties_are_in_the_stated_units(data):
    """Means of the data set as published by its users; eV and not Hartree."""
    means = {"alpha": 75.281, "gap": 6.858, "homo": -6.536, "lumo": 0.322, "mu": 2.673, "cv": 31.62}
    for name, mean in means.items():
        assert float(data.column(name).double().mean()) == pytest.approx(mean, abs=0.001)
    gap = data.column("lumo") - data.column("homo")
    assert float((gap - data.column("gap")).abs().max()) < 0.01
    with pytest.raises(UserError, match="no property 'colour'"):
        data.column("colour")


def test_the_first_molecule_is_methane(data):
    methane = data.molecule(0)
    assert methane.symbols == ["C", "H", "H", "H", "H"]
    lengths = (methane.positions[1:] - methane.positions[0]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((4,), 1.092), atol=2e-3, rtol=0)
    assert data.all_smiles()[0] == "C"


def test_coordinates_that_are_no_json():
    found = qm9._numbers_in(["[[0.,-.5,1e-3],[2.5*^-6,1,2]]", "[[3.,4.,5.]]"])
    np.testing.assert_allclose(found, [0, -0.5, 1e-3, 2.5e-6, 1, 2, 3, 4, 5])


def test_the_split_is_a_partition_in_edms_sizes():
    parts = {name: qm9.split(name) for name in qm9.SPLITS}
    assert {name: len(rows) for name, rows in parts.items()} == qm9.SPLITS
    together = torch.cat(list(parts.values()))
    assert torch.equal(together.sort().values, torch.arange(130_831))
    # EDM's generator is numpy's old one, seed 0, and its train part comes first
    assert torch.equal(
        parts["train"][:5], torch.from_numpy(np.random.RandomState(0).permutation(130_831)[:5])
    )


def test_the_halves_divide_the_train_part():
    halves = [qm9.split("first_half"), qm9.split("second_half")]
    assert [len(half) for half in halves] == [50_000, 50_000]
    assert torch.equal(torch.cat(halves).sort().values, qm9.split("train").sort().values)


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="no part 'trian'"):
        qm9.split("trian")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(qm9, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"payoff\[molecules\]"):
        qm9.load_qm9()


def test_cache_round_trip(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    write_tensors(path, TENSORS, "key")
    found = read_tensors(path, "key")
    assert found is not None
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read_tensors(path, "another key") is None
    assert read_tensors(tmp_path / "missing", "key") is None


@pytest.mark.parametrize("kept", [0, 7, 100, -1], ids=["empty", "header", "half", "last byte"])
def test_a_damaged_cache_is_as_good_as_none(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, "key")
    path.write_bytes(path.read_bytes()[:kept])
    assert read_tensors(path, "key") is None
    write_tensors(path, TENSORS, "key")
    assert read_tensors(path, "key") is not None


def test_a_flipped_byte_in_the_numbers_is_seen(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, "key")
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 255
    path.write_bytes(raw)
    assert read_tensors(path, "key") is None


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("PAYOFF_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("PAYOFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "payoff"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    write_tensors(tmp_path / "file" / "x.safetensors", TENSORS, "key")


def test_readers_and_writers_at_once_see_whole_files_only(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, "key")
    writer = threading.Thread(
        target=lambda: [write_tensors(path, TENSORS, "key") for _ in range(50)]
    )
    writer.start()
    while writer.is_alive():
        assert read_tensors(path, "key") is not None
    writer.join()
    assert len(list(tmp_path.iterdir())) == 1
