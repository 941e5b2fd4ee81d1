"""The world of the RCGDM simulation: sizes, data, labels, ridge estimate and pseudo-labels.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.problems.gaussian import GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.rewards.learned import Ridge
from payoff.samplers import Sampler

NETWORKS: dict[str, dict[str, Any]] = {
    "encoder-decoder": {"subspace": True},
    "encoder-decoder, affine path": {"subspace": True, "affine": True},
    "encoder-decoder, fourier label": {"subspace": True, "label_features": "fourier"},
    "residual MLP": {},
    "residual MLP, affine path": {"affine": True},
    "residual MLP, fourier label": {"label_features": "fourier"},
}
PENALTY = 5.0
LABEL_SD = 0.1


@dataclass
class Config:
    """The study. The defaults are the paper's sizes where they are known."""

    out: str = option("runs/rcgdm", "folder for results.json, results.md and curves.html")
    seeds: int = option(3, "seeds of data, labels, training and sampling")
    networks: str = option(
        "encoder-decoder;encoder-decoder, affine path;residual MLP;residual MLP, affine path",
        f"semicolon-separated, or 'all': {'; '.join(NETWORKS)}",
    )
    aims: str = option("0,1,2,3,4,6,8,10,12,14,16,18,20", "aims a, comma-separated")
    dim: int = option(64, "ambient dimension D")
    latent: int = option(16, "latent dimension d")
    unlabelled: int = option(65_536, "n1, pseudo-labelled points")
    labelled: int = option(8_192, "n2, labelled points")
    samples: int = option(2_048, "samples per aim")
    nu: float = option(0.125, "sd of the noise added to pseudo-labels; the paper's is 1/sqrt(D)")
    width: int = option(128, "width of the networks")
    depth: int = option(3, "residual blocks of the networks")
    train_steps: int = option(6_000, "optimiser steps per network")
    batch_size: int = option(256, "rows per optimiser step")
    learning_rate: float = option(2e-3, "peak learning rate")
    sample_steps: int = option(50, "network calls per sample")
    guidance: float = option(1.0, "classifier-free weight of the guided column; 0 = leave it out")
    processes: int = option(2, "networks trained at the same time, one thread each")
    quick: bool = option(False, "toy sizes, to see that it runs")

    def __post_init__(self) -> None:
        if self.quick:
            self.seeds, self.dim, self.latent, self.samples = 1, 16, 4, 128
            self.unlabelled, self.labelled, self.aims = 2_048, 512, "0,2,4"
            self.width, self.depth, self.train_steps, self.sample_steps = 32, 1, 150, 10
            self.processes = 1
        if self.networks == "all":
            self.networks = ";".join(NETWORKS)

    def aim_list(self) -> list[float]:
        return [float(a) for a in self.aims.split(",")]


class World:
    """One draw of the paper's world: data, labels, ridge estimate, pseudo-labels."""

    def __init__(self, config: Config, seed: int, process: GaussianProcess | None = None) -> None:
        g = torch.Generator().manual_seed(10_000 + seed)
        self.nu, self.process = config.nu, process or GaussianProcess()
        self.problem = GaussianSubspace.random(
            config.dim, config.latent, process=self.process, seed=seed
        )
        labelled = points(self.problem, config.labelled, g)
        self.y = self.problem.labels(labelled, LABEL_SD, generator=g)[:, 0]
        self.ridge = Ridge.fit(labelled, self.y, lam=1.0, intercept=False)
        self.theta_hat = self.ridge.coefficients.float()
        self.x = points(self.problem, config.unlabelled, g)
        noise = torch.randn(config.unlabelled, generator=g)
        self.pseudo = (self.x @ self.theta_hat + self.nu * noise).unsqueeze(1)
        beta_hat, beta = self.problem.frame.T @ self.theta_hat, self.problem.direction
        self.norm2, self.overlap = float(beta_hat @ beta_hat), float(beta_hat @ beta)
        self.s2 = self.norm2 + self.nu**2

    def exact(self) -> Denoiser:
        """The exact conditional denoiser given the *estimated* reward, as P_a is defined."""
        return self.problem.conditional(self.nu, self.theta_hat)

    def closed_form(self, a: float) -> dict[str, float]:
        """Facts about P_a for Σ = I; rho² = ‖β̂‖²/s² is the share of label variance explained."""
        rho2 = self.norm2 / self.s2
        return {
            "fhat": a * rho2,
            "g": a * self.overlap / self.s2,
            "sd_fhat": self.nu * math.sqrt(rho2),
            "shift": self.problem.frame.shape[1] + rho2 * (a * a / self.s2 - 1),
            "term0": a * self.nu**2 / self.s2,
            "E1": a * (self.norm2 - self.overlap) / self.s2,
        }

    def measure(self, x: Tensor, a: float) -> dict[str, float]:
        """What the samples (n, D) drawn at aim a have, beside the closed form of P_a."""
        exact, on = self.closed_form(a), x @ self.problem.frame
        off = self.problem.off_support(x)
        g, fhat = on @ self.problem.direction, x @ self.theta_hat
        reward = g - PENALTY * off
        return {
            "aim": a,
            "reward": float(reward.mean()),
            "reward_se": float(reward.std() / math.sqrt(len(x))),
            "g": float(g.mean()),
            "fhat": float(fhat.mean()),
            "sd_fhat": float(fhat.std()),
            "shift": float(on.square().sum(1).mean()),
            "ratio": float((off.sqrt() / on.norm(dim=1)).mean()),
            "E2": exact["g"] - float(g.mean()),
            "E3": PENALTY * float(off.mean()),
            **{f"exact_{k}": v for k, v in exact.items()},
        }

    def sweep(
        self, sampler: Sampler, aims: list[float], n: int, scale: float, g: torch.Generator
    ) -> list[dict[str, float]]:
        """Measurements at every aim; ``scale`` is the unit of the label the model was given."""
        label = torch.tensor(aims).repeat_interleave(n).unsqueeze(1) / scale
        cond = {"label": label, "label_known": torch.ones(len(label))}
        x = sampler.sample(len(label), cond, generator=g, batch_size=1024)
        return [self.measure(part, a) for part, a in zip(x.split(n), aims, strict=True)]


def points(problem: GaussianSubspace, n: int, g: torch.Generator) -> Tensor:
    """Draw x = A z (n, D): on the support to rounding, as theory and ridge regression want it."""
    frame = problem.frame
    return torch.randn(n, frame.shape[1], generator=g, dtype=frame.dtype) @ frame.T
