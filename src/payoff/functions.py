"""The jobs as functions of the package, with the signatures of their options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from payoff.domains.installed import kinds
from payoff.jobs.options import default_of
from payoff.jobs.registry import JOBS
from payoff.results import Run, run_job

if TYPE_CHECKING:
    import polars as pl

FLAGS = {
    "out": "folder of the run; default: runs/NAME",
    "preset": "default, or toy: seconds, to try things out",
    "kind": "kind of object, where the source can be read as two of them",
    "resume": "continue an interrupted run in ``out``",
    "overwrite": "replace an earlier run in ``out``",
    "quiet": "no progress",
    "trust": "import code that a saved model of somebody else names",
}


def _function(name: str) -> Callable[..., Run]:
    """The function of a job, whose signature and docstring list its options."""
    options = JOBS[name].load_options()
    hints = get_type_hints(options)
    keyword = inspect.Parameter.KEYWORD_ONLY
    source = inspect.Parameter("source", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Any)
    own = {
        field.name: inspect.Parameter(
            field.name, keyword, default=default_of(field), annotation=hints[field.name]
        )
        for field in dataclasses.fields(options)
    }
    shared = inspect.signature(run_job).parameters
    of_kinds = {
        field.name: (kind, field)
        for kind in kinds().values()
        for field in dataclasses.fields(kind.options)
    }
    every = [source, *own.values(), *(shared[flag] for flag in FLAGS)]
    every += [
        inspect.Parameter(name, keyword, default=default_of(field), annotation=Any)
        for name, (_, field) in of_kinds.items()
        if name not in own
    ]

    def job(source: Any, **given: Any) -> Run:
        flags = {flag: given.pop(flag) for flag in FLAGS if flag in given}
        return run_job(name, source, given, **flags)

    lines = [f"    {f.name}: {f.metadata['help']}" for f in dataclasses.fields(options)]
    lines += [f"    {flag}: {text}" for flag, text in FLAGS.items()]
    lines += [f"    {n}: {k.plural}: {f.metadata['help']}" for n, (k, f) in of_kinds.items()]
    job.__name__ = job.__qualname__ = name
    job.__module__ = "payoff"
    job.__signature__ = inspect.Signature(every, return_annotation=Run)  # type: ignore[attr-defined]
    job.__doc__ = (
        f"{options.help}\n\nArgs:\n    source: data, or a saved model where the job takes one.\n"
        + "\n".join(lines)
        + "\n\nReturns:\n    the finished run.\n\nRaises:\n    UserError: something is wrong with "
        "the request."
    )
    return job


design = _function("design")
finetune = _function("finetune")
steer = _function("steer")


def sample(name: str | Path, **options: Any) -> pl.DataFrame:
    """Draw designs from a finished run, a model folder or shipped weights; no reward is asked.

    Args:
        name: of the run or model.
        options: count (100), aim, seed (1), steps, precision, guidance, quiet.

    Returns:
        one row a design.

    Raises:
        UserError: there is no such model or run, or an option is wrong.
    """
    from payoff.jobs.sample import sample as draw

    return draw(name, **options).table


def load(folder: str | Path) -> Run:
    """Open a finished run.

    Raises:
        UserError: the folder holds no finished run.
    """
    return Run(folder)


def report(folder: str | Path) -> Path:
    """Write the page of a finished run; returns its path.

    Raises:
        UserError: the folder holds no finished run, or a file of it is damaged.
    """
    from payoff.report import build

    return build(Path(folder))
