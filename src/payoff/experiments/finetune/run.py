"""The fine-tuning job from table to designs: ``payoff finetune`` is this function."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from payoff.configs import to_dict
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.messages import KINDS, MOST_SHOWN, warn
from payoff.experiments.finetune.base import CODEC, MODEL, Base, check_base, make_base
from payoff.experiments.finetune.config import TuneConfig, without_password
from payoff.experiments.finetune.counting import Evaluations
from payoff.experiments.finetune.methods import make_method
from payoff.experiments.finetune.record import history_frame, make_record, summary
from payoff.experiments.finetune.setting import (
    Judges,
    Scoring,
    Setting,
    Temperature,
    find_judges,
    find_temperature,
)
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.machine import check_device, threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import STATE, TABLE, RunFolder, refuse_occupied, source_name
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor, RatioMismatch
from payoff.pretrained import CONFIG
from payoff.targets import Target

DESIGNS, BEFORE, HISTORY = "designs.csv", "base_designs.csv", "history.csv"


def finetune(
    config: TuneConfig,
    loop: FinetuneConfig | None = None,
    out: str | Path = "runs/finetune",
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Tune a model of the table's rows towards a higher reward, and draw designs from it.

    Trains an unconditional base model on all rows, finds a temperature, lets the method spend its
    reward calls, draws designs from the tuned model and scores them, and writes the run folder.
    Every answer of the reward is kept in a ledger as soon as it is there, so a run that is stopped
    and continued pays for no design twice.

    Args:
        config: what to tune, and for which reward.
        loop: how many reward calls, and how to spend them.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder; its ledger is kept, since what it
            says about the reward stays true.
        quiet: no progress on the terminal.

    Returns:
        the designs, best first, as in ``designs.csv``.

    Raises:
        UserError: the table, the reward or an option is wrong, and nothing has been written then;
            or the reward failed on every design, or the disk is full.
    """
    reporter, loop = Reporter(quiet), loop or FinetuneConfig()
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    check_device(config.device)
    method = make_method(config.method, config.settings)
    with threads(config.threads, config.base_batch_size * config.base_width**2):
        job = read_job(config, loop.seed)
        check_base(job, config)
        judges = find_judges(config, job, method)
        request = {**to_dict(config), **to_dict(loop), "source": source_name(config.source)}
        request["ledger"] = without_password(config.ledger)
        asked = {**request, TABLE: job.fingerprint()}
        folder = RunFolder(out, asked, resume=resume, overwrite=overwrite)
        if resume and folder.finished:
            reporter.say(f"{folder.path} is finished already")
            return pl.read_csv(folder.path / DESIGNS)
        with folder.guarded():
            return _run(job, judges, method, config, loop, request, folder, reporter)


