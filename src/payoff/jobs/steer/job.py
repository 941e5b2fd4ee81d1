"""The steering job, from data or a saved model to objects drawn towards a reward."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.jobs.base import HISTORY, Asked, Job, Outcome
from payoff.jobs.fitting import new_denoiser
from payoff.jobs.kept import keep_data
from payoff.jobs.machine import matmul_precision
from payoff.jobs.methods import sized, steering_class, steering_settings, with_steps
from payoff.jobs.model import Model, placed
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder
from payoff.jobs.rewards import has_gradient
from payoff.jobs.steer.drawing import FLIGHT, TOGETHER, BatchedSteering, Piece, sizes
from payoff.jobs.steer.options import SteerOptions
from payoff.jobs.steer.record import history_table, make_record, summary
from payoff.jobs.steer.remarks import Remarks, gathered
from payoff.jobs.tilt import (
    Begin,
    Tilt,
    begin,
    find_temperature,
    introduce,
    known_before,
    make_base,
    pilot_size,
)
from payoff.jobs.workers import Executed, pool_of
from payoff.rewards import FunctionReward
from payoff.rewards.pooled import PooledObjects
from payoff.steering.base import Steered
from payoff.targets import Target


class Unfit(UserError):
    """The method does not apply to this reward, these objects or this budget."""


@dataclass
class Plan:
    """A run that is known to be possible: its parts, the method and the method's options."""

    start: Begin
    method: type[Steered]
    options: dict[str, Any]


class Steer(SteerOptions, Job[Plan]):
    """Draw objects towards a higher reward from a model that stays as it is.

    Every answer of the reward is kept in a ledger, and every finished batch in the run's folder, so
    that a run that is stopped and continued pays for no design twice.
    """

    def prepare(self, asked: Asked, reporter: Reporter) -> Plan:
        cls = steering_class(self.method)
        options = steering_settings(cls, self.settings, self.particles)
        budget = self.calls is not None or self.network is not None
        options = with_steps(cls, options, self.sampler_steps, budget)
        pilot = pilot_size(self.temperature, self.pilot_budget)
        start = begin(self, asked)
        self._try_method(cls, options, start, pilot)
        return Plan(start, cls, options)

    def fingerprint(self, plan: Plan) -> str | None:
        data = plan.start.data
        return None if data is None else data.fingerprint

    def work(self, plan: Plan) -> float:
        domain = plan.start.domain
        rows = self.base_batch_size or min(domain.batch, domain.training.batch_size)
        return domain.work(rows, **self.size())

    def budgets(self, pilot: int) -> dict[str, float]:
        """The budgets of one design: what the pilot leaves of the run's, shared equally."""
        calls = math.inf if self.calls is None else (self.calls - pilot) / self.count
        drawn = pilot * self.sampler_steps
        network = math.inf if self.network is None else (self.network - drawn) / self.count
        return {"rewards": calls, "network": network}

    def _try_method(
        self, cls: type[Steered], options: dict[str, Any], start: Begin, pilot: int
    ) -> None:
        """Make the method once, so that what cannot work is known at once."""
        domain, smooth = start.domain, has_gradient(start.domain, start.reward)
        model: Denoiser = (
            new_denoiser(domain, self.seed, **self.size())
            if start.model is None
            else start.model.denoiser
        )
        reward = FunctionReward(lambda x, cond: x.flatten(1).sum(1), differentiable=smooth)
        try:
            sized(cls, Target(model, reward, 1.0), domain.shape, options, **self.budgets(pilot))
        except UserError as error:
            black = "" if smooth else f"; {start.reward.name} is a black box here"
            known = black if "gradient" in str(error) else ""
            raise Unfit(f"--method {self.method}: {error}{known}") from error

    def run(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> Outcome:
        start = plan.start
        introduce(start, plan.method.name, "judges", folder, reporter)
        # starts while the base is trained
        pool = pool_of(start, self.workers, self.time_limit, self.executor)
        with pool or nullcontext(), matmul_precision(self.matmul_precision):
            with folder.stage("base"):
                base = make_base(start, self, folder, reporter)
                base.denoiser.requires_grad_(False).eval()
            tilt = Tilt(base, start, self, folder.path)
            if pool is not None:
                tilt.reward.evaluated_in(pool)
            before = known_before(tilt, folder)
            with folder.stage("temperature"):
                temperature = find_temperature(tilt, self.pilot_budget)
            reporter.say(temperature.describe(tilt.score_name))
            limits = self.budgets(temperature.calls)
            method = sized(
                plan.method, tilt.target(temperature), base.domain.shape, plan.options, **limits
            )
            reporter.say(self._cost_line(method))
            with folder.stage("steering"):
                pieces = self._drawn(method, tilt, folder, reporter, pool)
            distinct = tilt.answers_known() - before
            with folder.stage("judging"):
                designs = tilt.score(_decoded(base, pieces))
                reference = tilt.score_base(temperature)
        batches = [batch for batch, _, _ in pieces]
        record = make_record(tilt, self, method, temperature, batches, designs, reference)
        record["calls"]["distinct"] = distinct
        if start.data is not None:
            keep_data(start.data, start.asked.kind, start.asked.options, folder)
        tables = {HISTORY: history_table(batches)}
        return Outcome(record, summary(record), designs, reference, tables, base)

    def _cost_line(self, method: Steered) -> str:
        cost = method.cost()
        return (
            f"{method.name} with {method.size} = {getattr(method, method.size)}: {cost.rewards:g} "
            f"reward calls and {cost.network:g} network evaluations a design, "
            f"{cost.rewards * self.count:.0f} calls for all"
        )

    def _drawn(
        self,
        method: Steered,
        tilt: Tilt,
        folder: RunFolder,
        reporter: Reporter,
        pool: PooledObjects | Executed | None,
    ) -> list[Piece]:
        """The batches of the designs, drawn now or by the run that was interrupted."""
        cls, options, shape = type(method), method.options(), method.shape
        remarks = Remarks(reporter)
        total, done = max(1, round(method.cost().rewards * self.count)), 0
        with reporter.bar("steering (calls)", total) as advance:
            advance(0)

            def count_calls(rows: int) -> None:
                nonlocal done
                done += rows
                advance(min(total, done))

            steering = BatchedSteering(
                method.target,
                lambda target: cls(target, shape, **options),
                tilt.base.conditions,
                self.seed,
                folder,
                remarks,
                count_calls,
                give_up=pool.close if pool else None,
            )
            shared = self.count if cls.name in TOGETHER else 0
            plan = sizes(self.count, method.rows, self.batch or shared)
            found = steering.all(plan, FLIGHT if self.workers else 1)
        # on the terminal they were shown when they came
        folder.warnings += gathered([batch.warnings for batch, _, _ in found])
        folder.warnings += gathered([remarks.others])
        return found


def _decoded(model: Model, pieces: list[Piece]) -> Any:
    """The objects of all batches."""
    x = torch.cat([z for _, z, _ in pieces])
    names = pieces[0][2]
    cond: dict[str, Tensor] = {name: torch.cat([c[name] for _, _, c in pieces]) for name in names}
    return model.domain.decode(x, placed(cond, model.like))
