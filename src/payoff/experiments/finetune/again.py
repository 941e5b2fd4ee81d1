"""More designs from a finished fine-tuning run: its tuned model, without learning or scoring."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from payoff.domains.vectors import Codec
from payoff.errors import UserError
from payoff.experiments.design.again import STREAMS
from payoff.experiments.design.aims import DIGITS, free_name
from payoff.experiments.design.jobs import BUILT_IN
from payoff.experiments.finetune.base import CODEC, MODEL, Base
from payoff.experiments.finetune.config import TuneConfig
from payoff.experiments.finetune.record import KIND
from payoff.experiments.finetune.rewards import Designs
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.machine import check_device, threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import read_record
from payoff.samplers import Sampler, stochastic


def sample(
    run: str | Path, *, count: int = 100, seed: int = 1, quiet: bool = False
) -> pl.DataFrame:
    """Fresh designs from a finished fine-tuning run, with their distance from the data.

    No reward is called: score the designs yourself, or run ``payoff finetune`` with more
    ``--count``.

    Args:
        run: the folder of the run.
        count: number of designs.
        seed: another seed gives other designs.
        quiet: no progress on the terminal.

    Raises:
        UserError: there is no finished fine-tuning run, or a file of it is damaged.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1, got {count}")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed must be at least 0 and below 2^31, got {seed}")
    designs, base, sampler, config, own = reopen(run)
    reporter = Reporter(quiet)
    generator = torch.Generator().manual_seed(own + STREAMS * (seed + 1))
    with threads(config.threads, config.base_batch_size * config.base_width**2):
        with reporter.bar("drawing designs", count) as advance:
            advance(0)
            z = sampler.sample(count, base.cond, generator=generator).clone()
            advance(count)
        x = designs.project(z)
    frame = designs.codec.decode(x)
    distance = designs.job.support(x).numpy().astype(np.float64)
    support = pl.Series(free_name("support", frame), distance).fill_nan(None)
    return frame.with_columns(support.round_sig_figs(DIGITS))


def reopen(run: str | Path) -> tuple[Designs, Base, Sampler, TuneConfig, int]:
    """(what samples stand for, the tuned model, its sampler, options, seed) of a finished run.

    The run folder is enough: the table it was made from may have changed or be gone, and where the
    run's device is missing the CPU takes its place.

    Raises:
        UserError: the folder holds no finished fine-tuning run, or a file of it is damaged.
    """
    run = Path(run)
    record = read_record(run)
    if record.get("kind") != KIND:
        raise UserError(f"{run} holds no fine-tuning run")
    try:
        asked, domain = dict(record["config"]), record["domain"]
        steps, seed = int(asked["sampler_steps"]), int(asked["seed"])
        noise = asked.get("sampler_noise")  # older runs had no choice
        noise = None if noise is None else float(noise)
        known = TuneConfig.__dataclass_fields__
        config = TuneConfig(**{k: v for k, v in asked.items() if k in known})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / 'run.json'} is damaged: {error}") from error
    if domain not in BUILT_IN:
        config.source = _table_of(run)
    try:
        check_device(config.device)
    except UserError:
        config.device = "cpu"
    job = read_job(config, seed)
    try:
        job.codec = Codec.from_config(json.loads((run / CODEC).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the run folder is damaged: {run / CODEC} cannot be read") from error
    base = Base.load(run / MODEL, config.device, config.precision)
    sampler = stochastic(base.denoiser, (base.dim,), steps, noise)
    return Designs(job, base), base, sampler, config, seed


def _table_of(run: Path) -> pl.DataFrame:
    path = run / "data.parquet"
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the run folder is damaged: {path} cannot be read ({first})") from error
