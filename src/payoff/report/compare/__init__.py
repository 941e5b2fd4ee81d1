"""The report of a ``payoff compare`` run."""

from payoff.report.compare.page import page
from payoff.report.compare.run import CompareRun, load

__all__ = ["CompareRun", "load", "page"]
