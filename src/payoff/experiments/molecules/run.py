"""The fine-tuning job of molecules, from a saved model to new molecules."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl

from payoff.configs import to_dict
from payoff.denoisers import Denoiser
from payoff.domains.molecules.evaluate import products
from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.experiments.finetune.base import BASE, MODEL
from payoff.experiments.finetune.config import without_password
from payoff.experiments.finetune.counting import Evaluations
from payoff.experiments.finetune.methods import make_method
from payoff.experiments.finetune.record import history_frame, summary
from payoff.experiments.finetune.run import (
    BEFORE,
    DESIGNS,
    HISTORY,
    counted,
    fit,
    tell_temperature,
)
from payoff.experiments.finetune.setting import Temperature, find_temperature, pilot_size
from payoff.experiments.machine import check_device, threads
from payoff.experiments.molecules.config import DEFAULTS, SHARE, MoleculeConfig, suited
from payoff.experiments.molecules.record import make_record
from payoff.experiments.molecules.rewards import pool_of
from payoff.experiments.molecules.setting import (
    BATCH,
    Judges,
    MoleculeSetting,
    Watch,
    find_judges,
)
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder, refuse_occupied
from payoff.finetuning import FinetuneConfig, Finetuner
from payoff.pretrained import CONFIG, save_pretrained
from payoff.targets import Target

STRUCTURES, BASE_STRUCTURES = "designs.sdf", "base_designs.sdf"
NOT_ASKED = ("workers", "time_limit")  # how many processes work changes no molecule
Scored = tuple[pl.DataFrame, list[Molecule | None]]


def finetune(
    config: MoleculeConfig,
    loop: FinetuneConfig | None = None,
    out: str | Path = "runs/molecules",
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Tune a model of molecules towards a higher reward, and draw molecules from it.

    Finds a temperature, lets the method spend its reward calls, draws molecules from the tuned
    model and scores them, and writes the run folder. The base model is copied into it first, so
    that a run can be continued when its source has changed. Every answer of the reward is kept in
    a ledger as soon as it is there.

    Args:
        config: what to tune, and for which reward.
        loop: how many reward calls, and how to spend them.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder; its ledger is kept.
        quiet: no progress on the terminal.

    Returns:
        the molecules, best first, as in ``designs.csv``.

    Raises:
        UserError: the model, the reward or an option is wrong, and nothing has been written then;
            or the reward failed on every molecule, or the disk is full.
    """
    reporter, loop = Reporter(quiet), loop or FinetuneConfig(**DEFAULTS)
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    check_device(config.device)
    settings, loop = suited(config.method, config.settings, loop, config.data)
    method = make_method(config.method, settings)
    judges = find_judges(config, method)
    pilot_size(config.temperature, loop.calls)
    own = Path(out) / BASE
    model = MoleculeModel.load(
        own if resume and (own / CONFIG).exists() else config.weights, config.device
    )
    with threads(config.threads, model.work(BATCH)):
        request = {**to_dict(config), **to_dict(loop), "source": str(config.source)}
        request["ledger"] = without_password(config.ledger)
        asked = {k: v for k, v in request.items() if k not in NOT_ASKED}
        folder = RunFolder(out, asked, resume=resume, overwrite=overwrite)
        if resume and folder.finished:
            reporter.say(f"{folder.path} is finished already")
            return pl.read_csv(folder.path / DESIGNS)
        # in bfloat16 the least update moves weights over a rounding step, all of a layer alike
        exact = config.products == "auto"
        with folder.guarded(), products("fp32" if exact else config.products):
            return _run(model, judges, method, config, loop, request, folder, reporter)


