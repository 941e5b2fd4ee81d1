"""Lines that a design run prints, and its refusals to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from payoff.domains.base import Data
from payoff.errors import UserError
from payoff.jobs.design.aims import Aim, AimSampler, Draws
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.record import PREDICTED, best_label
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder, warn
from payoff.jobs.scoring import Scored
from payoff.metrics.support import SupportDistance

POOR_RANK = 0.3  # rank correlation on held-out rows
MAX_SHOWN = 3  # failures on the terminal
FAILED = "failed.csv"


def check_limits(data: Data, job: DesignOptions) -> None:
    """Refuse limits that leave the data even with the rows nearest to them, before the training.

    Raises:
        UserError: no row, moved inside the limits, is inside the support.
    """
    domain = data.domain
    if not domain.limits:
        return
    moved = domain.decode(*domain.encode(data.objects))
    reach = float(SupportDistance(domain.features(data.objects))(domain.features(moved)).min())
    if reach > job.support:
        raise UserError(
            f"no design with {domain.limits} looks like the data. The nearest row, moved there, "
            f"has the support distance {reach:.3g}; --support allows {job.support:g} (1 is the "
            "data's own 95 % quantile). Loosen the limits, or allow more with --support"
        )


def introduce(
    data: Data, plural: str, job: DesignOptions, start: str, folder: RunFolder, reporter: Reporter
) -> None:
    """Say what was understood, so that a misread column is seen before the work."""
    assert data.labels is not None
    known = int(data.labels.isfinite().sum())
    sense = "minimizing" if job.minimize else "maximizing"
    goal = sense if job.aim is None else f"aiming at {job.aim:g}:"
    about = f"; {data.about}" if data.about else ""
    reporter.say(f"{data.name}: {len(data.objects)} {plural}, {known} of them with a score")
    reporter.say(f"{goal} {data.score}{about}")
    if start:
        reporter.say(start)
    for remark in data.remarks:
        reporter.say(remark)
    for warning in data.warnings:
        warn(warning, folder, reporter)
    _report_failed(data, folder, reporter)


def _report_failed(data: Data, folder: RunFolder, reporter: Reporter) -> None:
    """Entries of the source that are no objects: all in ``failed.csv``, the first here."""
    failed = data.failed
    if not failed:
        return
    with folder.replacing(FAILED) as path:
        pl.DataFrame({"row": list(failed), "reason": list(failed.values())}).write_csv(path)
    first = "; ".join(f"row {row}: {why}" for row, why in list(failed.items())[:MAX_SHOWN])
    more = "; …" if len(failed) > MAX_SHOWN else ""
    n = f"{len(failed)} row{'s are' if len(failed) > 1 else ' is'}"
    warn(f"{n} left out ({first}{more}); see {FAILED}", folder, reporter)


def report_score(summary: dict[str, Any], folder: RunFolder, reporter: Reporter) -> None:
    """Say how well the score could be learned."""
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


def report_aim(
    sampler: AimSampler,
    aims: Sequence[Aim],
    aim: float,
    reason: str,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    """Say which aim is used, and warn of one that means little."""
    job = sampler.job
    reporter.say(f"aim {aim:.4g}: {reason}")
    if job.aim is not None and aims and sampler.sign * (aim - aims[-1].aim) > 0:
        warn(
            f"--aim {aim:g} is far beyond the best predicted row; no score beyond "
            f"{aims[-1].aim:.4g} can be learned from these data",
            folder,
            reporter,
        )
    if job.aim is None and job.enough is not None and all(np.isinf(a.value) for a in aims):
        warn(
            f"at no aim {job.needed} of {len(aims[0].draws.objects)} designs were accepted and "
            "different: the aim says little. Train longer (--steps), begin with weights that fit "
            "(--base), allow more with --support, or give an --aim",
            folder,
            reporter,
        )


def check_kept(
    draws: Draws,
    refusals: dict[str, int],
    job: DesignOptions,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    """Stop if no design was accepted, and warn if there are fewer than asked for.

    Raises:
        UserError: there is none.
    """
    count = len(draws.objects)
    if count == 0:
        reasons = "; ".join(f"{k}: {v}" for k, v in refusals.items())
        raise UserError(
            f"no design was accepted ({reasons}): aim closer to the data, loosen the limits, or "
            f"allow designs further from the data with --support (now {job.support:g})"
        )
    if count < job.count:
        warn(
            f"only {count} of {job.count} designs were found that are realistic and differ from "
            "each other: aim closer to the data, or allow more with --support or less --diversity",
            folder,
            reporter,
        )


def summary(sampler: AimSampler, scored: Scored, record: dict[str, Any]) -> str:
    """The result against the best measured score, in a line."""
    data, job = sampler.data, sampler.job
    count, designs = len(scored.objects), record["designs"]
    usable = scored.table
    told = [f"{count} design{'' if count == 1 else 's'}"]
    if job.keep_refused:
        usable = usable.filter(pl.col(scored.names["valid"]))
        told = [
            f"{count} designs: {designs['valid']} valid, {designs['supported']} of them inside the "
            f"data's support, {designs['novel']} new"
        ]
    median = usable[scored.names[PREDICTED]].median()
    if isinstance(median, float):
        told.append(f"predicted {data.score} {median:.4g} in the median")
    line = ": ".join(told) if not job.keep_refused else "; ".join(told)
    line += f"; the best measured one has {best_label(sampler):.4g}"
    verdict = record["oracle"]
    if verdict is not None and verdict["median"] is not None:
        top = "" if verdict["best"] is None else f", best {verdict['best']:.4g}"
        line += (
            f"; {verdict['name']}: {data.score} {verdict['median']:.4g} in the median{top}, "
            f"{verdict['valid']} of {count} valid"
        )
    return line
