"""What a design run says about its data, its sweep and its oracle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from payoff.domains.vectors import Oracle
from payoff.domains.vectors.kinds import Column
from payoff.experiments.design.aims import DIGITS, Aim, Draws, Proposer, free_name
from payoff.experiments.design.config import DesignConfig, flag
from payoff.experiments.design.jobs import BUILT_IN, Job
from payoff.experiments.progress import Reporter


@dataclass
class Proposal:
    """Designs as they were drawn, before anyone checks them.

    Attributes:
        aims: what the sweep found.
        aim: the aim used, higher is better.
        reason: why this one.
        kept: the designs, best first.
        drawn: samples drawn for them.
        refusals: refused samples by reason.
    """

    aims: list[Aim]
    aim: float
    reason: str
    kept: Draws
    drawn: int
    refusals: dict[str, int]


@dataclass
class Found:
    """What goes to the user: the designs and the sweep as tables, and the oracle's verdict."""

    frame: pl.DataFrame
    curve: pl.DataFrame
    oracle: dict[str, Any] | None = None
    oracle_calls: int = 0


def sweep_frame(
    proposer: Proposer, aims: list[Aim], chosen: float, reporter: Reporter
) -> pl.DataFrame:
    """One row per aim, everything in the user's score; see the run folder's description."""
    job = proposer.job
    nearest = min(range(len(aims)), key=lambda i: abs(aims[i].aim - chosen))
    rows = []
    for i, aim in enumerate(aims):
        draws, score = aim.draws, job.table.to_score
        finite = draws.mean.isfinite()
        mean = float(draws.mean[finite].mean())
        spread = float(proposer.reward.half_width(draws.std[finite].mean(), beyond=True))
        ends = sorted((score(mean - spread), score(mean + spread)))
        row: dict[str, Any] = {
            "aim": score(aim.aim),
            "predicted_mean": score(mean),
            "predicted_low": ends[0],
            "predicted_high": ends[1],
            "pessimistic": score(aim.value) if np.isfinite(aim.value) else None,
            "shift": draws.shift,
            "off_support": float(draws.support.nanmedian()),
            "accepted": float((draws.refused == "").mean()),
            "chosen": int(i == nearest),
        }
        rows.append(row)
    if job.oracle is not None and job.oracle_sweep:
        with reporter.bar("scoring every aim", len(aims)) as advance:
            advance(0)
            for i, aim in enumerate(aims):
                rows[i] |= _judged(job, aim)
                advance(i + 1)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(cs.float().round_sig_figs(DIGITS))


def _judged(job: Job, aim: Aim) -> dict[str, float | None]:
    """The oracle's median and the valid share of the designs this aim would have given."""
    assert job.oracle is not None
    if not len(aim.kept):
        return {"oracle_median": None, "oracle_valid": None}
    frame = job.codec.decode(aim.draws.x[aim.kept])
    values = job.oracle(frame).values
    fine = np.isfinite(values) if job.valid is None else job.valid(frame)
    finite = values[np.isfinite(values)]
    median = float(np.median(finite)) if len(finite) else None
    return {"oracle_median": median, "oracle_valid": float(np.mean(fine))}


