"""Commands made out of jobs: one option a field of the job's and of the kinds' dataclasses.

A field, its help line and its default stand in one place. The heavy imports happen when a command
runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from payoff.domains.installed import kind_of, kinds
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.jobs.options import LEARNING, PRESETS, default_of, flag
from payoff.jobs.registry import Entry

NAMES = {"minimize": "--minimize/--maximize"}
MULTIPLE = "; may be given several times"

Out = Annotated[Path | None, typer.Option("--out", help="folder of the run; default: runs/NAME")]
Preset = Annotated[
    str,
    typer.Option("--preset", help=f"{' or '.join(PRESETS)}: toy takes seconds, to try things out"),
]
KindName = Annotated[
    str | None,
    typer.Option("--kind", help="kind of object, where the source can be read as two of them"),
]
Resume = Annotated[bool, typer.Option("--resume", help="continue an interrupted run in --out")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")]
Trust = Annotated[
    bool, typer.Option("--trust", help="import code that a saved model of somebody else names")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]


class Stopped(Exception):
    """Ctrl-C in a job, with the words that continue it; of a KeyboardInterrupt typer keeps none."""

    def __init__(self, words: list[str] | str) -> None:
        super().__init__("stopped")
        self.words = words


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn Ctrl-C in a job into :class:`Stopped`."""
    from payoff.jobs.base import Interrupted

    try:
        yield
    except Interrupted as interrupted:
        raise Stopped(interrupted.words) from interrupted


def command_of(
    entry: Entry, finished: Callable[[Any, Path], None], only: Kind | None = None
) -> Callable[..., None]:
    """The command of a job.

    Args:
        entry: the job.
        finished: called with the outcome (None: it was finished already) and the folder.
        only: the kind whose options and defaults the help shows; None: those of all kinds.
    """
    job = entry.load_options()
    usual = {} if only is None else only.defaults.get(entry.name, {})
    parameters = [*_parameters(job, usual, LEARNING)]
    taken = {p.name for p in parameters}
    parameters += _kind_parameters([only] if only is not None else list(kinds().values()), taken)
    names = {p.name for p in parameters}

    def command(
        context: typer.Context,
        source: str,
        out: Path | None = None,
        preset: str = "default",
        kind: str | None = None,
        resume: bool = False,
        overwrite: bool = False,
        quiet: bool = False,
        trust: bool = False,
        **values: Any,
    ) -> None:
        from payoff.jobs.base import start
        from payoff.pretrained import trusting

        origin = {name: context.get_parameter_source(name) for name in names}
        given = {k: values[k] for k, o in origin.items() if o and o.name != "DEFAULT"}
        flags: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
        with trusting(trust), _stopping():
            outcome, folder = start(
                entry.load(), source, given, out=out, preset=preset, kind=kind, **flags
            )
        finished(outcome, folder.path)

    shared = {
        "out": Out, "preset": Preset, "kind": KindName, "resume": Resume,
        "overwrite": Overwrite, "quiet": Quiet, "trust": Trust,
    }  # fmt: skip
    what = "; ".join(kind.help for kind in kinds().values())
    model = ", or a saved model: a run, a model folder, shipped weights" if job.takes_model else ""
    hint = Annotated[str, typer.Argument(help=f"{what}{model}")]
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(command).parameters
    every = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        inspect.Parameter("source", keyword, annotation=hint),
        *(own[n].replace(annotation=a, kind=keyword) for n, a in shared.items()),
        *parameters,
    ]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in every}
    command.__name__, command.__doc__ = entry.name, job.help
    return command


def with_options(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's argument ``options`` by one option a field of a dataclass."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own_hints = get_type_hints(command, include_extras=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        fields = list(_parameters(config, {}))
        own = [
            p.replace(annotation=own_hints[p.name], kind=keyword)
            for p in inspect.signature(command).parameters.values()
            if p.name != "options"
        ]

        def wrapper(**values: Any) -> None:
            given = {p.name: values.pop(p.name) for p in fields}
            command(options=config(**given), **values)

        every = [*own, *fields]
        wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in every}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def shown_kind(words: Sequence[str], jobs: Mapping[str, Entry]) -> Kind | None:
    """The kind of the source in the words of a command line that asks for help; None: all kinds."""
    if len(words) < 3 or words[0] not in jobs or not {"--help", "-h"} & set(words):
        return None
    source = next((word for word in words[1:] if not word.startswith("-")), None)
    if source is None:
        return None
    try:
        if jobs[words[0]].load_options().takes_model:
            from payoff.jobs.model import find_model, kind_of_model

            folder = find_model(source)
            if folder is not None:
                return kind_of_model(folder)
        return kind_of(source)
    except UserError:
        return None


def _parameters(
    config: type, defaults: Mapping[str, Any], group: str | None = None
) -> Iterator[inspect.Parameter]:
    """One keyword parameter a field, annotated as typer wants it; ``group`` for those without."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        text = field.metadata["help"]
        yield _parameter(field, hints[field.name], defaults, text, group=group)


def _kind_parameters(shown: Sequence[Kind], taken: set[str]) -> list[inspect.Parameter]:
    """The options of these kinds; one that several kinds have stands once."""
    found: dict[str, inspect.Parameter] = {}
    helps: dict[str, dict[str, str]] = {}
    for kind in shown:
        for field in dataclasses.fields(kind.options):
            helps.setdefault(field.name, {})[kind.name] = field.metadata["help"]
    for kind in shown:
        hints = get_type_hints(kind.options)
        for field in dataclasses.fields(kind.options):
            if field.name in taken:
                raise UserError(
                    f"the option {flag(field.name)} of the kind {kind.name} is an option of the "
                    "job too: one of them needs another name"
                )
            texts = set(helps[field.name].values())
            text = "; ".join(f"{k}: {t}" for k, t in helps[field.name].items())
            text = text if len(texts) > 1 else texts.pop()
            several = len(helps[field.name]) > 1
            made = _parameter(field, hints[field.name], {}, text, show=not several)
            found.setdefault(field.name, made)
    return list(found.values())


def _parameter(
    field: dataclasses.Field,
    kind: Any,
    defaults: Mapping[str, Any],
    text: str,
    *,
    show: bool = True,
    group: str | None = None,
) -> inspect.Parameter:
    is_list = kind == list[str]
    default = defaults.get(field.name, default_of(field))
    default = [] if is_list else default
    shown = typer.Option(
        NAMES.get(field.name, flag(field.name)),
        help=text + (MULTIPLE if is_list else ""),
        show_default=show and default is not None and default is not False and default != [],
        metavar=field.metadata.get("metavar"),
        rich_help_panel=field.metadata.get("group", group),
    )
    annotation: Any = Annotated[str | None if kind is Any else kind, shown]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
