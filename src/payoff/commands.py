"""``payoff finetune``, ``steer`` and ``compare``, and what commands share.

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
from payoff.experiments.compare.config import PRESETS as COMPARE_PRESETS
from payoff.experiments.compare.config import CompareConfig
from payoff.experiments.finetune.config import PRESETS, TuneConfig
from payoff.experiments.molecules.config import PRESETS as MOLECULE_PRESETS
from payoff.experiments.molecules.config import MoleculeConfig, OfMolecules, refuse_others
from payoff.experiments.molecules.design.config import OWN_PRESETS, MoleculeDesignConfig
from payoff.experiments.molecules.design.config import PRESETS as DESIGN_PRESETS
from payoff.experiments.steer.config import PRESETS as STEER_PRESETS
from payoff.experiments.steer.config import SteerConfig
from payoff.finetuning.config import FinetuneConfig

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
Preset = Annotated[
    str, typer.Option("--preset", help="default, or toy: seconds instead of minutes")
]
Resume = Annotated[bool, typer.Option("--resume", help="continue an interrupted run in --out")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]


@with_options(TuneConfig, OfMolecules, FinetuneConfig, group="The learning")
def finetune(
    source: Annotated[
        str,
        typer.Argument(help="a CSV, TSV or Parquet table, or: airfoils; or a molecule model: qm9"),
    ],
    options: dict[str, Any],
    given: set[str],
    out: Out = None,
    preset: Preset = "default",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tune a generative model of designs towards a reward, black box or not."""
    from payoff.pretrained import shipped

    if source == DATA_SET or source in shipped() or Path(source).is_dir():
        flags = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
        _finetune_molecules(source, options, given, out, preset, **flags)
        return
    refuse_others(given, TuneConfig, FinetuneConfig, what="a table: it is for molecules")
    options = preferred(options, given, preset, PRESETS)
    config = TuneConfig(source=source, **of(TuneConfig, options))
    loop = FinetuneConfig(**of(FinetuneConfig, options))
    folder = out if out is not None else free_folder(f"{Path(source).stem}-{config.method}", resume)

    from payoff.experiments.finetune import finetune as run

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, loop, folder, resume=resume, overwrite=overwrite, quiet=quiet)
    print(f"designs: {folder / 'designs.csv'} ({len(frame)})")
    print(f"history: {folder / 'history.csv'}")
    _report(folder)


def _finetune_molecules(
    source: str,
    options: dict[str, Any],
    given: set[str],
    out: Path | None,
    preset: str,
    **flags: bool,
) -> None:
    """``payoff finetune`` where the source is a model of molecules."""
    refuse_others(given, MoleculeConfig, FinetuneConfig, what="molecules: it is for tables")
    options = preferred(options, given, preset, MOLECULE_PRESETS)
    config = MoleculeConfig(source=source, **of(MoleculeConfig, options))
    loop = FinetuneConfig(**of(FinetuneConfig, options))
    stem = f"{Path(source).resolve().name}-{config.method}"
    folder = out if out is not None else free_folder(stem, flags["resume"])

    from payoff.experiments.molecules.run import finetune as run

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, loop, folder, **flags)
    print(f"molecules: {folder / 'designs.sdf'} ({len(frame)})")
    print(f"history: {folder / 'history.csv'}")
    _report(folder)


def designs_molecules(source: str, given: set[str]) -> bool:
    """Whether ``payoff design`` is asked for molecules: by its source and its options."""
    if source == DATA_SET or "smiles" in given:
        return True
    if given & OF_COLUMNS:  # what says something about a table's columns
        return False
    from payoff.domains.molecules.columns import is_molecules

    return is_molecules(Path(source))


def design_molecules(
    source: str,
    options: dict[str, Any],
    given: set[str],
    out: Path | None,
    preset: str,
    **flags: bool,
) -> None:
    """``payoff design`` where the source is a data set or a file of molecules."""
    refuse_others(given, MoleculeDesignConfig, what="molecules: it is for tables")
    # defaults are the molecules' own, where the user set nothing
    options = {k: v for k, v in options.items() if k in given}
    presets = DESIGN_PRESETS if source == DATA_SET else OWN_PRESETS
    options = preferred(options, given, preset, presets)
    config = MoleculeDesignConfig(source=source, **options)
    stem = f"{Path(source).stem}-{config.score}"
    folder = out if out is not None else free_folder(stem, flags["resume"])

    from payoff.experiments.molecules.design.run import design as run

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, folder, **flags)
    print(f"molecules: {folder / 'designs.sdf'} ({len(frame)})")
    print(f"table: {folder / 'designs.csv'}")
    _report(folder)


