"""What a fine-tuning run of molecules says about itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from payoff.experiments.finetune.config import without_password
from payoff.experiments.finetune.record import KIND, changed, learning, spelled, told
from payoff.experiments.finetune.setting import Temperature
from payoff.experiments.molecules.config import DEFAULTS, MoleculeConfig
from payoff.experiments.molecules.setting import MoleculeSetting
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor

DOMAIN = "molecules"


def make_record(
    setting: MoleculeSetting,
    method: Finetuner,
    temperature: Temperature,
    monitor: Monitor,
    designs: pl.DataFrame,
    reference: pl.DataFrame,
    out: Path,
    request: dict[str, Any],
    network: int,
) -> dict[str, Any]:
    """The record of a finished run."""
    config, facts = setting.config, setting.model.metadata
    judged = len(designs) + (0 if temperature.calls else len(reference))
    common = learning(setting, method, temperature, monitor, judged, network)
    best = next(e for e in monitor.history if e["round"] == monitor.best)
    common["tuning"] |= {"stable": best["stable"], "unique": best["unique"]}
    common["score"]["unit"] = setting.judges.reward.unit or None
    common["score"]["help"] = setting.judges.reward.help
    return {
        "kind": KIND,
        "command": command(config, setting.loop, out),
        "domain": DOMAIN,
        "name": f"{Path(config.weights).name}: {setting.score_name}",
        "config": request,
        **common,
        "data": {"model": config.weights, "trained on": facts.get("data")},
        "base": {"from": config.weights, **outcome(reference, setting)},
        "designs": {"asked": config.count, **outcome(designs, setting)},
    }


def outcome(frame: pl.DataFrame, setting: MoleculeSetting) -> dict[str, Any]:
    """What scored molecules come to; ``unique`` counts different SMILES among the valid."""
    held = frame["held_out"] if "held_out" in frame.columns else None
    found = told(frame["score"], frame["valid"], held, setting.config.minimize)
    unique = frame.filter(pl.col("valid"))["smiles"].n_unique()
    return found | {"stable": int(frame["stable"].sum()), "unique": unique}


def command(config: MoleculeConfig, loop: FinetuneConfig, out: Path) -> list[str]:
    """The words of the command that makes this run again."""
    config = replace(config, ledger=without_password(config.ledger))
    given = [(name, value) for name, value in changed(config) if name != "source"]
    # where molecules have a default of their own, the loop's is not it
    looped = dict(changed(loop))
    looped |= {name: getattr(loop, name) for name in DEFAULTS}
    looped = {k: v for k, v in looped.items() if DEFAULTS.get(k) != v}
    return spelled("finetune", config.source, [*given, *looped.items()], out)
