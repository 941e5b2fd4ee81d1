r"""The target: a base model tilted by a reward.

.. math:: p^*(x) \propto p(x)\, e^{r(x)/\tau}

The tilted law is the exact maximiser of :math:`E_q[r] - \tau\,\mathrm{KL}(q\|p)`, so "more reward
at the price of leaving the data" has one answer for every temperature τ: large τ stays with the
data, small τ follows the reward.
"""

from __future__ import annotations

import math

from payoff.denoisers import Denoiser
from payoff.rewards.base import Reward


class Target:
    """What guidance, steering and fine-tuning all aim for.

    Attributes:
        denoiser: the base model p.
        reward: r, in its own units, higher is better.
        temperature: τ > 0, in the reward's units: a gain of τ in reward is worth a factor e in
            probability.

    Raises:
        TypeError: the base is not a Denoiser, or the reward not a Reward.
        ValueError: the temperature is not a positive finite number.

    Reference: the tilted law as the optimum of a KL-regularised reward is in Linearly-Solvable
    Markov Decision Problems (Todorov, 2006); for diffusion, Fine-Tuning of Continuous-Time
    Diffusion Models as Entropy-Regularized Control (Uehara et al., 2024).
    """

    def __init__(self, denoiser: Denoiser, reward: Reward, temperature: float = 1.0) -> None:
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"a Target needs a Denoiser as its base, got {type(denoiser).__name__}")
        if not isinstance(reward, Reward):
            raise TypeError(
                f"a Target needs a Reward, got {type(reward).__name__}: wrap a function with "
                "payoff.rewards.FunctionReward"
            )
        self.denoiser, self.reward = denoiser, reward
        self.temperature = checked_temperature(temperature)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(denoiser={type(self.denoiser).__name__}, "
            f"reward={type(self.reward).__name__}, temperature={self.temperature:g})"
        )


def checked_temperature(temperature: float) -> float:
    """``temperature`` as a float if it is positive and finite, else a ValueError."""
    value = float(temperature)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"the temperature must be positive and finite, got {temperature}")
    return value
