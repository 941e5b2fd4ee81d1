"""What a design run says about its data, its sweep and its oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from payoff.experiments.design.aims import Aim, free_name
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder

EXTRA = ("predicted", "predicted_low", "predicted_high", "novelty", "support")


def sweep_frame(job: Job, aims: list[Aim], chosen: float, *, with_oracle: bool) -> pl.DataFrame:
    """One row per aim, everything in the user's score; see the run folder's description."""
    nearest = min(range(len(aims)), key=lambda i: abs(aims[i].aim - chosen))
    rows = []
    for i, aim in enumerate(aims):
        draws, score = aim.draws, job.table.to_score
        mean, spread = float(draws.mean.mean()), 1.6449 * float(draws.std.mean())
        ends = sorted((score(mean - spread), score(mean + spread)))
        row: dict[str, Any] = {
            "aim": score(aim.aim),
            "predicted_mean": score(mean),
            "predicted_low": ends[0],
            "predicted_high": ends[1],
            "pessimistic": score(aim.value) if np.isfinite(aim.value) else None,
            "shift": draws.shift,
            "off_support": float(draws.support.median()),
            "accepted": float((draws.refused == "").mean()),
            "chosen": int(i == nearest),
        }
        if with_oracle:
            row |= _judged(job, aim)
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


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


def oracle_summary(
    job: Job, frame: pl.DataFrame, folder: RunFolder, reporter: Reporter
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The designs with their true scores (and validity), and what they come to."""
    assert job.oracle is not None
    plain = frame.select(job.codec.columns)
    result = job.oracle(plain)
    values = result.values
    if result.failed:
        warning = f"{job.oracle.name}: {result.failed} of {len(values)} designs failed"
        folder.warnings.append(f"{warning} (first: {result.message})")
        reporter.say(f"warning: {folder.warnings[-1]}")
    fine = np.isfinite(values) if job.valid is None else job.valid(plain) & np.isfinite(values)
    frame = frame.with_columns(
        pl.Series(free_name("oracle", frame), values).fill_nan(None),
        pl.Series(free_name("valid", frame), fine),
    )
    best = np.nanmin if job.table.minimize else np.nanmax
    usable = values[fine]
    labels = job.table.to_score(job.labels.numpy())
    return frame, {
        "name": job.oracle.name,
        "calls": len(values),
        "failed": result.failed,
        "median": float(np.nanmedian(values)) if np.isfinite(values).any() else None,
        "best": float(best(usable)) if len(usable) else None,
        "valid": int(fine.sum()),
        "data_best": float(best(labels)),
    }


def data_summary(job: Job, config: DesignConfig) -> dict[str, Any]:
    """Rows, labels and columns of the table."""
    table = job.table
    names = [c.name for c in table.features]
    columns = [
        {
            "name": c.name,
            "kind": c.kind,
            "low": c.low,
            "high": c.high,
            "levels": [str(level) for level in c.levels],
        }
        for c in table.columns
    ]
    left_out = int(table.rows.max()) - len(table) if len(table) else 0
    return {
        "rows": len(table),
        "labelled": int(job.known.sum()),
        "unlabelled": len(table) - int(job.known.sum()),
        "left_out": left_out,
        "duplicates": len(table) - table.frame.select(names).n_unique(),
        "columns": columns,
        "label_noise_nu": config.label_noise,
    }
