"""The record and the history of a fine-tuning run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import polars as pl

from payoff.configs import to_dict
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor
from payoff.jobs.records import number
from payoff.jobs.scoring import Scored
from payoff.jobs.tilt import Temperature, Tilt

SCORES = ("reward", "reward_best", "held_out")  # columns of the history in the score's units
ALWAYS = ("kl", "kl_stderr", "diversity", "vendi")
COUNTED = ("round", "calls", "failed", "loss", "valid", "held_out_stderr", "seconds")


def history_table(monitor: Monitor, sign: float) -> pl.DataFrame:
    """One row a measured round, scores in the user's direction; round 0 is the base."""
    frame = pl.DataFrame(monitor.history, infer_schema_length=None)
    turned = [pl.col(c).cast(pl.Float64) * sign for c in SCORES]
    return frame.with_columns(turned, best=pl.col("round") == monitor.best)


def make_record(
    tilt: Tilt,
    loop: FinetuneConfig,
    method: Finetuner,
    temperature: Temperature,
    monitor: Monitor,
    designs: Scored,
    reference: Scored,
    network: int,
) -> dict[str, Any]:
    """The record of a finished run, apart from what every job's record holds."""
    job, last = tilt.job, monitor.history[-1]
    best = next(e for e in monitor.history if e["round"] == monitor.best)
    own = [k for k in best if k not in (*SCORES, *ALWAYS, *COUNTED, "reward_seconds")]
    judged = len(designs.objects) + (0 if temperature.calls else len(reference.objects))
    return {
        "name": run_name(tilt),
        "seed": loop.seed,
        "method": {
            "name": method.name,
            "options": method.options(),
            "filled": to_dict(loop.filled(method.defaults)),
            "claims_target": method.claims_target,
            "needs_gradient": method.needs_gradient,
        },
        "score": tilt.score_record(),
        "temperature": asdict(temperature),
        "calls": {
            "budget": loop.calls,
            "pilot": temperature.calls,
            "learning": last["calls"],
            "spent": temperature.calls + last["calls"],
            "judging": judged,
        },
        "ledger": str(tilt.ledger.place),
        "tuning": {
            "network": network,
            "rounds": last["round"],
            "kept": monitor.best,
            "stopped": monitor.stopped,
            **{key: best[key] for key in (*ALWAYS, *own)},
            "seconds": last["seconds"],
            "reward_seconds": last["reward_seconds"],
        },
        "data": data_record(tilt),
        "base": {"from": base_name(tilt), **reference.summary(tilt.domain, job.minimize)},
        "designs": {"asked": job.count, **designs.summary(tilt.domain, job.minimize)},
        "measures": sorted(set(own)),
    }


def data_record(tilt: Tilt) -> dict[str, Any]:
    """The record's entry on the data: rows and columns, or the model that stands for them."""
    if tilt.data is not None:
        return {"rows": len(tilt.data.objects), **tilt.data.summary}
    source = str(tilt.start.asked.source)
    return {"model": source, "trained on": tilt.base.facts.get("data")}


def run_name(tilt: Tilt) -> str:
    """The name of a run in lists and reports."""
    if tilt.data is not None:
        return tilt.data.name
    return f"{tilt.start.asked.source}: {tilt.score_name}"


def base_name(tilt: Tilt) -> str | None:
    """The model that a run began with, as the user wrote it; None: it was trained."""
    start = tilt.start
    return start.asked.source if start.asked.model is not None else tilt.job.base


def summary(record: dict[str, Any]) -> str:
    """The result against the base, in a line."""
    name, after, before = record["score"]["name"], record["designs"], record["base"]
    parts = [
        f"{after['count']} designs: {name} {number(after['median'])} in the median, "
        f"{number(after['best'])} at best; {after['valid']} valid"
    ]
    share = before["valid"] / max(1, before["count"])
    parts.append(f"the base: {number(before['median'])}, {share:.0%} valid")
    kl = record["tuning"]["kl"]
    if kl is not None:
        parts.append(f"{kl:.3g} nats away from it")
    kept, rounds = record["tuning"]["kept"], record["tuning"]["rounds"]
    if kept < rounds and record["score"]["held_out"]:
        what = f"round {kept} of {rounds}" if kept else "the base itself"
        parts.append(f"{what} was kept, where the held-out reward is highest")
    return "; ".join(parts)
