"""The report of a ``payoff finetune`` run."""

from payoff.report.finetune.page import page
from payoff.report.finetune.run import TuneRun, load

__all__ = ["TuneRun", "load", "page"]
