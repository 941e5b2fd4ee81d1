"""A reward of one's own: units, failures, gradients, algebra, a budget, and a target made of it.

The base law is a Gaussian mixture in three dimensions, so that no training is needed. The reward is
evaluated on draws of the base, which are weighted by exp(r/τ): importance sampling, the plainest
way to say something about the tilted law, and the effective sample size says how far it carries.

    python examples/own_reward.py
    python examples/own_reward.py --toy
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from payoff.metrics import effective_sample_size, mean_reward, weighted_mean
from payoff.problems import MixtureProblem
from payoff.rewards import Clip, FunctionReward, Metered, Reward
from payoff.samplers import Ancestral
from payoff.targets import Target


class LogVolume(Reward):
    """The log of the volume of a box with log-sides x (B, 3), in log-litres.

    A box with a side above ``largest`` cannot be made: its evaluation fails (NaN, never zero).
    """

    differentiable = True

    def __init__(self, largest: float = 3.0) -> None:
        self.largest = largest

    def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != 3:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, 3)")
        return x.sum(1).masked_fill(x.amax(1) > self.largest, float("nan"))


def main() -> None:
    """Check the reward's declared gradient, then use it in a target."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="few samples, in seconds")
    toy = parser.parse_args().toy
    n = 2_000 if toy else 50_000

    volume = LogVolume()
    point = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(volume, (point,)), "the declared gradient is wrong"

    surface = FunctionReward(lambda x, cond: x.square().sum(1))
    meter = Metered(Clip(volume - 0.1 * surface, high=5.0), budget=2 * n)

    base = MixtureProblem.random(3, seed=1).base
    target = Target(base, meter, temperature=1.0)
    generator = torch.Generator().manual_seed(0)
    x = Ancestral(target.denoiser, (3,), steps=50).sample(n, generator=generator)
    values = target.reward(x)
    made = ~values.isnan()
    log_weights = values[made] / target.temperature
    print(f"base law:   mean reward {mean_reward(meter.reward, x)}")
    print(f"tilted law: mean reward {weighted_mean(values[made], log_weights)}")
    print(f"effective sample size {float(effective_sample_size(log_weights)):.0f} of {n}")
    print(f"best of {n}: {float(values[made].max()):.3f}")
    print(f"spent: {meter.report()}")


if __name__ == "__main__":
    main()
