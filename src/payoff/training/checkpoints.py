"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from payoff.errors import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` so that a kill or a full disk leaves the previous file intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain containers are accepted, nothing is unpickled."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(
            f"the checkpoint {path} cannot be read ({error}): delete it to start again"
        ) from error


def check_same(path: Path, made_with: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue with other options than a checkpoint was made with.

    Raises:
        UserError: names the first entry of ``now`` that differs.
    """
    for name, value in now.items():
        if made_with.get(name) != value:
            raise UserError(
                f"cannot resume from {path}: it was made with {name} = {made_with.get(name)}, "
                f"now it is {value}"
            )
