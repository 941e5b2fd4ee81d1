"""The comparison job: methods beside each other, each in a process of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from payoff.domains.base import Domain
from payoff.domains.installed import option_names
from payoff.errors import UserError
from payoff.jobs.base import Asked, Job, Outcome
from payoff.jobs.compare.cell import RESULT, SPEC
from payoff.jobs.compare.cells import PER, WORK, Shared, order_of
from payoff.jobs.compare.measures import COSTS, help_of
from payoff.jobs.compare.options import BASELINES, CompareOptions
from payoff.jobs.compare.plan import Cell, base_cell, plan
from payoff.jobs.compare.table import both_tables, cells_table, summary_table
from payoff.jobs.compare.workers import results_of, run_cells
from payoff.jobs.finetune.options import FinetuneOptions
from payoff.jobs.methods import make_method
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder, read_record, warn
from payoff.jobs.tilt import begin
from payoff.spaces import Tokens

CELLS = "cells"
SHOWN_COSTS = ("kl", "distinct", "network", "seconds", "memory")


@dataclass
class Plan:
    """A comparison that is known to be possible.

    Attributes:
        asked: the request.
        cells: in the order of the table, the bases first.
        trained: whether the seeds have bases of their own.
        fingerprint: of the data.
        name: of the data or the model.
        score: the reward's name in tables.
        unit: of the reward, or None.
    """

    asked: Asked
    cells: list[Cell]
    trained: bool
    fingerprint: str | None
    name: str
    score: str
    unit: str | None


class Compare(CompareOptions, Job[Plan]):
    """Tune and steer the same base with several methods at the same numbers of reward calls.

    Every (method, calls, seed) is a run in a process of its own, whose crash costs that cell only.
    The base of a seed is made once. Each model is judged by fresh samples, whose calls are no part
    of a budget. A steering method that does not apply has a row that says why.
    """

    def prepare(self, asked: Asked, reporter: Reporter) -> Plan:
        if not isinstance(asked.source, str):
            raise UserError("payoff compare runs in several processes: give a file as the source")
        trained = asked.model is None
        if self.base is not None and not trained:
            raise UserError(f"--base {self.base}: {asked.source} is a model already")
        cells = plan(self, trained=trained)
        begun = begin(_Tuning.of(self), asked)
        for label, cell in {cell.label: cell for cell in cells if cell.kind == "tune"}.items():
            assert cell.method is not None
            method = make_method(cell.method, cell.settings)
            if isinstance(begun.domain.space, Tokens) and not method.tokens:
                raise UserError(
                    f"--methods {label}: {method.name} works on real vectors only, and "
                    f"{asked.source} has tokens; leave it out"
                )
            if method.needs_gradient:
                begin(_Tuning.of(self), asked, needs_gradient=method.name)
        data = begun.data
        name = asked.source if data is None else data.name
        score = begun.reward.name.rpartition(":")[2]
        fingerprint = None if data is None else data.fingerprint
        return Plan(asked, cells, trained, fingerprint, name, score, begun.reward.unit or None)

    def fingerprint(self, plan: Plan) -> str | None:
        return plan.fingerprint

    def is_finished(self, folder: RunFolder) -> bool:
        return folder.finished and not read_record(folder.path).get("crashed")

    def default_name(self, asked: Asked) -> str:
        return f"compare-{super().default_name(asked).rpartition('-')[0]}"

    def run(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> Outcome:
        if not plan.asked.resume:
            for order in (folder.path / CELLS).glob(f"*/{SPEC}"):  # of an earlier comparison only
                shutil.rmtree(order.parent, ignore_errors=True)
        errors = self._work(plan, folder, reporter)
        rows = self._rows(plan.cells, errors, folder, reporter)
        domain: type[Domain] = plan.asked.kind.load()
        explained = help_of(domain)
        shown = [name for name in explained if name not in COSTS] + list(SHOWN_COSTS)
        frame, table = cells_table(rows), summary_table(rows, list(explained))
        with folder.replacing("table.md") as path:
            path.write_text(both_tables(table, explained, shown), encoding="utf-8")
        record = self._record(plan, rows, errors, explained)
        tables = {"compare.csv": frame, "table.csv": table}
        crashed = f", {len(errors)} of them crashed" if errors else ""
        summary = f"{len(record['labels'])} methods in {len(plan.cells)} runs{crashed}"
        return Outcome(record, summary, tables=tables)

    def _work(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> dict[str, str]:
        """Run the cells, the bases first; errors by the cells' names."""
        cells = plan.cells
        places = {cell.name: folder.path / CELLS / cell.name for cell in cells}
        shared = self._shared(plan, folder)
        for cell in cells:
            places[cell.name].mkdir(parents=True, exist_ok=True)
            text = json.dumps(order_of(cell, shared), indent=2)
            (places[cell.name] / SPEC).write_text(text + "\n", encoding="utf-8")
        errors: dict[Any, str] = {}
        with reporter.bar("runs", len(cells)) as advance, folder.stage("cells"):
            advance(0)
            ended = 0

            def done(path: Any) -> None:
                nonlocal ended
                ended += 1
                advance(ended)
                reporter.say(f"{path.name}: {'done' if (path / RESULT).exists() else 'crashed'}")

            for base in (True, False):
                # seed by seed: when an hour has passed, every method has its first result
                order = sorted(cells, key=lambda cell: cell.seed)
                some = [places[c.name] for c in order if (c.kind == "base") == base]
                ended = sum(1 for p in places.values() if (p / RESULT).exists())
                errors |= run_cells(some, self.workers, done)
                if base and errors:
                    path, said = next(iter(errors.items()))
                    raise UserError(f"the base of {path.name} could not be made: {said}")
        return {path.name: said for path, said in errors.items()}

    def _shared(self, plan: Plan, folder: RunFolder) -> Shared:
        asked = plan.asked
        tuning = {field.name for field in fields(FinetuneOptions)} - {"calls", "seed", "settings"}
        names = tuning | option_names(asked.kind)
        toy = {**self.presets.get(asked.given.get("preset", "default"), {}), **asked.given}
        given = {name: value for name, value in toy.items() if name in names}
        seeds = range(self.seed, self.seed + self.seeds)
        cells = folder.path.resolve() / CELLS
        bases = {str(seed): str(cells / base_cell(seed).name / WORK) for seed in seeds}
        return Shared(
            str(asked.source),
            asked.kind.name if plan.trained else None,
            {**given, "threads": 1},
            self.samples,
            self.label_steps,
            bases if plan.trained else {},
        )

    def _rows(
        self,
        cells: Sequence[Cell],
        errors: dict[str, str],
        folder: RunFolder,
        reporter: Reporter,
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for cell in cells:
            if cell.kind == "base" and "base" not in self.compared():
                continue
            if cell.name in errors:
                same = {"label": cell.label, "calls": cell.calls, "seed": cell.seed}
                same |= {"network_budget": cell.network} if cell.network else {}
                rows.append({**same, "error": errors[cell.name], "folder": cell.name})
                warn(f"{cell.name} crashed: {errors[cell.name]}", folder, reporter)
            else:
                rows += results_of(folder.path / CELLS / cell.name)
        return rows

    def _record(
        self,
        plan: Plan,
        rows: Sequence[dict[str, Any]],
        errors: dict[str, str],
        explained: dict[str, str],
    ) -> dict[str, Any]:
        return {
            "name": plan.name,
            "seed": self.seed,
            "labels": list(dict.fromkeys(row["label"] for row in rows)),
            "baselines": [b for b in BASELINES if b in self.compared()],
            "budgets": self.budgets(),
            "networks": self.networks(),
            "per": PER,
            "seeds": list(range(self.seed, self.seed + self.seeds)),
            "cells": len(plan.cells),
            "crashed": errors,
            "score": {
                "name": plan.score,
                "direction": "minimize" if self.minimize else "maximize",
                "unit": plan.unit,
            },
            "measures": explained,
        }


class _Tuning:
    """The options of a comparison as those of a tuning, for :func:`begin`."""

    def __init__(self, job: CompareOptions) -> None:
        self._job = job
        self.count, self.sampler_steps, self.sampler_noise = PER, 1, None

    @classmethod
    def of(cls, job: CompareOptions) -> Any:
        """The options of a comparison."""
        return cls(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)
