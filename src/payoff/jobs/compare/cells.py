"""The rows of a cell of a comparison, for any kind of object.

All cells of a seed begin with the same base. A budget is what a tuned model learns with, or what
100 samples of a steering method cost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.domains.base import Data, join, select
from payoff.errors import UserError
from payoff.jobs.base import BASE_DESIGNS, DESIGNS, Asked, resolve, start
from payoff.jobs.compare.measures import divergence, judged, measured
from payoff.jobs.compare.plan import Cell
from payoff.jobs.design.aims import AimSampler, choose, propose, sweep
from payoff.jobs.design.bases import choose_conditioning
from payoff.jobs.design.conditioners import train_conditioner
from payoff.jobs.design.job import Design
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.score import learn_score
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.machine import matmul_precision
from payoff.jobs.methods import steering_class
from payoff.jobs.model import BASE, MODEL, Drawn, Model
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RECORD, RunFolder, read_record
from payoff.jobs.scoring import Scored
from payoff.jobs.steer.job import Steer, Unfit
from payoff.jobs.tilt import Begin, Tilt, begin, make_base

PER = 100  # samples that a steering method's budget is for, and designs that best-of-n chooses
QUICK = 1000  # training steps below which a run is a toy
JUDGED, CHOSEN, DRAWN, ROWS, PATHS = 11, 12, 13, 14, 15  # streams of random numbers
WORK, OBJECTS = "work", "objects"
EXACT = "p* (exact)"


@dataclass
class Shared:
    """The part of a cell's order that all cells share.

    Attributes:
        source: data or a model.
        kind: name of the kind, where the user chose it.
        given: options of the job and the kind that the user set.
        samples: that each model is judged by.
        label_steps: training steps of the network that learns labels.
        bases: folders of the seeds' bases by seed; empty: the source is a model.
    """

    source: str
    kind: str | None
    given: dict[str, Any]
    samples: int
    label_steps: int
    bases: dict[str, str]

    def options(self, cell: Cell) -> dict[str, Any]:
        """Options of a tuning or steering run in a cell."""
        own = {**self.given, **cell.learning, "seed": cell.seed}
        base = self.bases.get(str(cell.seed))
        if base is not None and cell.kind != "base":
            own["base"] = base
        return own


@dataclass
class Opened:
    """A cell's base and rewards.

    Attributes:
        tilt: base, rewards, support.
        begun: how they were found.
        job: the options of the learning.
        run: the folder in which the cell works.
    """

    tilt: Tilt
    begun: Begin
    job: Finetune
    run: RunFolder

    @property
    def temperature(self) -> float | None:
        """The temperature that was given, by which exact answers are known."""
        return self.job.temperature


def rows_of(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """The rows of a cell.

    Raises:
        UserError: as a run of its own would raise it.
    """
    makers = {"tune": _tuned, "steer": _steered, "base": _base, "best-of-n": _best_of_n}
    makers["rcgdm"] = _conditional
    return makers[cell.kind](cell, shared, folder)


def open_cell(
    cell: Cell, shared: Shared, folder: Path, *, work: str = WORK, made: Model | None = None
) -> Opened:
    """Read the source, find base and rewards; ``made`` takes the base's place."""
    given = {**shared.options(cell), "calls": max(1, cell.calls)}
    job, asked = resolve(Finetune, shared.source, given, kind=shared.kind)
    assert isinstance(job, Finetune)
    asked.out, asked.resume = folder / work, True
    run = RunFolder(asked.out, {"comparison": cell.name}, resume=True)
    begun = begin(job, asked)
    if made is not None:
        base = made
    elif asked.model is not None and begun.model is not None:
        base = begun.model
    else:
        base = make_base(begun, job, run, Reporter())
    tilt = Tilt(base, begun, job, run.path)
    return Opened(tilt, begun, job, run)


def _kept(opened: Opened, scored: Scored, folder: Path) -> None:
    """Keep the objects that a row was measured on."""
    scored.table.write_csv(folder / f"{OBJECTS}.csv")
    opened.tilt.domain.write(folder, OBJECTS, scored.objects, scored.table)


