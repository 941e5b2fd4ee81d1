"""A second judge: Debian's ``xfoil``, driven through its standard input.

Debian builds it with floating-point traps, and drawing without a screen raises one, so the program
dies at its first plot. Its traps are set by one function of the Fortran library; where a C compiler
is at hand, an empty function of that name is loaded in front of it. Everything happens in a
temporary folder. Angles are climbed in steps, each started from the last boundary layer; if the
last one fails it is tried once more from scratch.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from payoff.domains import airfoils

Array = npt.NDArray[np.float64]
PANELS, ITERATIONS, TIMEOUT = 200, 200, 40.0
UNTRAP = "void _gfortran_set_fpe(int traps) { (void)traps; }\n"


class XFoil:
    """xfoil at one flow condition, usable in a ``with`` block.

    Args:
        alpha: angle of attack in degrees.
        reynolds: Reynolds number on the chord.
        executable: name or path.
        timeout: seconds after which an airfoil counts as not converged.

    Raises:
        FileNotFoundError: there is no such executable.
    """

    def __init__(
        self,
        alpha: float,
        reynolds: float,
        executable: str = "xfoil",
        timeout: float = TIMEOUT,
    ) -> None:
        found = shutil.which(executable)
        if found is None:
            raise FileNotFoundError(f"no executable {executable!r}: on Debian, install 'xfoil'")
        self.alpha, self.reynolds, self.timeout, self.executable = alpha, reynolds, timeout, found
        self._folder = tempfile.TemporaryDirectory()
        self._environment = {**os.environ, **_without_traps(Path(self._folder.name))}

    def __enter__(self) -> XFoil:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def lift_to_drag(self, parameters: Array) -> Array:
        """CL/CD (n,) of Kulfan parameters (n, 18); NaN where xfoil does not converge."""
        outlines = airfoils.coordinates(parameters)
        return np.array([self._one(outline) for outline in outlines])

    def _one(self, outline: Array) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            folder = Path(name)
            points = "\n".join(f"{x:.8f} {y:.8f}" for x, y in outline)
            (folder / "foil.dat").write_text(f"foil\n{points}\n")
            # a hanging or dying process may have written its answer before
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [self.executable],
                    input=self._script(),
                    text=True,
                    cwd=folder,
                    env=self._environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=self.timeout,
                    check=False,
                )
            return read_polar(folder / "polar.txt", self.alpha)

    def _script(self) -> str:
        steps = max(1, math.ceil(abs(self.alpha)))
        ramp = [f"ALFA {self.alpha * k / steps:g}" for k in range(steps + 1)]
        commands = [
            *("PLOP", "G F", "", "LOAD foil.dat", "PPAR", f"N {PANELS}", "", "", "OPER"),
            *(f"VISC {self.reynolds:.0f}", f"ITER {ITERATIONS}", "PACC", "polar.txt", ""),
            *(*ramp, "INIT", f"ALFA {self.alpha:g}", "PACC", "", "QUIT"),
        ]
        return "\n".join(commands) + "\n"


def read_polar(path: Path, alpha: float) -> float:
    """CL/CD of the first line for the angle in a polar file, NaN if there is none."""
    if not path.exists():
        return math.nan
    for line in path.read_text().splitlines():
        words = line.split()
        try:
            angle, lift, drag = (float(word) for word in words[:3])
        except ValueError:
            continue
        if abs(angle - alpha) < 1e-3 and drag > 0:
            return lift / drag
    return math.nan


def _without_traps(folder: Path) -> dict[str, str]:
    """What to add to the environment so that xfoil's traps stay off; empty without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    source, library = folder / "untrap.c", folder / "untrap.so"
    source.write_text(UNTRAP)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, check=False)
    return {"LD_PRELOAD": str(library)} if done.returncode == 0 else {}
