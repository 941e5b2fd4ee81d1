r"""SVDD: every step, one of several candidates for the next state.

.. math:: x_s^{(1..M)}\sim p(x_s\mid x_t),\qquad
          P(i)\propto e^{V_s(x_s^{(i)})}\ \text{(soft)}\quad\text{or}\quad
          i=\arg\max V_s\ \text{(greedy)}

A black box is enough, for vectors and for tokens. **Biased by construction**: V is estimated from
the clean estimate (a mean of an exponential replaced by the exponential of a mean), and neither
more candidates nor more steps remove that error; they make the choice exact for the wrong V. With
the exact V in its place the law does tend to p*. The greedy choice seeks the mode.

The published form draws one initial noise a chain [M]; here the candidates of the first step have
one each, which costs M − 1 evaluations more and leaves the tilt of the initial law in.

Reference: Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
Value-Based Decoding (Li et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option
from payoff.steering.decoding import Decoding, value_option


@dataclass(eq=False)
class SVDD(Decoding):
    """A choice among M candidates at every step, one network evaluation a candidate."""

    name: ClassVar[str] = "svdd"
    size: ClassVar[str] = "candidates"

    candidates: int = option(8, "candidates for each next state")
    choice: str = option("soft", "soft (in proportion to exp(V)) or argmax (greedy)")
    value: Any = value_option()
    draws: int = option(1, "draws of the value, where it draws")
    sigma_data: float = option(1.0, "standard deviation of the data, for a posterior value")
