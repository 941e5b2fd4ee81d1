"""Run folders: what a command leaves behind, complete or marked as incomplete.

Files appear whole: each is written beside its place and renamed. ``run.json`` comes last, so a
folder that holds it is finished, and one that does not can be resumed.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import payoff
from payoff.errors import UserError
from payoff.jobs.progress import Reporter

RECORD, REQUEST = "run.json", "request.json"
FORMAT = 2
"""Of a request. Requests of payoff 0.1 have none; their runs cannot be continued any more."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
STATE = "state"  # what a run needs only until it is finished
FOLDERS = (STATE, "model", "guide", "reward", "base")
RESULTS = (
    *("designs.csv", "sweep.csv", "data.parquet", "codec.json", "report.html"),
    *("base_designs.csv", "history.csv", "compare.csv", "table.csv", "table.md"),
    *("designs.sdf", "base_designs.sdf", "compounds.parquet", "failed.csv"),
    *("data.json", "known.parquet"),
)
"""What a run of any kind leaves beside its folders; a ledger stays, its answers remain true."""
TABLE = "table"  # the entry of a request that stands for what the table holds
_PACKAGES = ("torch", "numpy", "polars", "scikit-learn", "plotly")


class RunFolder:
    """One run's folder, its timings and its warnings.

    Args:
        path: created if missing.
        request: what is asked for; kept so that a resumed run can check that it is the same.
        resume: continue in a folder that already holds an unfinished run of the same request.
        overwrite: replace what an earlier run left.

    Raises:
        UserError: the folder already holds a run, or another request, and neither ``resume`` nor
            ``overwrite`` says what to do about it; or it cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        request: dict[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []
        self.files: set[str] = set()
        self._started = time.perf_counter()
        refuse_occupied(self.path, resume=resume, overwrite=overwrite)
        earlier = _earlier_request(self.path)
        try:
            if earlier is not None and resume:
                _same_request(earlier, request, self.path)
                self._discard_temporary()
            elif earlier is not None:
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(REQUEST, request)
        except OSError as error:
            with suppress(OSError):
                self.path.rmdir()  # only if it is empty
            raise UserError(f"cannot write to {self.path}: {error.strerror or error}") from error

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return (self.path / RECORD).exists()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage by its name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path that takes the name ``name`` when the block ends well."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            yield temporary
            os.replace(temporary, target)
            self.files.add(name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def replacing_files(self, name: str) -> Iterator[Path]:
        """A temporary folder whose files move into the folder ``name`` when the block ends well.

        JSON files move last: where one stands, the weights it describes are there too.
        """
        target = self.path / name
        target.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.path, prefix=f".{name}.", suffix=".tmp"))
        try:
            yield temporary
            for file in sorted(temporary.iterdir(), key=lambda f: (f.suffix == ".json", f.name)):
                os.replace(file, target / file.name)
                self.files.add(f"{name}/{file.name}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextmanager
    def explain_disk_errors(self) -> Iterator[None]:
        """Turn a full disk or a folder that cannot be written to into a message.

        Raises:
            UserError: says so; no half-written file is left, and the run can be resumed.
        """
        try:
            yield
        except Exception as error:
            reason = _disk_trouble(error)
            if reason is None:
                raise
            self._discard_temporary()
            raise UserError(
                f"cannot write to {self.path}: {reason}. What was finished is kept: put that "
                "right and continue with --resume"
            ) from error

    def _discard_temporary(self) -> None:
        ours = [*self.path.glob(".*.tmp")]
        ours += [file for name in FOLDERS for file in (self.path / name).glob("*.tmp")]
        for file in ours:
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as JSON; NaN becomes null, which every reader understands."""
        with self.replacing(name) as path:
            text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """What :meth:`write_json` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        return self.read(self.path / name)

    @staticmethod
    def read(path: Path) -> Any:
        """The content of a JSON file of a run.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error

    def add_files(self, paths: Iterable[Path]) -> None:
        """Take note of files that something else wrote into the folder."""
        self.files |= {str(path.relative_to(self.path)) for path in paths}

    def finish(self, record: dict[str, Any], packages: Iterable[str] = ()) -> None:
        """Write ``run.json``: the record with versions, timings, warnings and files added.

        ``packages`` are further ones whose versions decide the result.
        """
        self.timings["total"] = time.perf_counter() - self._started
        extra = {
            "payoff": payoff.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(packages),
            "timings": {k: round(v, 3) for k, v in self.timings.items()},
            "warnings": self.warnings,
            "files": sorted(f for f in self.files if not f.startswith(f"{STATE}/")),
        }
        self.write_json(RECORD, {**extra, **record})

    def drop_state(self) -> None:
        """Delete ``state/``: a finished run needs no checkpoint."""
        for file in (self.path / STATE).glob("*"):
            file.unlink()
        if (self.path / STATE).exists():
            (self.path / STATE).rmdir()

    def _clear(self) -> None:
        # only what a run writes: a folder may hold the user's own files too
        for name in (*_files_of(self.path), RECORD, REQUEST, *RESULTS):
            (self.path / name).unlink(missing_ok=True)
        self._discard_temporary()
        for name in FOLDERS:
            for file in (self.path / name).glob("*"):
                file.unlink()


