"""The comparison job: ``payoff compare`` is this function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from payoff.configs import to_dict
from payoff.domains.molecules.model import draws_molecules
from payoff.errors import UserError
from payoff.experiments.compare import measures, molecules, problems
from payoff.experiments.compare.cell import RESULT, SPEC
from payoff.experiments.compare.config import BASELINES, PROBLEMS, CompareConfig
from payoff.experiments.compare.plan import Cell, base_cell, plan
from payoff.experiments.compare.steered import PER
from payoff.experiments.compare.table import both_tables, cells_frame, summary_frame
from payoff.experiments.compare.workers import results_of, run_cells
from payoff.experiments.design.jobs import BUILT_IN
from payoff.experiments.design.messages import warn
from payoff.experiments.finetune.methods import make_method
from payoff.experiments.finetune.record import changed, spelled
from payoff.experiments.finetune.setting import find_judges
from payoff.experiments.finetune.tables import read_job
from payoff.experiments.machine import check_device
from payoff.experiments.progress import Reporter
from payoff.experiments.records import TABLE, RunFolder, read_record, refuse_occupied

CELLS = "cells"
TABLE_COLUMNS = (
    *("median", "best", "valid", "median_all", "held_out", "support"),
    *("diversity", "vendi", "kl", "distinct", "network", "seconds", "memory"),
)
PROBLEM_COLUMNS = (
    *("reward", "gain", "w1", "energy", "mode_1", "mode_2", "weight_error", "diversity"),
    *("kl", "share", "spent", "network", "seconds"),
)


def compare(
    config: CompareConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Tune and steer the same base with several methods at the same numbers of reward calls.

    Every (method, calls, seed) is a run in a process of its own, whose crash costs that cell only.
    The base of a seed is trained once. Each model is judged by fresh samples, whose calls are no
    part of anyone's budget; for a steering method the budget is that of 100 samples. A steering
    method that does not apply has a row that says why.

    Args:
        config: what to compare.
        out: the folder; every cell has its own in ``cells/``.
        resume: continue an interrupted comparison, and try cells again that crashed.
        overwrite: replace an earlier comparison in the same folder.
        quiet: no progress on the terminal.

    Returns:
        one row a cell, as in ``compare.csv``.

    Raises:
        UserError: an option is wrong, and nothing has been written then; or a base could not be
            trained.
    """
    reporter, out = Reporter(quiet), Path(out)
    refuse_occupied(out, resume=resume, overwrite=overwrite)
    check_device(config.device)
    cells = plan(config)
    fingerprint, name = _checked(config, cells)
    request = to_dict(config)
    # how many work at a time changes no result
    asked = {k: v for k, v in request.items() if k != "workers"}
    folder = RunFolder(out, {**asked, TABLE: fingerprint}, resume=resume, overwrite=overwrite)
    if resume and folder.finished and not read_record(out)["crashed"]:
        reporter.say(f"{out} is finished already")
        return pl.read_csv(out / "compare.csv", infer_schema_length=None)
    if overwrite:
        shutil.rmtree(out / CELLS, ignore_errors=True)
    with folder.guarded():
        errors = _work(config, cells, folder, reporter)
        return _finish(config, cells, errors, request, name, folder, reporter)


def _checked(config: CompareConfig, cells: list[Cell]) -> tuple[str, str]:
    """(what tells a changed table, its name), after everything is refused that cannot work."""
    if config.source in PROBLEMS:
        problems.check(config)
        return "", config.source
    if draws_molecules(config.source):
        return molecules.check(config, cells)
    tuning = config.tuning()
    job = read_job(tuning, config.seed)
    tried: set[str] = set()
    for cell in cells:
        if cell.kind == "tune" and cell.label not in tried:
            tried.add(cell.label)
            assert cell.method is not None
            find_judges(tuning, job, make_method(cell.method, cell.settings))
    find_judges(tuning, job)
    return job.fingerprint(), job.name


