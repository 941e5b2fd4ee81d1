"""Small problems, networks and budgets that all tests of fine-tuning share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from payoff.denoisers import Corrected, Denoiser
from payoff.finetuning import METHODS, FinetuneConfig, Finetuner, Monitor
from payoff.finetuning.run import Run
from payoff.metrics.estimate import Estimate
from payoff.nets import ResidualMLP
from payoff.problems import GaussianSubspace, TokenChain
from payoff.problems.base import Problem
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward, Reward
from payoff.samplers import DDIM
from payoff.targets import Target

F64 = torch.float64
# small options, so that a round takes milliseconds
QUICK: dict[str, dict[str, Any]] = {
    "rgdm": {"candidates": 4, "value_steps": 3, "value_width": 8},
    "grpo": {"group": 4},
    "awm": {"draws": 2},
    "dpo": {"draws": 2},
}
TOKEN_METHODS = {
    "ddpo": {},
    "dpok": {},
    "grpo": {},
    "rwr": {},
    "rgdm": {"level": "sample"},
    "awm": {},
    "dpo": {},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quick(name: str, **options: Any) -> Finetuner:
    return METHODS[name](**{**QUICK.get(name, {}), **options})


def small(**options: Any) -> FinetuneConfig:
    """Rounds of 8 designs on 3 steps, measured on 16 samples."""
    given = {
        **{"calls": 24, "per_round": 8, "updates": 2, "batch_size": 8, "learning_rate": 1e-3},
        **{"sampler_steps": 3, "evaluate": 16},
    }
    return FinetuneConfig(**{**given, **options})


def corrected(problem: Problem, width: int = 32, sigma_data: float = 1.0) -> Corrected:
    """The exact base with a trainable correction that starts at zero."""
    torch.manual_seed(0)
    net = ResidualMLP(problem.shape[0], width, 1).to(next(problem.base.buffers()).dtype)
    return Corrected(problem.base, net, sigma_data)


def plane(temperature: float = 1.0, floor: float = 0.0) -> GaussianSubspace:
    return GaussianSubspace.random(4, 2, temperature, GaussianProcess(noise_floor=floor))


def aimed(reward: Callable[[Tensor, Any], Tensor] | Reward | None = None, **kw: Any) -> Target:
    """A target on the plane with a trainable denoiser and any reward; by default its own."""
    problem = plane(**kw)
    chosen = problem.reward if reward is None else reward
    given = chosen if isinstance(chosen, Reward) else FunctionReward(chosen)
    return Target(corrected(problem), given, problem.temperature)


class Logits(nn.Module):
    """A table of logits by position, and an MLP on the masked one-hot; zero at first."""

    def __init__(self, vocabulary: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.inner = nn.Linear(length * (vocabulary + 1), width)
        self.outer = nn.Linear(width, length * vocabulary)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x, level, cond=None):
        one_hot = nn.functional.one_hot(x, self.vocabulary + 1).to(self.inner.weight)
        out = self.outer(torch.tanh(self.inner(one_hot.flatten(1))))
        return out.view(len(x), self.length, self.vocabulary)


def chain_target(temperature: float = 0.5) -> tuple[TokenChain, Target]:
    chain = TokenChain.random(3, 3, temperature, additive=True)
    torch.manual_seed(0)
    return chain, Target(Corrected(chain.base, Logits(3, 3)), chain.reward, temperature)


def weights_of(denoiser: Denoiser) -> Tensor:
    return torch.cat([p.detach().flatten() for p in denoiser.parameters() if p.requires_grad])


def same_history(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> bool:
    """Equal but for the clock."""

    def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in e.items() if not k.endswith("seconds")} for e in history]

    return timeless(one) == timeless(two)


def gain_of(
    tuned: Denoiser, target: Target, shape: tuple[int, ...], n: int = 1500, steps: int = 8
) -> Estimate:
    """E[r] of the tuned model minus that of the base, both from the same noise."""
    ends = [
        DDIM(d, shape, steps, eta=1.0).sample(n, generator=seeded(99))
        for d in (tuned, target.denoiser)
    ]
    return Estimate.of(target.reward(ends[0]) - target.reward(ends[1]))


def run_of(
    method: Finetuner, target: Target, shape: tuple[int, ...], config: FinetuneConfig, data=None
) -> Run:
    """What :meth:`Finetuner.fit` hands to a method, for one round by hand."""
    run = Run(
        target,
        config.filled(method.defaults),
        identity={},
        data=data,
        shape=shape,
        cond=None,
        monitor=Monitor(),
        checkpoint=None,
    )
    method.begin(run)
    return run


@contextmanager
def gradients_of(run: Run) -> Iterator[list[Tensor]]:
    """Collects the gradient of every step instead of taking it."""
    found: list[Tensor] = []

    def take(losses: Tensor) -> None:
        parts = torch.autograd.grad(losses.mean(), run.trainable)
        found.append(torch.cat([p.flatten() for p in parts]))

    run.step = take  # type: ignore[method-assign]
    yield found


def z_scores(samples: Tensor, expected: Tensor | float = 0.0, floor: float = 0.0) -> Tensor:
    """(mean − expected) in standard errors, of observations (n, ...)."""
    stderr = samples.std(0) / math.sqrt(len(samples))
    return (samples.mean(0) - expected) / (stderr + floor)
