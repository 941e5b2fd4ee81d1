r"""The training-free family as steering methods: TFG with all its switches, and two members.

Their size is the number of recurrences. See :mod:`payoff.guidance.training_free` for the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance import Recurrent, TrainingFree
from payoff.steering.base import Cost
from payoff.steering.guided_base import GuidedSampler


@dataclass(eq=False)
class TFG(GuidedSampler):
    """The training-free family with all its switches; see :class:`payoff.guidance.TrainingFree`.

    Reference: TFG: Unified Training-Free Guidance for Diffusion Models (Ye et al., 2024).
    """

    name: ClassVar[str] = "tfg"
    size: ClassVar[str] = "recurrences"

    recurrences: int = option(1, "times a step is taken, with fresh noise in between")
    window_from: float = option(0.0, "noise level t from which steps recur")
    window_to: float = option(1.0, "noise level t up to which they do")
    rho: float = option(0.5, "strength of the gradient through the network")
    mu: float = option(0.5, "strength of the moves at the clean estimate")
    iterations: int = option(1, "moves at the clean estimate")
    draws: int = option(4, "points that the reward is averaged over")
    width: float = option(0.01, "their deviation, in units of smoothing; 0: the estimate itself")
    smoothing: str = option("decrease", "how wide: posterior, decrease or constant")
    rho_schedule: str = option("increase", "constant, increase (towards the data) or decrease")
    mu_schedule: str = option("increase", "constant, increase (towards the data) or decrease")
    normalise: str = option("none", "none; residual (least-squares rewards) or unit length")
    limit: float = option(0.0, "largest move by rho of a clean estimate a coordinate; 0: none")
    sigma_data: float = option(1.0, "the data's standard deviation a coordinate")

    def guided(self) -> TrainingFree:
        known = {"rho", "mu", "iterations", "draws", "width", "smoothing", "rho_schedule"}
        known |= {"mu_schedule", "normalise", "limit", "sigma_data"}
        chosen = {k: getattr(self, k) for k in known}
        return TrainingFree(self.target.denoiser, self.target, **chosen)

    def sampler_of(self, denoiser: Denoiser) -> Recurrent:
        window = (self.window_from, self.window_to)
        found = Recurrent(super().sampler_of(denoiser), self.recurrences, window)
        times = found.times(torch.device("cpu"), torch.float64)[:-1]
        if not any(found.repeats_at(t) for t in times):
            raise UserError(
                f"{self.name}: none of the {self.steps} steps starts at a noise level between "
                f"{window[0]:g} and {window[1]:g}: take more steps or a wider window"
            )
        return found

    def cost(self) -> Cost:
        guide, sampler = self.guide, self.sampler
        assert isinstance(guide, TrainingFree)
        assert isinstance(sampler, Recurrent)
        visits = sampler.visits()
        return Cost(guide.reward_calls * visits, visits, visits if guide.scale else 0)


@dataclass(eq=False)
class Universal(TFG):
    """Universal guidance: through the network, at the clean estimate, and recurrent.

    Reference: Universal Guidance for Diffusion Models (Bansal et al., 2023).
    """

    name: ClassVar[str] = "universal"

    recurrences: int = option(2, "times a step is taken, with fresh noise in between")
    draws: int = option(1, "points that the reward is averaged over")
    width: float = option(0.0, "their deviation, in units of smoothing; 0: the estimate itself")
    rho_schedule: str = option("constant", "constant, increase (towards the data) or decrease")
    mu_schedule: str = option("constant", "constant, increase (towards the data) or decrease")


@dataclass(eq=False)
class FreeDoM(Universal):
    """DPS that travels in time in the middle stage, where its code does.

    Reference: FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model (Yu et al., 2023).
    """

    name: ClassVar[str] = "freedom"

    recurrences: int = option(10, "times a step of the window is taken, with fresh noise between")
    window_from: float = option(0.5, "noise level t from which steps recur")
    window_to: float = option(0.8, "noise level t up to which they do")
    rho: float = option(1.0, "strength of the gradient through the network")
    mu: float = option(0.0, "strength of the moves at the clean estimate")
