"""A model of molecules that is made in a second: real data, few weights, few steps."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch

from payoff.domains.molecules.codecs import CODECS
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.train import Run, TrainConfig
from payoff.pretrained import save_pretrained

SMALL = {
    **{"width": 32, "depth": 1, "pair_width": 16, "vectors": 8, "batch_size": 16},
    **{"compile": False, "precision": "fp32", "warmup": 5, "hold": 50, "log_every": 10},
}


def need_qm9() -> None:
    pytest.importorskip("rdkit")
    try:
        metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package qm9pack")


def trained(folder: Path, steps: int = 30, **changes) -> Path:
    """A model of 64 molecules of QM9, saved in ``folder``."""
    config = TrainConfig(**{**SMALL, **changes})
    data = load_qm9()
    x, cond = CODECS[config.codec]().encode(data.molecules(split("train", len(data))[:64]))
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        run = Run(config, x, cond["mask"], folder)
        for _ in range(steps):
            run.update()
    return save_pretrained(run.averaged(), folder, run.metadata({}))
