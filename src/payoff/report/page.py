"""Writes the report of a finished run of any kind: one HTML file that needs nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from payoff.errors import UserError
from payoff.report import compare, design, finetune, molecule_design, steer
from payoff.report.recorded import REPORT, kind_of, read_record
from payoff.report.run import load


def build(run_folder: str | Path) -> Path:
    """Write the report of a finished run: ``payoff design``, ``finetune``, ``steer``, ``compare``.

    Only files of the folder are read; nothing is sampled, trained or scored.

    Args:
        run_folder: a finished run's folder; its run.json says of which kind it is.

    Returns:
        the path of ``report.html`` inside the folder.

    Raises:
        UserError: the folder is missing, damaged, unfinished or cannot be written to.
    """
    folder = Path(run_folder)
    kind = kind_of(folder)
    if kind == "finetune":
        page = finetune.page(finetune.load(folder))
    elif kind == "steer":
        page = steer.page(steer.load(folder))
    elif kind == "compare":
        page = compare.page(compare.load(folder))
    elif read_record(folder).get("domain") == "molecules":
        page = molecule_design.page(molecule_design.load(folder))
    else:
        page = design.page(load(folder))
    target = folder / REPORT
    temporary = target.with_name(f".{REPORT}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8", newline="\n")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target
