"""A job, and the one way in which every job runs.

>>> start(Finetune, "designs.csv", {"reward": "lab:strength"})  # doctest: +SKIP
"""

from __future__ import annotations

import multiprocessing
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl
import torch

from payoff.configs import suggest, to_dict
from payoff.domains.installed import kind_of, kinds, option_names
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.machine import check_device, threads
from payoff.jobs.model import Model, find_model, kind_of_model
from payoff.jobs.options import PRESETS, Checked, command_words, flag, without_password
from payoff.jobs.progress import Reporter
from payoff.jobs.records import (
    FORMAT,
    RECORD,
    REQUEST,
    TABLE,
    RunFolder,
    refuse_occupied,
    source_name,
)
from payoff.jobs.scoring import Scored

DESIGNS, BASE_DESIGNS, HISTORY = "designs", "base_designs", "history.csv"
Plan = TypeVar("Plan")


@dataclass
class Asked:
    """A request, resolved once: nothing below sees a command line.

    Attributes:
        source: as the user wrote it.
        model: the folder of the model that the source names, or None: it names data.
        kind: of the objects.
        options: of the kind.
        given: the options that the user set, and the preset; they make the command again.
        out: the run's folder.
        resume: whether an interrupted run may be continued.
    """

    source: Any
    model: Path | None
    kind: Kind
    options: Any
    given: dict[str, Any]
    out: Path
    resume: bool = False


@dataclass
class Outcome:
    """The results of a job: objects with their scores, tables and a record.

    Attributes:
        record: entries of ``run.json``.
        summary: the run in a line.
        designs: the objects, best first; None: the job makes none.
        base: objects of the model that the run began with.
        tables: further tables by file name.
        model: of the objects.
    """

    record: dict[str, Any]
    summary: str
    designs: Scored | None = None
    base: Scored | None = None
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    model: Model | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the words of the command that continues the run."""

    def __init__(self, words: list[str] | str) -> None:
        super().__init__("interrupted")
        self.words = words


class Job(Checked, ABC, Generic[Plan]):
    """A job. Its dataclass fields are its options; see :class:`~payoff.jobs.options.Checked`."""

    @abstractmethod
    def prepare(self, asked: Asked, reporter: Reporter) -> Plan:
        """Read everything and refuse what cannot work; nothing is written yet.

        Raises:
            UserError: the source, the reward or an option is wrong.
        """

    @abstractmethod
    def run(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> Outcome:
        """Do the work in an open run folder; called again by ``--resume``."""

    def fingerprint(self, plan: Plan) -> str | None:
        """A text that changes with the data of a plan."""
        return None

    def work(self, plan: Plan) -> float:
        """Multiplications of a typical matrix product, which decide the number of threads."""
        return 0.0

    def is_finished(self, folder: RunFolder) -> bool:
        """Whether nothing is left to do in a run's folder."""
        return folder.finished

    def default_name(self, asked: Asked) -> str:
        """The name of the run's folder where the user gives none."""
        return f"{stem_of(asked.source)}-{getattr(self, 'method', self.name)}"


