r"""Steering: a Sampler whose draws follow :math:`p^*\propto p\,e^{r/\tau}` while p stays as it is.

A method is a dataclass: its fields are its options, and it is a
:class:`~payoff.samplers.Sampler` like any other, so nothing downstream can tell whether samples
were steered. What it costs is declared, per sample, in the two currencies in which methods are
compared, and the tests hold every method to its declaration.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.kernels import Kernel
from payoff.rewards.base import checked_rows
from payoff.samplers import Ancestral, Sampler, rows_of
from payoff.spaces import Condition, Tokens
from payoff.targets import Target

SETTING = ("target", "shape")
CALLER = 5  # Steered.reporting, its context manager, stream, sample, the caller


class Degenerate(UserWarning):
    """Samples that are worth less than their number says."""


class AllFailed(UserError):
    """No reward could be evaluated.

    Attributes:
        state: what the sampler held when it gave up, such as the population.
    """

    def __init__(self, message: str, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True)
class Cost:
    """What one sample costs, on average.

    Attributes:
        rewards: reward calls.
        network: evaluations of the base model.
        backward: of these, how many are differentiated with respect to their input.
    """

    rewards: float
    network: float
    backward: float = 0.0


@dataclass(eq=False)
class Steered(Sampler):
    """A sampler that asks the reward on its way.

    Attributes:
        name: what the command line calls it.
        exact: whether its draws converge to p*, up to the base sampler's own discretisation, as
            ``size`` grows.
        needs_gradient: whether the reward must be differentiable.
        tokens: whether it works on token sequences as well as on vectors.
        size: the option a budget sets; its cost must rise with it.
        summary: what the last call of :meth:`sample` has to report, such as the effective sample
            size; numbers and short texts.

    Raises:
        UserError: the method does not apply to this target.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False
    tokens: ClassVar[bool] = True
    size: ClassVar[str]
    order: ClassVar[int] = 1

    target: Target
    shape: tuple[int, ...]
    steps: int = option(50, "steps from noise to sample")
    grid: str = option("time", "even steps in time or log_snr")

    def __post_init__(self) -> None:
        Sampler.__init__(self, self.target.denoiser, self.shape, self.steps, self.grid)
        self.summary: dict[str, Any] = {}
        self.walk = Ancestral(self.target.denoiser, self.shape, self.steps, self.grid)
        self._check()

    @abstractmethod
    def draw(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One batch of n independent samples (n, ...); ``cond`` has n rows."""

    @abstractmethod
    def cost(self) -> Cost:
        """What one sample costs with these options."""

    @property
    def rows(self) -> int:
        """States held at once for one sample."""
        return 1

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, cond: Condition | None, memory: dict[str, Any]
    ) -> Kernel:
        """The base model's own transition: steering is no kernel of its own."""
        return self.walk.step(x_t, t, s, cond, memory)

    def sample(self, n, cond=None, *, generator=None, batch_size=4096, progress=None) -> Tensor:
        """Samples (n, ...). ``cond`` has n rows, or one row that holds for all."""
        if n == 0:
            return self.start(0)
        return torch.cat(list(self.stream(n, cond, generator=generator, batch_size=batch_size,
                                          progress=progress)))  # fmt: skip

    def stream(
        self,
        n: int,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Tensor]:
        """The same in batches of at most ``batch_size`` states, whatever a sample needs of them."""
        self.summary = {}
        size = max(1, batch_size // self.rows)
        with self.reporting():
            for first in range(0, n, size):
                k = min(size, n - first)
                part = rows_of(cond, first, k, n)
                with torch.no_grad():
                    found = self.draw(k, part, generator=generator)
                if progress is not None:
                    progress(k)
                yield found

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Around all batches of one call: a method forgets the last call and tells of this one.

        A warning at its end is :data:`CALLER` frames below the line that called :meth:`sample`.
        """
        yield

    def finish(self, x_t, t, cond=None, *, generator=None) -> Tensor:
        """Refused: a steered sample starts from noise."""
        raise TypeError(f"{self.name} starts from noise: it cannot finish a state in between")

    def rollout(self, n, cond=None, *, generator=None, initial=None):  # type: ignore[no-untyped-def]
        """Refused: the draws have no transition densities."""
        raise TypeError(f"{self.name} has no roll-outs: its transitions have no density")

    def score(self, x0: Tensor, cond: Condition | None = None) -> Tensor:
        """r/τ of clean samples, (B,); NaN where the evaluation failed."""
        reward = self.target.reward
        return checked_rows(reward(x0, cond), x0, reward) / self.target.temperature  # type: ignore[arg-type]

    def options(self) -> dict[str, Any]:
        """The options by name."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.name not in SETTING}

    @classmethod
    def within(
        cls,
        target: Target,
        shape: tuple[int, ...],
        *,
        rewards: float = math.inf,
        network: float = math.inf,
        **options: Any,
    ) -> Steered:
        """The method at the largest ``size`` whose cost a sample stays within both budgets.

        Where neither budget limits it (draws of a value cost no network), the size is its default.

        Raises:
            UserError: even the smallest costs more, or no budget was given.
        """
        if math.isinf(rewards) and math.isinf(network):
            raise UserError("give a budget: rewards or network evaluations a sample")

        def cost_at(size: int) -> Cost:
            return cls(target, shape, **{**options, cls.size: size}).cost()

        def fits(size: int) -> bool:
            cost = cost_at(size)
            return cost.rewards <= rewards and cost.network <= network

        least = cls.least()
        few, many = cost_at(least), cost_at(64 * least)
        if not fits(least):
            raise UserError(
                f"{cls.name} cannot stay within {_budget(rewards, network)} a sample: at "
                f"{cls.size} = {least} it takes {few.rewards:g} reward calls and "
                f"{few.network:g} network evaluations"
            )
        limited = math.isfinite(rewards) and many.rewards > few.rewards
        if not limited and not (math.isfinite(network) and many.network > few.network):
            return cls(target, shape, **options)
        low, high = least, 2 * least
        while fits(high) and high < 2**24:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return cls(target, shape, **{**options, cls.size: low})

    @classmethod
    def least(cls) -> int:
        """The smallest ``size`` that makes sense."""
        return 1

    def _check(self) -> None:
        if self.needs_gradient and not self.target.reward.differentiable:
            raise UserError(
                f"{self.name} needs the gradient of the reward, and "
                f"{type(self.target.reward).__name__} is not differentiable: use a method for "
                "black-box rewards, such as smc, svdd or best-of-n"
            )
        if isinstance(self.target.denoiser.process.space, Tokens) and not self.tokens:
            raise UserError(f"{self.name} works on real vectors only, not on token sequences")
        least = self.least()
        if getattr(self, self.size) < least:
            raise UserError(
                f"{self.name}: {self.size} must be at least {least}, got {getattr(self, self.size)}"
            )


def _budget(rewards: float, network: float) -> str:
    parts = [f"{rewards:g} reward calls"] if math.isfinite(rewards) else []
    parts += [f"{network:g} network evaluations"] if math.isfinite(network) else []
    return " and ".join(parts)
