"""What a fine-tuning run says about itself: ``run.json`` and ``history.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.configs import to_dict
from payoff.experiments.design.record import column_summaries
from payoff.experiments.finetune.config import TuneConfig, flag, without_password
from payoff.experiments.finetune.setting import Scoring, Setting, Temperature
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor

KIND = "finetune"
SCORES = ("reward", "reward_best", "held_out")  # columns of the history in the score's units


def history_frame(monitor: Monitor, setting: Scoring) -> pl.DataFrame:
    """One row a measured round, scores in the user's direction; round 0 is the base."""
    frame = pl.DataFrame(monitor.history, infer_schema_length=None)
    turned = [pl.col(c).cast(pl.Float64) * setting.sign() for c in SCORES]
    return frame.with_columns(turned, best=pl.col("round") == monitor.best)


def make_record(
    setting: Setting,
    method: Finetuner,
    temperature: Temperature,
    monitor: Monitor,
    designs: pl.DataFrame,
    reference: pl.DataFrame,
    out: Path,
    request: dict[str, Any],
    network: int | None = None,
) -> dict[str, Any]:
    """The record of a finished run."""
    job, config = setting.job, setting.config
    judged = len(designs) + (0 if temperature.calls else len(reference))
    return {
        "kind": KIND,
        "command": command(config, setting.loop, out),
        "domain": job.domain,
        "name": job.name,
        "config": request,
        **learning(setting, method, temperature, monitor, judged, network),
        "data": data_summary(setting),
        "base": {"from": config.base, **outcome(reference, setting)},
        "designs": {"asked": config.count, **outcome(designs, setting)},
    }


def learning(
    setting: Scoring,
    method: Finetuner,
    temperature: Temperature,
    monitor: Monitor,
    judged: int,
    network: int | None = None,
) -> dict[str, Any]:
    """The part of a record that does not depend on what a design is."""
    loop, last = setting.loop, monitor.history[-1]
    best = next(e for e in monitor.history if e["round"] == monitor.best)
    held_out = setting.held_out
    return {
        "seed": loop.seed,
        "method": {
            "name": method.name,
            "options": method.options(),
            "filled": to_dict(loop.filled(method.defaults)),
            "claims_target": method.claims_target,
            "needs_gradient": method.needs_gradient,
        },
        "score": {
            "name": setting.score_name,
            "reward": setting.reward.judge.name,
            "held_out": None if held_out is None else held_out.judge.name,
            "direction": "minimize" if setting.sign() < 0 else "maximize",
            "unit": None,
        },
        "temperature": asdict(temperature),
        "calls": {
            **{"budget": loop.calls, "pilot": temperature.calls, "learning": last["calls"]},
            **{"spent": temperature.calls + last["calls"], "judging": judged},
        },
        "ledger": str(setting.ledger.place),
        "tuning": {
            "network": network,
            "rounds": last["round"],
            "kept": monitor.best,
            "stopped": monitor.stopped,
            **{name: best[name] for name in ("kl", "kl_stderr", "diversity", "vendi")},
            "seconds": last["seconds"],
            "reward_seconds": last["reward_seconds"],
        },
    }


def data_summary(setting: Setting) -> dict[str, Any]:
    """Rows and columns of the table."""
    table = setting.job.table
    columns = column_summaries(c for c in table.columns if c.kind != "score")
    return {"rows": len(table), "left_out": table.left_out, "columns": columns}


def outcome(frame: pl.DataFrame, setting: Setting) -> dict[str, Any]:
    """What scored designs come to: valid ones' median, mean and best, how many are valid."""
    extra = frame.columns[len(setting.job.codec.columns) :]
    held = None if setting.held_out is None else frame[extra[1]]
    return told(frame[extra[0]], frame[extra[-2]], held, setting.config.minimize)


def told(
    score: pl.Series, valid: pl.Series, held_out: pl.Series | None, minimize: bool
) -> dict[str, Any]:
    """Scores, flags of validity and held-out scores of designs as the record has them."""
    values, flags = score.to_numpy().astype(float), valid.to_numpy().astype(bool)
    usable = values[flags]
    best = np.min if minimize else np.max
    found: dict[str, Any] = {
        "count": len(values),
        "valid": int(flags.sum()),
        "failed": int(np.isnan(values).sum()),
        "median": float(np.median(usable)) if len(usable) else None,
        "mean": float(np.mean(usable)) if len(usable) else None,
        "best": float(best(usable)) if len(usable) else None,
        "held_out_median": None,
    }
    if held_out is not None:
        held = held_out.to_numpy().astype(float)[flags]
        held = held[np.isfinite(held)]
        found["held_out_median"] = float(np.median(held)) if len(held) else None
    return found


def summary(record: dict[str, Any]) -> str:
    """What came out, against the base, in one line."""
    name, after, before = record["score"]["name"], record["designs"], record["base"]
    told = [
        f"{after['count']} designs: {name} {_number(after['median'])} in the median, "
        f"{_number(after['best'])} at best; {after['valid']} valid"
    ]
    share = before["valid"] / max(1, before["count"])
    told.append(f"the base: {_number(before['median'])}, {share:.0%} valid")
    kl = record["tuning"]["kl"]
    if kl is not None:
        told.append(f"{kl:.3g} nats away from it")
    kept, rounds = record["tuning"]["kept"], record["tuning"]["rounds"]
    if kept < rounds and record["score"]["held_out"]:
        what = f"round {kept} of {rounds}" if kept else "the base itself"
        told.append(f"{what} was kept, where the held-out reward is highest")
    return "; ".join(told)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def command(config: TuneConfig, loop: FinetuneConfig, out: Path) -> list[str] | str:
    """What makes this run again: the words of the command, or Python for a table in memory."""
    looped = changed(loop)
    config = replace(config, ledger=without_password(config.ledger))
    given = [(name, value) for name, value in changed(config) if name != "source"]
    if not isinstance(config.source, (str, Path)):
        options = "".join(f", {name}={value!r}" for name, value in given)
        inner = ", ".join(f"{name}={value!r}" for name, value in looped)
        call = f"TuneConfig(source=...{options}), FinetuneConfig({inner}), {str(out)!r}"
        return f"finetune({call})"
    return spelled("finetune", config.source, [*given, *looped], out)


def spelled(job: str, source: Any, options: Sequence[tuple[str, Any]], out: Path) -> list[str]:
    """The words of a command with these options."""
    words = ["payoff", job, str(source)]
    for name, value in options:
        if value is True:
            words.append(flag(name))
        else:
            for one in value if isinstance(value, list) else [value]:
                # a value that starts with a dash must not pass for an option
                dash = str(one).startswith("-")
                words += [f"{flag(name)}={one}"] if dash else [flag(name), str(one)]
    return [*words, "--out", str(out)]


def changed(config: Any) -> list[tuple[str, Any]]:
    """The options that differ from their defaults, with their values."""
    found = []
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if getattr(config, field.name) != default:
            found.append((field.name, getattr(config, field.name)))
    return found
