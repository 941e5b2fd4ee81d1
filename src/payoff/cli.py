"""The command line: ``payoff design``, ``sample``, ``report``, ``list``.

Options are generated from the configuration dataclasses, so that a field, its help line and its
default stand in one place. A mistake in the input is one message and exit code 2, without a
traceback; Ctrl-C and SIGTERM leave a checkpoint and exit with 130.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import payoff
from payoff.errors import UserError
from payoff.experiments.design.config import PRESETS, DesignConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reward-guided diffusion: designs that score higher and are still realistic.",
)

STOPPED = 130  # exit code after Ctrl-C or SIGTERM
_NAMES = {"identifiers": "--id", "minimize": "--minimize/--maximize"}
_MULTIPLE = "; may be given several times"
_CONTINUE: list[str] = []  # the command that continues what is running now


def with_options(config: type) -> Callable[[Callable], Callable]:
    """Replace a command's ``options`` argument by one option per field of the dataclass.

    The command gets the options' values by name, and as ``given`` the names of those that the user
    set, to a default or not.
    """
    hints = get_type_hints(config)

    def option_of(field: dataclasses.Field) -> inspect.Parameter:
        kind = hints[field.name]
        is_list = kind == list[str]
        default: Any = [] if is_list else field.default
        flag = _NAMES.get(field.name, "--" + field.name.replace("_", "-"))
        text = field.metadata["help"] + (_MULTIPLE if is_list else "")
        shown = typer.Option(
            flag,
            help=text,
            show_default=default is not None and default is not False and default != [],
            metavar=field.metadata.get("metavar"),
            rich_help_panel=field.metadata.get("group"),
        )
        annotation = Annotated[kind, shown]  # type: ignore[valid-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(field.name, keyword, default=default, annotation=annotation)

    def decorate(command: Callable) -> Callable:
        fields = [f for f in dataclasses.fields(config) if f.name != "source"]
        names = {f.name for f in fields}

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
        parameters = [context, *own, *(option_of(f) for f in fields)]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


# The heavy imports happen when a command runs, so that --help answers at once.


@app.command()
@with_options(DesignConfig)
def design(
    source: Annotated[str, typer.Argument(help="a CSV, TSV or Parquet table, or: airfoils")],
    options: dict[str, Any],
    given: set[str],
    out: Annotated[
        Path | None, typer.Option("--out", help="folder of the run; default: runs/NAME")
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="default, or toy: seconds instead of minutes")
    ] = "default",
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted run in --out")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an earlier run in --out")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Propose designs with a better score that still look like the data."""
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    options |= {k: v for k, v in PRESETS[preset].items() if k not in given}
    config = DesignConfig(source=source, **options)
    folder = out if out is not None else _free_folder(source, resume)

    from payoff.experiments.design.run import design as run
    from payoff.report import build

    _CONTINUE[:] = _continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, folder, resume=resume, overwrite=overwrite, quiet=quiet)
    _CONTINUE[:] = ["payoff", "report", str(folder)]
    report = build(folder)
    print(f"designs: {folder / 'designs.csv'} ({len(frame)})")
    print(f"report:  {report.resolve()}")


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="the folder of a finished design run")],
    count: Annotated[int, typer.Option("--count", help="number of designs")] = 100,
    aim: Annotated[
        float | None, typer.Option("--aim", help="the score to aim at; default: the run's own")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="another seed gives other designs")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="a CSV file; default: the terminal")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Draw more designs from the model of a finished run."""
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: give a CSV file")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")

    from payoff.experiments.design.again import sample as draw

    frame = draw(run, count=count, aim=aim, seed=seed, quiet=quiet)
    if out is None:
        sys.stdout.write(frame.write_csv())
        sys.stdout.flush()
        return
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        frame.write_csv(temporary)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    print(f"designs: {out} ({len(frame)})")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
) -> None:
    """Write the report of a finished run again."""
    from payoff.report import build

    print(f"report: {build(run).resolve()}")


@app.command(name="list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="where the runs are")] = Path("runs"),
) -> None:
    """List the runs in a folder, the newest last."""
    from payoff.experiments.records import RECORD, REQUEST

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: runs are kept where --out put them")
    found = {p.parent for name in (RECORD, REQUEST) for p in folder.glob(f"*/{name}")}
    for path in sorted(found, key=lambda p: (p.stat().st_mtime, p.name)):
        print(f"{path}  {_told(path) if (path / RECORD).exists() else 'unfinished: --resume'}")
    if not found:
        print(f"no runs in {folder}")


def _told(path: Path) -> str:
    """A finished run in one line; a damaged one must not hide the others."""
    from payoff.experiments.records import read_record

    try:
        record = read_record(path)
        designs, score, aim = record["designs"], record["score"], record["aim"]["chosen"]
        return (
            f"{record['created']}  {record['name']}: {designs['count']} designs, "
            f"{score['direction']} {score['name']}, aim {aim:.4g}"
        )
    except (UserError, KeyError, TypeError, ValueError):
        return "its run.json is damaged or of another version"


def _version(value: bool) -> None:
    if value:
        print(f"payoff {payoff.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Reward-guided diffusion: designs that score higher and are still realistic."""


def main() -> None:
    """Entry point; see the module's text for the exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # typer hands some exits back as a number, Ctrl-C among them in its newer versions
        code = app(standalone_mode=False)
        if code == STOPPED:
            raise KeyboardInterrupt
        sys.exit(code)
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        hint = f"; continue with: {shlex.join(_CONTINUE)}" if _CONTINUE else ""
        print(f"\npayoff: stopped{hint}", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:
        # the reader has gone, as in «payoff sample RUN | head»: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        _fail(f"cannot write {error.filename or ''}: {error.strerror}".replace(" :", ":"))
    except Exception as error:
        # what click says about a mistyped option, without its traceback
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())


def _fail(message: str) -> None:
    if message:
        print(f"payoff: {message}", file=sys.stderr)
    sys.exit(2)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _continuing(words: list[str], folder: Path, has_out: bool) -> list[str]:
    """The command line that continues the one given: with --resume and the folder's name."""
    kept = [w for w in words if w not in ("--resume", "--overwrite")]
    return ["payoff", *kept, *([] if has_out else ["--out", str(folder)]), "--resume"]


def _free_folder(source: str, resume: bool) -> Path:
    """runs/NAME, or the first runs/NAME-2, -3, … that holds no run."""
    from payoff.experiments.records import RECORD, REQUEST

    stem, number = Path(source).stem or "table", 1
    while True:
        path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        used = (path / RECORD).exists() or (path / REQUEST).exists()
        if not used or (resume and not (path / RECORD).exists()):
            return path
        number += 1


if __name__ == "__main__":
    main()
