"""The data of a run, kept in its folder so that later jobs need nothing else.

Objects are kept as the kind writes them, beside ``data.parquet``, which holds the kind's columns,
the labels and whatever the job adds. Of data that can be read again by a name only the labels and
the job's columns are kept.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch

from payoff.configs import from_dict
from payoff.domains.base import Data
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.model import Model
from payoff.jobs.records import RunFolder

TABLE, FACTS = "data.parquet", "data.json"
LABEL = "__label"


def keep_data(
    data: Data, kind: Kind, options: Any, folder: RunFolder, extra: pl.DataFrame | None = None
) -> None:
    """Write the data of a run to its folder.

    Args:
        data: objects and labels.
        kind: of the objects.
        options: of the kind, by which data with a name of their own are read again.
        folder: of the run.
        extra: further columns, one row an object.
    """
    facts = {
        "name": data.name,
        "score": data.score,
        "unit": data.unit,
        "source": data.source,
        "options": asdict(options),
    }
    folder.write_json(FACTS, facts)
    if data.source is not None and extra is None:
        return
    named = data.source is not None
    columns = [] if named else data.domain.table(data.objects).get_columns()
    if data.labels is not None:
        columns.append(pl.Series(LABEL, data.labels.numpy()).fill_nan(None))
    table = pl.DataFrame(columns + ([] if extra is None else extra.get_columns()))
    if not named:
        folder.add_files(data.domain.write(folder.path, "data", data.objects, table))
    with folder.replacing(TABLE) as path:
        table.write_parquet(path)


def kept_data(run: Path, model: Model) -> Data | None:
    """The data that a run kept, in the domain of its model; None: it kept none.

    Raises:
        UserError: a file is damaged.
    """
    if not (run / FACTS).is_file():
        return None
    facts = RunFolder.read(run / FACTS)
    try:
        options: Any = from_dict(model.kind.options, facts["options"])
        name, score = str(facts["name"]), str(facts["score"])
        source, unit = facts["source"], facts["unit"]
    except (KeyError, TypeError) as error:
        raise UserError(f"the run folder is damaged: {run / FACTS} lacks {error}") from error
    if source is not None:
        found = model.kind.load().read(source, options, score or None)
        found.domain = model.domain
        if (run / TABLE).is_file():  # of the run's own seed
            found.labels = labels_of(read_parquet(run / TABLE))
        return found
    table = read_parquet(run / TABLE)
    objects = model.domain.read_back(run, "data", table)
    return Data(model.domain, objects, labels_of(table), name, score, unit)


def labels_of(table: pl.DataFrame) -> torch.Tensor | None:
    """The labels (n,) of kept data, NaN where there is none."""
    if LABEL not in table.columns:
        return None
    return torch.from_numpy(table[LABEL].fill_null(float("nan")).to_numpy(writable=True))


def read_parquet(path: Path) -> pl.DataFrame:
    """A Parquet file of a run.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the run folder is damaged: {path} cannot be read ({first})") from error
