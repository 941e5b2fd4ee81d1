"""More objects from a finished run or a saved model; no reward is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from payoff.domains.base import select
from payoff.errors import UserError
from payoff.jobs.kept import kept_data
from payoff.jobs.machine import matmul_precision, threads
from payoff.jobs.model import (
    Drawn,
    Model,
    find_model,
    kind_of_model,
    model_folder,
    placed,
)
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RECORD, REQUEST, read_record
from payoff.jobs.scoring import SUPPORT_DIGITS, free_name
from payoff.metrics.support import SupportDistance

STREAMS = 10**6  # between the seeds of two calls: a run's own seeds are few and lie together
STEPS = 25


@dataclass
class Guidance:
    """Properties that samples are asked for, along a guide.

    Attributes:
        wanted: values by property, in the properties' units.
        guide: folder of the guide; None: the one that comes with the kind.
        strength: of the guide; 1 is Bayes' rule.
    """

    wanted: Mapping[str, float]
    guide: str | None = None
    strength: float = 1.0

    @classmethod
    def of(cls, asked: Sequence[str], guide: str | None, strength: float) -> Guidance | None:
        """From options ``NAME=VALUE``; None: nothing is asked for.

        Raises:
            UserError: a text is no such pair, or a guide has nothing to do.
        """
        if not asked and guide is None:
            return None
        wanted: dict[str, float] = {}
        for text in asked:
            key, _, value = text.partition("=")
            try:
                wanted[key.strip()] = float(value)
            except ValueError:
                raise UserError(
                    f"--property takes a name and a number, such as alpha=95, got {text!r}"
                ) from None
        if not wanted or not np.isfinite(list(wanted.values())).all():
            raise UserError("--guide needs a value to ask for, such as --property alpha=95")
        if not 0 <= strength < float("inf"):
            raise UserError(f"--strength must be finite and not negative, got {strength:g}")
        return cls(wanted, guide, strength)


@dataclass
class Sampled:
    """Objects with their table, and the model that drew them.

    Attributes:
        objects: None where a sample stands for none.
        table: the kind's columns, its notes and, where the run kept its data, ``support``.
        model: of the objects.
        added: names of the columns that are not the kind's own.
    """

    objects: Sequence[Any]
    table: pl.DataFrame
    model: Model
    added: list[str] = field(default_factory=list)


def sample(
    name: str | Path,
    *,
    count: int = 100,
    aim: float | None = None,
    seed: int = 1,
    steps: int | None = None,
    precision: str | None = None,
    guidance: Guidance | None = None,
    quiet: bool = False,
) -> Sampled:
    """Fresh objects of a finished run, a model folder, shipped weights or a hub repository.

    A model that was tuned is sampled as it was tuned: the same sampler, noise and number of steps.
    A design run is sampled at its aim.

    Args:
        name: of the run or model.
        count: number of objects.
        aim: design runs only: the score to aim at; default: the run's own aim.
        seed: another seed gives other objects.
        steps: of the sampler; default: as the run has it.
        precision: of matrix products, auto, bf16 or fp32; default: as the run has it.
        guidance: properties to ask for; not of a design run.
        quiet: no progress on the terminal.

    Raises:
        UserError: there is no such model or run, it is unfinished, or a number is out of range.
    """
    for option, value in (("count", count), ("sampler-steps", steps)):
        if value is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, got {value}")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed must be at least 0 and below 2^31, got {seed}")
    run = Path(name)
    record = _record(run)
    job = None if record is None else record.get("kind", "design")
    if job == "design":
        if guidance is not None:
            raise UserError("--property is for models: a run of payoff design has an aim")
        return _of_design(run, count, aim, seed, steps, precision, quiet)
    if aim is not None:
        raise UserError("--aim is for runs of payoff design: other models have no aim to be given")
    _refuse(run, job)
    model = Model.load(name)
    how = _sampling(record, run, model)
    reporter = Reporter(quiet)
    generator = torch.Generator().manual_seed(how.seed + STREAMS * (seed + 1))
    with (
        threads(0, model.domain.work(min(count, model.domain.batch))),
        matmul_precision(precision or how.precision),
    ):
        drawn = _drawn(model, count, generator, steps or how.steps, how.noise, guidance, reporter)
    return _with_table(drawn, model, run)


def _record(run: Path) -> dict[str, Any] | None:
    """The record of a run; None where the name is a model's."""
    begun = (run / REQUEST).exists() or (run / RECORD).exists()
    return read_record(run) if begun else None


def _refuse(run: Path, job: str | None) -> None:
    """Refuse runs without one model to draw from."""
    if job == "steer":
        raise UserError(
            f"{run} steered its designs, and more of them cost reward calls: payoff steer with "
            f"--base {run} and another --seed draws them from the same model"
        )
    if job == "compare":
        raise UserError(
            f"{run} compares several models: name the run of one of them, a folder in {run}/cells"
        )


@dataclass
class _Sampling:
    """How a model is sampled."""

    steps: int
    noise: float | None
    seed: int
    precision: str


