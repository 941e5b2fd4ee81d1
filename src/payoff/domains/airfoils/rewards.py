"""Rewards of airfoils by name, for methods that ask a black box.

=======================  ===============================================================
``lift_to_drag``         CL/CD of NeuralFoil "large"; failed where the answer means nothing
``lift_to_drag_xlarge``  the same from a larger network: a judge to hold out
``lift_to_drag_raw``     CL/CD of NeuralFoil "large" without the failure rule
=======================  ===============================================================

All at 5 degrees and a Reynolds number of a million. An evaluation fails (NaN) where the surfaces
cross or where NeuralFoil's own confidence is below 0.9, as a flow solver does not converge there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from payoff.domains.airfoils.aero import AirfoilFlow
from payoff.domains.airfoils.geometry import COLUMNS, positive_thickness
from payoff.rewards.base import Cond, Reward

ALPHA, RE, MIN_CONFIDENCE = 5.0, 1e6, 0.9
BLOCK = 4096  # rows at a time, so that memory does not grow with the number of designs


class TrustedLiftToDrag(Reward):
    r"""CL/CD of Kulfan parameters (B, 18), failed (NaN) where the answer cannot be trusted.

    :math:`r(x) = C_L/C_D` where the surfaces do not cross and the confidence is at least
    ``min_confidence``. A failed row has the value NaN and still the gradient of the smooth ratio,
    so that a method that follows gradients can leave the region; use :attr:`smooth` for the ratio
    alone.

    Args:
        alpha: angle of attack in degrees.
        re: Reynolds number.
        model: size of NeuralFoil's network.
        min_confidence: least confidence that is believed; 0 switches the whole rule off.

    Raises:
        UserError: the package ``neuralfoil`` is missing, or the condition makes no sense.
    """

    differentiable = True

    def __init__(
        self,
        alpha: float = ALPHA,
        re: float = RE,
        model: str = "large",
        min_confidence: float = MIN_CONFIDENCE,
    ) -> None:
        self.flow = AirfoilFlow(alpha, re, model)
        self.min_confidence = min_confidence

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        ratio, failed = self.parts(x)
        return ratio + torch.zeros_like(ratio).masked_fill(failed, float("nan"))

    def smooth(self, x: Tensor) -> Tensor:
        """CL/CD (B,) whether it can be trusted or not."""
        return self.parts(x)[0]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """CL/CD (B,), and whether the evaluation counts as failed (B,)."""
        lift, drag, confidence = self.flow(x)
        ratio = lift / drag
        failed = ~ratio.detach().isfinite()
        if self.min_confidence > 0:
            thick = positive_thickness(x.detach().to("cpu", torch.float64).numpy())
            failed |= confidence.detach() < self.min_confidence
            failed |= ~torch.from_numpy(thick).to(failed.device)
        return ratio, failed


@dataclass(frozen=True)
class NamedReward:
    """An entry of the registry.

    Attributes:
        name: what the user writes after ``airfoils:``.
        make: builds the reward of tensors (B, 18) in the order of ``columns``.
        differentiable: whether its gradient can be had.
        held_out: the name of the reward that judges runs on this one by default.
        version: changes when the values do.
        columns: the columns a table of designs needs.
    """

    name: str
    make: Callable[[], Reward]
    differentiable: bool = True
    held_out: str | None = None
    version: str = "1"
    columns: tuple[str, ...] = COLUMNS

    def score(self, designs: Any) -> npt.NDArray[np.float64]:
        """Values (n,) of a table of designs, NaN = failed."""
        from payoff.domains.airfoils import parameters

        reward, parts = self.make(), torch.from_numpy(parameters(designs)).split(BLOCK)
        with torch.inference_mode():
            return np.concatenate([reward(part).cpu().numpy() for part in parts])


REWARDS: dict[str, NamedReward] = {
    named.name: named
    for named in (
        NamedReward("lift_to_drag", TrustedLiftToDrag, held_out="lift_to_drag_xlarge"),
        NamedReward(
            "lift_to_drag_xlarge",
            lambda: TrustedLiftToDrag(model="xlarge"),
            held_out="lift_to_drag",
        ),
        NamedReward(
            "lift_to_drag_raw",
            lambda: TrustedLiftToDrag(min_confidence=0.0),
            held_out="lift_to_drag_xlarge",
        ),
    )
}
