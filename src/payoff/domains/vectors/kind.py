"""Tables of designs as a kind: files and options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payoff.configs import option
from payoff.domains.kind import FORMAT, NO, OWN, Kind

GROUP = "Tables"
NETWORKS = ("mlp", "subspace")
ENDINGS = ("", ".csv", ".tsv", ".tab", ".txt", ".dat", ".parquet", ".pq", ".xlsx", ".xls")
"""Spreadsheets are among them so that reading says how they are saved as CSV."""


@dataclass
class LimitOptions:
    """Limits that every design has to keep."""

    fixed: list[str] = option(
        [], "hold a column at a value: material=steel", group=GROUP, metavar="NAME=VALUE"
    )
    bounds: list[str] = option(
        [],
        "keep a column in a range: width=0:40, width=:40",
        group=GROUP,
        metavar="NAME=LOW:HIGH",
    )


@dataclass
class NetworkOptions:
    """The network of a table."""

    architecture: str = option(
        "mlp", "mlp, or subspace: linear encoder and decoder around it", group=GROUP
    )
    latent_dim: int = option(
        0, "dimension of the subspace; 0: enough for 99 % of the variance", group=GROUP
    )
    dropout: float = option(0.0, "share of hidden units dropped in training", group=GROUP)

    def __post_init__(self) -> None:
        from payoff.errors import UserError

        if self.architecture not in NETWORKS:
            raise UserError(
                f"--architecture {self.architecture}: choose one of {', '.join(NETWORKS)}"
            )
        if self.latent_dim < 0:
            raise UserError(f"--latent-dim must not be negative, got {self.latent_dim}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be at least 0 and below 1, got {self.dropout}")


@dataclass
class TableOptions(NetworkOptions, LimitOptions):
    """Options that only tables have."""

    identifiers: list[str] = option(
        [], "columns to ignore, such as names and other scores", group=GROUP, metavar="NAME"
    )
    categorical: list[str] = option(
        [], "columns whose numbers are categories", group=GROUP, metavar="NAME"
    )


def reads(source: Any, given: Collection[str]) -> int:
    """Claim tables in memory, and files that are neither folders nor of an ending of others."""
    if isinstance(source, (str, Path)):
        ending = Path(source).suffix.lower()
        return FORMAT if ending in ENDINGS else NO
    return OWN if isinstance(source, Mapping) or hasattr(source, "columns") else NO


KIND = Kind(
    name="vectors",
    help="a CSV, TSV or Parquet table, a DataFrame or a dict of columns",
    reads=reads,
    domain="payoff.domains.vectors.domain:Vectors",
    options=TableOptions,
    # a decoded row keeps all limits, so that checking rows before they are scored finds nothing
    defaults={job: {"score_invalid": True} for job in ("finetune", "steer", "compare")},
    packages=("scikit-learn",),
)
