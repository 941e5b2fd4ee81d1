"""The cells of a comparison on a table: the base, best of n, a conditional model, a tuned one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.experiments.compare.cell import learned, learning
from payoff.experiments.compare.measures import measure, sampled
from payoff.experiments.compare.plan import Cell
from payoff.experiments.compare.steered import steered_designs
from payoff.experiments.design.aims import Proposer, choose, propose, sweep
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.model import learn_reward, train_model
from payoff.experiments.finetune.base import CODEC, MODEL, Base, make_base
from payoff.experiments.finetune.config import TuneConfig
from payoff.experiments.finetune.rewards import cells_of
from payoff.experiments.finetune.run import finetune
from payoff.experiments.finetune.setting import Setting, find_judges
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RECORD, RunFolder, read_record
from payoff.metrics import Estimate
from payoff.spaces import Condition

QUICK = 1000  # training steps below which a run is a toy
KEPT = 100  # designs that best-of-n chooses
JUDGED, CHOSEN, DRAWN, ROWS = 11, 12, 13, 14  # streams of random numbers


def run_designs(cell: Cell, shared: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rows of a cell of a comparison on a table."""
    config = TuneConfig(**shared["tuning"])
    if cell.kind == "tune":
        return [_tuned(cell, config, shared, folder)]
    if cell.kind == "steer":
        return [steered_designs(cell, config, learning(cell), folder)]
    job = read_job(config, cell.seed)
    setting = _setting(cell, config, job, folder)
    if cell.kind == "base":
        z = setting.draw(setting.base, shared["samples"], setting.generator(JUDGED))
        return [
            {
                "family": "base",
                "kl": 0.0,
                "spent": 0,
                "distinct": 0,
                "seconds": 0.0,
                **measure(setting, z),
            }
        ]
    kind = {"best-of-n": _best_of_n, "rcgdm": _conditional}[cell.kind]
    return kind(cell, setting, shared, folder)


def _setting(cell: Cell, config: TuneConfig, job: Job, folder: Path) -> Setting:
    request = {"comparison": cell.name}
    run = RunFolder(folder / "work", request, resume=True)
    run.write_json(CODEC, job.codec.config())
    base = make_base(job, config, cell.seed, run, Reporter())
    return Setting(job, base, find_judges(config, job), config, learning(cell), run.path)


def _tuned(cell: Cell, config: TuneConfig, shared: dict[str, Any], folder: Path) -> dict[str, Any]:
    assert cell.method is not None
    config.method, config.settings = cell.method, cell.settings
    loop = learning(cell)
    if not (folder / RECORD).exists():
        finetune(config, loop, folder, resume=True)
    record = read_record(folder)
    job = read_job(config, cell.seed)
    base = Base.load(folder / "base", config.device, config.precision)
    setting = Setting(job, base, find_judges(config, job), config, loop, folder)
    tuned = Base.load(folder / MODEL, config.device, config.precision)
    z, divergence = _fresh(setting, tuned.denoiser, shared["samples"], base.cond)
    return {
        **measure(setting, z),
        **learned(record),
        "kl": divergence.value,
        "kl_stderr": divergence.stderr,
    }


def _fresh(
    setting: Setting, denoiser: Denoiser, n: int, cond: Condition | None
) -> tuple[Tensor, Estimate]:
    """N samples of a model in the setting's coordinates, and how far it is from the base."""
    base, generator = setting.base, setting.generator(JUDGED)
    steps = setting.loop.sampler_steps
    return sampled(denoiser, base.denoiser, (base.dim,), steps, n, cond, generator=generator)


def _best_of_n(
    cell: Cell, setting: Setting, shared: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """The best of calls/100 base samples, a hundred times; its KL to the base is known."""
    began = time.perf_counter()
    kept = min(KEPT, cell.calls)
    n = max(1, cell.calls // kept)
    z = setting.draw(setting.base, n * kept, setting.generator(CHOSEN))
    rewards = setting.reward(z).nan_to_num(nan=-math.inf).reshape(kept, n)
    chosen = z.reshape(kept, n, -1)[torch.arange(kept), rewards.argmax(1)]
    seconds, distinct = time.perf_counter() - began, setting.reward.fresh
    row = {
        "family": "baseline",
        "network": n * kept * setting.loop.sampler_steps,
        "kl": math.log(n) - (n - 1) / n,
        "spent": n * kept,
        "distinct": distinct,
        "seconds": seconds,
        **measure(setting, chosen),
    }
    return [row]


def _conditional(
    cell: Cell, setting: Setting, shared: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """RCGDM with the calls as labels: of the rows first, then of samples of the base.

    Two rows: samples as the model draws them, and those that the design job would choose among
    eight times as many by their predicted score.
    """
    began = time.perf_counter()
    job = _labelled(cell, setting)
    distinct = setting.reward.fresh
    design = setting.config.as_design(cell.seed)
    design.sampler_steps, design.count = setting.loop.sampler_steps, shared["samples"]
    if design.steps < QUICK:  # a toy: its figures mean nothing, and need not take minutes
        design.aims, design.reward = 4, "ridge"
    run, reporter = RunFolder(folder / "conditional", {"of": cell.name}, resume=True), Reporter()
    reward, summary = learn_reward(job, design, run, reporter)
    proposer = Proposer(job, train_model(job, reward, design, run, reporter), reward, design)
    aim = choose(sweep(proposer, reporter, setting.generator(DRAWN)))[0].aim
    seconds = time.perf_counter() - began
    label = proposer.model.label(aim).to(proposer.like)
    z, divergence = _fresh(setting, proposer.model.denoiser, shared["samples"], {"label": label})
    common = {
        "family": "baseline",
        "spent": cell.calls,
        "distinct": distinct,
        "seconds": seconds,
        "aim": setting.sign() * aim,
        "learned_reward": summary["chosen"],
    }
    plain = {
        **common,
        "kl": divergence.value,
        "kl_stderr": divergence.stderr,
        **measure(setting, z),
    }
    began = time.perf_counter()
    kept, drawn, _ = propose(proposer, aim, reporter, setting.generator(CHOSEN))
    common["seconds"] += time.perf_counter() - began
    if len(kept.x) < 3:
        return [plain]
    chosen = setting.base.to_model(kept.x)
    selected = {"label": f"{cell.label}-selected", **common, "kl": None, "drawn": drawn}
    return [plain, {**selected, **measure(setting, chosen)}]


def _labelled(cell: Cell, setting: Setting) -> Job:
    """The data with as many rows scored as the calls allow, and scored samples for the rest."""
    job, generator = setting.job, setting.generator(ROWS)
    rows = torch.randperm(len(job.x), generator=generator)[: cell.calls]
    cells = cells_of(job.codec, job.table.frame)
    labels = torch.full((len(job.x),), float("nan"), dtype=torch.float64)
    labels[rows] = setting.sign() * setting.reward.values(cells[rows]).double()
    x: list[Tensor] = [job.x]
    left = cell.calls - len(rows)
    if left:
        z = setting.draw(setting.base, left, generator)
        x.append(setting.designs.project(z))
        labels = torch.cat([labels, setting.reward(z).double().cpu()])
    every = torch.cat(x)
    usable = every.isfinite().all(1)
    return Job(
        job.domain,
        job.name,
        job.table,
        job.codec,
        every[usable],
        labels[usable],
        job.support,
        check=job.check,
    )