def _run(
    model: MoleculeModel,
    judges: Judges,
    method: Finetuner,
    config: MoleculeConfig,
    loop: FinetuneConfig,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    _introduce(model, judges, method, config, reporter)
    pool = pool_of(judges.reward, config.workers, config.time_limit) if config.workers else None
    with pool or nullcontext():
        if not (folder.path / BASE / CONFIG).exists():
            _save(folder, BASE, model, model.denoiser)
        model.denoiser.requires_grad_(True)
        setting = MoleculeSetting(model, judges, config, loop, folder.path)
        if pool is not None:
            setting.reward.evaluated_in(pool)
        before = counted(setting, folder)
        with folder.stage("temperature"):
            temperature = find_temperature(setting, SHARE)
        tell_temperature(temperature, setting, reporter)
        monitor, network = Watch(setting), Evaluations(folder)
        network.watch(model.denoiser)
        target = Target(model.denoiser, setting.reward, temperature.value)
        learned = setting.learned_from()
        if config.products == "auto":  # what is drawn and valued may be rounded
            learned["drawing"] = products
        with folder.stage("tuning"):
            tuned = fit(method, target, loop, temperature, monitor, network, reporter, **learned)
        spent = network.rows
        if not (folder.path / MODEL / CONFIG).exists():
            _save(folder, MODEL, model, tuned)
        gained = setting.ledger.count(judges.reward.name, judges.reward.version) - before
        with folder.stage("judging"):
            designs, reference = _judged(setting, tuned, temperature)
    record = make_record(
        setting,
        method,
        temperature,
        monitor,
        designs[0],
        reference[0],
        folder.path,
        request,
        spent,
    )
    failed = monitor.history[-1]["failed"] + temperature.failed
    record["calls"] |= {"failed": failed, "distinct": gained}
    with folder.stage("writing"):
        _write(folder, history_frame(monitor, setting), designs, reference)
    folder.finish(record)
    folder.drop_state()
    reporter.say(summary(record))
    return designs[0]


def _introduce(
    model: MoleculeModel,
    judges: Judges,
    method: Finetuner,
    config: MoleculeConfig,
    reporter: Reporter,
) -> None:
    data = model.metadata.get("data") or "an unrecorded data set"
    reporter.say(f"{config.weights}: molecules of up to {model.shape[0]} nodes, trained on {data}")
    held, reward = judges.held_out, judges.reward
    watched = "" if held is None else f"; {held.name} is held out and watches"
    unit = f", in {reward.unit}" if reward.unit else ""
    reporter.say(f"{method.name} on {reward.name} ({reward.help}{unit}){watched}")


def _save(folder: RunFolder, name: str, model: MoleculeModel, denoiser: Denoiser) -> None:
    metadata = {**model.metadata, **model.facts()}
    with folder.replacing_files(name) as path:
        save_pretrained(denoiser, path, metadata)


def _judged(
    setting: MoleculeSetting, tuned: Denoiser, temperature: Temperature
) -> tuple[Scored, Scored]:
    """Molecules of the tuned model, best first, and as many of the base to compare them with."""
    drawn = setting.draw(tuned, setting.config.count, 2)
    designs = _ranked(setting, drawn)
    # the pilot's molecules, where there was one, since they are paid for
    stream, n = (1, temperature.calls) if temperature.calls else (3, setting.config.count)
    return designs, _ranked(setting, setting.draw(setting.model.denoiser, n, stream))


def _ranked(setting: MoleculeSetting, molecules: list[Molecule | None]) -> Scored:
    """Judged molecules, valid ones first, best first; the molecules in the same order."""
    frame = setting.judged(molecules).with_row_index("_place")
    frame = frame.sort(
        ["valid", "score"],
        descending=[True, not setting.config.minimize],
        nulls_last=True,
        maintain_order=True,
    )
    order = frame["_place"].to_list()
    return frame.drop("_place"), [molecules[i] for i in order]


def _write(folder: RunFolder, history: pl.DataFrame, designs: Scored, reference: Scored) -> None:
    for name, (frame, molecules) in ((BASE_STRUCTURES, reference), (STRUCTURES, designs)):
        write_molecules(folder.path / name, molecules, frame)
    for name, frame in ((HISTORY, history), (BEFORE, reference[0]), (DESIGNS, designs[0])):
        with folder.replacing(name) as path:
            frame.write_csv(path)
