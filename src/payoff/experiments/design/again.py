"""More designs from a finished run: its model, its score and its data, without training."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from payoff.configs import from_dict
from payoff.domains.vectors import Codec
from payoff.errors import UserError
from payoff.experiments.design.aims import Proposer, designs_frame, propose
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import BUILT_IN, make_job
from payoff.experiments.design.model import MODEL, Model
from payoff.experiments.progress import Reporter
from payoff.experiments.records import read_record
from payoff.rewards import LearnedReward


def reopen(run: str | Path) -> tuple[Proposer, float]:
    """The proposer of a finished run and the aim it used (higher is better).

    Raises:
        UserError: the folder holds no finished design run.
    """
    run = Path(run)
    record = read_record(run)
    if record.get("command") != "design":
        raise UserError(f"{run} is no design run")
    config = from_dict(DesignConfig, record["config"])
    if record["domain"] not in BUILT_IN:
        # the table as it was then: the file itself may have changed since
        frame = pl.read_parquet(run / "data.parquet")
        config.source = frame.drop([c for c in frame.columns if c.endswith("__predicted")])
        config.score = record["score"]["name"]
    config.oracle = None
    job = make_job(config)
    job.codec = Codec.from_config(_json(run / "codec.json"))
    proposer = Proposer(
        job, Model.load(run / MODEL, config.device), LearnedReward.load(run / "reward"), config
    )
    return proposer, float(job.table.to_score(record["aim"]["chosen"]))


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
    proposer, own = reopen(run)
    proposer.config.count = count
    target = own if aim is None else float(proposer.job.table.to_score(aim))
    generator = torch.Generator().manual_seed(seed)
    kept, _, refusals = propose(proposer, target, Reporter(quiet), generator)
    if not len(kept.x):
        raise UserError(f"no design was accepted at this aim ({refusals}): aim closer to the data")
    return designs_frame(proposer.job, kept)


def _json(path: Path) -> dict:
    import json

    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
