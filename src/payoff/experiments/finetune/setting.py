"""Everything that a run speaks to once its table is read: base, rewards, validity, temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from payoff.domains.vectors import VectorDomain
from payoff.errors import UserError
from payoff.experiments.design.aims import DIGITS, free_name
from payoff.experiments.design.jobs import Job
from payoff.experiments.finetune.base import Base
from payoff.experiments.finetune.config import TuneConfig
from payoff.experiments.finetune.rewards import (
    DEFAULTS,
    BlackBox,
    Designs,
    Judge,
    gradient_places,
    load_judge,
)
from payoff.finetuning import FinetuneConfig, Finetuner
from payoff.rewards.ledger import Ledger
from payoff.samplers import stochastic
from payoff.spaces import Condition

LEDGER = "ledger.sqlite"
PILOT, LEAST_PILOT = 100, 10  # base samples that the temperature is taken from
SHARE = 0.1  # of their sd is the temperature of designs in a table
Mask = npt.NDArray[np.bool_]


@dataclass
class Judges:
    """The reward and the held-out reward of a run, by name.

    Attributes:
        reward: what is learned from.
        held_out: what watches, or None.
    """

    reward: Judge
    held_out: Judge | None


def find_judges(config: TuneConfig, job: Job, method: Finetuner | None = None) -> Judges:
    """The rewards that the options name.

    Raises:
        UserError: none is named, there is none of that name, or the method needs its gradient and
            it has none.
    """
    name = config.reward or DEFAULTS.get(job.domain)
    if name is None:
        raise UserError(
            "which reward? Name it with --reward MODULE:FUNCTION: a function of a table of designs "
            "that returns one number a row"
        )
    reward = load_judge(name, job)
    if method is not None and method.needs_gradient:
        _check_gradient(job, reward, method)
    held = reward.held_out if config.held_out is None else config.held_out
    if held in (None, "none"):
        return Judges(reward, None)
    assert held is not None
    return Judges(reward, load_judge(held, job, "--held-out"))


def _check_gradient(job: Job, reward: Judge, method: Finetuner) -> None:
    if gradient_places(job.codec, reward) is not None:
        return
    black = reward.tensor is None
    why = f"{reward.name} is a black box" if black else "designs here are not all numbers"
    raise UserError(
        f"--method {method.name} needs the reward's gradient, and {why}: choose a method that only "
        "asks for values, such as rgdm, ddpo, dpok or rwr"
    )


class Setting:
    """A run's base model, what its samples stand for, and who judges them.

    Args:
        job: the table.
        base: the model to start from, trainable.
        judges: the reward, and what is held out.
        config, loop: the run's options.
        folder: where the ledger goes unless the options say otherwise.
    """

    def __init__(
        self,
        job: Job,
        base: Base,
        judges: Judges,
        config: TuneConfig,
        loop: FinetuneConfig,
        folder: Path,
    ) -> None:
        self.job, self.base, self.config, self.loop = job, base, config, loop
        self.designs = Designs(job, base)
        self.ledger = Ledger(config.ledger or folder / LEDGER)
        options = {"minimize": config.minimize}
        self.reward = BlackBox(self.designs, judges.reward, self.ledger, **options)
        self.held_out = (
            None
            if judges.held_out is None
            else BlackBox(self.designs, judges.held_out, self.ledger, **options)
        )
        self.domain = VectorDomain(job.table, job.codec)

    @property
    def score_name(self) -> str:
        """What the reward is called in tables: its name without where it comes from."""
        return self.reward.judge.name.partition(":")[2]

    def sign(self) -> float:
        """+1 when a higher score is better, −1 when a lower one is."""
        return -1.0 if self.config.minimize else 1.0

    def generator(self, stream: int) -> torch.Generator:
        """The run's random numbers for one purpose."""
        return torch.Generator().manual_seed(self.loop.seed + stream)

    def draw(self, base: Base, n: int, generator: torch.Generator) -> Tensor:
        """Samples (n, d) of a model in this run's coordinates."""
        sampler = stochastic(
            base.denoiser, (base.dim,), self.loop.sampler_steps, self.loop.sampler_noise
        )
        return sampler.sample(n, base.cond, generator=generator).clone()

    def pilot(self, n: int) -> Tensor:
        """Rewards (n,) of samples of the base."""
        return self.reward(self.draw(self.base, n, self.generator(1)))

    def valid_rows(self, frame: pl.DataFrame) -> Mask:
        """Which designs their domain accepts, (n,): finite, within the limits, and possible."""
        reasons = self.domain.check(frame.to_dicts())
        fine = np.array([reason is None for reason in reasons], dtype=bool)
        if self.job.valid is not None and fine.any():
            fine[fine] = self.job.valid(frame.filter(pl.Series(fine)))
        return fine

    def valid(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """The same of samples in model coordinates, (n,) bool."""
        return torch.from_numpy(self.valid_rows(self.designs.frame(z))).to(z.device)

    def judged(self, z: Tensor) -> pl.DataFrame:
        """Designs in the user's columns with their score, held-out score, validity and support."""
        frame = self.designs.frame(z)
        support = self.job.support(self.designs.project(z)).numpy().astype(np.float64)
        cells = self.designs.cells(z.detach())
        extra = {"score": self.reward.values(cells).double().cpu().numpy()}
        if self.held_out is not None:
            extra["held_out"] = self.held_out.values(cells).double().cpu().numpy()
        columns = [
            pl.Series(free_name(name, frame), values).fill_nan(None).round_sig_figs(10)
            for name, values in extra.items()
        ]
        fine = self.valid_rows(frame) & np.isfinite(extra["score"])
        columns.append(pl.Series(free_name("valid", frame), fine))
        name = free_name("support", frame)
        columns.append(pl.Series(name, support).fill_nan(None).round_sig_figs(DIGITS))
        return frame.with_columns(columns)


class Scoring(Protocol):
    """What finding a temperature asks of a setting, of tables or of molecules."""

    config: Any
    loop: FinetuneConfig
    reward: Any
    held_out: Any
    ledger: Ledger

    @property
    def score_name(self) -> str: ...

    def sign(self) -> float: ...

    def pilot(self, n: int) -> Tensor: ...


@dataclass
class Temperature:
    """τ, and what it was taken from.

    Attributes:
        value: τ in the reward's units.
        mode: ``given`` or ``pilot``.
        calls: base samples scored for it; they count against the budget.
        mean, sd, failed: of those samples' scores.
        share: of the sd, that the value is.
    """

    value: float
    mode: str = "given"
    calls: int = 0
    mean: float | None = None
    sd: float | None = None
    failed: int = 0
    share: float | None = None


def pilot_size(temperature: float | None, calls: int) -> int:
    """Base samples that the temperature is taken from; 0 where it is given.

    Raises:
        UserError: a quarter of the calls is too few.
    """
    n = 0 if temperature is not None else min(PILOT, calls // 4)
    if temperature is None and n < LEAST_PILOT:
        raise UserError(
            f"--calls {calls} is too few to find a temperature with a quarter of them: give more, "
            "or set --temperature in the reward's units"
        )
    return n


def find_temperature(setting: Scoring, share: float = SHARE) -> Temperature:
    """The temperature that was asked for, or a share of the reward's sd over base samples.

    Raises:
        UserError: every pilot sample failed, all have the same reward, or the budget is too small.
    """
    n = pilot_size(setting.config.temperature, setting.loop.calls)
    if not n:
        return Temperature(setting.config.temperature)
    rewards = setting.pilot(n).double()
    known = rewards[rewards.isfinite()]
    if len(known) < 2:
        told = setting.reward.failure or "it returned no finite number"
        raise UserError(
            f"the reward {setting.reward.judge.name} failed on {n - len(known)} of {n} samples of "
            f"the base model ({told}): check it on designs of your own first"
        )
    sd = float(known.std())
    if not (math.isfinite(sd) and sd > 0):
        raise UserError(
            f"the reward {setting.reward.judge.name} is {float(known[0]):g} for every sample of "
            "the base model, so there is nothing to learn from; check that it reads the designs"
        )
    mean = setting.sign() * float(known.mean())
    return Temperature(share * sd, "pilot", n, mean, sd, n - len(known), share)
