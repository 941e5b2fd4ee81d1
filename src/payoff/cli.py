"""The command line: ``payoff design``, ``finetune``, ``steer``, ``compare`` and the rest.

A mistake in the input is one message and exit code 2, without a traceback; Ctrl-C and SIGTERM
leave a checkpoint and exit with 130.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import payoff
from payoff.commands import Stopped, Trust, command_of, shown_kind, with_options
from payoff.errors import UserError
from payoff.jobs.registry import JOBS
from payoff.jobs.sample_options import SampleOptions
from payoff.training_command import CONTINUE, Quiet, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reward-guided diffusion: designs that score higher and are still realistic.",
)

STOPPED = 130  # exit code after Ctrl-C or SIGTERM


# The heavy imports happen when a command runs, so that --help answers at once.


app.command()(train)


@app.command()
@with_options(SampleOptions)
def sample(
    run: Annotated[
        Path,
        typer.Argument(help="a finished run, a model folder, shipped weights or owner/repository"),
    ],
    options: SampleOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="a file, .csv or of the kind's own; default: the terminal"),
    ] = None,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Draw more designs from the model of a finished run, or from a saved one."""
    from payoff.jobs.sample import Guidance, check_out, describe, write_out
    from payoff.jobs.sample import sample as draw
    from payoff.pretrained import trusting

    led = Guidance.of(options.properties, options.guide, options.strength)
    check_out(out, run)
    with trusting(trust):
        found = draw(
            run,
            count=options.count,
            aim=options.aim,
            seed=options.seed,
            steps=options.sampler_steps,
            precision=options.matmul_precision,
            guidance=led,
            quiet=quiet,
        )
    if out is None:
        sys.stdout.write(found.table.write_csv())
        sys.stdout.flush()
        print(describe(found), file=sys.stderr)
        return
    written = write_out(found, out)
    print(describe(found))
    print(f"{found.model.kind.plural}: {out} ({written})")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
) -> None:
    """Write the report of a finished run again."""
    from payoff.report import build

    print(f"report: {build(run).resolve()}")


@app.command()
def check(
    part: Annotated[
        str, typer.Argument(metavar="MODULE:NAME", help="your reward, network, sampler, …")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="reward, value, denoiser, sampler, schedule, process, method or network; "
            "default: told from the part",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="shape of one row, such as 18 or 5,3; default: by trying"),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="size of the vocabulary, if rows are tokens")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="seed of everything that is drawn")] = 0,
    calls: Annotated[
        int | None,
        typer.Option("--calls", help="rows of a reward, or calls of a part, that may be spent"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="make no further call after this time")
    ] = 120.0,
    source: Annotated[
        str | None, typer.Option("--source", help="data that a kind of object is checked on")
    ] = None,
) -> None:
    """Hold your own part to the library's laws, and say which it breaks."""
    from payoff.checks import command

    limits: dict[str, Any] = {"calls": calls, "seconds": seconds, "source": source}
    raise typer.Exit(command(part, kind=kind, shape=shape, tokens=tokens, seed=seed, **limits))


@app.command(name="list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="where the runs are")] = Path("runs"),
) -> None:
    """List the runs in a folder, the newest last."""
    from payoff.jobs.records import RECORD, REQUEST

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: runs are kept where --out put them")
    found = {p.parent for name in (RECORD, REQUEST) for p in folder.glob(f"*/{name}")}
    for path in sorted(found, key=lambda p: (p.stat().st_mtime, p.name)):
        print(f"{path}  {_told(path) if (path / RECORD).exists() else 'unfinished: --resume'}")
    if not found:
        print(f"no runs in {folder}")


def _told(path: Path) -> str:
    """A finished run in one line; a damaged one must not hide the others."""
    from payoff.jobs.records import in_a_line, read_record

    try:
        return in_a_line(read_record(path))
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


def add_jobs(words: list[str]) -> None:
    """Add a command for every job; their help shows the kind of the source, if there is one."""
    only = shown_kind(words, JOBS)
    for entry in JOBS.values():
        app.command(name=entry.name)(command_of(entry, _finished, only))


def _finished(outcome: Any, folder: Path) -> None:
    """Name the files of a finished run, and write its report."""
    from payoff.report import build

    designs = None if outcome is None else outcome.designs
    if designs is not None:
        print(f"designs: {folder / 'designs.csv'} ({len(designs.objects)})")
        others = [path for path in sorted(folder.glob("designs.*")) if path.suffix != ".csv"]
        for path in others:  # the objects in the file formats of their kind
            print(f"designs: {path}")
    for name in ("history.csv", "table.csv"):
        if (folder / name).exists():
            print(f"{name.removesuffix('.csv')}: {folder / name}")
    CONTINUE[:] = ["payoff", "report", str(folder)]
    print(f"report: {build(folder).resolve()}")


def main() -> None:
    """Entry point; see the module's text for the exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    CONTINUE.clear()
    try:
        add_jobs(sys.argv[1:])
        # typer hands some exits back as a number, Ctrl-C among them in its newer versions
        code = app(standalone_mode=False)
        if code == STOPPED:
            raise KeyboardInterrupt
        sys.exit(code)
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort, Stopped) as stopped:
        words = getattr(stopped, "words", None) or CONTINUE
        hint = f"; continue with: {shlex.join(words)}" if isinstance(words, list) and words else ""
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


if __name__ == "__main__":
    main()
