"""The cells of a comparison that steer: on a table a run of ``payoff steer``, or a closed form.

A budget is what 100 samples cost. On a table 100 designs are drawn, and judged. On a closed form,
where rewards cost nothing, as many samples as everyone is judged by are drawn at the same price
each; what was spent is told for 100 of them.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import torch

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.experiments.compare.measures import judged
from payoff.experiments.compare.plan import Cell
from payoff.experiments.finetune.base import Base
from payoff.experiments.finetune.config import TuneConfig
from payoff.experiments.finetune.setting import Setting, find_judges
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.records import RECORD, read_record
from payoff.experiments.steer.config import SteerConfig
from payoff.experiments.steer.methods import method_class, parsed, sized, with_steps
from payoff.experiments.steer.run import DESIGNS, Unfit, steer
from payoff.finetuning import FinetuneConfig
from payoff.problems.base import Problem
from payoff.rewards import Metered
from payoff.steering.base import AllFailed, Degenerate, Steered
from payoff.targets import Target

PER = 100  # samples that a budget is for


def declared(exact: bool) -> str:
    """What a steering method says of its own law."""
    return "exact" if exact else "biased"


def steered_designs(
    cell: Cell, config: TuneConfig, loop: FinetuneConfig, folder: Path
) -> dict[str, Any]:
    """The row of a steering method on a table."""
    assert cell.method is not None
    shared = {f.name for f in fields(SteerConfig)} & {f.name for f in fields(TuneConfig)}
    own = {name: getattr(config, name) for name in shared - {"method", "settings"}}
    asked = SteerConfig(
        **{**own, "count": PER, "method": cell.method, "settings": cell.settings},
        calls=cell.calls or None,
        network=cell.network or None,
        sampler_steps=loop.sampler_steps,
        seed=cell.seed,
    )
    if not (folder / RECORD).exists():
        try:
            steer(asked, folder, resume=True)
        except Unfit as error:
            return _unfit(cell, str(error))
    record = read_record(folder)
    job = read_job(config, cell.seed)
    base = Base.load(folder / "base", config.device, config.precision)
    setting = Setting(job, base, find_judges(config, job), config, loop, folder)
    frame = pl.read_csv(folder / DESIGNS, infer_schema_length=None)
    own_types = {name: job.table.frame.schema[name] for name in job.codec.columns}
    frame = frame.with_columns(pl.col(name).cast(kind) for name, kind in own_types.items())
    network, calls = record["network"], record["calls"]
    return {
        **judged(setting, frame, job.codec.encode(frame)),
        "family": "steer",
        "declared": declared(record["method"]["exact"]),
        "size": "{name}={value}".format(**record["method"]["size"]),
        "spent": calls["spent"],
        "distinct": calls["distinct"],
        "network": network["evaluations"] + network["pilot"],
        "backward": network["backward"],
        "seconds": record["timings"]["steering"] + record["timings"]["temperature"],
        "temperature": record["temperature"]["value"],
        "warned": " | ".join(record["warnings"][len(job.table.warnings) :]),
    }


def _unfit(cell: Cell, why: str) -> dict[str, Any]:
    """A row that says why there is nothing in it."""
    assert cell.method is not None
    exact = method_class(cell.method).exact
    why = why.removeprefix(f"--method {cell.method}: ")
    return {"family": "steer", "declared": declared(exact), "note": why}


def steered_problem(
    cell: Cell, problem: Problem, loop: FinetuneConfig, n: int, generator: torch.Generator
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """The row of a steering method on a closed form but for its measures, and n samples."""
    assert cell.method is not None
    cls = method_class(cell.method)
    options = with_steps(cls, parsed(cls, cell.settings), loop.sampler_steps, True)
    network, reward = Counted(problem.denoiser), Metered(problem.reward)
    target = Target(network, reward, problem.temperature)
    limits = {
        "rewards": cell.calls / PER if cell.calls else math.inf,
        "network": cell.network / PER if cell.network else math.inf,
    }
    try:
        method: Steered = sized(cls, target, problem.shape, options, **limits)
    except UserError as error:
        return _unfit(cell, str(error)), None
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", Degenerate)
        try:
            x = method.sample(n, generator=generator)
        except AllFailed:
            raise
        except UserError as error:  # what it can only tell when it draws
            return _unfit(cell, str(error)), None
    seconds, share = time.perf_counter() - began, PER / n
    row: dict[str, Any] = {
        "family": "steer",
        "declared": declared(method.exact),
        "size": f"{cls.size}={getattr(method, cls.size)}",
        "spent": reward.meter.rows * share,
        "network": network.rows * share,
        "backward": network.backward * share,
        "seconds": seconds * share,
        "temperature": problem.temperature,
        "warned": " | ".join(str(w.message) for w in heard if issubclass(w.category, Degenerate)),
    }
    return row, x
