"""The monitor of a tuning, with one look at the decoded objects a round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from payoff.finetuning import Monitor
from payoff.jobs.tilt import Tilt
from payoff.spaces import Condition


class ObjectMonitor(Monitor):
    """A monitor that adds the kind's own measures to each round's history.

    A measure of the kind with the name of a general one takes its place, such as ``diversity``
    where distances of tensors mean nothing.

    Args:
        tilt: the target of the run.
        temperature: of the target, which exact answers depend on.
    """

    def __init__(self, tilt: Tilt, temperature: float) -> None:
        self.domain, self.temperature = tilt.domain, temperature
        self.own: dict[str, Any] = {}
        super().__init__(tilt.held_out, self._valid)

    def measure(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.own = {}
        return {**super().measure(*args, **kwargs), **self.own}

    def _valid(self, x: Tensor, cond: Condition | None) -> Tensor:
        objects = self.domain.decode(x.detach(), cond or {})
        self.own = self.domain.measures(objects, frozenset(), temperature=self.temperature)
        return torch.tensor([why is None for why in self.domain.check(objects)], device=x.device)
