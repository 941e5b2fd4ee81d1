"""More objects from a finished design run: its model, its score and its data, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.domains.base import Data, Domain
from payoff.domains.installed import kind_named
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.design.aims import AimSampler, propose
from payoff.jobs.design.conditioners import reopened
from payoff.jobs.design.job import KNOWN, PREDICTIONS, REWARD, SIZES
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.record import designs_table
from payoff.jobs.design.score import FEATURES, LearnedScore
from payoff.jobs.kept import FACTS, TABLE, kept_data, labels_of, read_parquet
from payoff.jobs.machine import check_device, threads
from payoff.jobs.model import LABEL, MODEL, Model
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RECORD, RunFolder, read_record
from payoff.jobs.scoring import Scored, free_name
from payoff.rewards import LearnedReward

COMPOUNDS = "compounds.parquet"  # of payoff 0.1
STREAMS = 10**6  # between the seeds of two calls: a run's own seeds are few and lie together


def reopen(run: str | Path) -> tuple[AimSampler, float]:
    """The sampler of a finished run, and the aim that it used, in the user's unit.

    The run folder is enough: the data that it was made from may have changed or be gone. Where the
    run's device is missing the CPU takes its place.

    Raises:
        UserError: the folder holds no finished design run, or a file of it is damaged.
    """
    run = Path(run)
    record = read_record(run)
    try:
        config, kind = dict(record["config"]), kind_named(record["domain"])
        aim, chosen = float(record["aim"]["chosen"]), record["aim"]["mode"] == "auto"
        score = str(record["score"]["name"])
        job = options_of(kind, config)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run} holds no design run: its {RECORD} lacks {error}") from error
    job.aim = None if chosen else aim
    job.device = _device(job.device)
    model = _model(run, kind, job)
    data, predicted = _data(run, model, score)
    by = reopened(run, model, job)
    return AimSampler(by, _score(run, data), data, predicted, job), aim


def draw_more(
    run: str | Path,
    *,
    count: int = 100,
    aim: float | None = None,
    seed: int = 1,
    steps: int | None = None,
    matmul_precision: str | None = None,
    quiet: bool = False,
) -> tuple[Scored, Model]:
    """Fresh designs from a finished run, with the columns of its ``designs.csv``.

    Args:
        run: the folder of the run.
        count: number of designs.
        aim: the score to aim at, in the user's unit; default: the run's own aim.
        seed: another seed gives other designs.
        steps: of the sampler; default: the run's own.
        matmul_precision: ``auto``, ``bf16`` or ``fp32``; default: the run's own.
        quiet: no progress on the terminal.

    Returns:
        the designs, and the model that drew them.

    Raises:
        UserError: there is no finished design run, a number is out of range, or no design was
            accepted.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1, got {count}")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed must be at least 0 and below 2^31, got {seed}")
    if aim is not None and aim - aim != 0:
        raise UserError(f"--aim must be a finite number, got {aim}")
    sampler, own = reopen(run)
    job, reporter = sampler.job, Reporter(quiet)
    job.count = count
    job.aim = job.aim if aim is None else aim
    if steps is not None:
        sampler.sampler.steps = steps
    if matmul_precision is not None:
        job.matmul_precision = matmul_precision
    random = torch.Generator().manual_seed(job.seed + STREAMS * (seed + 1))
    with threads(job.threads, sampler.domain.work(job.batch_size, **job.size())):
        draws, _, refusals = propose(sampler, own if aim is None else aim, reporter, random)
    if not len(draws.objects):
        reasons = "; ".join(f"{k}: {v}" for k, v in refusals.items())
        raise UserError(f"no design was accepted at this aim ({reasons}): aim closer to the data")
    if len(draws.objects) < count:
        reporter.warn(
            f"only {len(draws.objects)} of {count} designs that differ from each other found"
        )
    return designs_table(sampler, draws), sampler.by.model


def options_of(kind: Kind, config: Mapping[str, Any]) -> DesignOptions:
    """The options of a run by its record; those that payoff 0.1 did not have are the kind's."""
    own = {field.name for field in fields(DesignOptions)}
    if "regressor" not in config:  # payoff 0.1
        config = {**kind.defaults.get("design", {}), **config, "regressor": config["reward"]}
        config.setdefault("conditioning", "labels")
    known = {name: value for name, value in config.items() if name in own}
    return DesignOptions(**{**known, "oracle": None})


def _device(name: str) -> str:
    try:
        check_device(name)
    except UserError:
        return "cpu"
    return name


def _model(run: Path, kind: Kind, job: DesignOptions) -> Model:
    """The run's model in the domain that its record names."""
    model = Model.load(run / MODEL, job.device)
    facts, config = model.facts, model.domain.config()
    if LABEL in facts and kind.name == model.kind.name:
        return model
    # payoff 0.1: the metadata hold what a table's columns and labels mean, on one level
    config |= {name: facts[name] for name in config if name in facts}
    domain: Domain = kind.load()(**config)
    if "location" in facts and LABEL not in facts:
        sign = job.sign
        facts = facts | {
            LABEL: {"location": sign * facts["location"], "spread": sign * facts["scale"]}
        }
    return Model(model.denoiser, domain, kind, facts)


def _data(run: Path, model: Model, score: str) -> tuple[Data, Tensor]:
    """The data of a run, and the predicted scores of its objects (n,)."""
    table, domain = read_parquet(run / TABLE), model.domain
    if not (run / FACTS).is_file():
        return _earlier(run, model, score, table)
    facts = RunFolder.read(run / FACTS)
    named = facts.get("source") is not None
    data = Data(domain, [], labels_of(table), "", score) if named else kept_data(run, model)
    assert data is not None
    blank = domain.table([])
    predicted = _numbers(table, free_name(PREDICTIONS, blank), run)
    if (sizes := free_name(SIZES, blank)) in table.columns:
        data.domain = domain.with_sizes(_numbers(table, sizes, run))
    if (run / KNOWN).is_file():
        identities = read_parquet(run / KNOWN).to_series().to_list()
        data.find_known = lambda: frozenset(identities)
    return data, predicted


def _earlier(run: Path, model: Model, score: str, table: pl.DataFrame) -> tuple[Data, Tensor]:
    """The data of a run of payoff 0.1, which wrote a table's predictions last."""
    domain = model.domain
    if "nodes" not in table.columns:
        data = Data(domain, domain.read_back(run, "data", table), None, "", score)
        return data, _numbers(table, table.columns[-1], run)
    data = Data(domain.with_sizes(_numbers(table, "nodes", run)), [], None, "", score)
    known = frozenset(read_parquet(run / COMPOUNDS).to_series().to_list())
    data.find_known = lambda: known
    return data, _numbers(table, "predicted", run)


def _numbers(table: pl.DataFrame, name: str, run: Path) -> Tensor:
    try:
        return torch.from_numpy(table[name].to_numpy(writable=True))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"the run folder is damaged: {run / TABLE} lacks {name}") from error


def _score(run: Path, data: Data) -> LearnedScore:
    folder = run / REWARD
    if (folder / FEATURES).is_file() or data.domain.standardise:
        return LearnedScore.load(folder, data.domain)
    # payoff 0.1 kept no rows beside a score of features as they are
    rows = data.domain.features(data.objects)
    dim = rows.shape[1]
    plain = (torch.zeros(dim).to(rows), torch.ones(dim).to(rows))
    return LearnedScore(data.domain, LearnedReward.load(folder), *plain, rows)
