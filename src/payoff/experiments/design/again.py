"""More designs from a finished run: its model, its score and its data, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import torch

from payoff.configs import from_dict
from payoff.domains.vectors import Codec
from payoff.errors import UserError
from payoff.experiments.design.aims import Proposer, designs_frame, propose
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import BUILT_IN, make_job
from payoff.experiments.design.model import MODEL, REWARD, Model
from payoff.experiments.machine import check_device, threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import read_record
from payoff.rewards import LearnedReward

STREAMS = 10**6  # between the seeds of two calls: a run's own seeds are few and lie together


def reopen(run: str | Path) -> tuple[Proposer, float]:
    """The proposer of a finished run and the aim it used (higher is better).

    The run folder is enough: the table it was made from may have changed or be gone, and where the
    run's device is missing the CPU takes its place.

    Raises:
        UserError: the folder holds no finished design run, or a file of it is damaged.
    """
    run = Path(run)
    record = read_record(run)
    try:
        asked, domain = dict(record["config"]), record["domain"]
        score, aim = record["score"]["name"], float(record["aim"]["chosen"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run} holds no design run: its run.json lacks {error}") from error
    if domain not in BUILT_IN:
        asked |= {"source": _table_of(run), "score": score}
    config = from_dict(DesignConfig, {**asked, "oracle": None})
    try:
        check_device(config.device)
    except UserError:
        config.device = "cpu"
    job = make_job(config)
    job.codec = Codec.from_config(_json(run / "codec.json"))
    model, reward = Model.load(run / MODEL, config.device), LearnedReward.load(run / REWARD)
    return Proposer(job, model, reward, config), float(job.table.to_score(aim))


def sample(
    run: str | Path,
    *,
    count: int = 100,
    aim: float | None = None,
    seed: int = 1,
    quiet: bool = False,
) -> pl.DataFrame:
    """Fresh designs from a finished run, as in its ``designs.csv``.

    Args:
        run: the folder of the run.
        count: number of designs.
        aim: the score to aim at, in the table's own units; by default the run's own aim.
        seed: another seed gives other designs.
        quiet: no progress on the terminal.

    Raises:
        UserError: there is no finished design run, or nothing was accepted.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1, got {count}")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed must be at least 0 and below 2^31, got {seed}")
    if aim is not None and aim - aim != 0:
        raise UserError(f"--aim must be a finite number, got {aim}")
    proposer, own = reopen(run)
    config, reporter = proposer.config, Reporter(quiet)
    config.count = count
    target = own if aim is None else float(proposer.job.table.to_score(aim))
    generator = torch.Generator().manual_seed(config.seed + STREAMS * (seed + 1))
    with threads(config.threads, config.batch_size * config.width**2):
        kept, _, refusals = propose(proposer, target, reporter, generator)
    if not len(kept.x):
        reasons = "; ".join(f"{k}: {v}" for k, v in refusals.items())
        raise UserError(f"no design was accepted at this aim ({reasons}): aim closer to the data")
    if len(kept.x) < count:
        reporter.warn(f"only {len(kept.x)} of {count} designs that differ from each other found")
    return designs_frame(proposer, kept)


def _table_of(run: Path) -> pl.DataFrame:
    """The rows the run learned from, as they were then."""
    path = run / "data.parquet"
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the run folder is damaged: {path} cannot be read ({first})") from error
    return frame.select(frame.columns[:-1])  # the last one is what the run added: the predictions


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the run folder is damaged: {path} cannot be read ({error})") from error
