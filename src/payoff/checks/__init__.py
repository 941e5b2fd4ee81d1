"""A conformance checker for users' own parts: the library's laws, with numbers and advice.

:func:`check` takes an object and :func:`run` its name, ``module:name``; both return findings, one
a law. :func:`command` is ``payoff check``. The laws of a kind of part stand in the module of that
name, as a tuple ``LAWS``.
"""

from __future__ import annotations

from payoff.checks.findings import FAILS, HOLDS, REMARK, SKIPPED, Finding
from payoff.checks.parts import KINDS
from payoff.checks.running import check, command, failed, print_findings, run

__all__ = [
    "FAILS",
    "HOLDS",
    "KINDS",
    "REMARK",
    "SKIPPED",
    "Finding",
    "check",
    "command",
    "failed",
    "print_findings",
    "run",
]