def _sampling(record: dict[str, Any] | None, run: Path, model: Model) -> _Sampling:
    """The sampler of a run, or the kind's own."""
    usual = model.kind.defaults.get("finetune", {})
    steps, noise = int(usual.get("sampler_steps", STEPS)), usual.get("sampler_noise")
    precision = str(usual.get("matmul_precision", "fp32"))
    if record is None:
        return _Sampling(steps, noise, 0, precision)
    try:
        asked = record["config"]
        noise = asked.get("sampler_noise")
        steps, seed = int(asked.get("sampler_steps", steps)), int(record["seed"])
        return _Sampling(steps, None if noise is None else float(noise), seed, precision)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / RECORD} is damaged: {error}") from error


def _drawn(
    model: Model,
    count: int,
    generator: torch.Generator,
    steps: int,
    noise: float | None,
    guidance: Guidance | None,
    reporter: Reporter,
) -> Drawn:
    """Samples of a model, along a guide where properties are asked for."""
    more: dict[str, torch.Tensor] = {}
    if guidance is not None:
        denoiser, model.domain, more = model.domain.guided(
            model.denoiser, guidance.guide, guidance.wanted, guidance.strength
        )
        model = model.with_denoiser(denoiser)
    done = 0
    with reporter.bar(f"drawing {model.kind.plural}", count) as advance:
        advance(0)

        def progress(rows: int) -> None:
            nonlocal done
            done += rows
            advance(done)

        cond = model.conditions(count, generator)
        like = next(model.denoiser.parameters())
        cond |= {key: row.expand(count, -1) for key, row in placed(more, like).items()}
        x = model.sampler(steps, noise).sample(
            count,
            cond or None,
            generator=generator,
            batch_size=model.domain.batch,
            progress=progress,
        )
    return Drawn(x, cond, model.domain.decode(x, cond))


def _with_table(drawn: Drawn, model: Model, run: Path) -> Sampled:
    domain, objects = model.domain, drawn.objects
    table, added = domain.table(objects), []
    notes = domain.notes(objects)
    for column in () if notes is None else notes.get_columns():
        added.append(free_name(column.name, table))
        table = table.with_columns(column.alias(added[-1]))
    folder = find_model(run)
    data = None if folder is None else kept_data(folder.parent, model)
    if data is not None and data.source is None and len(data.objects) > 1:
        distance = np.full(len(objects), np.nan)
        there = [i for i, thing in enumerate(objects) if thing is not None]
        if there:
            support = SupportDistance(domain.features(data.objects))
            found = support(domain.features(select(objects, there)))
            distance[there] = found.double().cpu().numpy()
        added.append(free_name("support", table))
        column = pl.Series(added[-1], distance).fill_nan(None).round_sig_figs(SUPPORT_DIGITS)
        table = table.with_columns(column)
    return Sampled(objects, table, model, added)


def _of_design(
    run: Path,
    count: int,
    aim: float | None,
    seed: int,
    steps: int | None,
    precision: str | None,
    quiet: bool,
) -> Sampled:
    from payoff.jobs.design.reopen import draw_more

    scored, model = draw_more(
        run,
        count=count,
        aim=aim,
        seed=seed,
        steps=steps,
        matmul_precision=precision,
        quiet=quiet,
    )
    own = set(model.domain.table([]).columns)
    added = [name for name in scored.table.columns if name not in own]
    return Sampled(scored.objects, scored.table, model, added)


def describe(found: Sampled) -> str:
    """The number of objects, and the shares of valid ones and of the kind's notes, in a line."""
    n = len(found.objects)
    reasons = found.model.domain.check(found.objects)
    shares = {"valid": sum(why is None for why in reasons) / max(1, n)}
    for name in found.added:
        column = found.table[name]
        if column.dtype == pl.Boolean and name not in shares and not column.null_count():
            shares[name] = float(column.sum()) / max(1, n)
    shown = ", ".join(f"{share:.1%} {name}" for name, share in shares.items())
    return f"{n} {found.model.kind.plural}: {shown}"


def check_out(out: Path | None, name: str | Path) -> None:
    """Refuse a file that objects of a run or model cannot be written to, before any are drawn.

    Raises:
        UserError: the ending names no format, or the folder is missing.
    """
    if out is None:
        return
    formats = kind_of_model(model_folder(name)).formats
    known = ", ".join(dict.fromkeys((".csv", *formats)))
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file ending in one of {known}")
    if out.suffix.lower() not in (".csv", *formats):
        raise UserError(f"--out {out}: the format is told from the file's ending, one of {known}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def write_out(found: Sampled, out: Path) -> int:
    """Write objects to a file by its ending; returns how many.

    Raises:
        UserError: the file cannot be written.
    """
    domain, ending = found.model.domain, out.suffix.lower()
    if ending in found.model.kind.formats:
        return domain.export(out, found.objects, found.table)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        found.table.write_csv(temporary)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return found.table.height
