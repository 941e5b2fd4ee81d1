"""The table of a fine-tuning run: read as the design job reads it, but it needs no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from payoff.domains.vectors import Codec, SupportDistance, Table, read_table
from payoff.domains.vectors.kinds import read_feature
from payoff.domains.vectors.reading import read_raw
from payoff.domains.vectors.table import to_dtype
from payoff.errors import UserError
from payoff.experiments.design.jobs import BUILT_IN, Job, make_job
from payoff.experiments.finetune.config import TuneConfig, flag

FEWEST = 20  # rows that a base model can be learned from at all


def read_job(config: TuneConfig, seed: int) -> Job:
    """Read, check and encode what ``config.source`` names; no row of it needs a score.

    Raises:
        UserError: the table or an option is wrong; see :func:`payoff.domains.vectors.read_table`.
    """
    if isinstance(config.source, str) and config.source in BUILT_IN:
        for name in ("identifiers", "categorical"):
            if getattr(config, name):
                raise UserError(
                    f"{flag(name)} does not apply to the built-in {config.source}, which have "
                    "their own columns"
                )
        return make_job(config.as_design(seed))
    table = _read(config)
    if len(table) < FEWEST:
        raise UserError(
            f"{table.origin} has {len(table)} complete rows; at least {FEWEST} are needed to learn "
            "what a realistic design is"
        )
    name = Path(config.source).stem if isinstance(config.source, (str, Path)) else "table"
    return encoded(table, "vectors", name)


def encoded(table: Table, domain: str, name: str, codec: Codec | None = None) -> Job:
    """The job of a checked table, with a codec of its own unless one is given."""
    codec = Codec.fit(table) if codec is None else codec
    x = codec.encode(table.frame)
    labels = torch.from_numpy(table.labels.copy())
    return Job(domain, name, table, codec, x, labels, SupportDistance(x))


def _read(config: TuneConfig) -> Table:
    """The table, all of its columns part of a design except the identifiers."""
    raw = read_raw(config.source)
    typed: dict[str, pl.Series] = {}
    for name, cells in raw.columns.items():
        if name in config.identifiers:
            typed[name] = cells
        else:
            # read here, where messages can name the file and its lines
            found, dtype = read_feature(raw, name, categorical=name in config.categorical)
            typed[name] = to_dtype(found.alias(name), dtype)
    # a table of designs has a score by definition; this one stands in for it and is not learned
    score = "reward"
    while score in typed:
        score = "_" + score
    typed[score] = pl.Series(score, np.arange(raw.height), dtype=pl.Float64)
    table = read_table(
        pl.DataFrame(list(typed.values())),
        score=score,
        identifiers=config.identifiers,
        categorical=config.categorical,
        bounds=config.bounds,
        fixed=config.fixed,
        min_labelled=1,
    )
    table.origin, table.warnings = raw.origin, [*raw.warnings, *table.warnings]
    return table


def same_columns(codec: Codec, other: Codec) -> bool:
    """Whether two codecs encode the same columns in the same way; their limits may differ."""
    kept = ("name", "kind", "start", "slots", "mean", "scale", "log", "levels", "frequencies")
    return [[getattr(c, k) for k in kept] for c in codec.codes] == [
        [getattr(c, k) for k in kept] for c in other.codes
    ]
