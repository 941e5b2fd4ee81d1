r"""From a model's samples to the black box, and back as a reward.

A sample z in model coordinates stands for a row of the table: it is decoded, numbers are held to
the range of their column (or the user's bounds), whole numbers made whole, categories chosen. That
row is what is built, so that row is what is scored,

.. math:: r(z) = \pm f\big(\mathrm{row}(z)\big) ,

and it is what the ledger remembers: in the user's own units, whatever the model's coordinates are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.configs import suggest
from payoff.domains.vectors import Codec, Oracle, load_oracle
from payoff.errors import UserError
from payoff.experiments.design.jobs import Job
from payoff.experiments.finetune.base import Base
from payoff.rewards import Reward
from payoff.rewards.base import Cond
from payoff.rewards.ledger import Ledger
from payoff.rewards.pooled import Pooled
from payoff.rewards.remembered import Remembered

QUICK = 1.0  # seconds: a block that takes less doubles the next one


class Designs:
    """What the samples of a base model stand for.

    Args:
        job: the table, its codec and the ranges of its columns.
        base: the model's coordinates.
    """

    def __init__(self, job: Job, base: Base) -> None:
        self.job, self.base, self.codec = job, base, job.codec
        low, _ = job.ranges
        limits = job.codec.limits()
        # numbers without bounds stay inside the data's range, to the digit and not beyond it
        inside = torch.isfinite(low)
        self.low = torch.where(inside, job.x.amin(0), limits[0])
        self.high = torch.where(inside, job.x.amax(0), limits[1])
        self.numeric = all_numbers(job.codec)

    def project(self, z: Tensor) -> Tensor:
        """The encoded designs (n, D) that samples z (n, d) stand for; rows with NaN stay NaN."""
        x = self.base.to_codec(z.detach())
        return self.codec.project(torch.minimum(torch.maximum(x, self.low), self.high))

    def frame(self, z: Tensor) -> pl.DataFrame:
        """The designs as rows of the user's table."""
        return self.codec.decode(self.project(z))

    def cells(self, z: Tensor) -> Tensor:
        """The designs as numbers (n, columns) in the user's units; categories by their place.

        Where z asks for a gradient and all columns are numbers, the result carries that of the
        decoding: limits have gradient zero beyond them, rounding is passed straight through.
        """
        exact = cells_of(self.codec, self.frame(z)).to(z.device)
        if not (z.requires_grad and torch.is_grad_enabled() and self.numeric):
            return exact
        smooth = self._smooth(z)
        return exact + (smooth - smooth.detach())  # the value is exact to the last digit

    def _smooth(self, z: Tensor) -> Tensor:
        whitening = self.base.whitening
        x = z.double()
        if whitening is not None:
            mean, inverse = whitening.mean.to(z.device), whitening.inverse.to(z.device)
            x = mean + x @ inverse
        x = torch.minimum(torch.maximum(x, self.low.to(x)), self.high.to(x))
        columns = []
        for code in self.codec.codes:
            if not code.slots or code.fixed is not None:
                columns.append(torch.zeros_like(x[:, 0]))
                continue
            value = x[:, code.start] * code.scale + code.mean
            columns.append(value.exp() if code.log else value)
        return torch.stack(columns, 1)


def cells_of(codec: Codec, frame: pl.DataFrame) -> Tensor:
    """Rows as numbers (n, columns) in double precision; a category is its level's place."""
    columns = []
    for code in codec.codes:
        if code.kind == "constant":
            columns.append(np.zeros(frame.height))
        elif code.kind == "categorical":
            place = {level: i for i, level in enumerate(code.levels)}
            at = [np.nan if v is None else place[v] for v in frame[code.name].to_list()]
            columns.append(np.array(at, dtype=np.float64))
        else:
            cells = frame[code.name].cast(pl.Float64).fill_null(float("nan"))
            columns.append(cells.to_numpy().astype(np.float64))
    return torch.from_numpy(np.stack(columns, 1))


