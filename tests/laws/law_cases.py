"""The implementations that every law runs over, and the tools the laws share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, Problem, TokenChain
from payoff.processes import GaussianProcess, MaskProcess
from payoff.schedules import KEEP_SCHEDULES, SCHEDULES, Cosine, Schedule
from payoff.spaces import Centered, Tokens

F64 = torch.float64

# Registered schedules with ranges of log-SNR in which a step count of a few hundred is asymptotic.
GENTLE: dict[str, dict[str, float]] = {
    "Cosine": {"log_snr_min": -6.0, "log_snr_max": 6.0},
    "LinearBeta": {"epsilon": 2e-2},
    "Flow": {"epsilon": 5e-2},
    "Karras": {"sigma_min": 0.05, "sigma_max": 20.0},
    "LogLinear": {"log_snr_min": -6.0, "log_snr_max": 6.0},
    "Sinh": {"log_snr_min": -6.0, "log_snr_max": 6.0},
}


def gentle(name: str) -> Schedule:
    return SCHEDULES[name](**GENTLE.get(name, {}))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ragged_mask(rows: int, size: int) -> Tensor:
    """Masks of every size from 2 up to ``size``, in turn."""
    sizes = 2 + torch.arange(rows) % (size - 1)
    return torch.arange(size) < sizes.unsqueeze(1)


def problems(schedule: Schedule | None = None) -> dict[str, Problem]:
    """One small float64 instance of every problem."""
    schedule = Cosine() if schedule is None else schedule
    flat, cloud = GaussianProcess(schedule=schedule), GaussianProcess(Centered(), schedule)
    chain = TokenChain.random(3, 4, 0.8, dtype=F64)
    return {
        "gaussian": GaussianSubspace.random(5, 2, 0.7, flat, isotropic=False, dtype=F64),
        "mixture": MixtureProblem.random(3, 3, flat, 1.3, dtype=F64),
        "two_modes": MixtureProblem.two_modes(flat, dtype=F64),
        "cloud": CloudProblem(4, process=cloud, dtype=F64),
        "tokens": chain,
    }


PROBLEM_NAMES = tuple(problems())


def condition(name: str, rows: int) -> dict[str, Tensor] | None:
    """The condition a problem's samples come with."""
    return {"mask": ragged_mask(rows, 4)} if name == "cloud" else None


def mask_processes(vocabulary: int) -> dict[str, MaskProcess]:
    return {k: MaskProcess(Tokens(vocabulary), v()) for k, v in KEEP_SCHEDULES.items()}


def z_scores(samples: Tensor, expected: Tensor) -> Tensor:
    """(mean over rows − expected) in standard errors, per column."""
    return (samples.mean(0) - expected) / (samples.std(0) / math.sqrt(len(samples)))


def slope(steps: list[int], errors: list[float]) -> float:
    """Minus the least-squares slope of log error against log steps: the measured order."""
    x = torch.tensor(steps, dtype=F64).log()
    y = torch.tensor(errors, dtype=F64).clamp(min=1e-300).log()
    x = x - x.mean()
    return float(-(x * y).sum() / (x * x).sum())
