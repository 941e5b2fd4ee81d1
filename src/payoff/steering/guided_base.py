"""Steering by a guided denoiser: the denoiser, the sampler on it, and what failed on the way."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance import Guided
from payoff.samplers import DDIM, Sampler
from payoff.spaces import Condition
from payoff.steering.base import CALLER, AllFailed, Degenerate, Steered
from payoff.steering.values_of import value_cost
from payoff.values import Value


@dataclass(eq=False)
class GuidedSampler(Steered):
    """What they share: a guided denoiser, made once, and a sampler on it.

    Attributes:
        guide: the guided denoiser.
    """

    needs_gradient: ClassVar[bool] = True
    tokens: ClassVar[bool] = False

    eta: float = option(1.0, "noise of a step, from 1 (ancestral) to 0 (deterministic)")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"{self.name}: steps must be at least 1, got {self.steps}")
        super().__post_init__()
        self.guide = self.guided()
        self.sampler = self.sampler_of(self.guide)

    @abstractmethod
    def guided(self) -> Denoiser:
        """The guided denoiser."""

    def sampler_of(self, denoiser: Denoiser) -> Sampler:
        """The sampler that a denoiser is drawn from with."""
        return DDIM(denoiser, self.shape, self.steps, self.grid, self.eta)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        guide = self.guide
        if not isinstance(guide, Guided):
            return drawn(self.sampler, n, cond, generator)
        calls, failed = guide.calls, guide.failed.clone()
        guide.generator = generator
        try:
            x0 = drawn(self.sampler, n, cond, generator)
        finally:
            guide.generator = None
        if guide.calls > calls and int(guide.failed - failed) == guide.calls - calls:
            raise AllFailed(
                f"{self.name}: no gradient of the reward was a finite number, in "
                f"{guide.calls - calls} calls. Check the reward on samples of the base model "
                "first: a clean estimate is no design, and a reward may fail there",
                {"x0": x0},
            )
        return x0

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Which share of the guide's gradients failed."""
        guide = self.guide
        if isinstance(guide, Guided):
            guide.reset()
        yield
        if isinstance(guide, Guided) and guide.calls:
            self._report(float(guide.failed) / guide.calls)

    def _report(self, failed: float) -> None:
        self.summary["failed"] = failed
        if failed > 0:
            warnings.warn(
                f"{self.name}: {100 * failed:.3g} % of the reward's gradients were no finite "
                "numbers; the samples were not guided there. A reward that fails at clean "
                "estimates needs a method that scores samples only, such as best-of-n",
                Degenerate,
                stacklevel=CALLER + 1,
            )

    def _check(self) -> None:
        if getattr(self, "value", None) is not None:
            self.needs_gradient = False  # type: ignore[misc]
        if not 0 <= self.eta <= 1:
            raise UserError(f"{self.name}: eta must lie between 0 and 1, got {self.eta}")
        super()._check()


def drawn(
    sampler: Sampler, n: int, cond: Condition | None, generator: torch.Generator | None
) -> Tensor:
    """One batch (n, ...) of a sampler, usable outside inference mode."""
    return sampler.sample(n, cond, generator=generator, batch_size=max(1, n)).clone()


def price(value: Value) -> tuple[float, int]:
    """(reward calls, backward passes of the base) of one look at a value."""
    return value_cost(value).rewards, int(type(value).given is not Value.given)
