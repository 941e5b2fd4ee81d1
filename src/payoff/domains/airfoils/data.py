"""The 2,174 real airfoils of the UIUC collection that the ``aerosandbox`` package carries.

Only the package's files are read (outlines as text): importing it would load a symbolic algebra
system that nothing here needs. The fitted parameters are kept in the user's cache folder, keyed by
the package's version; the cache is a convenience and anything wrong with it means fitting again.
"""

from __future__ import annotations

import os
import re
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from payoff.domains.airfoils.geometry import COLUMNS, fit
from payoff.domains.cache import cache_folder
from payoff.errors import UserError

CACHE_FORMAT = 1
_SEPARATORS = re.compile(r"[;|,\s]+")


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the built-in airfoils need the package '{package}', which is not installed. "
            "Install the extra with: pip install payoff[airfoils]"
        )
    return Path(spec.origin).parent


def read_outline(path: Path) -> npt.NDArray[np.float64]:
    """The points (M, 2) of an airfoil file: every line that holds exactly two numbers."""
    points = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = [word for word in _SEPARATORS.split(line) if word]
        if len(words) == 2:
            try:
                points.append((float(words[0]), float(words[1])))
            except ValueError:
                continue
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def load_airfoils(*, cache: bool = True) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names and Kulfan parameters (n, 18) of the real airfoils, sorted by name.

    Args:
        cache: read and write the user's cache folder (see :func:`cache_folder`).

    Raises:
        UserError: ``aerosandbox`` is missing, or carries no airfoils where they are expected.
    """
    folder = package_folder("aerosandbox") / "geometry/airfoil/airfoil_database"
    version = metadata.version("aerosandbox")
    kept = cache_folder() / f"airfoils-{version}-v{CACHE_FORMAT}.npz"
    if cache and (found := _read_cache(kept)) is not None:
        return found
    files = sorted(folder.glob("*.dat"), key=lambda file: file.stem)
    if not files:
        raise UserError(
            f"aerosandbox {version} carries no airfoil files in {folder}; "
            "reinstall it with: pip install --force-reinstall aerosandbox"
        )
    names: list[str] = []
    rows: list[npt.NDArray[np.float64]] = []
    for file in files:
        points = read_outline(file)
        if len(points) <= len(COLUMNS):
            continue
        parameters = fit(points)
        if np.isfinite(parameters).all():
            names.append(file.stem)
            rows.append(parameters)
    parameters = np.stack(rows)
    if cache:
        _write_cache(kept, names, parameters)
    return names, parameters


def _read_cache(path: Path) -> tuple[list[str], npt.NDArray[np.float64]] | None:
    """The cached fit, or None if there is none or it is damaged in any way."""
    try:
        with np.load(path, allow_pickle=False) as held:
            names, parameters = held["names"].tolist(), held["parameters"]
        whole = parameters.shape == (len(names), len(COLUMNS)) and len(names) > 0
        if whole and parameters.dtype == np.float64 and np.isfinite(parameters).all():
            return [str(name) for name in names], parameters
    except Exception:  # a cache may be cut short in more ways than can be listed
        return None
    return None


def _write_cache(path: Path, names: list[str], parameters: npt.NDArray[np.float64]) -> None:
    """Write beside, then rename: a reader sees the old file or the whole new one."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, names=np.array(names), parameters=parameters)
        os.replace(temporary, path)
    except OSError:  # a read-only home must not stop anyone: the fit takes about a second
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
