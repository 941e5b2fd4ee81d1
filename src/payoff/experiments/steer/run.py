"""The steering job from table to designs: ``payoff steer`` is this function."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import torch

from payoff.configs import to_dict
from payoff.errors import UserError
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.model import build_denoiser, held_slots
from payoff.experiments.finetune.base import CODEC, check_base, make_base
from payoff.experiments.finetune.config import without_password
from payoff.experiments.finetune.rewards import gradient_places
from payoff.experiments.finetune.run import (
    BEFORE,
    DESIGNS,
    HISTORY,
    counted,
    introduce,
    of_base,
    ranked,
    tell_temperature,
)
from payoff.experiments.finetune.setting import (
    LEAST_PILOT,
    PILOT,
    Judges,
    Setting,
    find_judges,
    find_temperature,
)
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.machine import check_device, threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import TABLE, RunFolder, refuse_occupied, source_name
from payoff.experiments.steer.config import SteerConfig
from payoff.experiments.steer.drawing import FLIGHT, TOGETHER, Batch, Drawing, sizes
from payoff.experiments.steer.methods import method_class, parsed, sized, with_steps
from payoff.experiments.steer.pool import pool_of
from payoff.experiments.steer.record import history_frame, make_record, summary
from payoff.experiments.steer.remarks import Remarks, gathered
from payoff.rewards import FunctionReward
from payoff.rewards.pooled import Pooled
from payoff.steering.base import Steered
from payoff.targets import Target
from payoff.whitening import Whitening

PROBLEMS = ("mixture", "subspace", "chain")


class Unfit(UserError):
    """The method does not apply to this reward, these designs or this budget."""


def steer(
    config: SteerConfig,
    out: str | Path = "runs/steer",
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Draw designs towards a higher reward from a model of the table's rows that stays as it is.

    Trains an unconditional base model on all rows (or takes that of another run), finds a
    temperature, draws the designs in batches and writes the run folder. Every answer of the reward
    is kept in a ledger, and every finished batch in the folder, so a run that is stopped and
    continued pays for no design twice.

    Args:
        config: what to steer, how, and for which reward.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder; its ledger is kept.
        quiet: no progress on the terminal.

    Returns:
        the designs, best first, as in ``designs.csv``.

    Raises:
        UserError: the table, the reward, the method or an option is wrong, and nothing has been
            written then; or every reward failed, or the disk is full.
    """
    reporter = Reporter(quiet)
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    if isinstance(config.source, str) and config.source in PROBLEMS:
        raise UserError(
            f"{config.source} is a problem with a closed form and has no designs: try the methods "
            f"on it with payoff compare {config.source} --methods {config.method}"
        )
    check_device(config.device)
    cls = method_class(config.method)
    options = parsed(cls, config.settings, config.particles)
    budget = config.calls is not None or config.network is not None
    options = with_steps(cls, options, config.sampler_steps, budget)
    with threads(config.threads, config.base_batch_size * config.base_width**2):
        tuning = config.tuning()
        job = read_job(tuning, config.seed)
        check_base(job, tuning)
        judges = find_judges(tuning, job)
        _tried(cls, options, config, job, judges)
        request = {**to_dict(config), "source": source_name(config.source)}
        request["ledger"] = without_password(config.ledger)
        # how many processes work changes no design
        asked = {k: v for k, v in request.items() if k not in ("workers", "time_limit")}
        folder = RunFolder(
            out, {**asked, TABLE: job.fingerprint()}, resume=resume, overwrite=overwrite
        )
        if resume and folder.finished:
            reporter.say(f"{folder.path} is finished already")
            return pl.read_csv(folder.path / DESIGNS)
        with folder.guarded():
            return _run(job, judges, cls, options, config, request, folder, reporter)


def each(config: SteerConfig, pilot: int) -> dict[str, float]:
    """The budgets of a design: what the pilot leaves of the run's, shared equally."""
    calls = math.inf if config.calls is None else (config.calls - pilot) / config.count
    drawn = pilot * config.sampler_steps
    network = math.inf if config.network is None else (config.network - drawn) / config.count
    return {"rewards": calls, "network": network}


