"""The command line: ``payoff design``, ``sample``, ``report``, ``list``.

Options are generated from the configuration dataclasses, so that a field, its help line and its
default stand in one place. A mistake in the input is one message and exit code 2, without a
traceback; Ctrl-C and SIGTERM leave a checkpoint and exit with 130.
"""

from __future__ import annotations

import dataclasses
import inspect
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import payoff
from payoff.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reward-guided diffusion: designs that score higher and are still realistic.",
)

_NAMES = {"identifiers": "--id", "minimize": "--minimize/--maximize"}
_MULTIPLE = "; may be given several times"


def with_options(config: type) -> Callable[[Callable], Callable]:
    """Replace a command's ``options`` argument by one option per field of the dataclass."""
    hints = get_type_hints(config)

    def option_of(field: dataclasses.Field) -> inspect.Parameter:
        kind = hints[field.name]
        is_list = kind == list[str]
        default: Any = [] if is_list else field.default
        flag = _NAMES.get(field.name, "--" + field.name.replace("_", "-"))
        text = field.metadata["help"] + (_MULTIPLE if is_list else "")
        shown = typer.Option(flag, help=text, show_default=default not in (None, [], False))
        annotation = Annotated[kind, shown]  # type: ignore[valid-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(field.name, keyword, default=default, annotation=annotation)

    def decorate(command: Callable) -> Callable:
        fields = [f for f in dataclasses.fields(config) if f.name != "source"]
        names = {f.name for f in fields}

        def wrapper(**given: Any) -> None:
            options = {k: v for k, v in given.items() if k in names}
            rest = {k: v for k, v in given.items() if k not in names}
            command(options=options, **rest)

        own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
        own_hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=own_hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in own
        ]
        parameters = own + [option_of(f) for f in fields]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _design() -> None:
    # The heavy imports happen when a command runs, so that --help answers at once.
    from payoff.experiments.design.config import PRESETS, DesignConfig

    @app.command()
    @with_options(DesignConfig)
    def design(
        source: Annotated[str, typer.Argument(help="a CSV, TSV or Parquet table, or: airfoils")],
        options: dict[str, Any],
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
        from payoff.experiments.design.run import design as run
        from payoff.report import build

        if preset not in PRESETS:
            raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
        defaults = {f.name: f.default for f in dataclasses.fields(DesignConfig)}
        for name, value in PRESETS[preset].items():
            if options[name] == defaults[name]:
                options[name] = value
        config = DesignConfig(source=source, **options)
        folder = out if out is not None else _free_folder(source, resume)
        _STATE["resume"] = f"payoff design {source} ... --out {folder} --resume"
        frame = run(config, folder, resume=resume, overwrite=overwrite, quiet=quiet)
        report = build(folder)
        print(f"{len(frame)} designs: {folder / 'designs.csv'}")
        print(f"report:      {report.resolve()}")


def _design_sample() -> None:
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
        from payoff.experiments.design.again import sample as draw

        frame = draw(run, count=count, aim=aim, seed=seed, quiet=quiet)
        if out is None:
            sys.stdout.write(frame.write_csv())
            return
        if not out.parent.is_dir():
            raise UserError(f"--out {out}: there is no folder {out.parent}")
        temporary = out.with_name(f".{out.name}.tmp")
        frame.write_csv(temporary)
        temporary.replace(out)
        print(f"{len(frame)} designs: {out}")


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
    from payoff.experiments.records import RECORD, REQUEST, read_record

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: runs are kept where --out put them")
    found = {p.parent for name in (RECORD, REQUEST) for p in folder.glob(f"*/{name}")}
    for path in sorted(found, key=lambda p: p.stat().st_mtime):
        if not (path / RECORD).exists():
            print(f"{path}  unfinished (continue with --resume)")
            continue
        record = read_record(path)
        designs, score = record.get("designs", {}), record.get("score", {})
        print(
            f"{path}  {record.get('created', '?')}  {record.get('name', '?')}: "
            f"{designs.get('count', '?')} designs, {score.get('direction', '')} "
            f"{score.get('name', '')}, aim {record.get('aim', {}).get('chosen', float('nan')):.4g}"
        )
    if not found:
        print(f"no runs in {folder}")


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


_design()
_design_sample()
_STATE: dict[str, str] = {}


def main() -> None:
    """Entry point; see the module's text for the exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"payoff: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        hint = f"; continue with: {_STATE['resume']}" if "resume" in _STATE else ""
        print(f"\npayoff: stopped{hint}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # what click says about a mistyped option, without its traceback
        if not hasattr(error, "format_message"):
            raise
        print(f"payoff: {error.format_message()}", file=sys.stderr)
        sys.exit(2)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


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
