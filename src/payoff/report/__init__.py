"""A finished run, on one page: reads a run folder, writes one HTML file, never samples or trains.

``build(run_folder)`` writes ``report.html`` next to the results it describes, for a run of
``payoff design``, ``finetune``, ``steer`` or ``compare``. The page is a single file that opens
offline: the plotting library and the data it draws are inside.

The package is a function too: ``payoff.report(run_folder)`` stays one when this package, which has
the function's name, has been imported.
"""

import sys
from pathlib import Path
from types import ModuleType

from payoff.report.page import build
from payoff.report.run import DesignRun, load

__all__ = ["DesignRun", "build", "load"]


class _Callable(ModuleType):
    """The package, which writes a report when it is called."""

    def __call__(self, folder: str | Path) -> Path:
        """Write the page of a finished run; see :func:`build`."""
        return build(Path(folder))


sys.modules[__name__].__class__ = _Callable