def scored(
    job: Job, frame: pl.DataFrame, reporter: Reporter
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The designs with their true scores (and validity), and what they come to."""
    assert job.oracle is not None
    plain = frame.select(job.codec.columns)
    values, failed, message = _in_blocks(job.oracle, plain, reporter)
    fine = np.isfinite(values) if job.valid is None else job.valid(plain) & np.isfinite(values)
    frame = frame.with_columns(
        pl.Series(free_name("oracle", frame), values).fill_nan(None).round_sig_figs(10),
        pl.Series(free_name("valid", frame), fine),
    )
    best = np.nanmin if job.table.minimize else np.nanmax
    usable = values[fine]
    return frame, {
        "name": job.oracle.name,
        "calls": len(values) + (len(job.table) if job.domain in BUILT_IN else 0),
        "failed": failed,
        "first_failure": message,
        "median": float(np.nanmedian(values)) if np.isfinite(values).any() else None,
        "best": float(best(usable)) if len(usable) else None,
        "valid": int(fine.sum()),
        "data_best": _true_best(job),
    }


def _true_best(job: Job) -> float | None:
    """The data's best true score, where the oracle is ours and cheap; a user's is not asked."""
    if job.domain not in BUILT_IN:
        return None
    assert job.oracle is not None
    values = job.oracle(job.table.frame.select(job.codec.columns)).values
    return float(np.nanmin(values) if job.table.minimize else np.nanmax(values))


def best_label(job: Job) -> float:
    """The best measured score of the table, in the user's direction."""
    return float(job.table.to_score(job.labels[job.known].max()))


def _in_blocks(
    oracle: Oracle, frame: pl.DataFrame, reporter: Reporter
) -> tuple[np.ndarray, int, str | None]:
    """Scores (n,), how many failed and the first message; block by block, so that a bar can move.

    A fast oracle gets large blocks soon, since every block that took less than a second doubles the
    next one.
    """
    parts: list[np.ndarray] = []
    failed, message, start, size = 0, None, 0, max(1, len(frame) // 20)
    with reporter.bar("scoring with the oracle", len(frame)) as advance:
        advance(0)
        while start < len(frame):
            result = oracle(frame[start : start + size])
            parts.append(result.values)
            failed, message = failed + result.failed, message or result.message
            start += size
            advance(min(start, len(frame)))
            if result.seconds < 1:
                size *= 2
    return np.concatenate(parts), failed, message


def column_summaries(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """What a record says of a table's columns."""
    return [
        {
            "name": c.name,
            "kind": c.kind,
            "low": c.low,
            "high": c.high,
            "levels": [str(level) for level in c.levels],
        }
        for c in columns
    ]


def data_summary(job: Job, config: DesignConfig) -> dict[str, Any]:
    """Rows, labels and columns of the table."""
    table = job.table
    names = [c.name for c in table.features]
    return {
        "rows": len(table),
        "labelled": int(job.known.sum()),
        "unlabelled": len(table) - int(job.known.sum()),
        "left_out": table.left_out,
        "duplicates": len(table) - table.frame.select(names).n_unique(),
        "columns": column_summaries(table.columns),
        "label_noise_nu": config.label_noise,
    }


def outcome(proposer: Proposer, proposal: Proposal, found: Found) -> dict[str, Any]:
    """The entries of the record that only the end of a run knows."""
    job, config = proposer.job, proposer.config
    return {
        "score": {
            "name": job.table.score,
            "direction": "minimize" if job.table.minimize else "maximize",
            "unit": None,
        },
        "reward_calls": proposer.reward_calls,
        "network_calls": proposer.network_calls,
        "oracle_calls": found.oracle_calls,
        "oracle": found.oracle,
        "aim": {
            "mode": "auto" if config.aim is None else "given",
            "chosen": job.table.to_score(proposal.aim),
            "reason": proposal.reason,
        },
        "designs": {
            "count": len(found.frame),
            "asked": config.count,
            "drawn": proposal.drawn,
            "rejected": proposal.refusals,
        },
    }


def command(config: DesignConfig, out: Path) -> list[str] | str:
    """What makes this run again: the words of the command, or Python for a table in memory."""
    given = []
    for f in fields(config):
        value = getattr(config, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if f.name != "source" and value != default:
            given.append((f.name, value))
    if not isinstance(config.source, (str, Path)):
        options = "".join(f", {name}={value!r}" for name, value in given)
        return f"design(DesignConfig(source=...{options}), {str(out)!r})"
    words = ["payoff", "design", str(config.source)]
    for name, value in given:
        if value is True:
            words.append(flag(name))
        else:
            for one in value if isinstance(value, list) else [value]:
                # a value that starts with a dash must not pass for an option
                dash = str(one).startswith("-")
                words += [f"{flag(name)}={one}"] if dash else [flag(name), str(one)]
    return [*words, "--out", str(out)]
