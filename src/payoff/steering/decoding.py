r"""The choice among candidates along one chain, of which SVDD and CoDe are two settings.

From a state, k candidates are taken a number of steps further; one goes on, drawn in proportion to
:math:`e^{V}` or the largest, V the soft value of the state it has got to and the true r/τ at the
end. Candidates of the first block start from noises of their own, so the initial noise is chosen
with them and no tilt of it is lost.

With the exact V, one kernel a block and many steps this tends to p* at any k, since a narrow kernel
needs little choosing. With an estimated V it tends to something else.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.spaces import Condition
from payoff.steering.base import CALLER, Cost, Degenerate
from payoff.steering.search import (
    CHOICES,
    Search,
    choose,
    effective,
    indexed,
    known_or_nothing,
    taken,
)
from payoff.steering.values_of import value_cost, value_for
from payoff.values import Value


class Decoding(Search):
    """Chains that choose among ``size`` candidates after every ``block`` steps.

    A value that is NaN on the way is replaced by its chain's last known one, or by the average of
    its siblings where there is none. ``summary``: ``ess``, what the candidates of a choice were
    worth on average.
    """

    choice: str
    value: Any
    draws: int
    sigma_data: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judge: Value = value_for(self.target, self.value, self.draws, self.sigma_data)

    @property
    def rows(self) -> int:
        """Candidates of one sample."""
        return int(getattr(self, self.size))

    @property
    def marks(self) -> list[int]:
        """After how many steps a choice is made; the last is ``steps``."""
        return list(range(1, self.steps + 1))

    def cost(self) -> Cost:
        k, inner = self.rows, len(self.marks) - 1
        each = value_cost(self.judge)
        # the prediction a value is made of is the chosen one's first: else it is made alone
        shared = k if reads_prediction(self.judge) else 1
        steps = k * (self.steps - inner) + shared * inner
        return Cost(k + k * inner * each.rewards, steps + k * inner * each.network)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        k, reads = self.rows, reads_prediction(self.judge)
        rows = torch.arange(n).repeat_interleave(k)
        many = indexed(cond, rows)
        x, grid = self.begin(n * k, many, generator)
        last: Tensor | None = None
        prediction: Any = None
        first = 0
        for mark in self.marks:
            x = self.advance(x, grid[first : mark + 1], many, generator, prediction)
            if mark == self.steps:
                break
            if reads:
                seen = self.denoiser(x, grid[mark], many)
                value = self.judge.given(seen, x, grid[mark], many, generator=generator)
            else:
                value = self.judge(x, grid[mark], many, generator=generator)
            logits = _filled(value.view(n, k), last)
            kept = self._keep(logits, n, k, generator).to(x.device)
            last = logits.flatten()[kept]
            rows = kept.repeat_interleave(k)
            if reads:
                prediction = taken(seen, rows)
            else:
                alone = self.denoiser(x[kept], grid[mark], cond)
                prediction = taken(alone, torch.arange(n).repeat_interleave(k))
            x, first = x[rows], mark
        logits = known_or_nothing(self.score(x, many)).view(n, k)
        found = x[self._keep(logits, n, k, generator).to(x.device)]
        self.note_failures(logits.isneginf().all(1), {"x": x})
        return found

    def begin(
        self, rows: int, cond: Condition | None, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Noise for every candidate, and the times it is taken through."""
        x = self.start(rows, cond, generator=generator)
        return x, self.time_grid(x)

    def report(self) -> dict[str, Any]:
        found = super().report()
        if self.choice == "soft" and found["ess"] < min(2.0, 0.5 * self.rows):
            warnings.warn(
                f"{self.name}: the {self.rows} candidates of a choice are worth {found['ess']:.2g} "
                "on average (effective sample size): the soft choice is hardly more than a greedy "
                f"one. Raise {self.size}, steps or the temperature",
                Degenerate,
                stacklevel=CALLER + 1,
            )
        return found

    def _keep(self, logits: Tensor, n: int, k: int, generator: torch.Generator | None) -> Tensor:
        """The flat row of the candidate each chain goes on with, (n,)."""
        self.note(ess=effective(logits).sum() / len(self.marks))
        chosen = choose(logits, self.choice, generator=generator)
        return torch.arange(n, device=chosen.device) * k + chosen

    def _check(self) -> None:
        super()._check()
        if self.choice not in CHOICES:
            raise UserError(f"{self.name}: choice is soft or argmax, not {self.choice!r}")


def value_option() -> Any:
    """The option that names a value."""
    return option("auto", "auto, plug-in, posterior or monte-carlo; from Python also a Value")


def reads_prediction(value: Value) -> bool:
    """Whether the value makes use of the base's own prediction, which then costs it nothing."""
    return type(value).given is not Value.given


def _filled(value: Tensor, last: Tensor | None) -> Tensor:
    """Values (n, k) without NaN: the chain's last (n,), else its siblings' mean, else nothing."""
    known = ~value.isnan()
    count = known.sum(1)
    mean = known_or_nothing(value).logsumexp(1) - count.clamp(min=1).log()
    spare = torch.where(count > 0, mean, 0.0)
    if last is not None:
        spare = torch.where(last.isinf(), spare, last)
    return torch.where(known, value, spare.unsqueeze(1))
