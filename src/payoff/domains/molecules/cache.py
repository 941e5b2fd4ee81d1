"""Files of derived data that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def read_tensors(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors of a cache file, or None where there is none, or another, or a damaged one.

    Args:
        path: the file.
        key: what it was made from and how; a file with another key is as good as none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
            if held.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors if held.get("checksum") == _checksum(tensors) else None
    except Exception:  # a file may be cut short in more ways than can be listed
        return None


def write_tensors(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    """Write beside, then rename: a reader sees the old file or the whole new one.

    A folder that cannot be written to is no error: the data are made again next time.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        os.close(handle)
        save_file(tensors, temporary, metadata={"key": key, "checksum": _checksum(tensors)})
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 of all tensors' bytes, in the order of their names."""
    found = 0
    for name in sorted(tensors):
        raw = tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes()
        found = zlib.crc32(raw, found)
    return str(found)
