"""One table of several ``payoff compare airfoils`` runs, and xfoil as a second judge.

    payoff compare airfoils --methods rgdm,ddpo,nft,rwr,adjoint --calls 2000,10000 --seeds 3 \\
        --workers 2 --out runs/compare-a
    python benchmarks/finetuning_airfoils.py runs/compare-a [more runs] [--xfoil 10]

Cells are means over seeds with the least and the largest. xfoil sees designs from all over a cell's
``designs.csv``, which is sorted by score: every tenth of a hundred, for ten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))

from airfoil_xfoil import XFoil

from payoff.domains import airfoils

COLUMNS = {
    "median": ("median L/D", 0),
    "best": ("best", 0),
    "valid": ("valid, %", 1),
    "held_out": ("median, held-out judge", 0),
    "diversity": ("diversity", 2),
    "vendi": ("Vendi", 2),
    "kl": ("KL to the base, nats", 1),
    "support": ("support distance", 2),
    "network": ("network evaluations", 0),
    "seconds": ("seconds", 0),
    "memory": ("MiB", 0),
}
PERCENT = ("valid",)


def rows_of(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """Every cell's rows, each with the folder of its cell."""
    rows = []
    for run in runs:
        for file in sorted((run / "cells").glob("*/result.json")):
            rows += [{**row, "cell": file.parent} for row in json.loads(file.read_text())]
    return rows


def spread(values: list[float], digits: int) -> str:
    """The mean with the least and the largest."""
    if not values:
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a method and budget, the best median first."""
    heads = [head for head, _ in COLUMNS.values()]
    lines = [
        "| calls | method | seeds | " + " | ".join(heads) + " |",
        "|" + "---|" * (3 + len(heads)),
    ]
    keys = {(row["calls"] or 0, row["label"]) for row in rows}

    def group(key: tuple[int, str]) -> list[dict[str, Any]]:
        return [r for r in rows if ((r["calls"] or 0), r["label"]) == key]

    def rank(key: tuple[int, str]) -> tuple[int, float]:
        return key[0], -float(np.mean([r["median"] for r in group(key)]))

    for key in sorted(keys, key=rank):
        cells = []
        for name, (_, digits) in COLUMNS.items():
            scale = 100.0 if name in PERCENT else 1.0
            known = [scale * r[name] for r in group(key) if r.get(name) is not None]
            cells.append(spread(known, digits))
        told = " | ".join(cells)
        lines.append(f"| {key[0] or '–'} | {key[1]} | {len(group(key))} | {told} |")
    return "\n".join(lines)


def judged(rows: list[dict[str, Any]], n: int) -> str:
    """Markdown: n designs of every tuned model by NeuralFoil and by xfoil."""
    lines = [
        "| calls | method | designs | converged | NeuralFoil, median | xfoil, median | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with XFoil(airfoils.ALPHA, airfoils.RE) as judge:
        for row in rows:
            file = row["cell"] / "designs.csv"
            if not file.exists():
                continue
            frame = pl.read_csv(file)
            frame = frame.gather_every(max(1, len(frame) // n)).head(n)
            parameters = airfoils.parameters(frame)
            pairs = zip(airfoils.oracle(parameters), judge.lift_to_drag(parameters), strict=True)
            found.setdefault((row["calls"], row["label"]), []).extend(pairs)
    for (calls, label), pairs in sorted(found.items()):
        ours, theirs = np.array(pairs).T
        fine = np.isfinite(theirs)
        both = f"{np.median(ours[fine]):.0f} | {np.median(theirs[fine]):.0f}"
        ratio = np.median(theirs[fine] / ours[fine])
        lines.append(f"| {calls} | {label} | {len(ours)} | {fine.sum()} | {both} | {ratio:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of payoff compare")
    parser.add_argument("--xfoil", type=int, default=0, help="designs a cell that xfoil judges")
    options = parser.parse_args()
    # a method that a budget is too small for has a row without figures
    rows = [row for row in rows_of(options.runs) if row.get("median") is not None]
    if not rows:
        sys.exit(f"no finished cells in {', '.join(map(str, options.runs))}")
    print(table(rows))
    if options.xfoil:
        print("\n" + judged(rows, options.xfoil))


if __name__ == "__main__":
    main()
