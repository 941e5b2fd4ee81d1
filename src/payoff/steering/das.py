r"""DAS, diffusion alignment as sampling: TDS whose target is tempered on the way.

Between noise and data the particles stand for :math:`p\,e^{\lambda_tV_t}` with λ from 0 to 1, so
that values which are poor at high noise select little. Tempering changes the path and not its end.

.. math:: \lambda = \min\big(1,\ (1+\gamma)^{k}-1\big), \qquad k = 100\cdot\text{progress}.

The published γ = 0.008 counts steps of a run of 100; k is scaled here, so that a run of any length
is tempered alike. Resampling is systematic here and SSP (Srinivasan's process) in the paper; both
leave floor or ceiling of K w offspring.

In the released code the guidance and the twist stayed behind when particles were resampled; here
both are fields of the population and move with it.

Reference: Test-time Alignment of Diffusion Models without Reward Over-optimization (Kim, Kim, Park,
2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from payoff.configs import option
from payoff.errors import UserError
from payoff.steering.potentials import geometric
from payoff.steering.tds import TDS


@dataclass(eq=False)
class DAS(TDS):
    """``das``: see the module."""

    name: ClassVar[str] = "das"

    gamma: float = option(0.008, "tempering: (1 + gamma)^k - 1 with k = 100 at the end")

    def tempering(self, progress: float) -> float:
        """λ at a check."""
        return geometric(progress, self.gamma)

    def _check_options(self) -> None:
        super()._check_options()
        if not self.gamma > 0:
            raise UserError(f"{self.name}: gamma must be positive, got {self.gamma}")
