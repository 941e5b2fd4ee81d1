"""Rows of a table as numbers in the user's own units: what the ledger and gradients go by."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.domains.vectors.codec import Codec


def cells_of(codec: Codec, frame: pl.DataFrame) -> Tensor:
    """Rows as numbers (n, columns) in double precision; a category is its level's place."""
    columns = []
    for code in codec.codes:
        if code.kind == "constant":
            columns.append(np.zeros(frame.height))
        elif code.kind == "categorical":
            place = {level: i for i, level in enumerate(code.levels)}
            at = [np.nan if v is None else place.get(v, np.nan) for v in frame[code.name].to_list()]
            columns.append(np.array(at, dtype=np.float64))
        else:
            cells = frame[code.name].cast(pl.Float64).fill_null(float("nan"))
            columns.append(cells.to_numpy().astype(np.float64))
    return torch.from_numpy(np.stack(columns, 1))


def smooth_cells(codec: Codec, x: Tensor) -> Tensor:
    """Encoded rows x (n, D) of numbers as cells (n, columns) with a gradient, not rounded."""
    columns = []
    for code in codec.codes:
        if not code.slots or code.fixed is not None:
            columns.append(torch.zeros_like(x[:, 0]))
            continue
        value = x[:, code.start] * code.scale + code.mean
        columns.append(value.exp() if code.log else value)
    return torch.stack(columns, 1)


def all_numbers(codec: Codec) -> bool:
    """Whether a design is made of real numbers only, so that decoding has a gradient."""
    return all(code.kind in ("numeric", "constant") for code in codec.codes)


def meaning_of(codec: Codec) -> str:
    """A text that changes with the meaning of a row's cells: a ledger may serve several tables."""
    meaning = [[c.name, c.kind, list(c.levels), c.value] for c in codec.codes]
    return hashlib.sha256(json.dumps(meaning, default=str).encode()).hexdigest()[:12]


def same_columns(codec: Codec, other: Codec) -> bool:
    """Whether two codecs encode the same columns in the same way; their limits may differ."""
    kept = ("name", "kind", "start", "slots", "mean", "scale", "log", "levels", "frequencies")
    return [[getattr(c, k) for k in kept] for c in codec.codes] == [
        [getattr(c, k) for k in kept] for c in other.codes
    ]