def _files_of(path: Path) -> list[str]:
    """The files inside a run's folder that its record lists."""
    try:
        files = json.loads((path / RECORD).read_text(encoding="utf-8"))["files"]
        inside = [str(name) for name in files]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    root = path.resolve()
    return [name for name in inside if (path / name).resolve().is_relative_to(root)]


def warn(text: str, folder: RunFolder, reporter: Reporter) -> None:
    """Warn on the terminal, and keep the warning for the record."""
    folder.warnings.append(text)
    reporter.warn(text)


def refuse_occupied(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Stop before any work if a run may not go into the folder.

    Raises:
        UserError: it is a file, or it holds a run and neither ``resume`` nor ``overwrite`` says
            what to do about it.
    """
    if resume and overwrite:
        raise UserError("--resume continues a run and --overwrite replaces it: give one of them")
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file: give a folder")
    if _earlier_request(path) is None or resume or overwrite:
        return
    if (path / RECORD).exists():
        raise UserError(
            f"{path} already holds a finished run: choose another --out, or replace it with "
            "--overwrite"
        )
    raise UserError(
        f"{path} already holds an unfinished run: choose another --out, continue it with --resume "
        "and the same options, or replace it with --overwrite"
    )


def read_record(path: str | Path) -> dict[str, Any]:
    """The ``run.json`` of a finished run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = Path(path) / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        begun = (Path(path) / REQUEST).exists()
        hint = " (it was not finished: continue it with --resume)" if begun else ""
        raise UserError(f"{path} holds no finished run{hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{file} is damaged: it holds a {type(record).__name__}")
    return record


def in_a_line(record: dict[str, Any]) -> str:
    """A finished run in one line.

    Raises:
        KeyError: an entry of the record is missing.
    """
    begin = f"{record['created']}  {record['name']}: "
    job, score = record.get("kind", "design"), record["score"]
    goal = f"{score['direction']} {score['name']}"
    if job == "compare":
        count, runs = len(record["labels"]), record["cells"]
        return f"{begin}{count} methods compared in {runs} runs, {goal}"
    if job == "design":
        aim = record["aim"]["chosen"]
        return f"{begin}{record['designs']['count']} designs, {goal}, aim {aim:.4g}"
    calls, median = record["calls"]["spent"], record["designs"]["median"]
    found = "" if median is None else f", {median:.4g} in the median"
    return f"{begin}{record['method']['name']} with {calls} reward calls, {goal}{found}"


def number(value: float | None) -> str:
    """A number for a sentence."""
    return "unknown" if value is None else f"{value:.4g}"


def source_name(source: Any) -> str:
    """What a record calls the table that a run was given."""
    return str(source) if isinstance(source, (str, Path)) else f"a {type(source).__name__}"


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in dict.fromkeys((*_PACKAGES, *packages)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _earlier_request(path: Path) -> dict[str, Any] | None:
    """What the run in the folder was asked for; empty if that cannot be read, None without one."""
    if not (path / REQUEST).exists():
        return {} if (path / RECORD).exists() else None
    try:
        found = json.loads((path / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _disk_trouble(error: BaseException) -> str | None:
    """Why a file could not be written, None if the error is about something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # libraries that write in other languages tell of it in their own exceptions, some of them
    # raised while the first one is handled
    for number in DISK_ERRORS:
        if os.strerror(number) in str(error):
            return os.strerror(number)
    first = error.__cause__ or error.__context__
    if isinstance(first, OSError) and first.errno not in DISK_ERRORS:
        return None
    return None if first is None else _disk_trouble(first)


def _same_request(earlier: dict[str, Any], request: dict[str, Any], path: Path) -> None:
    now = _plain(request)
    if now.get("format") and "format" not in earlier:
        raise UserError(
            f"cannot resume {path}: it was begun by payoff 0.1; finish it with that "
            "version, or begin again with another --out or --overwrite"
        )
    different = sorted(k for k in {*earlier, *now} if earlier.get(k) != now.get(k))
    if different == [TABLE]:
        raise UserError(
            f"cannot resume {path}: the table has changed since it was started; begin again with "
            "another --out or with --overwrite"
        )
    if different:
        name = next(name for name in different if name != TABLE)
        raise UserError(
            f"cannot resume {path}: it was started with {name} = {earlier.get(name)!r}, now it is "
            f"{now.get(name)!r}; give the same options or another --out"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
