"""Samples from a tilted law whose answer is known, and what a common shortcut gets wrong.

The base is a mixture of two Gaussians, the reward a parabola, and the target p ∝ p · exp(r/τ) is a
mixture again, known in closed form. Three ways to draw from it with one sampler:

- the exact denoiser of the target itself;
- the base's denoiser with the gradient of the exact value V_t added to its score;
- the same with the plug-in value r(x0_hat)/τ instead, which costs no roll-outs and is biased.

    python examples/exact_target.py
    python examples/exact_target.py --toy
"""

from __future__ import annotations

import argparse

import torch

from payoff.denoisers import Denoiser
from payoff.metrics import energy_distance, mean_reward
from payoff.predictions import Prediction
from payoff.problems import MixtureProblem
from payoff.samplers import Multistep
from payoff.spaces import expand_to
from payoff.values import PlugIn, Value


class AlongTheValue(Denoiser):
    r"""The base's score plus the gradient of a value: score + ∇V, that is x0 + (σ²/α) ∇V."""

    def __init__(self, base: Denoiser, value: Value) -> None:
        super().__init__()
        self.base, self.value, self.process = base, value, base.process

    def forward(self, x_t, t, cond=None):
        # the sampler runs without gradients; this one step needs them
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.value(x, t.clone(), cond).sum(), x)
        p = self.base(x_t, t, cond)
        gain = expand_to(p.sigma**2 / p.alpha, x_t)
        return Prediction(p.x0 + gain * gradient, x_t, p.alpha, p.sigma)


def main() -> None:
    """Print a table with one line per way of sampling."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="few samples, in seconds")
    toy = parser.parse_args().toy
    n, steps = (2_000, 40) if toy else (40_000, 200)

    problem = MixtureProblem.two_modes()
    generator = torch.Generator().manual_seed(0)
    exact = problem.sample_target(n, generator=generator)
    right = float(problem.tilted().log_weights.exp()[1])
    print(f"exact: E[r] = {float(problem.target_reward()):.4f}, right mode {right:.4f}, "
          f"KL from the base {float(problem.kl()):.4f} nats")  # fmt: skip

    ways = {
        "the target's own denoiser": problem.tilted(),
        "gradient of the exact value": AlongTheValue(problem.base, problem.value()),
        "gradient of the plug-in value": AlongTheValue(problem.base, PlugIn(problem)),
    }
    print(f"{'':<30} {'mean reward':>30} {'right mode':>11} {'energy distance':>28}")
    for name, denoiser in ways.items():
        x = Multistep(denoiser, problem.shape, steps).sample(n, generator=generator)
        reward, distance = mean_reward(problem.reward, x), energy_distance(x, exact)
        share = float((x[:, 0] > 0.5).double().mean())
        print(f"{name:<30} {reward!s:>30} {share:>11.4f} {distance!s:>28}")


if __name__ == "__main__":
    main()
