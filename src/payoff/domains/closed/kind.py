"""Problems with a closed form as a kind: names, options and defaults."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from payoff.configs import option
from payoff.domains.kind import NO, OWN, Kind
from payoff.errors import UserError

GROUP = "Closed forms"
PROBLEMS = ("mixture", "subspace", "chain")
TEMPERATURE = 1.0


@dataclass
class ClosedOptions:
    """Options that only problems with a closed form have."""

    draws: int = option(2000, "exact draws that stand for the data", group=GROUP)
    labelled: float = option(0.1, "closed forms: share of the draws that get a label", group=GROUP)
    noise: float = option(
        0.0, "closed forms: noise of the labels, as a share of the reward's sd", group=GROUP
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work before any time is spent."""
        if self.draws < 2:
            raise UserError(f"--draws must be at least 2, got {self.draws}")
        if not 0 < self.labelled <= 1:
            raise UserError(f"--labelled is a share in (0, 1], got {self.labelled}")
        if not 0 <= self.noise < math.inf:
            raise UserError(f"--noise must not be negative, got {self.noise}")


def reads(source: Any, given: Collection[str]) -> int:
    """Claim the names of the problems."""
    return OWN if isinstance(source, str) and source in PROBLEMS else NO


TILT = {"temperature": TEMPERATURE, "reward": "closed:reward"}

KIND = Kind(
    name="closed",
    help=f"a problem with a closed form: {', '.join(PROBLEMS)}",
    reads=reads,
    domain="payoff.domains.closed.domain:Closed",
    options=ClosedOptions,
    sources=PROBLEMS,
    defaults={"finetune": TILT, "steer": TILT, "compare": TILT, "design": {"score": "reward"}},
    plural="points",
    free_rewards=True,
)
