"""What a steering run says about itself: ``run.json`` and ``history.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from payoff.experiments.finetune.config import without_password
from payoff.experiments.finetune.record import changed, data_summary, outcome, spelled
from payoff.experiments.finetune.setting import Setting, Temperature
from payoff.experiments.steer.config import SteerConfig
from payoff.experiments.steer.drawing import Batch
from payoff.steering.base import Steered

KIND = "steer"
OWN = ("number", "size", "calls", "failed", "network", "backward", "seconds", "reward_seconds")


def history_frame(batches: Sequence[Batch]) -> pl.DataFrame:
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
    setting: Setting,
    config: SteerConfig,
    method: Steered,
    temperature: Temperature,
    batches: Sequence[Batch],
    designs: pl.DataFrame,
    reference: pl.DataFrame,
    out: Path,
    request: dict[str, Any],
) -> dict[str, Any]:
    """The record of a finished run."""
    drawn = {name: sum(getattr(b, name) for b in batches) for name in OWN[2:]}
    steered = int(drawn["calls"])
    return {
        "kind": KIND,
        "command": command(config, out),
        "domain": setting.job.domain,
        "name": setting.job.name,
        "seed": config.seed,
        "config": request,
        "method": _method(method),
        "score": {
            "name": setting.score_name,
            "reward": setting.reward.judge.name,
            "held_out": None if setting.held_out is None else setting.held_out.judge.name,
            "direction": "minimize" if config.minimize else "maximize",
            "unit": None,
        },
        "temperature": asdict(temperature),
        "calls": {
            "budget": config.calls,
            "pilot": temperature.calls,
            "steering": steered,
            "spent": temperature.calls + steered,
            "failed": int(drawn["failed"]) + temperature.failed,
            "judging": len(designs) + (0 if temperature.calls else len(reference)),
            "each": steered / max(1, config.count),
        },
        "network": {
            "budget": config.network,
            "evaluations": int(drawn["network"]),
            "backward": int(drawn["backward"]),
            "each": drawn["network"] / max(1, config.count),
            "pilot": temperature.calls * config.sampler_steps,
        },
        "ledger": str(setting.ledger.place),
        "data": data_summary(setting),
        "base": {"from": config.base, **outcome(reference, setting)},
        "steering": {
            "batches": len(batches),
            "workers": config.workers,
            "reported": averages(batches),
            "warned": sum(bool(b.warnings) for b in batches),
        },
        "designs": {"asked": config.count, **outcome(designs, setting)},
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
    """What came out, against the base, in one line."""
    name, after, before = record["score"]["name"], record["designs"], record["base"]
    share = before["valid"] / max(1, before["count"])
    return (
        f"{after['count']} designs: {name} {_number(after['median'])} in the median, "
        f"{_number(after['best'])} at best; {after['valid']} valid; the base: "
        f"{_number(before['median'])}, {share:.0%} valid; {record['calls']['each']:g} reward calls "
        f"and {record['network']['each']:g} network evaluations a design"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def command(config: SteerConfig, out: Path) -> list[str] | str:
    """What makes this run again: the words of the command, or Python for a table in memory."""
    config = replace(config, ledger=without_password(config.ledger))
    given = [(name, value) for name, value in changed(config) if name != "source"]
    if not isinstance(config.source, (str, Path)):
        options = "".join(f", {name}={value!r}" for name, value in given)
        return f"steer(SteerConfig(source=...{options}), {str(out)!r})"
    return spelled("steer", config.source, given, out)
