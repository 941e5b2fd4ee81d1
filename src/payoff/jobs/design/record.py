"""The tables and the record of a design run, and the oracle's verdict on its designs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from payoff.domains.base import Domain, Judge, select
from payoff.jobs.design.aims import Aim, AimSampler, Draws
from payoff.jobs.progress import Reporter
from payoff.jobs.rewards import answers
from payoff.jobs.scoring import SCORE_DIGITS, Scored, free_name
from payoff.metrics.support import novelty

DIGITS = 6  # significant digits of predictions and distances in tables
QUICK = 1.0  # seconds: a block that the oracle answers faster doubles the next one
PREDICTED, NOVEL = "predicted", "novel"
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass
class Proposal:
    """The designs of a run as they were drawn, before an oracle sees them.

    Attributes:
        aims: of the sweep; empty where the aim was given and no sweep was wanted.
        aim: the one used, in the user's unit.
        reason: why this one.
        draws: the designs, in order.
        drawn: samples drawn for them.
        refusals: refused samples by reason.
    """

    aims: list[Aim]
    aim: float
    reason: str
    draws: Draws
    drawn: int
    refusals: dict[str, int]


@dataclass
class Verdict:
    """The oracle's answers for some objects.

    Attributes:
        values: (n,) in the user's unit, NaN = failed or not asked for.
        valid: objects that their kind accepts and that have a value (n,).
        asked, failed: counts of objects.
        message: the first failure, or None.
    """

    values: Values
    valid: Mask
    asked: int
    failed: int
    message: str | None


@dataclass
class Oracle:
    """The true score, asked for objects that are finished.

    Attributes:
        judge: the function.
        domain: accepts objects or does not.
        calls: objects asked for so far.
    """

    judge: Judge
    domain: Domain
    calls: int = 0

    def __call__(self, draws: Draws, reporter: Reporter) -> Verdict:
        """Answers for designs; those that their kind refuses are not asked for."""
        places = [i for i, why in enumerate(draws.reasons) if why is None]
        values = np.full(len(draws.objects), np.nan)
        with reporter.bar("scoring with the oracle", len(places)) as advance:
            advance(0)
            found, message = self.in_blocks(select(draws.objects, places), advance)
        values[places] = found
        fine = np.array([why is None for why in self.domain.check(draws.objects)], dtype=bool)
        failed = int(np.isnan(found).sum())
        return Verdict(values, fine & np.isfinite(values), len(places), failed, message)

    def in_blocks(self, objects: Sequence[Any], advance: Any = None) -> tuple[Values, str | None]:
        """Values (n,) and the first failure; block by block, so that a bar can move.

        A fast oracle gets large blocks soon, since every block that took less than a second doubles
        the next one.
        """
        values: list[float] = []
        message, size = None, max(1, len(objects) // 20)
        while len(values) < len(objects):
            some = range(len(values), min(len(values) + size, len(objects)))
            began = time.perf_counter()
            given = answers(self.judge, select(objects, some))
            took = time.perf_counter() - began
            values += [value for value, _, _ in given]
            message = message or next((why for _, why, _ in given if why is not None), None)
            if advance is not None:
                advance(len(values))
            if took < QUICK:
                size *= 2
        self.calls += len(objects)
        return np.array(values, dtype=np.float64), message


def designs_table(sampler: AimSampler, draws: Draws, verdict: Verdict | None = None) -> Scored:
    """Designs in their kind's own columns with predictions, novelty, support and the oracle's
    values.
    """
    job, domain, look = sampler.job, sampler.data.domain, draws.look
    table = domain.table(draws.objects)
    names: dict[str, str] = {}

    def add(name: str, column: pl.Series) -> None:
        nonlocal table
        names[name] = free_name(name, table)
        table = table.with_columns(column.alias(names[name]))

    def number(values: Any, digits: int = DIGITS) -> pl.Series:
        return pl.Series(values, dtype=pl.Float64).fill_nan(None).round_sig_figs(digits)

    half = sampler.score.half_width(look.std)
    add(PREDICTED, number(look.mean.numpy()))
    add("predicted_low", number((look.mean - half).numpy()))
    add("predicted_high", number((look.mean + half).numpy()))
    if job.novelty == "distance":
        objects = sampler.data.objects
        rows = sampler.score.places(objects) if len(objects) else sampler.score.rows
        add("novelty", number(novelty(look.places, rows).double().numpy()))
    else:
        add(NOVEL, pl.Series(new_ones(sampler, draws), dtype=pl.Boolean))
    add("support", number(look.support.double().numpy()))
    if verdict is not None:
        add("oracle", number(verdict.values, SCORE_DIGITS))
        add("valid", pl.Series(verdict.valid))
    elif job.keep_refused:
        add("valid", pl.Series([why is None for why in draws.reasons], dtype=pl.Boolean))
    notes = domain.notes(draws.objects)
    for column in () if notes is None else notes.get_columns():
        add(column.name, column)
    return Scored(draws.objects, table, names)


def new_ones(sampler: AimSampler, draws: Draws) -> list[bool | None]:
    """Whether an object's identity is none of the data's; None for invalid ones."""
    found: list[bool | None] = [None] * len(draws.objects)
    valid = [i for i, why in enumerate(draws.reasons) if why is None]
    if valid:
        known = sampler.data.known
        texts = sampler.data.domain.identities(select(draws.objects, valid))
        for i, text in zip(valid, texts, strict=True):
            found[i] = text not in known
    return found


def sweep_table(
    sampler: AimSampler,
    proposal: Proposal,
    oracle: Oracle | None = None,
    reporter: Reporter | None = None,
) -> pl.DataFrame:
    """One row an aim, everything in the user's unit; see the run folder's description."""
    sign, aims, score = sampler.sign, proposal.aims, sampler.score
    nearest = min(range(len(aims)), key=lambda i: abs(aims[i].aim - proposal.aim))
    rows = []
    for i, aim in enumerate(aims):
        look = aim.draws.look
        there = look.mean.isfinite()
        mean = float(look.mean[there].mean())
        half = float(score.half_width(look.std[there].mean()))
        row: dict[str, Any] = {
            "aim": aim.aim,
            "predicted_mean": mean,
            "predicted_low": mean - half,
            "predicted_high": mean + half,
            "pessimistic": sign * aim.value if np.isfinite(aim.value) else None,
            "shift": aim.draws.shift,
            "off_support": float(look.support.nanmedian()),
            "accepted": float(aim.draws.counts.mean()),
            "chosen": int(i == nearest),
            "drawn": len(aim.draws.objects),
            "kept": len(aim.kept),
        }
        rows.append(row)
    if oracle is not None:
        with (reporter or Reporter(True)).bar("scoring every aim", len(aims)) as advance:
            advance(0)
            for i, aim in enumerate(aims):
                rows[i] |= _judged(oracle, aim)
                advance(i + 1)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    frame = frame.select(pl.exclude("drawn", "kept"), "drawn", "kept")
    return frame.with_columns(cs.float().fill_nan(None).round_sig_figs(DIGITS))


def _judged(oracle: Oracle, aim: Aim) -> dict[str, float | None]:
    """The oracle's median and the valid share of the designs that an aim would have given."""
    if not aim.kept:
        return {"oracle_median": None, "oracle_valid": None}
    verdict = oracle(aim.draws.select(aim.kept), Reporter(True))
    finite = verdict.values[np.isfinite(verdict.values)]
    median = float(np.median(finite)) if len(finite) else None
    return {"oracle_median": median, "oracle_valid": float(np.mean(verdict.valid))}


