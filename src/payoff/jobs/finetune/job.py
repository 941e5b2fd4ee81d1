"""The fine-tuning job, from data or a saved model to new objects."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor, RatioMismatch
from payoff.jobs.base import HISTORY, Asked, Job, Outcome
from payoff.jobs.counting import Evaluations
from payoff.jobs.finetune.options import FinetuneOptions
from payoff.jobs.finetune.record import history_table, make_record, summary
from payoff.jobs.kept import keep_data
from payoff.jobs.machine import matmul_precision
from payoff.jobs.methods import make_method
from payoff.jobs.model import MODEL, Model, placed
from payoff.jobs.progress import Reporter
from payoff.jobs.records import STATE, RunFolder
from payoff.jobs.tilt import (
    DESIGN_STREAM,
    ROUND_STREAM,
    Begin,
    Temperature,
    Tilt,
    begin,
    find_temperature,
    introduce,
    known_before,
    make_base,
    pilot_size,
)
from payoff.jobs.watch import ObjectMonitor
from payoff.jobs.workers import pool_of
from payoff.pretrained import CONFIG

ROUND_CONDITIONS = 4096  # conditions that rounds pick theirs from, where no data give them


@dataclass
class Plan:
    """A run that is known to be possible."""

    start: Begin
    method: Finetuner


class Finetune(FinetuneOptions, Job[Plan]):
    """Tune a model towards a higher reward, and draw objects from it."""

    def prepare(self, asked: Asked, reporter: Reporter) -> Plan:
        method = make_method(self.method, self.settings)
        pilot_size(self.temperature, self.calls)
        needs = method.name if method.needs_gradient else None
        return Plan(begin(self, asked, needs_gradient=needs), method)

    def fingerprint(self, plan: Plan) -> str | None:
        data = plan.start.data
        return None if data is None else data.fingerprint

    def work(self, plan: Plan) -> float:
        domain = plan.start.domain
        rows = self.base_batch_size or min(domain.batch, domain.training.batch_size)
        return domain.work(rows, **self.size())

    def run(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> Outcome:
        start, method = plan.start, plan.method
        introduce(start, method.name, "watches", folder, reporter)
        # in bfloat16 the least update moves weights over a rounding step, all of a layer alike
        exact = "fp32" if self.matmul_precision == "auto" else self.matmul_precision
        pool = pool_of(start, self.workers, self.time_limit, self.executor)
        with pool or nullcontext(), matmul_precision(exact):
            with folder.stage("base"):
                base = make_base(start, self, folder, reporter)
            tilt = Tilt(base, start, self, folder.path)
            if pool is not None:
                tilt.reward.evaluated_in(pool)
            before = known_before(tilt, folder)
            with folder.stage("temperature"):
                temperature = find_temperature(tilt, self.calls)
            reporter.say(temperature.describe(tilt.score_name))
            monitor, network = ObjectMonitor(tilt, temperature.value), Evaluations(folder)
            network.watch(base.denoiser)
            with folder.stage("tuning"):
                tuned = self._tuned(tilt, method, temperature, monitor, network, reporter)
            spent = network.rows
            failed = monitor.history[-1]["failed"] + temperature.failed
            distinct = tilt.answers_known() - before
            with folder.stage("judging"):
                drawn = tilt.draw(tuned, self.count, DESIGN_STREAM)
                designs, reference = tilt.score(drawn.objects), tilt.score_base(temperature)
        record = make_record(
            tilt, self.loop(), method, temperature, monitor, designs, reference, spent
        )
        record["calls"] |= {"failed": failed, "distinct": distinct}
        if start.data is not None:
            keep_data(start.data, start.asked.kind, start.asked.options, folder)
        tables = {HISTORY: history_table(monitor, tilt.sign)}
        return Outcome(record, summary(record), designs, reference, tables, tuned)

    def _tuned(
        self,
        tilt: Tilt,
        method: Finetuner,
        temperature: Temperature,
        monitor: Monitor,
        network: Evaluations,
        reporter: Reporter,
    ) -> Model:
        folder, base = network.folder, tilt.base
        given: dict[str, Any] = self._learned_from(tilt)
        if self.matmul_precision == "auto":  # what is drawn and valued may be rounded
            given["drawing"] = matmul_precision
        loop = self.loop()
        denoiser = _fit(method, tilt, loop, temperature, monitor, network, reporter, **given)
        if not (folder.path / MODEL / CONFIG).exists():
            base.with_denoiser(denoiser).save(folder, MODEL)
        return Model.load(folder.path / MODEL, self.device, self.precision)

    def _learned_from(self, tilt: Tilt) -> dict[str, Any]:
        """Data and conditions of rounds, for a method's fit."""
        base, data = tilt.base, tilt.data
        if data is None or self.data == 0:
            cond = base.conditions(ROUND_CONDITIONS, tilt.generator(ROUND_STREAM))
            return {"shape": base.domain.shape, "cond": cond or None}
        n = len(data.objects) if self.data < 0 else min(self.data, len(data.objects))
        x, cond = base.domain.encode(data.objects[:n])
        rows: Tensor = x.to(base.like) if x.is_floating_point() else x.to(base.like.device)
        wanted = base.conditions(n, tilt.generator(ROUND_STREAM))
        if "label" in wanted:  # the values that designs are held at, not those of the data
            cond["label"] = wanted["label"]
        return {"data": rows, "cond": placed(cond, base.like) or None}


def _fit(
    method: Finetuner,
    tilt: Tilt,
    loop: FinetuneConfig,
    temperature: Temperature,
    monitor: Monitor,
    network: Evaluations,
    reporter: Reporter,
    **given: Any,
) -> Denoiser:
    """Let a method spend the calls that the pilot left; it continues where it was stopped."""
    rest = dataclasses.replace(loop, calls=loop.calls - temperature.calls)
    with reporter.bar("fine-tuning (calls)", loop.calls) as advance:
        advance(temperature.calls)

        def progress(entry: dict[str, Any]) -> None:
            network.keep()
            advance(min(loop.calls, temperature.calls + entry["calls"]))

        try:
            denoiser = method.fit(
                tilt.target(temperature),
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