def start(
    cls: type[Job],
    source: Any,
    given: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    preset: str = "default",
    kind: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> tuple[Outcome | None, RunFolder]:
    """Run a job from its request to its folder; the preamble of every job and kind.

    Args:
        cls: the job.
        source: data or a model, as the job takes them.
        given: options that the user set, of the job and of the kind.
        out: the run's folder; default: ``runs/NAME``.
        preset: name of a set of options.
        kind: name of the kind of object, where two kinds read the source.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the folder; its ledger is kept.
        quiet: no progress on the terminal.

    Returns:
        the outcome (None: the run was finished already), and the folder.

    Raises:
        UserError: something is wrong with the request, and nothing has been written then; or the
            work failed in a way that the user can mend.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "a worker process imports the script that defines the reward, and the script starts a "
            'run when it is imported: put the run under if __name__ == "__main__":, or the reward '
            "into a module of its own"
        )
    reporter = Reporter(quiet)
    job, asked = resolve(cls, source, given or {}, preset=preset, kind=kind)
    asked.resume = resume
    asked.out = Path(out) if out is not None else free_folder(job.default_name(asked), resume)
    asked.out = asked.out.absolute()
    refuse_occupied(asked.out, resume=resume, overwrite=overwrite)
    check_device(getattr(job, "device", "cpu"))
    plan = job.prepare(asked, reporter)
    with threads(getattr(job, "threads", 0), job.work(plan)):
        request = request_of(job, asked)
        compared = {k: v for k, v in request.items() if k not in job.free}
        if (fingerprint := job.fingerprint(plan)) is not None:
            compared[TABLE] = fingerprint
        folder = RunFolder(asked.out, compared, resume=resume, overwrite=overwrite)
        if resume and job.is_finished(folder):
            reporter.say(f"{folder.path} is finished already")
            return None, folder
        outcome = _finished(job, plan, asked, request, folder, reporter)
    reporter.say(outcome.summary)
    return outcome, folder


def _finished(
    job: Job,
    plan: Any,
    asked: Asked,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> Outcome:
    """Run a job in its folder to the end, and write everything that it leaves."""
    words = command_words(job.name, asked.source, list(asked.given.items()), asked.out)
    try:
        with folder.explain_disk_errors():
            outcome: Outcome = job.run(plan, folder, reporter)
            _write(folder, outcome)
            head = {"kind": job.name, "command": words, "domain": asked.kind.name}
            record = {**head, "config": request, **outcome.record}
            folder.finish(record, asked.kind.packages)
            folder.drop_state()
    except KeyboardInterrupt as error:
        more = [*words, "--resume"] if isinstance(words, list) else words
        raise Interrupted(more) from error
    return outcome


def resolve(
    cls: type[Job],
    source: Any,
    given: Mapping[str, Any],
    *,
    preset: str = "default",
    kind: str | None = None,
) -> tuple[Job, Asked]:
    """The job with all of its options, and the request, for a source.

    Defaults are the job's own, then the kind's, then the preset's, then the kind's for the preset;
    the user's options come last.

    Raises:
        UserError: no kind reads the source, or an option is unknown or of another kind.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    model = find_model(source) if cls.takes_model else None
    found = _kind(cls, source, model, given, kind)
    if cls.name in found.refused:
        raise UserError(f"payoff {cls.name} {source}: {found.refused[cls.name]}")
    _refuse_others(cls, found, given, source)
    values: dict[str, Any] = {}
    for part in (
        found.defaults.get(cls.name, {}),
        cls.presets.get(preset, {}),
        found.defaults.get(f"{cls.name}:{preset}", {}),
        given,
    ):
        values |= part
    values = _for_method(cls, found, values, given)
    own = option_names(found)
    options = found.options(**{k: v for k, v in values.items() if k in own})
    job = cls(**{k: v for k, v in values.items() if k not in own})
    kept = dict(given) | ({} if preset == "default" else {"preset": preset})
    kept |= {} if kind is None else {"kind": kind}
    return job, Asked(source, model, found, options, kept, Path())


def _kind(
    cls: type[Job], source: Any, model: Path | None, given: Mapping[str, Any], chosen: str | None
) -> Kind:
    if model is not None:
        found = kind_of_model(model)
        if chosen not in (None, found.name):
            raise UserError(
                f"--kind {chosen}: {source} is a model of the kind {found.name}; leave --kind out"
            )
        return found
    if isinstance(source, (str, Path)) and Path(source).is_dir() and cls.takes_model:
        raise UserError(
            f"{source} is a folder without a saved model: give a finished run's folder, or data"
        )
    return kind_of(source, given, chosen)


def _refuse_others(cls: type[Job], kind: Kind, given: Mapping[str, Any], source: Any) -> None:
    """Refuse options that the job does not have, or that are another kind's."""
    own = {f.name for f in fields(cls)} | option_names(kind)  # type: ignore[arg-type]
    for name in given:
        if name in own:
            continue
        others = [k for k in kinds().values() if name in option_names(k)]
        if others:
            what = " and ".join(other.plural for other in others)
            raise UserError(
                f"{flag(name)} does not apply to {source}, which is of the kind {kind.name}: it is "
                f"for {what}"
            )
        raise UserError(f"payoff {cls.name} has no option {flag(name)}{suggest(name, own)}")


def _for_method(
    cls: type[Job], kind: Kind, values: dict[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The values with the kind's defaults for the chosen method."""
    by_name = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if "method" not in by_name:
        return values
    method = values.get("method", by_name["method"].default)
    settings = dict(_pair(text) for text in values.get("settings", ()))
    own, options = kind.method_defaults(cls.name, method, settings, values)
    special = kind.defaults.get(f"{cls.name}.{method}", {})
    first = [f"{name}={value}" for name, value in own.items() if name not in settings]
    filled = {k: v for k, v in {**special, **options}.items() if k not in given}
    return {**values, **filled, "settings": [*first, *values.get("settings", ())]}


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip().replace("-", "_"), value.strip()


def request_of(job: Job, asked: Asked) -> dict[str, Any]:
    """Everything that was asked for, as ``request.json`` and the record hold it."""
    request = {**to_dict(job), **to_dict(asked.options), "source": source_name(asked.source)}
    for name, value in request.items():
        if callable(value):
            request[name] = getattr(value, "__qualname__", type(value).__name__)
    if isinstance(request.get("ledger"), str):
        request["ledger"] = without_password(request["ledger"])
    return {"format": FORMAT, "job": job.name, "kind": asked.kind.name, **request}


def _write(folder: RunFolder, outcome: Outcome) -> None:
    """The files of an outcome: tables, and the objects in files of their kind."""
    with folder.stage("writing"):
        for stem, scored in ((BASE_DESIGNS, outcome.base), (DESIGNS, outcome.designs)):
            if scored is None:
                continue
            if outcome.model is not None:
                files = outcome.model.domain.write(folder.path, stem, scored.objects, scored.table)
                folder.add_files(files)
            outcome.tables[f"{stem}.csv"] = scored.table
        for name, table in outcome.tables.items():
            with folder.replacing(name) as path:
                table.write_csv(path)


def generator(seed: int, stream: int) -> torch.Generator:
    """The random numbers of a run for one purpose."""
    return torch.Generator().manual_seed(seed + stream)


def stem_of(source: Any) -> str:
    """A name for a run on this source."""
    if not isinstance(source, (str, Path)):
        return "table"
    return re.sub(r"\W+", "-", Path(source).resolve().stem).strip("-") or "run"


def free_folder(stem: str, resume: bool) -> Path:
    """A folder for a run without ``--out``: ``runs/NAME``, or NAME-2, NAME-3, … where that is used.

    With ``resume``: the first of these that holds an unfinished run.
    """
    number = 1
    while True:
        path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if free or (resume and (path / REQUEST).exists() and not (path / RECORD).exists()):
            return path
        number += 1
