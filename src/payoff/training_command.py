"""``payoff train``: long training of a model of molecules.

Options are generated from the configuration dataclasses, so that a field, its help line and its
default stand in one place.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from payoff.domains.molecules.config import DATA_SET, TrainConfig
from payoff.errors import UserError

_NAMES = {"identifiers": "--id", "settings": "--set", "minimize": "--minimize/--maximize"}
_NAMES["compile"] = "--compile/--no-compile"
_MULTIPLE = "; may be given several times"
OF_COLUMNS = {"identifiers", "categorical", "fixed", "bounds"}
CONTINUE: list[str] = []  # the command that continues what is running now


def with_options(*configs: type, group: str | None = None) -> Callable[[Callable], Callable]:
    """Replace a command's ``options`` argument by one option per field of the dataclasses.

    The command gets the options' values by name, and as ``given`` the names of those that the user
    set, to a default or not. Fields without a group of their own stand under ``group`` in the help.
    """

    def decorate(command: Callable) -> Callable:
        parameters = [p for config in configs for p in _parameters(config, group)]
        names = {p.name for p in parameters}

        def wrapper(context: typer.Context, **values: Any) -> None:
            options = {k: v for k, v in values.items() if k in names}
            rest = {k: v for k, v in values.items() if k not in names}
            sources = {k: context.get_parameter_source(k) for k in names}
            given = {k for k, source in sources.items() if source and source.name != "DEFAULT"}
            command(options=options, given=given, **rest)

        passed = ("options", "given")
        own = [p for p in inspect.signature(command).parameters.values() if p.name not in passed]
        own_hints = get_type_hints(command, include_extras=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [p.replace(annotation=own_hints[p.name], kind=keyword) for p in own]
        context = inspect.Parameter("context", keyword, annotation=typer.Context)
        every = [context, *own, *parameters]
        wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in every}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _parameters(config: type, group: str | None) -> Iterator[inspect.Parameter]:
    """One keyword parameter a field, annotated as typer wants it."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name == "source":
            continue
        kind = hints[field.name]
        is_list = kind == list[str]
        default: Any = [] if is_list else field.default
        shown = typer.Option(
            _NAMES.get(field.name, "--" + field.name.replace("_", "-")),
            help=field.metadata["help"] + (_MULTIPLE if is_list else ""),
            show_default=default is not None and default is not False and default != [],
            metavar=field.metadata.get("metavar"),
            rich_help_panel=field.metadata.get("group", group),
        )
        annotation = Annotated[kind, shown]  # type: ignore[valid-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(field.name, keyword, default=default, annotation=annotation)


# The heavy imports happen when a command runs, so that --help answers at once.

Out = Annotated[Path | None, typer.Option("--out", help="folder of the run; default: runs/NAME")]
Resume = Annotated[bool, typer.Option("--resume", help="continue an interrupted run in --out")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]


@with_options(TrainConfig)
def train(
    source: Annotated[str, typer.Argument(help="a built-in data set: qm9")],
    options: dict[str, Any],
    given: set[str],
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a generative model of molecules, for as long as you like."""
    if source != DATA_SET:
        raise UserError(f"{source}: there is no such built-in data set; there is: {DATA_SET}")
    config = TrainConfig(**options)
    folder = out if out is not None else Path("runs") / source

    from payoff.domains.molecules.train import MODEL
    from payoff.domains.molecules.train import train as run
    from payoff.jobs.progress import Reporter

    reporter = Reporter(quiet)
    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    found = run(config, folder, resume=resume, heard=lambda line: reporter.say(_read(line)))
    if found.interrupted:
        raise KeyboardInterrupt
    if not found.processes.first:
        return
    # it has come to its end, so that these weights are the ones that were wanted
    if config.evaluate_minutes:
        found.evaluate()
    else:
        found.export({})
    print(f"checkpoint: {folder} after {found.step} steps")
    print(f"model: {folder / MODEL}")


def _read(line: dict[str, Any]) -> str:
    """A line of a training's log as a sentence."""
    shown = {k: v for k, v in line.items() if k not in ("step", "seconds")}
    values = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
    return f"step {line['step']}: {values}"


def continuing(words: list[str], folder: Path, has_out: bool) -> list[str]:
    """The command line that continues the one given: with --resume and the folder's name."""
    kept = [w for w in words if w not in ("--resume", "--overwrite")]
    return ["payoff", *kept, *([] if has_out else ["--out", str(folder)]), "--resume"]