def _run(
    job: Job,
    judges: Judges,
    method: Finetuner,
    config: TuneConfig,
    loop: FinetuneConfig,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    introduce(job, judges, method, folder, reporter)
    with folder.stage("base"):
        folder.write_json(CODEC, job.codec.config())
        base = make_base(job, config, loop.seed, folder, reporter)
    setting = Setting(job, base, judges, config, loop, folder.path)
    before = counted(setting, folder)
    with folder.stage("temperature"):
        temperature = find_temperature(setting)
    tell_temperature(temperature, setting, reporter)
    monitor = Monitor(setting.held_out, setting.valid)
    network = Evaluations(folder)
    network.watch(base.denoiser)
    with folder.stage("tuning"):
        tuned = _tuned(setting, method, temperature, monitor, network, reporter)
    spent = network.rows
    failed = monitor.history[-1]["failed"] + temperature.failed
    gained = setting.ledger.count(judges.reward.name, setting.reward.remembered.version) - before
    with folder.stage("judging"):
        designs, reference = _judged(setting, tuned, temperature)
    record = make_record(
        setting, method, temperature, monitor, designs, reference, folder.path, request, spent
    )
    record["calls"] |= {"failed": failed, "distinct": gained}
    with folder.stage("writing"):
        _write(folder, job, monitor, designs, reference, setting)
    folder.finish(record)
    folder.drop_state()
    reporter.say(summary(record))
    return designs


def introduce(
    job: Job,
    judges: Judges,
    method: Any,
    folder: RunFolder,
    reporter: Reporter,
    does: str = "watches",
) -> None:
    """What was understood, so that a misread column is seen before the work."""
    free = [c for c in job.table.features if c.name not in job.table.fixed]
    shown = ", ".join(f"{c.name} ({KINDS[c.kind]})" for c in free[:MOST_SHOWN])
    rest = f" and {len(free) - MOST_SHOWN} more columns" if len(free) > MOST_SHOWN else ""
    reporter.say(f"{job.name}: {len(job.table)} rows; designs of {shown}{rest}")
    watched = "" if judges.held_out is None else f"; {judges.held_out.name} is held out and {does}"
    reporter.say(f"{method.name} on {judges.reward.name}{watched}")
    for warning in job.table.warnings:
        warn(warning, folder, reporter)


def tell_temperature(found: Temperature, setting: Scoring, reporter: Reporter) -> None:
    """Where the temperature comes from, in a line."""
    if found.mode == "given":
        reporter.say(f"temperature {found.value:.4g}")
        return
    reporter.say(
        f"temperature {found.value:.4g}, {found.share:g} sd of {found.calls} base samples' "
        f"{setting.score_name} (mean {found.mean:.4g}, sd {found.sd:.4g}, {found.failed} failed)"
    )


def counted(setting: Scoring, folder: RunFolder) -> int:
    """Answers that the ledger had when the run began: what it knew is not what this run paid."""
    path, name = folder.path / STATE / "ledger.json", f"{STATE}/ledger.json"
    if not path.exists():
        judge, version = setting.reward.judge.name, setting.reward.remembered.version
        folder.write_json(name, {"known": setting.ledger.count(judge, version)})
    return int(folder.read_json(name)["known"])


def _tuned(
    setting: Setting,
    method: Finetuner,
    temperature: Temperature,
    monitor: Monitor,
    network: Evaluations,
    reporter: Reporter,
) -> Base:
    base, folder = setting.base, network.folder
    target = Target(base.denoiser, setting.reward, temperature.value)
    learned = {"data": base.to_model(setting.job.x), "cond": base.cond}
    denoiser = fit(method, target, setting.loop, temperature, monitor, network, reporter, **learned)
    if not (folder.path / MODEL / CONFIG).exists():
        base.with_denoiser(denoiser).save(folder, MODEL)
    return Base.load(folder.path / MODEL, setting.config.device, setting.config.precision)


def fit(
    method: Finetuner,
    target: Target,
    loop: FinetuneConfig,
    temperature: Temperature,
    monitor: Monitor,
    network: Evaluations,
    reporter: Reporter,
    **given: Any,
) -> Denoiser:
    """Let a method spend what the pilot left of the calls; it continues where it was stopped.

    ``given`` goes to :meth:`payoff.finetuning.Finetuner.fit`: data, shape, cond.
    """
    rest = dataclasses.replace(loop, calls=loop.calls - temperature.calls)
    with reporter.bar("fine-tuning (calls)", loop.calls) as advance:
        advance(temperature.calls)

        def progress(entry: dict[str, Any]) -> None:
            network.keep()
            advance(min(loop.calls, temperature.calls + entry["calls"]))

        try:
            denoiser = method.fit(
                target,
                rest,
                monitor=monitor,
                checkpoint=network.folder.path / STATE / "tuning.pt",
                resume=True,
                progress=progress,
                **given,
            )
        except RatioMismatch as error:
            raise UserError(f"{method.name} cannot work on this model: {error}") from error
    if monitor.stopped is not None:
        reporter.say(f"stopped: {monitor.stopped}")
    return denoiser


def _judged(
    setting: Setting, tuned: Base, temperature: Temperature
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Designs of the tuned model, best first, and as many of the base to compare them with."""
    designs = setting.judged(setting.draw(tuned, setting.config.count, setting.generator(2)))
    return ranked(setting, designs), of_base(setting, temperature)


def ranked(setting: Setting, designs: pl.DataFrame) -> pl.DataFrame:
    """Judged designs, valid ones first, best first."""
    score = designs.columns[len(setting.job.codec.columns)]
    return designs.sort(
        [designs.columns[-2], score],
        descending=[True, not setting.config.minimize],
        nulls_last=True,
        maintain_order=True,
    )


def of_base(setting: Setting, temperature: Temperature) -> pl.DataFrame:
    """Judged samples of the base: the pilot's, where there was one, since they are paid for."""
    stream, n = (1, temperature.calls) if temperature.calls else (3, setting.config.count)
    return setting.judged(setting.draw(setting.base, n, setting.generator(stream)))


def _write(
    folder: RunFolder,
    job: Job,
    monitor: Monitor,
    designs: pl.DataFrame,
    reference: pl.DataFrame,
    setting: Setting,
) -> None:
    with folder.replacing("data.parquet") as path:
        job.table.frame.select(pl.exclude(job.table.score)).write_parquet(path)
    tables = {HISTORY: history_frame(monitor, setting), BEFORE: reference, DESIGNS: designs}
    for name, frame in tables.items():
        with folder.replacing(name) as path:
            frame.write_csv(path)