def frame_of(codec: Codec, cells: Tensor) -> pl.DataFrame:
    """The inverse of :func:`cells_of` for rows without NaN, in the columns' own types."""
    from payoff.domains.vectors.table import to_dtype

    values, columns = cells.detach().cpu().numpy(), []
    for i, code in enumerate(codec.codes):
        if code.kind == "constant":
            column = pl.Series(code.name, [code.value] * len(values))
        elif code.kind == "categorical":
            column = pl.Series(code.name, [code.levels[int(v)] for v in values[:, i]])
        else:
            column = pl.Series(code.name, values[:, i])
        columns.append(to_dtype(column, code.dtype))
    return pl.DataFrame(columns)


@dataclass
class Judge:
    """A function of designs by its name.

    Attributes:
        name: as the user wrote it.
        score: a table of designs -> (values (n,) with NaN = failed, the first failure or None).
        version: changes when the values do; part of the ledger's key.
        tensor: the same as a differentiable reward of tensors of ``columns``, or None.
        columns: what it needs of a design, where that is fixed.
        held_out: the name of the judge that watches by default, or None.
    """

    name: str
    score: Callable[[pl.DataFrame], tuple[np.ndarray, str | None]]
    version: str = "1"
    tensor: Reward | None = None
    columns: tuple[str, ...] = ()
    held_out: str | None = None


class OnCells(Reward):
    """A judge as a reward of cells (n, columns), in the user's own direction."""

    def __init__(self, codec: Codec, judge: Judge, places: list[int] | None) -> None:
        self.codec, self.judge, self.places = codec, judge, places
        self.differentiable = places is not None
        self.failure: str | None = None
        self.pool: Pooled | None = None

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if self.places is not None and x.requires_grad and torch.is_grad_enabled():
            assert self.judge.tensor is not None
            return self.judge.tensor(x[:, self.places])
        if self.pool is not None:
            found = self.pool(x)
            self.failure = self.failure or self.pool.failure
            return found
        values, message = self.judge.score(frame_of(self.codec, x))
        self.failure = self.failure or message
        return torch.from_numpy(values).to(x.device)


class BlackBox(Reward):
    """A judge as a reward of samples in model coordinates, each design paid for once.

    Args:
        designs: what samples stand for.
        judge: the function.
        ledger: where answers are kept.
        minimize: a lower value is better: the reward is its negative.

    Attributes:
        asked: rows that were asked for.
    """

    def __init__(
        self, designs: Designs, judge: Judge, ledger: Ledger, *, minimize: bool = False
    ) -> None:
        self.designs, self.judge = designs, judge
        self.sign = -1.0 if minimize else 1.0
        places = gradient_places(designs.codec, judge)
        self.source = OnCells(designs.codec, judge, places)
        version = f"{judge.version} {_columns_key(designs.codec)}"
        self.remembered = Remembered(self.source, ledger, judge.name, version)
        self.differentiable = places is not None
        self.asked, self.failed = 0, 0
        self.blocks = Blocks(self.remembered)

    @property
    def fresh(self) -> int:
        """Rows that were evaluated because no ledger knew them."""
        return self.remembered.fresh

    @property
    def failure(self) -> str | None:
        """What the first failed evaluation said."""
        return self.source.failure

    def evaluated_in(self, pool: Pooled) -> None:
        """Ask these processes from now on; every block is large enough for all of them."""
        self.source.pool = pool
        self.blocks.least = pool.workers

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return self.sign * self.values(self.designs.cells(x)).to(x)

    def values(self, cells: Tensor) -> Tensor:
        """Values (n,) of cells in the user's direction, NaN = failed."""
        self.asked += len(cells)
        usable = cells.detach().isfinite().all(1)
        values = cells.new_full((len(cells),), float("nan"))
        if cells.requires_grad and torch.is_grad_enabled():
            values[usable] = self.remembered(cells[usable])
        else:
            values[usable] = self.blocks(cells.detach()[usable]).to(values)
        self.failed += int(values.detach().isnan().sum())
        return values


