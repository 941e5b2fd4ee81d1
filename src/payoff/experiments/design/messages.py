"""What a design run says on the terminal, and what it refuses to go on with."""

from __future__ import annotations

from typing import Any

import numpy as np

from payoff.errors import UserError
from payoff.experiments.design.aims import Draws, free_name
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.record import Found, best_label
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder

KINDS = {"numeric": "number", "integer": "whole number", "categorical": "category"}
MOST_SHOWN = 6
POOR_RANK = 0.3


def check_limits(job: Job, config: DesignConfig) -> None:
    """Refuse limits that even the rows nearest to them leave the data with, before the training."""
    reach = job.reach()
    if reach <= config.support:
        return
    fixed = job.table.fixed.items()
    limits = [
        f"--fixed {k}={v:g}" if isinstance(v, float) else f"--fixed {k}={v}" for k, v in fixed
    ]
    for name, ends in job.table.bounds.items():
        low, high = (f"{end:g}" if np.isfinite(end) else "" for end in ends)
        limits.append(f"--bounds {name}={low}:{high}")
    raise UserError(
        f"no design with {' '.join(limits)} looks like the data. The nearest row, moved there, has "
        f"the support distance {reach:.3g}; --support allows {config.support:g} (1 is the data's "
        "own 95 % quantile). Loosen the limits, or allow more with --support"
    )


def introduce(job: Job, folder: RunFolder, reporter: Reporter) -> None:
    """What was understood of the table, so that a misread column is seen before the work."""
    table = job.table
    free = [c for c in table.features if c.name not in table.fixed]
    shown = ", ".join(f"{c.name} ({KINDS[c.kind]})" for c in free[:MOST_SHOWN])
    rest = f" and {len(free) - MOST_SHOWN} more columns" if len(free) > MOST_SHOWN else ""
    sense = "minimizing" if table.minimize else "maximizing"
    reporter.say(f"{job.name}: {len(table)} rows, {int(job.known.sum())} of them with a score")
    reporter.say(f"{sense} {table.score} over {shown}{rest}")
    for warning in table.warnings:
        warn(warning, folder, reporter)


def tell_reward(summary: dict[str, Any], folder: RunFolder, reporter: Reporter) -> None:
    """How well the score could be learned."""
    chosen = next(c for c in summary["candidates"] if c["name"] == summary["chosen"])
    rank = chosen["rank_correlation"]
    reporter.say(
        f"learned score: {summary['reason']}; rank correlation {rank:.2f} on rows held out"
    )
    if rank < POOR_RANK:
        warn(
            f"the learned score ranks held-out rows poorly (rank correlation {rank:.2f}): more or "
            "better labels are needed before its designs mean much",
            folder,
            reporter,
        )


def check_kept(
    kept: Draws,
    refusals: dict[str, int],
    config: DesignConfig,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    """Stop if no design was accepted, and say so if there are fewer than asked for."""
    count = len(kept.x)
    if count == 0:
        reasons = "; ".join(f"{k}: {v}" for k, v in refusals.items())
        raise UserError(
            f"no design was accepted ({reasons}): aim closer to the data, loosen --fixed and "
            "--bounds, or allow designs further from the data with --support (now "
            f"{config.support:g})"
        )
    if count < config.count:
        warn(
            f"only {count} of {config.count} designs were found that are realistic and differ from "
            "each other: aim closer to the data, or allow more with --support or less --diversity",
            folder,
            reporter,
        )


def conclude(job: Job, found: Found, reporter: Reporter) -> None:
    """What came out, against what was measured before."""
    score, best, count = job.table.score, best_label(job), len(found.frame)
    added = free_name("predicted", found.frame.select(job.codec.columns))
    predicted = found.frame[added].to_numpy()
    median = float(np.median(predicted))
    reporter.say(
        f"{count} design{'s' if count > 1 else ''}: predicted {score} {median:.4g} in the median; "
        f"the best measured row has {best:.4g}"
    )
    if found.oracle is not None and found.oracle["median"] is not None:
        verdict = found.oracle
        top = "" if verdict["best"] is None else f", best {verdict['best']:.4g}"
        reporter.say(
            f"{verdict['name']}: {score} {verdict['median']:.4g} in the median{top}; "
            f"{verdict['valid']} of {count} valid"
        )


def warn(text: str, folder: RunFolder, reporter: Reporter) -> None:
    """A warning: on the terminal, and kept in the record."""
    folder.warnings.append(text)
    reporter.warn(text)
