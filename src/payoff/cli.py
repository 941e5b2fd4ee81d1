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
from payoff import commands
from payoff.commands import (
    CONTINUE,
    Out,
    Overwrite,
    Preset,
    Quiet,
    Resume,
    continuing,
    free_folder,
    preferred,
    with_options,
)
from payoff.errors import UserError
from payoff.experiments.design.config import PRESETS, DesignConfig
from payoff.experiments.molecules.config import refuse_others
from payoff.experiments.molecules.design.config import OfDesignedMolecules

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reward-guided diffusion: designs that score higher and are still realistic.",
)

STOPPED = 130  # exit code after Ctrl-C or SIGTERM


# The heavy imports happen when a command runs, so that --help answers at once.


@app.command()
@with_options(DesignConfig, OfDesignedMolecules)
def design(
    source: Annotated[
        str,
        typer.Argument(
            help="a CSV, TSV or Parquet table, or: airfoils, or molecules: qm9, or a file of them"
        ),
    ],
    options: dict[str, Any],
    given: set[str],
    out: Out = None,
    preset: Preset = "default",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Propose designs with a better score that still look like the data."""
    if commands.designs_molecules(source, given):
        flags = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
        commands.design_molecules(source, options, given, out, preset, **flags)
        return
    refuse_others(given, DesignConfig, what="a table: it is for molecules")
    options = commands.of(DesignConfig, preferred(options, given, preset, PRESETS))
    config = DesignConfig(source=source, **options)
    folder = out if out is not None else free_folder(source, resume)

    from payoff.experiments.design.run import design as run
    from payoff.report import build

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, folder, resume=resume, overwrite=overwrite, quiet=quiet)
    CONTINUE[:] = ["payoff", "report", str(folder)]
    report = build(folder)
    print(f"designs: {folder / 'designs.csv'} ({len(frame)})")
    print(f"report:  {report.resolve()}")


app.command()(commands.finetune)
app.command()(commands.steer)
app.command()(commands.compare)
app.command()(commands.train)


@app.command()
def sample(
    run: Annotated[
        Path, typer.Argument(help="the folder of a finished run, or a model of molecules: qm9")
    ],
    count: Annotated[int, typer.Option("--count", help="number of designs")] = 100,
    aim: Annotated[
        float | None, typer.Option("--aim", help="the score to aim at; default: the run's own")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="another seed gives other designs")] = 1,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="molecules only: steps of the sampler; default: 40"),
    ] = None,
    products: Annotated[
        str,
        typer.Option("--products", help="molecules only: matrix products in auto, bf16 or fp32"),
    ] = "auto",
    guide: Annotated[
        Path | None,
        typer.Option("--guide", help="molecules only: what reads --property; default: qm9's"),
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option("--property", help="molecules only: asked for, alpha=95; repeatable"),
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", help="with --property: of the guide; 1 is Bayes' rule")
    ] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="a CSV file, of molecules also SDF or XYZ; default: the terminal"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw more designs from the model of a finished run, or molecules from a shipped one."""
    from payoff.domains.molecules.model import draws_molecules

    if draws_molecules(run):
        asked: dict[str, Any] = {"count": count, "aim": aim, "seed": seed, "steps": steps}
        if guide is not None or properties:
            from payoff.experiments.molecules.along import Along

            asked["along"] = Along.of(run, guide, properties or (), strength)
        commands.sample_molecules(run, **asked, kind=products, out=out, quiet=quiet)
        return
    if not run.exists() and len(run.parts) == 1:
        from payoff.pretrained import shipped

        known = ", ".join(shipped()) or "none"
        raise UserError(
            f"{run} holds no finished run, and is no model that payoff comes with ({known})"
        )
    if guide is not None or properties:
        raise UserError("--guide is for models of molecules")
    if steps is not None:
        raise UserError("--steps is for models of molecules; a run's designs are drawn as it drew")
    commands.sample_rows(run, count=count, aim=aim, seed=seed, out=out, quiet=quiet)


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
) -> None:
    """Hold your own part to the library's laws, and say which it breaks."""
    from payoff.checks import command

    limits: dict[str, Any] = {"calls": calls, "seconds": seconds}
    raise typer.Exit(command(part, kind=kind, shape=shape, tokens=tokens, seed=seed, **limits))


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
    from payoff.experiments.again import told
    from payoff.experiments.records import read_record

    try:
        return told(read_record(path))
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
        hint = f"; continue with: {shlex.join(CONTINUE)}" if CONTINUE else ""
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