@with_options(SteerConfig)
def steer(
    source: Annotated[str, typer.Argument(help="a CSV, TSV or Parquet table, or: airfoils")],
    options: dict[str, Any],
    given: set[str],
    out: Out = None,
    preset: Preset = "default",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw designs towards a reward from a model that stays as it is."""
    options = preferred(options, given, preset, STEER_PRESETS)
    config = SteerConfig(source=source, **options)
    folder = out if out is not None else free_folder(f"{Path(source).stem}-{config.method}", resume)

    from payoff.experiments.steer import steer as run

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    frame = run(config, folder, resume=resume, overwrite=overwrite, quiet=quiet)
    print(f"designs: {folder / 'designs.csv'} ({len(frame)})")
    print(f"history: {folder / 'history.csv'}")
    _report(folder)


@with_options(CompareConfig)
def compare(
    source: Annotated[
        str,
        typer.Argument(help="airfoils, a table, qm9, or a closed form: mixture, subspace, chain"),
    ],
    options: dict[str, Any],
    given: set[str],
    out: Out = None,
    preset: Preset = "default",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare tuning and steering methods at equal numbers of reward calls."""
    options = preferred(options, given, preset, COMPARE_PRESETS)
    config = CompareConfig(source=source, **options)
    folder = out if out is not None else free_folder(f"compare-{Path(source).stem}", resume)

    from payoff.experiments.compare import compare as run

    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    run(config, folder, resume=resume, overwrite=overwrite, quiet=quiet)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"table: {folder / 'table.csv'}")
    print(f"cells: {folder / 'compare.csv'}")
    _report(folder)


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
    from payoff.experiments.progress import Reporter

    reporter = Reporter(quiet)
    CONTINUE[:] = continuing(sys.argv[1:], folder, out is not None)
    found = run(config, folder, resume=resume, heard=lambda line: reporter.say(_read(line)))
    if found.interrupted:
        raise KeyboardInterrupt
    if not found.together.first:
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


def sample_rows(
    run: Path, *, count: int, aim: float | None, seed: int, out: Path | None, quiet: bool
) -> None:
    """``payoff sample`` of a finished run on a table: a CSV file, or the terminal."""
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: give a CSV file")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")

    from payoff.experiments.again import sample as draw

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


def sample_molecules(name: Path, *, aim: float | None, out: Path | None, **how: Any) -> None:
    """``payoff sample`` of a model of molecules: a file by its suffix, or the terminal."""
    from payoff.domains.molecules.files import write_molecules
    from payoff.experiments.molecules import again

    again.check_numbers(how["count"], how["steps"], how["seed"], how["kind"])
    if out is not None:
        again.check_out(out)
    columns = None
    if again.is_design(name):
        from payoff.experiments.molecules.design.again import sample as designed

        frame, found = designed(name, aim=aim, **how)
        columns = _beside(frame, out)
    elif aim is not None:
        raise UserError("--aim is for runs of payoff design, not for models of molecules")
    else:
        found = again.sample(name, **how)
    if out is None:
        sys.stdout.write(again.lines(found))
        sys.stdout.flush()
        print(again.told(found), file=sys.stderr)
        return
    written = write_molecules(out, found, columns)
    print(again.told(found))
    print(f"molecules: {out} ({written})")


def _beside(frame: Any, out: Path | None) -> Any:
    """The columns of designs that a format has room for."""
    kind = "" if out is None else out.suffix.lower()
    if kind in ("", ".smi"):
        return None
    return frame.drop("smiles", "valid") if kind == ".csv" else frame


def _report(folder: Path) -> None:
    """Write the report of a run that is finished."""
    from payoff.report import build

    CONTINUE[:] = ["payoff", "report", str(folder)]
    print(f"report: {build(folder).resolve()}")


def preferred(
    options: dict[str, Any], given: set[str], preset: str, presets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The options with the preset's values wherever the user set nothing."""
    if preset not in presets:
        raise UserError(f"--preset {preset}: choose one of {', '.join(presets)}")
    return options | {k: v for k, v in presets[preset].items() if k not in given}


def of(config: type, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that are the dataclass's."""
    names = {field.name for field in dataclasses.fields(config)}
    return {k: v for k, v in options.items() if k in names}


def continuing(words: list[str], folder: Path, has_out: bool) -> list[str]:
    """The command line that continues the one given: with --resume and the folder's name."""
    kept = [w for w in words if w not in ("--resume", "--overwrite")]
    return ["payoff", *kept, *([] if has_out else ["--out", str(folder)]), "--resume"]


def free_folder(source: str, resume: bool) -> Path:
    """runs/NAME, or the first runs/NAME-2, -3, … that holds no run."""
    from payoff.experiments.records import RECORD, REQUEST

    stem, number = Path(source).stem or "table", 1
    while True:
        path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        used = (path / RECORD).exists() or (path / REQUEST).exists()
        if not used or (resume and not (path / RECORD).exists()):
            return path
        number += 1
