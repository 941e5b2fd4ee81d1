r"""CoDe: best-of-n by blocks of steps.

.. math:: x_s^{(1..N)}\sim p(x_s\mid x_t)\ \text{by } B \text{ steps},\qquad
          i=\arg\max V_s(x_s^{(i)})\quad\text{or}\quad P(i)\propto e^{V_s(x_s^{(i)})}

B = all steps is best-of-n, B = 1 is SVDD; between them a block gives V less noise to look through
and asks for N/B values a step. With a reference design a chain may start half-way, from the
reference noised to the level ``strength`` (the noise-conditioned form): samples stay near it, at
strength 1 nothing of it is left.

**Biased by construction**, as V is estimated from the clean estimate, unless the block is all
steps and the choice soft. The arg-max has no temperature at all.

Reference: CoDe: Blockwise Control for Denoising Diffusion Models (Singh, Mukherjee, Beirami,
Jamali-Rad, 2025). The published choice is the arg-max [M]; its example has blocks of 10 of 500
steps and 50 to 100 candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.steering.decoding import Decoding, value_option


@dataclass(eq=False)
class CoDe(Decoding):
    """A choice among N candidates after every block of steps.

    With ``reference`` (R, *shape) each sample starts from one of its rows, drawn at random, noised
    to t = ``strength``; all ``steps`` lie between there and 0.
    """

    name: ClassVar[str] = "code"
    size: ClassVar[str] = "candidates"

    candidates: int = option(8, "candidates for the end of each block")
    block: int = option(10, "steps between two choices; all steps make it best-of-n")
    choice: str = option("soft", "soft (in proportion to exp(V)) or argmax (greedy)")
    value: Any = value_option()
    draws: int = option(1, "draws of the value, where it draws")
    sigma_data: float = option(1.0, "standard deviation of the data, for a posterior value")
    reference: Tensor | None = option(None, "designs to start from, in part")
    strength: float = option(0.6, "noise level t in (0, 1] at which a reference design starts")

    @property
    def marks(self) -> list[int]:
        """Every block's end, the last one shorter where it does not fit."""
        return [*range(self.block, self.steps, self.block), self.steps]

    def begin(self, rows, cond, generator):  # type: ignore[no-untyped-def]
        """Noise, or reference designs with noise."""
        if self.reference is None:
            return super().begin(rows, cond, generator)
        like = self.start(0)
        designs = self.reference.to(like)
        # the candidates of a sample share its design
        where = generator.device if generator is not None else None
        n = rows // self.candidates
        row = torch.randint(len(designs), (n,), generator=generator, device=where)
        x0 = designs[row.repeat_interleave(self.candidates).to(like.device)]
        x0 = self.denoiser.process.space.project(x0, cond)
        grid = self.time_grid(like, self.strength)
        return self.denoiser.process.corrupt(x0, grid[0], cond, generator=generator), grid

    def _check(self) -> None:
        super()._check()
        if self.block < 1:
            raise UserError(f"code: block must be at least 1, got {self.block}")
        if not 0 < self.strength <= 1:
            raise UserError(f"code: strength must lie in (0, 1], got {self.strength}")
        if self.reference is not None and tuple(self.reference.shape[1:]) != self.shape:
            raise UserError(
                f"code: reference has shape {tuple(self.reference.shape)}, expected one design a "
                f"row: (R, {', '.join(map(str, self.shape))})"
            )
