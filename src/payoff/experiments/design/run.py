"""The design job from table to report: ``payoff design`` is this function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch

from payoff.configs import to_dict
from payoff.experiments.design.aims import (
    Proposer,
    choose,
    designs_frame,
    free_name,
    propose,
    sweep,
)
from payoff.experiments.design.config import DesignConfig
from payoff.experiments.design.jobs import Job, make_job
from payoff.experiments.design.messages import (
    check_kept,
    check_limits,
    conclude,
    introduce,
    tell_reward,
    warn,
)
from payoff.experiments.design.model import REWARD, learn_reward, train_model
from payoff.experiments.design.record import (
    Found,
    Proposal,
    command,
    data_summary,
    outcome,
    scored,
    sweep_frame,
)
from payoff.experiments.machine import check_device, threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import TABLE, RunFolder, refuse_occupied, source_name


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
        UserError: the table or an option is wrong, and nothing has been written then; or no design
            was accepted, or the disk is full.

    Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023).
    """
    reporter = Reporter(quiet)
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    check_device(config.device)
    with threads(config.threads, config.batch_size * config.width**2):
        job = make_job(config)
        check_limits(job, config)
        request = to_dict(config) | {"source": source_name(config.source)}
        asked = {**request, TABLE: job.fingerprint()}
        folder = RunFolder(out, asked, resume=resume, overwrite=overwrite)
        if resume and folder.finished:
            reporter.say(f"{folder.path} is finished already")
            return pl.read_csv(folder.path / "designs.csv")
        with folder.guarded():
            return _run(job, config, request, folder, reporter)


def _run(
    job: Job, config: DesignConfig, request: dict[str, Any], folder: RunFolder, reporter: Reporter
) -> pl.DataFrame:
    introduce(job, folder, reporter)
    with folder.stage("reward"):
        reward, summary = learn_reward(job, config, folder, reporter)
    tell_reward(summary, folder, reporter)
    with folder.stage("training"):
        model = train_model(job, reward, config, folder, reporter)
    proposer = Proposer(job, model, reward, config)
    proposal = _propose(proposer, folder, reporter)
    check_kept(proposal.kept, proposal.refusals, config, folder, reporter)
    found = _finished(proposer, proposal, folder, reporter)
    record = {
        "command": command(config, folder.path),
        "domain": job.domain,
        "name": job.name,
        "seed": config.seed,
        "config": request,
        "data": data_summary(job, config),
        "reward": summary,
        **outcome(proposer, proposal, found),
    }
    with folder.stage("writing"):
        _write(folder, proposer, found)
    folder.finish(record)
    folder.drop_state()
    conclude(job, found, reporter)
    return found.frame


def _propose(proposer: Proposer, folder: RunFolder, reporter: Reporter) -> Proposal:
    config, table = proposer.config, proposer.job.table
    with folder.stage("sweep"):
        generator = torch.Generator().manual_seed(config.seed + 1)
        aims = sweep(proposer, reporter, generator)
    if config.aim is None:
        chosen, reason = choose(aims)
        aim = chosen.aim
    else:
        aim, reason = float(table.to_score(config.aim)), "asked for"
        if aim > aims[-1].aim:
            warn(
                f"--aim {config.aim:g} is far beyond the best predicted row; no score beyond "
                f"{table.to_score(aims[-1].aim):.4g} can be learned from this table",
                folder,
                reporter,
            )
    reporter.say(f"aim {table.to_score(aim):.4g}: {reason}")
    with folder.stage("designs"):
        generator = torch.Generator().manual_seed(config.seed + 2)
        kept, drawn, refusals = propose(proposer, aim, reporter, generator)
    return Proposal(aims, aim, reason, kept, drawn, refusals)


def _finished(
    proposer: Proposer, proposal: Proposal, folder: RunFolder, reporter: Reporter
) -> Found:
    """The tables, with the oracle's scores if there is one: it is not called before this."""
    job = proposer.job
    frame = designs_frame(proposer, proposal.kept)
    if job.oracle is None:
        return Found(frame, sweep_frame(proposer, proposal.aims, proposal.aim, reporter))
    with folder.stage("oracle"):
        frame, verdict = scored(job, frame, reporter)
        curve = sweep_frame(proposer, proposal.aims, proposal.aim, reporter)
    if verdict["failed"]:
        warn(
            f"{job.oracle.name}: {verdict['failed']} of {len(frame)} designs failed "
            f"(first: {verdict['first_failure']})",
            folder,
            reporter,
        )
    calls = verdict.pop("calls")
    if job.oracle_sweep:
        calls += sum(len(aim.kept) for aim in proposal.aims)
    return Found(frame, curve, verdict, calls)


def _write(folder: RunFolder, proposer: Proposer, found: Found) -> None:
    job, reward = proposer.job, proposer.reward
    with folder.replacing_files(REWARD) as path:
        reward.save(path)
    folder.write_json("codec.json", job.codec.config())
    with folder.replacing("sweep.csv") as path:
        found.curve.write_csv(path)
    predicted = job.table.to_score(proposer.predicted.numpy())
    name = free_name("__predicted", job.table.frame)
    with folder.replacing("data.parquet") as path:
        job.table.frame.with_columns(pl.Series(name, predicted)).write_parquet(path)
    with folder.replacing("designs.csv") as path:
        found.frame.write_csv(path)
