"""One cell of a comparison, in a process of its own: ``python -m payoff.experiments.compare.cell``.

The folder holds ``cell.json``, what to do, and afterwards ``result.json``, the rows of the table
that came out. A cell that tunes is an ordinary fine-tuning run beside that.
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
from payoff.experiments.compare.plan import Cell
from payoff.experiments.machine import threads
from payoff.finetuning import FinetuneConfig

SPEC, RESULT, LOG = "cell.json", "result.json", "log.txt"
STOPPED, MISTAKE = 130, 2  # exit codes, as the command line's


def run_cell(folder: Path) -> list[dict[str, Any]]:
    """Do what ``cell.json`` says and write ``result.json``.

    Raises:
        UserError: what a run of its own would raise.
    """
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    cell, shared = Cell(**spec["cell"]), spec["shared"]
    with threads(1, 0.0):
        if shared["problem"]:
            from payoff.experiments.compare.problems import run_problem

            rows = run_problem(cell, shared, folder)
        elif shared["molecules"]:
            from payoff.experiments.compare.molecules import run_molecules

            rows = run_molecules(cell, shared, folder)
        else:
            from payoff.experiments.compare.designs import run_designs

            rows = run_designs(cell, shared, folder)
    common = {"calls": cell.calls, "seed": cell.seed, "memory": _memory(), "folder": folder.name}
    if cell.network:
        common["network_budget"] = cell.network
    rows = [{"label": cell.label, **common, **row} for row in rows]
    temporary = folder / f".{RESULT}.tmp"
    temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT)
    return rows


def learning(cell: Cell) -> FinetuneConfig:
    """The options of the learning in a cell."""
    calls = max(1, cell.calls)
    return FinetuneConfig(**{**cell.learning, "calls": calls, "seed": cell.seed})


def learned(record: dict[str, Any]) -> dict[str, Any]:
    """What the record of a fine-tuning run adds to the row of its cell."""
    tuning, calls = record["tuning"], record["calls"]
    return {
        "family": "tune",
        "declared": "p*" if record["method"]["claims_target"] else "reward",
        **{name: tuning[name] for name in ("network", "rounds", "kept", "stopped")},
        **{name: calls[name] for name in ("spent", "distinct")},
        "seconds": tuning["seconds"] + record["timings"]["temperature"],
        "temperature": record["temperature"]["value"],
    }


def _memory() -> float | None:
    """The most memory this process has held, MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def follow(parent: int) -> None:
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
        follow(parent)
        run_cell(folder)
    except UserError as error:
        print(f"payoff: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
