"""One cell of a comparison, in a process of its own: ``python -m payoff.jobs.compare.cell``.

The folder holds ``cell.json``, the order, and afterwards ``result.json``, the rows of the table
that came out. A cell that tunes or steers is an ordinary run beside that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from payoff.errors import UserError
from payoff.jobs.compare.plan import Cell
from payoff.jobs.machine import threads

SPEC, RESULT, LOG = "cell.json", "result.json", "log.txt"
STOPPED, MISTAKE = 130, 2  # exit codes, as the command line's


def run_cell(folder: Path) -> list[dict[str, Any]]:
    """Carry out the order of ``cell.json`` and write ``result.json``.

    Raises:
        UserError: as a run of its own would raise it.
    """
    from payoff.jobs.compare.cells import Shared, rows_of

    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    cell, shared = Cell(**spec["cell"]), Shared(**spec["shared"])
    with threads(1, 0.0):
        rows = rows_of(cell, shared, folder)
    common = {"calls": cell.calls, "seed": cell.seed, "memory": _memory(), "folder": folder.name}
    if cell.network:
        common["network_budget"] = cell.network
    rows = [{"label": cell.label, **common, **row} for row in rows]
    temporary = folder / f".{RESULT}.tmp"
    temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT)
    return rows


def _memory() -> float | None:
    """The most memory that this process has held, MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def exit_with_parent(parent: int) -> None:
    """Stop when the process that started this one is gone: its work would be done twice."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: the folder, and the number of the process to follow."""
    signal.signal(signal.SIGTERM, _interrupt)
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    try:
        exit_with_parent(parent)
        run_cell(folder)
    except UserError as error:
        print(f"payoff: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
