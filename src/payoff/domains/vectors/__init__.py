"""Vectors: designs as rows of a table. Reading, checking, encoding, judging."""

from __future__ import annotations

from payoff.domains.vectors.codec import Code, Codec
from payoff.domains.vectors.distance import SupportDistance, novelty
from payoff.domains.vectors.domain import VectorDomain
from payoff.domains.vectors.kinds import Column
from payoff.domains.vectors.oracle import Oracle, OracleResult, load_oracle
from payoff.domains.vectors.table import Table, read_table

__all__ = [
    "Code",
    "Codec",
    "Column",
    "Oracle",
    "OracleResult",
    "SupportDistance",
    "Table",
    "VectorDomain",
    "load_oracle",
    "novelty",
    "read_table",
]