class Blocks:
    """Small blocks for a slow function, so that a killed run loses little that was paid for.

    Attributes:
        least: rows a block at least.
    """

    def __init__(self, remembered: Remembered) -> None:
        self.remembered = remembered
        self._size = self._least = 1

    @property
    def least(self) -> int:
        return self._least

    @least.setter
    def least(self, rows: int) -> None:
        self._size = self._least = rows

    def __call__(self, x: Tensor) -> Tensor:
        """Values (n,) of designs, asked for block by block."""
        parts, start = [x.new_empty(0, dtype=torch.float64)], 0
        while start < len(x):
            began, before = time.perf_counter(), self.remembered.fresh
            parts.append(self.remembered(x[start : start + self._size]).to(parts[0]))
            start += self._size
            took = time.perf_counter() - began
            if self.remembered.fresh > before:
                self._size = self._size * 2 if took < QUICK else max(self._least, self._size // 2)
        return torch.cat(parts)


def load_judge(name: str, job: Job, option: str = "--reward") -> Judge:
    """The judge called ``DOMAIN:NAME`` or ``MODULE:FUNCTION``.

    Raises:
        UserError: there is none of that name, or it does not apply to the table.
    """
    domain, colon, rest = name.partition(":")
    if colon and domain in DOMAINS:
        return DOMAINS[domain](rest, job)
    try:
        oracle = load_oracle(name)
    except UserError as error:
        raise UserError(str(error).replace("--oracle", option)) from None

    def score(frame: pl.DataFrame) -> tuple[np.ndarray, str | None]:
        result = oracle(frame)
        return result.values, result.message

    return Judge(name, score, _source_key(oracle))


def _source_key(oracle: Oracle) -> str:
    """Changes with the function's text: answers of another version are not this one's."""
    try:
        text = inspect.getsource(oracle.fn)
    except (OSError, TypeError):
        return "1"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _airfoil_judge(name: str, job: Job) -> Judge:
    from payoff.domains.airfoils.rewards import REWARDS

    if name not in REWARDS:
        raise UserError(
            f"airfoils:{name} is no reward{suggest(name, REWARDS)} (there are: "
            f"{', '.join('airfoils:' + known for known in REWARDS)})"
        )
    named = REWARDS[name]
    lacking = [c for c in named.columns if c not in job.codec.columns]
    if lacking:
        raise UserError(
            f"airfoils:{name} needs the columns of an airfoil, and {job.name} has no "
            f"'{lacking[0]}'; name a reward of your own with --reward MODULE:FUNCTION"
        )
    return Judge(
        f"airfoils:{name}",
        lambda frame: (named.score(frame), "the surfaces cross, or NeuralFoil is not sure"),
        named.version,
        named.make() if named.differentiable else None,
        named.columns,
        None if named.held_out is None else f"airfoils:{named.held_out}",
    )


DOMAINS: dict[str, Callable[[str, Job], Judge]] = {"airfoils": _airfoil_judge}
DEFAULTS = {"airfoils": "airfoils:lift_to_drag"}


def gradient_places(codec: Codec, judge: Judge) -> list[int] | None:
    """Where a differentiable judge's columns stand among the cells; None: there is no gradient."""
    if judge.tensor is None or not set(judge.columns) <= set(codec.columns):
        return None
    return [codec.columns.index(name) for name in judge.columns] if all_numbers(codec) else None


def all_numbers(codec: Codec) -> bool:
    """Whether a design is made of real numbers only, so that decoding has a gradient."""
    return all(code.kind in ("numeric", "constant") for code in codec.codes)


def _columns_key(codec: Codec) -> str:
    """What the cells of a row mean: a ledger may serve several tables."""
    meaning = [[c.name, c.kind, list(c.levels), c.value] for c in codec.codes]
    return hashlib.sha256(json.dumps(meaning, default=str).encode()).hexdigest()[:12]
