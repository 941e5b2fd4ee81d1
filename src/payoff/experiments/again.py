"""Finished runs of every kind: more designs from them, and what they were in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from payoff.errors import UserError
from payoff.experiments.records import read_record


def sample(
    run: str | Path,
    *,
    count: int = 100,
    aim: float | None = None,
    seed: int = 1,
    quiet: bool = False,
) -> pl.DataFrame:
    """Fresh designs from a finished design or fine-tuning run.

    Args:
        run: the folder of the run.
        count: number of designs.
        aim: design runs only: the score to aim at; by default the run's own aim.
        seed: another seed gives other designs.
        quiet: no progress on the terminal.

    Raises:
        UserError: the run is unfinished, damaged, or of a kind without one model to draw from.
    """
    record = read_record(run)
    kind = record.get("kind", "design")
    if record.get("domain") == "molecules":
        raise UserError(
            f"{run} draws molecules, which are no rows of a table: payoff sample {run} --out "
            "FILE.sdf, or payoff.experiments.molecules.again.sample"
        )
    if kind == "finetune":
        from payoff.experiments.finetune.again import sample as tuned

        if aim is not None:
            raise UserError(
                "--aim is for runs of payoff design: a fine-tuned model has its aim in its weights"
            )
        return tuned(run, count=count, seed=seed, quiet=quiet)
    if kind == "steer":
        raise UserError(
            f"{run} steered its designs, and more of them cost reward calls: payoff steer with "
            f"--base {run} and another --seed draws them from the same model"
        )
    if kind == "compare":
        raise UserError(
            f"{run} compares several models: name the run of one of them, a folder in {run}/cells"
        )
    from payoff.experiments.design.again import sample as designed

    return designed(run, count=count, aim=aim, seed=seed, quiet=quiet)


def told(record: dict[str, Any]) -> str:
    """A finished run in one line; a KeyError or the like if an entry is missing."""
    start = f"{record['created']}  {record['name']}: "
    kind = record.get("kind", "design")
    if kind == "compare":
        return (
            f"{start}{len(record['labels'])} methods compared in {record['cells']} runs, "
            f"{record['score']['direction']} {record['score']['name']}"
        )
    designs, score = record["designs"], record["score"]
    if kind in ("finetune", "steer"):
        calls, median = record["calls"]["spent"], designs["median"]
        found = "" if median is None else f", {median:.4g} in the median"
        return (
            f"{start}{record['method']['name']} with {calls} reward calls, {score['direction']} "
            f"{score['name']}{found}"
        )
    aim = record["aim"]["chosen"]
    return f"{start}{designs['count']} designs, {score['direction']} {score['name']}, aim {aim:.4g}"
