"""A finished run, on one page: reads a run folder, writes one HTML file, never samples or trains.

``build(run_folder)`` writes ``report.html`` next to the results it describes, for a run of
``payoff design``, ``finetune``, ``steer`` or ``compare``. The page is a single file that opens
offline: the plotting library and the data it draws are inside.
"""

from payoff.report.page import build
from payoff.report.run import DesignRun, load

__all__ = ["DesignRun", "build", "load"]
