"""What is designed: a table with its codec, and what its domain knows about designs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from payoff.domains.vectors import (
    Codec,
    Oracle,
    SupportDistance,
    Table,
    load_oracle,
    novelty,
    read_table,
)
from payoff.errors import UserError
from payoff.experiments.design.config import DesignConfig, flag

Mask = npt.NDArray[np.bool_]
FLOW = ("labelled", "noise", "alpha", "reynolds")  # options of the airfoils


@dataclass
class Job:
    """The data of one run, encoded.

    Attributes:
        domain: ``vectors``, or the name of a built-in data set.
        table, codec: the checked rows and their encoding.
        x: encoded rows (n, D).
        labels: (n,) measured scores, higher is better, NaN = unlabelled.
        support: distance of encoded designs from the rows.
        check: what the domain can tell about a table of designs without scoring it, or None.
        oracle: the judge of finished designs, or None; never shown to anything that learns.
        valid: whether finished designs are valid in the oracle's own view, or None.
    """

    domain: str
    name: str
    table: Table
    codec: Codec
    x: Tensor
    labels: Tensor
    support: SupportDistance
    check: Callable[[pl.DataFrame], Mask] | None = None
    oracle: Oracle | None = None
    valid: Callable[[pl.DataFrame], Mask] | None = None
    oracle_sweep: bool = False

    @property
    def known(self) -> Tensor:
        """Which rows are labelled, (n,) bool."""
        return self.labels.isfinite()

    def fingerprint(self) -> str:
        """Changes with the table's cells: what tells a resumed run that it has the same data."""
        cells = self.table.frame.select(*self.codec.columns, self.table.score)
        return hashlib.sha256(cells.write_csv().encode()).hexdigest()[:16]

    def reach(self) -> float:
        """Least support distance of a row once it is held to the bounds and fixed values."""
        if not (self.table.bounds or self.table.fixed):
            return 0.0
        return float(self.support(self.codec.project(self.x)).min())

    @cached_property
    def ranges(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest encoded value of a realistic design, two (D,) tensors.

        A number that the user did not bound stays inside the data's range; bounds may go beyond.
        """
        low = torch.full((self.codec.dim,), -torch.inf)
        high = torch.full((self.codec.dim,), torch.inf)
        for code in self.codec.codes:
            if code.kind in ("numeric", "integer") and code.name not in self.table.bounds:
                column = self.x[:, code.start]
                if code.slots and code.fixed is None:
                    low[code.start], high[code.start] = column.min(), column.max()
        return low - 1e-5, high + 1e-5  # a row of the data is inside, rounding or not

    def novelty(self, x: Tensor) -> Tensor:
        """Distance (n,) of encoded designs to the nearest row, in standardised columns."""
        return novelty(x, self.x)


def make_job(config: DesignConfig) -> Job:
    """Read, check and encode what ``config.source`` names.

    Raises:
        UserError: see :func:`payoff.domains.vectors.read_table`.
    """
    _check_applicable(config)
    if isinstance(config.source, str) and config.source in BUILT_IN:
        table, extra = BUILT_IN[config.source](config)
        table = table.with_limits(config.bounds, config.fixed)
        domain, name = config.source, config.source
    else:
        table = read_table(
            config.source,
            score=config.score,
            minimize=config.minimize,
            identifiers=config.identifiers,
            categorical=config.categorical,
            bounds=config.bounds,
            fixed=config.fixed,
        )
        extra, domain = {"oracle_sweep": config.oracle_sweep}, "vectors"
        is_path = isinstance(config.source, (str, Path))
        name = Path(config.source).stem if is_path else "table"
    if config.oracle is not None:
        extra = {**extra, "oracle": load_oracle(config.oracle)}
    codec = Codec.fit(table)
    x = codec.encode(table.frame)
    labels = torch.from_numpy(table.labels.copy())
    return Job(domain, name, table, codec, x, labels, SupportDistance(x), **extra)


def _check_applicable(config: DesignConfig) -> None:
    """Refuse options that would be ignored."""
    built_in = isinstance(config.source, str) and config.source in BUILT_IN
    ignored = ("score", "minimize", "identifiers", "categorical") if built_in else FLOW
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in ignored and getattr(config, field.name) != default:
            raise UserError(
                f"{flag(field.name)} does not apply to the built-in {config.source}, which have "
                "their own score and columns"
                if built_in
                else f"{flag(field.name)} is for the built-in airfoils only; leave it out"
            )


def _airfoils(config: DesignConfig) -> tuple[Table, dict[str, Any]]:
    from payoff.domains import airfoils

    flow: dict[str, Any] = {"alpha": config.alpha, "re": config.reynolds}
    table = airfoils.airfoil_table(
        config.seed, labelled_fraction=config.labelled, noise=config.noise, **flow
    )
    extra = {
        "check": lambda frame: airfoils.positive_thickness(airfoils.parameters(frame)),
        "oracle": Oracle(lambda frame: airfoils.oracle(frame, **flow), "NeuralFoil, noiseless"),
        "valid": lambda frame: airfoils.valid(frame, **flow),
        "oracle_sweep": True,
    }
    return table, extra


BUILT_IN: dict[str, Callable[[DesignConfig], tuple[Table, dict[str, Any]]]] = {
    "airfoils": _airfoils
}