def _work(
    config: CompareConfig, cells: list[Cell], folder: RunFolder, reporter: Reporter
) -> dict[str, str]:
    """Run the cells; what went wrong, by the cells' names. The bases come first."""
    problem, molecular = config.source in PROBLEMS, draws_molecules(config.source)
    places = {cell.name: folder.path / CELLS / cell.name for cell in cells}
    tuning = to_dict(molecules.tuning(config) if molecular else config.tuning())
    for cell in cells:
        own = dict(tuning)
        if not problem and not molecular and cell.kind != "base":
            first = base_cell(cell.seed).name
            own["base"] = str(folder.path.resolve() / CELLS / first / "work")
        shared = {
            "problem": config.source if problem else None,
            "molecules": molecular,
            "samples": config.samples,
            "temperature": config.temperature,
            "label_steps": config.label_steps,
            "tuning": own,
        }
        places[cell.name].mkdir(parents=True, exist_ok=True)
        text = json.dumps({"cell": cell.to_dict(), "shared": shared}, indent=2)
        (places[cell.name] / SPEC).write_text(text + "\n", encoding="utf-8")
    errors: dict[Path, str] = {}
    with reporter.bar("runs", len(cells)) as advance, folder.stage("cells"):
        advance(0)
        ended = 0

        def done(path: Path) -> None:
            nonlocal ended
            ended += 1
            advance(ended)
            reporter.say(f"{path.name}: {'done' if (path / RESULT).exists() else 'crashed'}")

        for base in (True, False):
            # seed by seed: when an hour has passed, every method has its first result
            order = sorted(cells, key=lambda cell: cell.seed)
            some = [places[c.name] for c in order if (c.kind == "base") == base]
            ended = sum(1 for p in places.values() if (p / RESULT).exists())
            errors |= run_cells(some, config.workers, done)
            if base and errors:
                path, said = next(iter(errors.items()))
                raise UserError(f"the base of {path.name} could not be made: {said}")
    return {path.name: said for path, said in errors.items()}


def _finish(
    config: CompareConfig,
    cells: list[Cell],
    errors: dict[str, str],
    request: dict[str, Any],
    name: str,
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    told, shown, domain = _columns(config)
    rows: list[dict[str, Any]] = []
    for cell in cells:
        if cell.kind == "base" and "base" not in config.compared():
            continue
        if cell.name in errors:
            same = {"label": cell.label, "calls": cell.calls, "seed": cell.seed}
            same |= {"network_budget": cell.network} if cell.network else {}
            rows.append({**same, "error": errors[cell.name], "folder": cell.name})
            warn(f"{cell.name} crashed: {errors[cell.name]}", folder, reporter)
        else:
            rows += results_of(folder.path / CELLS / cell.name)
    frame = cells_frame(rows)
    table = summary_frame(rows, list(told))
    with folder.replacing("compare.csv") as path:
        frame.write_csv(path)
    with folder.replacing("table.csv") as path:
        table.write_csv(path)
    with folder.replacing("table.md") as path:
        path.write_text(both_tables(table, told, shown), encoding="utf-8")
    folder.finish(
        {
            "kind": "compare",
            "command": command(config, folder.path),
            "domain": domain,
            "name": name,
            "seed": config.seed,
            "config": request,
            "labels": list(dict.fromkeys(row["label"] for row in rows)),
            "baselines": [b for b in BASELINES if b in config.compared()],
            "budgets": config.budgets(),
            "networks": config.networks(),
            "per": PER,
            "seeds": list(range(config.seed, config.seed + config.seeds)),
            "cells": len(cells),
            "crashed": errors,
            "score": {
                "name": _score_name(config),
                "direction": "minimize" if config.minimize else "maximize",
                "unit": None,
            },
            "measures": told,
        }
    )
    return frame


def _columns(config: CompareConfig) -> tuple[dict[str, str], tuple[str, ...], str]:
    """(what is measured, the columns of the text table, the domain) of what is compared."""
    if config.source in PROBLEMS:
        return problems.MEASURES, PROBLEM_COLUMNS, config.source
    if draws_molecules(config.source):
        return molecules.MEASURES, molecules.COLUMNS, "molecules"
    domain = config.source if config.source in BUILT_IN else "vectors"
    return measures.MEASURES, TABLE_COLUMNS, domain


def _score_name(config: CompareConfig) -> str:
    if config.source in PROBLEMS:
        return "reward"
    return (config.reward or "airfoils:lift_to_drag").partition(":")[2]


def command(config: CompareConfig, out: Path) -> list[str]:
    """The words of the command that makes this comparison again."""
    given = [(name, value) for name, value in changed(config) if name != "source"]
    return spelled("compare", config.source, given, out)
