"""Run folders: what a command leaves behind, complete or marked as incomplete.

Files appear whole: each is written beside its place and renamed. ``run.json`` comes last, so a
folder that holds it is finished, and one that does not can be resumed.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import payoff
from payoff.errors import UserError

RECORD, REQUEST = "run.json", "request.json"
_PACKAGES = ("torch", "numpy", "polars", "scikit-learn", "plotly", "aerosandbox", "neuralfoil")


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
        self._started = time.perf_counter()
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file: give a folder")
        earlier = self._earlier_request()
        if earlier is not None and resume:
            _same_request(earlier, request, self.path)
        elif earlier is not None and not overwrite:
            state = "a finished" if self.finished else "an unfinished"
            raise UserError(
                f"{self.path} already holds {state} run: choose another --out, or give --resume to "
                "continue it or --overwrite to replace it"
            )
        elif earlier is not None:
            self._clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(REQUEST, request)
        except OSError as error:
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
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as JSON; NaN becomes null, which every reader understands."""
        with self.replacing(name) as path:
            path.write_text(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """What :meth:`write_json` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def finish(self, record: dict[str, Any]) -> None:
        """Write ``run.json``: the record with versions, timings and warnings added."""
        self.timings["total"] = time.perf_counter() - self._started
        extra = {
            "payoff": payoff.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "timings": {k: round(v, 3) for k, v in self.timings.items()},
            "warnings": self.warnings,
        }
        self.write_json(RECORD, {**extra, **record})

    def _earlier_request(self) -> dict[str, Any] | None:
        path = self.path / REQUEST
        if not path.exists():
            return {} if (self.path / RECORD).exists() else None
        try:
            return json.loads(path.read_text())
        except ValueError:
            return {}

    def _clear(self) -> None:
        # only what a run writes: a folder may hold the user's own files too
        for name in (RECORD, REQUEST, "designs.csv", "sweep.csv", "data.parquet", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("state", "model", "reward"):
            for file in (self.path / name).glob("*"):
                file.unlink()


def read_record(path: str | Path) -> dict[str, Any]:
    """The ``run.json`` of a finished run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = Path(path) / RECORD
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        hint = " (unfinished: continue it with --resume)" if Path(path).is_dir() else ""
        raise UserError(f"{path} holds no finished run{hint}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _same_request(earlier: dict[str, Any], request: dict[str, Any], path: Path) -> None:
    now = _plain(request)
    different = sorted(k for k in {*earlier, *now} if earlier.get(k) != now.get(k))
    if different:
        name = different[0]
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
