r"""The design job (RCGDM): few labels, a learned score, a conditional model, objects at an aim.

Some objects are labelled, :math:`y = f(x) + \varepsilon`. A score :math:`\hat f` is learned from
features of these and labels all of them; :math:`p(x\mid\hat f(x) + \nu\xi)` is learned from these
pseudo-labels and sampled at the aim.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from payoff.domains.base import Data, Judge, select
from payoff.errors import UserError
from payoff.jobs.base import Asked, Job, Outcome, generator, stem_of
from payoff.jobs.design.aims import Aim, AimSampler, choose, propose, sweep
from payoff.jobs.design.bases import NONE, choose_conditioning, find_base, start_line
from payoff.jobs.design.conditioners import train_conditioner
from payoff.jobs.design.messages import (
    check_kept,
    check_limits,
    introduce,
    report_aim,
    report_score,
    summary,
)
from payoff.jobs.design.options import DesignOptions
from payoff.jobs.design.record import (
    Oracle,
    Proposal,
    data_record,
    designs_record,
    designs_table,
    oracle_record,
    sweep_table,
)
from payoff.jobs.design.score import check_labels, learn_score
from payoff.jobs.kept import keep_data
from payoff.jobs.model import Model
from payoff.jobs.options import flag
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder, warn
from payoff.jobs.rewards import find_judge
from payoff.jobs.scoring import Scored, free_name

SWEEP, REWARD = "sweep.csv", "reward"
PREDICTIONS, SIZES = "__predicted", "__size"  # columns of the kept data
KNOWN = "known.parquet"  # identities of the data
SWEEP_STREAM, DESIGN_STREAM = 1, 2


@dataclass
class Plan:
    """A run that is known to be possible.

    Attributes:
        asked: the request.
        data: objects and labels, in the base's domain where there is a base.
        base: the model to begin with, or None.
        start: its origin in a sentence; empty where models of this kind always begin from scratch.
        oracle: the true score, or None.
    """

    asked: Asked
    data: Data
    base: Model | None
    start: str
    oracle: Judge | None


class Design(DesignOptions, Job[Plan]):
    """Propose objects with a better score that still look like the data."""

    def prepare(self, asked: Asked, reporter: Reporter) -> Plan:
        kind = asked.kind
        data = kind.load().read(
            asked.source, asked.options, self.score or "", seed=self.seed, bar=reporter.bar
        )
        check_labels(data)
        base, origin = find_base(data, kind, self)
        if base is not None:
            data.domain = base.domain
        check_limits(data, self)
        choice = choose_conditioning(data, kind, base, self)
        if choice:
            asked.given["conditioning"] = self.conditioning
        oracle = data.domain.oracle() if self.oracle is None else None
        if self.oracle not in (None, NONE):
            oracle = find_judge(data.domain, kind, self.oracle, "--oracle")
        for name in ("oracle_sweep", "oracle_data"):
            if oracle is None and asked.given.get(name):
                raise UserError(f"{flag(name)} needs an oracle: name one with --oracle")
        known = choice or base is not None or self.base is not None
        start = start_line(base, origin, self.conditioning) if known else ""
        return Plan(asked, data, base, start, oracle)

    def fingerprint(self, plan: Plan) -> str | None:
        return plan.data.fingerprint or None

    def work(self, plan: Plan) -> float:
        return plan.data.domain.work(self.batch_size, **self.size())

    def default_name(self, asked: Asked) -> str:
        return stem_of(asked.source)

    def run(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> Outcome:
        data, kind = plan.data, plan.asked.kind
        introduce(data, kind.plural, self, plan.start, folder, reporter)
        with folder.stage("reward"):
            score, fitted = learn_score(data, self, folder, reporter)
            predicted = score.values(data.objects)
        report_score(fitted, folder, reporter)
        with folder.stage("training"):
            by = train_conditioner(data, kind, plan.base, predicted, self, folder, reporter)
        sampler = AimSampler(by, score, data, predicted, self)
        proposal = self._propose(sampler, folder, reporter)
        check_kept(proposal.draws, proposal.refusals, self, folder, reporter)
        oracle = None if plan.oracle is None else Oracle(plan.oracle, data.domain)
        scored, tables, verdict = self._finished(sampler, proposal, oracle, folder, reporter)
        record = self._record(plan, sampler, proposal, scored)
        record |= {
            "reward": fitted,
            "oracle": verdict,
            "oracle_calls": 0 if oracle is None else oracle.calls,
            "training": {"start": plan.start, "steps": self.steps, **by.facts()},
        }
        with folder.stage("writing"):
            self._keep(plan, sampler, folder)
        return Outcome(record, summary(sampler, scored, record), scored, None, tables, by.model)

    def _propose(self, sampler: AimSampler, folder: RunFolder, reporter: Reporter) -> Proposal:
        aims: list[Aim] = []
        if self.aim is None or self.sweep_anyway:
            with folder.stage("sweep"):
                aims = sweep(sampler, reporter, generator(self.seed, SWEEP_STREAM))
        if self.aim is None:
            best, reason = choose(aims)
            aim = best.aim
        else:
            aim, reason = self.aim, "asked for"
        report_aim(sampler, aims, aim, reason, folder, reporter)
        with folder.stage("designs"):
            random = generator(self.seed, DESIGN_STREAM)
            draws, drawn, refusals = propose(sampler, aim, reporter, random)
        return Proposal(aims, aim, reason, draws, drawn, refusals)

    def _finished(
        self,
        sampler: AimSampler,
        proposal: Proposal,
        oracle: Oracle | None,
        folder: RunFolder,
        reporter: Reporter,
    ) -> tuple[Scored, dict[str, pl.DataFrame], dict[str, Any] | None]:
        """The designs, further tables, and the oracle's verdict: it is not asked before this."""
        tables: dict[str, pl.DataFrame] = {}
        judge = oracle if self.oracle_sweep else None
        if oracle is None:
            if proposal.aims:
                tables[SWEEP] = sweep_table(sampler, proposal)
            return designs_table(sampler, proposal.draws), tables, None
        with folder.stage("oracle"):
            verdict = oracle(proposal.draws, reporter)
            found = oracle_record(oracle, verdict, sampler, of_data=self.oracle_data)
            if proposal.aims:
                tables[SWEEP] = sweep_table(sampler, proposal, judge, reporter)
        if verdict.failed:
            warn(
                f"{oracle.judge.name}: {verdict.failed} of {verdict.asked} designs failed "
                f"(first: {verdict.message})",
                folder,
                reporter,
            )
        return designs_table(sampler, proposal.draws, verdict), tables, found

    def _keep(self, plan: Plan, sampler: AimSampler, folder: RunFolder) -> None:
        """The score, and what later draws have to know of the data."""
        data = plan.data
        with folder.replacing_files(REWARD) as path:
            sampler.score.save(path)
        blank = data.domain.table(select(data.objects, []))
        extra = {free_name(PREDICTIONS, blank): sampler.predicted.numpy()}
        mask = data.domain.encode(data.objects)[1].get("mask")
        if mask is not None:
            extra[free_name(SIZES, blank)] = mask.sum(1).numpy()
        keep_data(data, plan.asked.kind, plan.asked.options, folder, pl.DataFrame(extra))
        if self.novelty == "identity":
            with folder.replacing(KNOWN) as path:
                pl.DataFrame({"identity": sorted(data.known)}).write_parquet(path)

    def _record(
        self, plan: Plan, sampler: AimSampler, proposal: Proposal, scored: Scored
    ) -> dict[str, Any]:
        data = plan.data
        return {
            "name": data.name,
            "seed": self.seed,
            "data": data_record(sampler),
            "score": {
                "name": data.score,
                "direction": "minimize" if self.minimize else "maximize",
                "unit": data.unit,
            },
            "reward_calls": sampler.reward_calls,
            "network_calls": sampler.network_calls,
            "aim": {
                "mode": "auto" if self.aim is None else "given",
                "chosen": proposal.aim,
                "reason": proposal.reason,
            },
            "designs": designs_record(sampler, proposal, scored),
        }