def oracle_record(
    oracle: Oracle, verdict: Verdict, sampler: AimSampler, *, of_data: bool
) -> dict[str, Any]:
    """The record's entry on the oracle."""
    best = np.min if sampler.job.minimize else np.max
    usable, values = verdict.values[verdict.valid], verdict.values
    finite = values[np.isfinite(values)]
    data_best = None
    if of_data:
        truth, _ = oracle.in_blocks(sampler.data.objects)
        known = truth[np.isfinite(truth)]
        data_best = float(best(known)) if len(known) else None
    return {
        "name": oracle.judge.name,
        "help": oracle.judge.help or None,
        "failed": verdict.failed,
        "first_failure": verdict.message,
        "median": float(np.median(finite)) if len(finite) else None,
        "best": float(best(usable)) if len(usable) else None,
        "valid": int(verdict.valid.sum()),
        "data_best": data_best,
    }


def best_label(sampler: AimSampler) -> float:
    """The best measured score, in the user's direction."""
    labels = sampler.data.labels
    assert labels is not None
    known = labels[labels.isfinite()]
    return float(known.min() if sampler.job.minimize else known.max())


def data_record(sampler: AimSampler) -> dict[str, Any]:
    """Objects and labels, and what the kind says of them."""
    data = sampler.data
    assert data.labels is not None
    known = int(data.labels.isfinite().sum())
    return {
        "rows": len(data.objects),
        "labelled": known,
        "unlabelled": len(data.objects) - known,
        "failed": len(data.failed),
        **data.summary,
        "label_noise_nu": sampler.job.label_noise,
    }


def _valid(scored: Scored) -> pl.Series | None:
    name = scored.names.get("valid")
    return None if name is None else scored.table[name]


def designs_record(sampler: AimSampler, proposal: Proposal, scored: Scored) -> dict[str, Any]:
    """Counts and figures of the designs."""
    job, draws = sampler.job, proposal.draws
    valid = [i for i, why in enumerate(draws.reasons) if why is None]
    same = sampler.data.domain.identities(select(draws.objects, valid)) if valid else []
    notes = {
        name: None if scored.table[column].null_count() else int(scored.table[column].sum())
        for name, column in scored.names.items()
        if scored.table[column].dtype == pl.Boolean and name not in (NOVEL, "valid")
    }
    mean = draws.look.mean[draws.look.mean.isfinite()]
    return {
        "count": len(draws.objects),
        "asked": job.count,
        "drawn": proposal.drawn,
        "rejected": proposal.refusals,
        "valid": int(column.sum()) if (column := _valid(scored)) is not None else len(valid),
        "supported": int(draws.counts.sum()),
        "novel": sum(bool(new) for new in new_ones(sampler, draws)),
        "different": len(set(same)),
        **notes,
        "mean_predicted_error": float((mean - proposal.aim).abs().mean()) if len(mean) else None,
    }
