"""Counting reward calls, the currency in which methods are compared."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from torch import Tensor

from payoff.errors import UserError
from payoff.rewards.base import Cond, Reward, checked_rows


class BudgetSpent(UserError):
    """A metered reward was asked for more rows than its budget allows."""


@dataclass
class Meter:
    """What has been spent.

    Attributes:
        rows: rows evaluated (a batch of 10 counts 10).
        batches: calls of the reward.
        failed: rows that came back NaN.
        seconds: wall-clock time inside the reward.
    """

    rows: int = 0
    batches: int = 0
    failed: int = 0
    seconds: float = 0.0


class Metered(Reward):
    """A reward with a meter and, optionally, a budget.

    The budget is checked before the call: a batch that does not fit is refused as a whole and
    nothing is spent on it.

    Args:
        reward: the reward to meter.
        budget: most rows that may be evaluated; None for no limit.

    Raises:
        BudgetSpent: (a :class:`UserError`) a call would go past the budget.
    """

    def __init__(self, reward: Reward, budget: int | None = None) -> None:
        if budget is not None and budget < 0:
            raise ValueError(f"a budget is a number of rows, not {budget}")
        self.reward = reward
        self.budget = budget
        self.meter = Meter()
        self.differentiable = reward.differentiable

    @property
    def remaining(self) -> int | None:
        """Rows left in the budget, None without one."""
        return None if self.budget is None else self.budget - self.meter.rows

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        if self.remaining is not None and len(x) > self.remaining:
            raise BudgetSpent(
                f"the reward budget of {self.budget} evaluations does not allow {len(x)} more: "
                f"{self.meter.rows} are spent and {self.remaining} are left. Raise the budget, or "
                "ask for fewer samples or a cheaper method."
            )
        start = time.perf_counter()
        try:
            value = checked_rows(self.reward(x, cond), x, self.reward)
            self.meter.failed += int(value.detach().isnan().sum())
            return value
        finally:  # a call that raised was made, and paid for
            self.meter.rows += len(x)
            self.meter.batches += 1
            self.meter.seconds += time.perf_counter() - start

    def report(self) -> dict[str, float | int | None]:
        """The meter and the budget as plain numbers, for a run record."""
        return {**asdict(self.meter), "budget": self.budget}