def _tried(
    cls: type[Steered], options: dict[str, Any], config: SteerConfig, job: Job, judges: Judges
) -> None:
    """Make the method once on an untrained model, so that what cannot work is known at once."""
    pilot = 0
    if config.temperature is None:
        pilot = min(PILOT, config.loop().calls // 4)
        if pilot < LEAST_PILOT:
            raise UserError(
                f"--calls {config.calls} is too few to find a temperature with a quarter of them: "
                "give more, or set --temperature in the reward's units"
            )
    with torch.random.fork_rng():
        z = Whitening(job.x).encode(job.x)
        model = build_denoiser(z, len(held_slots(job)), config.tuning().as_design(config.seed))
    smooth = gradient_places(job.codec, judges.reward) is not None
    reward = FunctionReward(lambda x, cond: x.sum(1), differentiable=smooth)
    try:
        shape = (z.shape[1],)
        sized(cls, Target(model, reward, 1.0), shape, options, **each(config, pilot))
    except UserError as error:
        black = f"; {judges.reward.name} is a black box here" if not smooth else ""
        known = black if "gradient" in str(error) else ""
        raise Unfit(f"--method {config.method}: {error}{known}") from error


def _run(
    job: Job,
    judges: Judges,
    cls: type[Steered],
    options: dict[str, Any],
    config: SteerConfig,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    introduce(job, judges, cls, folder, reporter, "judges")
    pool = None
    if config.workers:  # they start while the base is trained
        pool = pool_of(judges.reward.name, job, config.workers, config.time_limit)
    with pool or nullcontext():
        with folder.stage("base"):
            folder.write_json(CODEC, job.codec.config())
            base = make_base(job, config.tuning(), config.seed, folder, reporter)
            base.denoiser.requires_grad_(False).eval()
        setting = Setting(job, base, judges, config.tuning(), config.loop(), folder.path)
        if pool is not None:
            setting.reward.evaluated_in(pool)
        before = counted(setting, folder)
        with folder.stage("temperature"):
            temperature = find_temperature(setting)
        tell_temperature(temperature, setting, reporter)
        target = Target(base.denoiser, setting.reward, temperature.value)
        limits = each(config, temperature.calls)
        method = sized(cls, target, (base.dim,), options, **limits)
        _tell_method(method, config, reporter)
        with folder.stage("steering"):
            batches, z = _drawn(method, setting, config, folder, reporter, pool)
    gained = setting.ledger.count(judges.reward.name, setting.reward.remembered.version) - before
    with folder.stage("judging"):
        designs = ranked(setting, setting.judged(z))
        reference = of_base(setting, temperature)
    record = make_record(
        setting, config, method, temperature, batches, designs, reference, folder.path, request
    )
    record["calls"]["distinct"] = gained
    with folder.stage("writing"):
        _write(folder, job, batches, designs, reference)
    folder.finish(record)
    folder.drop_state()
    reporter.say(summary(record))
    return designs


def _tell_method(method: Steered, config: SteerConfig, reporter: Reporter) -> None:
    cost = method.cost()
    reporter.say(
        f"{method.name} with {method.size} = {getattr(method, method.size)}: {cost.rewards:g} "
        f"reward calls and {cost.network:g} network evaluations a design, "
        f"{cost.rewards * config.count:.0f} calls for all"
    )


def _drawn(
    method: Steered,
    setting: Setting,
    config: SteerConfig,
    folder: RunFolder,
    reporter: Reporter,
    pool: Pooled | None,
) -> tuple[list[Batch], torch.Tensor]:
    """The designs' samples (count, d), and what each batch of them took."""
    cls, options, shape = type(method), method.options(), method.shape
    remarks = Remarks(reporter)
    total, done = max(1, round(method.cost().rewards * config.count)), 0
    with reporter.bar("steering (calls)", total) as advance:
        advance(0)

        def asked(rows: int) -> None:
            nonlocal done
            done += rows
            advance(min(total, done))

        drawing = Drawing(
            method.target,
            lambda target: cls(target, shape, **options),
            setting.base.cond,
            config.seed,
            folder,
            remarks,
            asked,
            give_up=pool.close if pool else None,
        )
        shared = config.count if cls.name in TOGETHER else 0
        plan = sizes(config.count, method.rows, config.batch or shared)
        found = drawing.all(plan, FLIGHT if config.workers else 1)
    batches = [batch for batch, _ in found]
    # on the terminal they were shown when they came
    folder.warnings += gathered([batch.warnings for batch in batches])
    folder.warnings += gathered([remarks.others])
    return batches, torch.cat([z for _, z in found])


def _write(
    folder: RunFolder,
    job: Job,
    batches: list[Batch],
    designs: pl.DataFrame,
    reference: pl.DataFrame,
) -> None:
    with folder.replacing("data.parquet") as path:
        job.table.frame.select(pl.exclude(job.table.score)).write_parquet(path)
    tables = {HISTORY: history_frame(batches), BEFORE: reference, DESIGNS: designs}
    for name, frame in tables.items():
        with folder.replacing(name) as path:
            frame.write_csv(path)