def _measure(
    opened: Opened, objects: Sequence[Any], folder: Path, kl: float | None = None
) -> dict[str, Any]:
    found, scored = measured(opened.tilt, objects, opened.temperature, kl)
    _kept(opened, scored, folder)
    return found


def _draw(opened: Opened, model: Model, n: int, stream: int) -> Drawn:
    with matmul_precision(opened.job.matmul_precision):
        return opened.tilt.draw(model, n, stream)


def _paths(shared: Shared, opened: Opened) -> int:
    return min(shared.samples, opened.tilt.domain.batch)


def _base(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """The base itself and, where the kind knows it, the exact answer."""
    opened = open_cell(cell, shared, folder)
    drawn = _draw(opened, opened.tilt.base, shared.samples, JUDGED)
    free = {"family": "base", "spent": 0, "distinct": 0, "seconds": 0.0}
    rows = [{**free, "kl": 0.0, **_measure(opened, drawn.objects, folder, 0.0)}]
    exact = opened.tilt.domain.exact_answer(
        shared.samples, opened.temperature, opened.tilt.generator(CHOSEN)
    )
    if exact is not None:
        objects, known = exact
        found, _ = measured(opened.tilt, objects, opened.temperature, known["kl"])
        rows.append({**free, **found, **known, "label": EXACT})
    return rows


def _tuned(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """A model tuned by a method: an ordinary run, judged by fresh samples."""
    given = {
        **shared.options(cell),
        **{"method": cell.method, "settings": cell.settings},
        **{"calls": cell.calls, "count": PER},
    }
    if not (folder / RECORD).exists():
        start(Finetune, shared.source, given, out=folder, kind=shared.kind, resume=True)
    record = read_record(folder)
    opened = open_cell(cell, shared, folder)
    device, precision = opened.job.device, opened.job.precision
    tuned = Model.load(folder / MODEL, device, precision)
    opened.tilt.base = Model.load(folder / BASE, device, precision)
    drawn = _draw(opened, tuned, shared.samples, JUDGED)
    kl = divergence(opened.tilt, tuned.denoiser, PATHS, _paths(shared, opened))
    return [
        {
            **_measure(opened, drawn.objects, folder, kl.value),
            **_learning(record),
            "kl": kl.value,
            "kl_stderr": kl.stderr,
        }
    ]


def _learning(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a tuned cell's row that the run's record knows."""
    tuning, calls = record["tuning"], record["calls"]
    return {
        "family": "tune",
        "declared": "p*" if record["method"]["claims_target"] else "reward",
        **{name: tuning[name] for name in ("network", "rounds", "kept", "stopped")},
        **{name: calls[name] for name in ("spent", "distinct")},
        "seconds": tuning["seconds"] + record["timings"]["temperature"],
        "temperature": record["temperature"]["value"],
    }


def _steered(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """A steering method: an ordinary run of 100 designs, or of as many as the others have where
    rewards cost nothing, at the same price each.
    """
    kind = _kind_of(shared)
    count = shared.samples if kind.free_rewards else PER
    times = count / PER
    options = {k: v for k, v in shared.options(cell).items() if k in _names(Steer)}
    given = {
        **options,
        **{"method": cell.method, "settings": cell.settings, "count": count},
        **({"calls": math.ceil(cell.calls * times)} if cell.calls else {}),
        **({"network": math.ceil(cell.network * times)} if cell.network else {}),
    }
    if not (folder / RECORD).exists():
        try:
            start(Steer, shared.source, given, out=folder, kind=shared.kind, resume=True)
        except Unfit as error:
            return [_unfit(cell, str(error))]
    record = read_record(folder)
    opened = open_cell(cell, shared, folder)
    table = pl.read_csv(folder / f"{DESIGNS}.csv", infer_schema_length=None)
    objects = opened.tilt.domain.read_back(folder, DESIGNS, table)
    found, scored = measured(opened.tilt, objects, opened.temperature)
    _kept(opened, scored, folder)
    network, calls = record["network"], record["calls"]
    return [
        {
            **found,
            "family": "steer",
            "declared": _declared(record["method"]["exact"]),
            "size": "{name}={value}".format(**record["method"]["size"]),
            "spent": calls["spent"] / times,
            "distinct": calls["distinct"],
            "network": (network["evaluations"] + network["pilot"]) / times,
            "backward": network["backward"] / times,
            "seconds": record["timings"]["steering"] + record["timings"]["temperature"],
            "temperature": record["temperature"]["value"],
            "warned": " | ".join(record["warnings"]),
        }
    ]


def _names(job: type) -> set[str]:
    """The names of the options of a job, and of all kinds."""
    from payoff.domains.installed import kinds, option_names

    return {*job.__dataclass_fields__, *(n for k in kinds().values() for n in option_names(k))}  # type: ignore[attr-defined]


def _kind_of(shared: Shared) -> Any:
    return resolve(Steer, shared.source, {}, kind=shared.kind)[1].kind


def _declared(exact: bool) -> str:
    return "exact" if exact else "biased"


def _unfit(cell: Cell, why: str) -> dict[str, Any]:
    """A row that says why there is nothing in it."""
    assert cell.method is not None
    exact = steering_class(cell.method).exact
    why = why.removeprefix(f"--method {cell.method}: ")
    return {"family": "steer", "declared": _declared(exact), "note": why}


def _best_of_n(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """The best of calls/100 base samples, a hundred times; its divergence is exactly known."""
    opened = open_cell(cell, shared, folder)
    began, tilt = time.perf_counter(), opened.tilt
    kept = min(PER, cell.calls)
    n = max(1, cell.calls // kept)
    drawn = _draw(opened, tilt.base, n * kept, CHOSEN)
    order = torch.arange(n * kept)
    if "mask" in drawn.cond:  # sizes come sorted: every group holds all of them
        order = order.reshape(n, kept).T.reshape(-1)
    objects = select(drawn.objects, order.tolist())
    values = tilt.sign * tilt.reward.values(objects)
    places = values.nan_to_num(nan=-math.inf).reshape(kept, n).argmax(1).tolist()
    chosen = select(objects, [i * n + place for i, place in enumerate(places)])
    kl = math.log(n) - (n - 1) / n
    row = {
        "family": "baseline",
        "network": n * kept * opened.job.sampler_steps,
        "kl": kl,
        "spent": n * kept,
        "distinct": tilt.answers_known(),
        "seconds": time.perf_counter() - began,
    }
    return [{**row, **_measure(opened, chosen, folder, kl)}]


def _conditional(cell: Cell, shared: Shared, folder: Path) -> list[dict[str, Any]]:
    """RCGDM with the calls as labels: of the data first, then of samples of the base.

    Two rows where designs are chosen among more samples: samples as the model draws them, and those
    that the design job would keep by their predicted score.
    """
    opened = open_cell(cell, shared, folder)
    began, tilt = time.perf_counter(), opened.tilt
    data = _labelled(opened, cell)
    distinct = tilt.answers_known()
    job, asked = _design_job(cell, shared, opened)
    base = None if tilt.start.asked.model is None and tilt.start.start is None else tilt.base
    if base is not None:
        data.domain = base.domain
    choose_conditioning(data, asked.kind, base, job)
    run, reporter = RunFolder(folder / "conditional", {"of": cell.name}, resume=True), Reporter()
    score, fitted = learn_score(data, job, run, reporter)
    predicted = score.values(data.objects)
    by = train_conditioner(data, asked.kind, base, predicted, job, run, reporter)
    sampler = AimSampler(by, score, data, predicted, job)
    aim = choose(sweep(sampler, reporter, tilt.generator(DRAWN)))[0].aim
    seconds = time.perf_counter() - began
    drawn = sampler.draw(aim, shared.samples, tilt.generator(JUDGED))
    held = by.given({}, aim, _paths(shared, opened))
    kl = divergence(tilt, by.denoiser(job.guidance), PATHS, _paths(shared, opened), **held)
    common = {
        "family": "baseline",
        "spent": min(cell.calls, int(data.labels.isfinite().sum())),  # type: ignore[union-attr]
        "distinct": distinct,
        "seconds": seconds,
        "aim": aim,
        "learned_reward": fitted["chosen"],
    }
    plain = {**common, "kl": kl.value, "kl_stderr": kl.stderr}
    rows = [{**plain, **_measure(opened, drawn.objects, folder, kl.value)}]
    if job.keep_refused:
        return rows
    began = time.perf_counter()
    kept, drawn_for, _ = propose(sampler, aim, reporter, tilt.generator(CHOSEN))
    common["seconds"] += time.perf_counter() - began
    if len(kept.objects) < 3:
        return rows
    found, _ = measured(tilt, kept.objects, opened.temperature)
    label = f"{cell.label}-selected"
    return [*rows, {"label": label, **common, "kl": None, "drawn": drawn_for, **found}]


def _design_job(cell: Cell, shared: Shared, opened: Opened) -> tuple[DesignOptions, Asked]:
    """The design job of a cell: the run's options where it has them."""
    tuning = opened.job
    names = {"steps": "base_steps", "width": "base_width", "depth": "base_depth"}
    names |= {"batch_size": "base_batch_size", "learning_rate": "base_learning_rate"}
    given: dict[str, Any] = {
        own: shared.given[theirs] for own, theirs in names.items() if theirs in shared.given
    }
    if not shared.bases:
        given["steps"] = shared.label_steps
    kind_names = _names(Design) - set(Finetune.__dataclass_fields__)
    given |= {k: v for k, v in shared.given.items() if k in kind_names}
    given |= {"minimize": tuning.minimize, "seed": cell.seed, "count": shared.samples}
    given |= {"sampler_steps": tuning.sampler_steps, "oracle": "none"}
    if given.get("steps", QUICK) < QUICK:  # a toy: its figures mean nothing, nor need take minutes
        given |= {"aims": 4, "regressor": "ridge"}
    data_source = shared.source
    job, asked = resolve(Design, data_source, given, kind=shared.kind)
    assert isinstance(job, DesignOptions)
    return job, asked


def _labelled(opened: Opened, cell: Cell) -> Data:
    """The data with as many objects scored as the calls allow, and scored samples for the rest."""
    tilt = opened.tilt
    data = tilt.data
    if data is None:
        asked = opened.begun.asked
        if str(asked.source) not in asked.kind.sources:
            raise UserError(
                f"rcgdm learns from data, and {asked.source} is a model whose data are not kept: "
                "leave it out with --baselines"
            )
        data = asked.kind.load().read(asked.source, asked.options, seed=cell.seed)
    n, generator = len(data.objects), tilt.generator(ROWS)
    rows = torch.randperm(n, generator=generator)[: cell.calls].tolist()
    labels = torch.full((n,), math.nan, dtype=torch.float64)
    labels[rows] = tilt.reward.values(select(data.objects, rows)).double()
    objects, left = data.objects, cell.calls - len(rows)
    if left:
        drawn = _draw(opened, tilt.base, left, ROWS)
        there = [i for i, thing in enumerate(drawn.objects) if thing is not None]
        more = select(drawn.objects, there)
        objects = join([objects, more])
        own: Tensor = tilt.reward.values(more).double()
        labels = torch.cat([labels, own])
    return replace(data, objects=objects, labels=labels, score=tilt.score_name)


def order_of(cell: Cell, shared: Shared) -> dict[str, Any]:
    """The content of ``cell.json``."""
    return {"cell": cell.to_dict(), "shared": asdict(shared)}


__all__ = ["BASE_DESIGNS", "PER", "Shared", "judged", "open_cell", "order_of", "rows_of"]
