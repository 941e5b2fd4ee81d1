"""What a run of designed molecules says on the terminal and in its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.experiments.design.messages import warn
from payoff.experiments.finetune.record import changed, spelled
from payoff.experiments.molecules.design.aims import Drawer, Sweep
from payoff.experiments.molecules.design.conditioners import Trained
from payoff.experiments.molecules.design.config import OWN_DEFAULTS, MoleculeDesignConfig
from payoff.experiments.molecules.design.data import Setting
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder

FAILED = "failed.csv"
SHOWN = 3  # of the failures, on the terminal


@dataclass(frozen=True)
class Chosen:
    """The aim of a run.

    Attributes:
        aim: in the score's unit.
        reason: why this one.
        sweep: what was tried, None where the aim was given.
    """

    aim: float
    reason: str
    sweep: Sweep | None


def introduce(setting: Setting, config: MoleculeDesignConfig, reporter: Reporter) -> None:
    """What was understood of the data, so that a misread column is seen before the work."""
    data = setting.data
    for remark in data.remarks:
        reporter.say(remark)
    known = int(data.labels.isfinite().sum())
    sense = "minimizing" if config.minimize else "maximizing"
    goal = sense if config.aim is None else f"aiming at {config.aim:g}:"
    reporter.say(f"{data.name}: {len(data.molecules)} molecules, {known} of them with a score")
    reporter.say(f"{goal} {config.score}")
    reporter.say(setting.start(config.conditioning))


def tell_failed(setting: Setting, folder: RunFolder, reporter: Reporter) -> None:
    """Which entries of the file are no molecules: all in ``failed.csv``, the first here."""
    failed = setting.data.failed
    if not failed:
        return
    frame = pl.DataFrame({"row": [f.row for f in failed], "reason": [f.reason for f in failed]})
    with folder.replacing(FAILED) as path:
        frame.write_csv(path)
    first = "; ".join(f"row {f.row}: {f.reason}" for f in failed[:SHOWN])
    more = "; …" if len(failed) > SHOWN else ""
    n = f"{len(failed)} row{'s are' if len(failed) > 1 else ' is'}"
    warn(f"{n} no molecule and left out ({first}{more}); see {FAILED}", folder, reporter)


def conclude(frame: pl.DataFrame, setting: Setting, config: MoleculeDesignConfig) -> str:
    """What came out, in a line."""
    valid = frame.filter("valid")
    told = ""
    if len(valid):
        median = float(np.median(valid["predicted"].to_numpy()))
        told = f"; predicted {config.score} {median:.4g} in the median"
    near = int((valid["support"] <= config.support).sum())
    known = setting.labels[setting.labels.isfinite()]
    best = float(known.min() if config.minimize else known.max())
    return (
        f"{len(frame)} molecules: {len(valid)} valid, {near} of them inside the data's support, "
        f"{int(valid['novel'].sum())} new{told}; the best label is {best:.4g}"
    )


def make_record(
    setting: Setting,
    config: MoleculeDesignConfig,
    request: dict[str, Any],
    summary: dict[str, Any],
    frame: pl.DataFrame,
    chosen: Chosen,
    trained: Trained,
    drawer: Drawer,
    out: Path,
) -> dict[str, Any]:
    """The record of a finished run."""
    data = setting.data
    tried = 0 if chosen.sweep is None else int(chosen.sweep.frame["drawn"].sum())
    usual = OWN_DEFAULTS[config.conditioning].items()
    words = [c for c in changed(config) if c[0] != "source" and c not in usual]
    return {
        "kind": "design",
        "command": spelled("design", config.source, words, out),
        "domain": "molecules",
        "name": f"{data.name}: {config.score}",
        "seed": config.seed,
        "config": request,
        "score": {
            "name": config.score,
            "direction": "minimize" if config.minimize else "maximize",
            "unit": data.unit,
        },
        "data": {
            "rows": len(setting.molecules),
            "labelled": int(setting.labels.isfinite().sum()),
            "failed": len(data.failed),
            "label_noise_nu": config.label_noise,
        },
        "reward": summary,
        "network_calls": drawer.calls(config.count + tried),
        "training": {"start": setting.start(config.conditioning), **trained.facts(setting)},
        "aim": {
            "mode": "auto" if config.aim is None else "given",
            "chosen": chosen.aim,
            "reason": chosen.reason,
        },
        "designs": outcome(frame, config, chosen.aim),
    }


def outcome(frame: pl.DataFrame, config: MoleculeDesignConfig, aim: float) -> dict[str, Any]:
    """What came of the designs, in numbers."""
    valid = frame.filter("valid")
    return {
        "asked": config.count,
        "count": len(frame),
        "valid": len(valid),
        "supported": int((valid["support"] <= config.support).sum()),
        "novel": int(valid["novel"].sum()),
        "stable": None if frame["stable"].null_count() else int(frame["stable"].sum()),
        "unique": valid["smiles"].n_unique(),
        "mean_predicted_error": (frame["predicted"] - aim).abs().mean(),
    }
