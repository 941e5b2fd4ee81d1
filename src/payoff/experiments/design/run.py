"""The design job from table to report: ``payoff design`` is this function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from payoff.configs import to_dict
from payoff.errors import UserError
from payoff.experiments.design.aims import (
    Aim,
    Draws,
    Proposer,
    choose,
    designs_frame,
    free_name,
    propose,
    sweep,
)
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job, make_job
from payoff.experiments.design.model import STATE, learn_reward, train_model
from payoff.experiments.design.record import data_summary, oracle_summary, sweep_frame
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder
from payoff.rewards import LearnedReward


def design(
    config: DesignConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Propose designs with a higher score that still look like the data.

    Reads the table, learns the score from its labelled rows, trains a reward-conditioned diffusion
    model on all rows, chooses the aim, draws and judges designs, and writes the run folder.

    Args:
        config: what to design and how.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder.
        quiet: no progress on the terminal.

    Returns:
        the designs, best first, as in ``designs.csv``.

    Raises:
        UserError: the table or an option is wrong; nothing has been written then.

    Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023).
    """
    reporter = Reporter(quiet)
    _check_device(config.device)
    job = make_job(config)
    request = to_dict(config) | {"source": _source_name(config.source)}
    folder = RunFolder(out, request, resume=resume, overwrite=overwrite)
    if resume and folder.finished:
        reporter.say(f"{folder.path} is finished already")
        return pl.read_csv(folder.path / "designs.csv")
    folder.warnings += job.table.warnings
    for warning in folder.warnings:
        reporter.say(f"warning: {warning}")
    with folder.stage("reward"):
        reward, summary = learn_reward(job, config, folder, reporter)
    _say_reward(summary, folder, reporter)
    with folder.stage("training"):
        model = train_model(job, reward, config, folder, reporter)
    proposer = Proposer(job, model, reward, config)
    return _propose_and_write(proposer, summary, folder, reporter, request)


def _propose_and_write(
    proposer: Proposer,
    summary: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
    request: dict[str, Any],
) -> pl.DataFrame:
    job, config = proposer.job, proposer.config
    aims: list[Aim] = []
    with folder.stage("sweep"):
        generator = torch.Generator().manual_seed(config.seed + 1)
        aims = sweep(proposer, reporter, generator)
        if config.aim is None:
            chosen, reason = choose(aims)
            aim = chosen.aim
        else:
            aim, reason = float(job.table.to_score(config.aim)), "asked for"
    with folder.stage("designs"):
        generator = torch.Generator().manual_seed(config.seed + 2)
        kept, drawn, refusals = propose(proposer, aim, reporter, generator)
    _warn_about(kept, refusals, config, folder, reporter)
    frame = designs_frame(job, kept)
    oracle: dict[str, Any] | None = None
    if job.oracle is not None:
        with folder.stage("oracle"):
            frame, oracle = oracle_summary(job, frame, folder, reporter)
            if job.oracle_sweep:
                oracle["calls"] += sum(len(a.kept) for a in aims)
            curve = sweep_frame(job, aims, aim, with_oracle=job.oracle_sweep)
    else:
        curve = sweep_frame(job, aims, aim, with_oracle=False)
    record = {
        "command": "design",
        "name": job.name,
        "domain": job.domain,
        "seed": config.seed,
        "config": request,
        "score": {
            "name": job.table.score,
            "direction": "minimize" if job.table.minimize else "maximize",
            "unit": None,
        },
        "data": data_summary(job, config),
        "reward": summary,
        "reward_calls": proposer.reward_calls,
        "network_calls": proposer.network_calls,
        "oracle_calls": 0 if oracle is None else oracle.pop("calls"),
        "oracle": oracle,
        "aim": {
            "mode": "auto" if config.aim is None else "given",
            "chosen": job.table.to_score(aim),
            "reason": reason,
        },
        "designs": {
            "count": len(frame),
            "asked": config.count,
            "drawn": drawn,
            "rejected": refusals,
        },
    }
    _write(folder, job, proposer.reward, frame, curve, record, reporter)
    return frame


def _write(
    folder: RunFolder,
    job: Job,
    reward: LearnedReward,
    frame: pl.DataFrame,
    curve: pl.DataFrame,
    record: dict[str, Any],
    reporter: Reporter,
) -> None:
    with folder.stage("writing"):
        reward.save(folder.path / "reward")
        folder.write_json("codec.json", job.codec.config())
        with folder.replacing("sweep.csv") as path:
            curve.write_csv(path)
        data = job.table.frame.with_columns(
            pl.Series(free_name("__predicted", frame), job.table.to_score(_predicted(reward, job)))
        )
        with folder.replacing("data.parquet") as path:
            data.write_parquet(path)
        with folder.replacing("designs.csv") as path:
            frame.write_csv(path)
    folder.finish(record)
    for file in (folder.path / STATE).glob("*"):
        file.unlink()
    if (folder.path / STATE).exists():
        (folder.path / STATE).rmdir()
    reporter.say(f"{len(frame)} designs in {folder.path / 'designs.csv'}")


def _predicted(reward: LearnedReward, job: Job) -> np.ndarray:
    return reward(job.x.double()).numpy()


def _say_reward(summary: dict[str, Any], folder: RunFolder, reporter: Reporter) -> None:
    chosen = next(c for c in summary["candidates"] if c["name"] == summary["chosen"])
    rank = chosen["spearman"]
    reporter.say(
        f"learned score: {summary['reason']}; rank correlation {rank:.2f} on rows held out"
    )
    if rank < 0.3:
        warning = (
            f"the learned score ranks held-out rows poorly (rank correlation {rank:.2f}): more or "
            "better labels are needed before its designs mean much"
        )
        folder.warnings.append(warning)
        reporter.say(f"warning: {warning}")


def _warn_about(
    kept: Draws,
    refusals: dict[str, int],
    config: DesignConfig,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    if len(kept.x) == 0:
        reasons = "; ".join(f"{k}: {v}" for k, v in refusals.items())
        raise UserError(
            f"no design was accepted ({reasons}): aim lower, loosen --fixed and --bounds, or allow "
            f"designs further from the data with --support (now {config.support:g})"
        )
    if len(kept.x) < config.count:
        warning = (
            f"only {len(kept.x)} of {config.count} designs were found that are realistic and "
            "differ from each other: aim lower, or allow more with --support or less --diversity"
        )
        folder.warnings.append(warning)
        reporter.say(f"warning: {warning}")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used here: {first}") from error


def _source_name(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"a {type(source).__name__}"
