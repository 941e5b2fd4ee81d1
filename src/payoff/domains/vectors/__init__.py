"""Vectors: designs as rows of a table. Reading, checking, encoding, judging."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.domains.vectors.codec import Code, Codec
    from payoff.domains.vectors.earlier import VectorDomain
    from payoff.domains.vectors.kinds import Column
    from payoff.domains.vectors.oracle import Oracle, OracleResult, load_oracle
    from payoff.domains.vectors.table import Table, read_table
    from payoff.metrics.support import SupportDistance, novelty

_WHERE = {
    **dict.fromkeys(("Code", "Codec"), "payoff.domains.vectors.codec"),
    **dict.fromkeys(("VectorDomain",), "payoff.domains.vectors.earlier"),
    **dict.fromkeys(("Column",), "payoff.domains.vectors.kinds"),
    **dict.fromkeys(("Oracle", "OracleResult", "load_oracle"), "payoff.domains.vectors.oracle"),
    **dict.fromkeys(("Table", "read_table"), "payoff.domains.vectors.table"),
    **dict.fromkeys(("SupportDistance", "novelty"), "payoff.metrics.support"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads the options of the kind without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


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
