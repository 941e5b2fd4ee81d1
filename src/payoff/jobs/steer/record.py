"""The record and the history of a steering run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from payoff.jobs.finetune.record import base_name, data_record, run_name
from payoff.jobs.records import number
from payoff.jobs.scoring import Scored
from payoff.jobs.steer.drawing import Batch
from payoff.jobs.steer.options import SteerOptions
from payoff.jobs.tilt import Temperature, Tilt
from payoff.steering.base import Steered

OWN = ("number", "size", "calls", "failed", "network", "backward", "seconds", "reward_seconds")


def history_table(batches: Sequence[Batch]) -> pl.DataFrame:
    """One row a batch: what it took, and what the method reports."""
    reported = list(dict.fromkeys(name for batch in batches for name in batch.summary))
    columns: dict[str, list[Any]] = {
        {"number": "batch", "size": "designs"}.get(name, name): [getattr(b, name) for b in batches]
        for name in OWN
    }
    for name in reported:
        # a method may report what is counted here too, by the same name
        columns.setdefault(name, [batch.summary.get(name) for batch in batches])
    return pl.DataFrame(columns, strict=False, infer_schema_length=None)


def averages(batches: Sequence[Batch]) -> dict[str, float]:
    """The numbers that the method reports, a mean over the designs."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for batch in batches for name in batch.summary):
        pairs = [(b.summary.get(name), b.size) for b in batches]
        known = [(float(v), n) for v, n in pairs if isinstance(v, (int, float)) and v == v]
        if known and not any(isinstance(v, bool) for v, _ in pairs):
            found[name] = sum(v * n for v, n in known) / sum(n for _, n in known)
    return found


def make_record(
    tilt: Tilt,
    job: SteerOptions,
    method: Steered,
    temperature: Temperature,
    batches: Sequence[Batch],
    designs: Scored,
    reference: Scored,
) -> dict[str, Any]:
    """The record of a finished run, apart from what every job's record holds."""
    drawn = {name: sum(getattr(b, name) for b in batches) for name in OWN[2:]}
    steered, judged = int(drawn["calls"]), len(designs.objects)
    return {
        "name": run_name(tilt),
        "seed": job.seed,
        "method": _method(method),
        "score": tilt.score_record(),
        "temperature": asdict(temperature),
        "calls": {
            "budget": job.calls,
            "pilot": temperature.calls,
            "steering": steered,
            "spent": temperature.calls + steered,
            "failed": int(drawn["failed"]) + temperature.failed,
            "judging": judged + (0 if temperature.calls else len(reference.objects)),
            "each": steered / max(1, job.count),
        },
        "network": {
            "budget": job.network,
            "evaluations": int(drawn["network"]),
            "backward": int(drawn["backward"]),
            "each": drawn["network"] / max(1, job.count),
            "pilot": temperature.calls * job.sampler_steps,
        },
        "ledger": str(tilt.ledger.place),
        "data": data_record(tilt),
        "base": {"from": base_name(tilt), **reference.summary(tilt.domain, job.minimize)},
        "steering": {
            "batches": len(batches),
            "workers": job.workers,
            "reported": averages(batches),
            "warned": sum(bool(b.warnings) for b in batches),
        },
        "designs": {"asked": job.count, **designs.summary(tilt.domain, job.minimize)},
    }


def _method(method: Steered) -> dict[str, Any]:
    return {
        "name": method.name,
        "options": {k: _plain(v) for k, v in method.options().items()},
        "size": {"name": method.size, "value": getattr(method, method.size)},
        "exact": method.exact,
        "cost": asdict(method.cost()),
    }


def _plain(value: Any) -> Any:
    known = isinstance(value, (str, bool, int, float, list, tuple, dict)) or value is None
    return value if known else type(value).__name__


def summary(record: dict[str, Any]) -> str:
    """The result against the base, in a line."""
    name, after, before = record["score"]["name"], record["designs"], record["base"]
    share = before["valid"] / max(1, before["count"])
    return (
        f"{after['count']} designs: {name} {number(after['median'])} in the median, "
        f"{number(after['best'])} at best; {after['valid']} valid; the base: "
        f"{number(before['median'])}, {share:.0%} valid; {record['calls']['each']:g} reward calls "
        f"and {record['network']['each']:g} network evaluations a design"
    )
