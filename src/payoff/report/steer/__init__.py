"""The report of a ``payoff steer`` run."""

from payoff.report.steer.page import page
from payoff.report.steer.run import SteerRun, load

__all__ = ["SteerRun", "load", "page"]
