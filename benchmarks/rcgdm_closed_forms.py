"""Closed forms of the RCGDM simulation against measurements that need no training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from rcgdm_world import Config, World, points

from payoff.guidance import ClassifierFree
from payoff.problems.gaussian import GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.rewards.learned import Ridge
from payoff.samplers import Ancestral, Multistep, Sampler
from payoff.schedules import Cosine


def exact_sampling(config: Config) -> dict[str, Any]:
    """P_a through the samplers, with the exact conditional denoiser."""
    world, shape = World(config, 0), (config.dim,)
    samplers: dict[str, Sampler] = {
        "multistep, 50 calls": Multistep(world.exact(), shape, 50, grid="log_snr"),
        "ancestral, 200 calls": Ancestral(world.exact(), shape, 200, grid="log_snr"),
    }
    if config.guidance:
        guided = ClassifierFree(world.exact(), config.guidance)
        name = f"guided, w = {config.guidance:g}"
        samplers[name] = Multistep(guided, shape, 50, grid="log_snr")
    rows = {}
    for name, sampler in samplers.items():
        g = torch.Generator().manual_seed(1)
        rows[name] = world.sweep(sampler, config.aim_list(), config.samples, 1.0, g)
    return rows


def off_support_at_stop(config: Config, stops: tuple[float, ...] = (0.01, 0.1, 0.5)) -> list[dict]:
    """E‖x_perp‖² = h(t0)(D − d) when the exact score stops at noise variance h(t0)."""
    rows = []
    for h in stops:
        process = GaussianProcess(schedule=Cosine(log_snr_max=math.log((1 - h) / h)))
        world = World(config, 0, process)
        g = torch.Generator().manual_seed(2)
        cond = {"label": torch.full((config.samples, 1), 5.0)}
        sampler = Multistep(world.exact(), (config.dim,), 50, grid="log_snr")
        off = world.problem.off_support(sampler.sample(config.samples, cond, generator=g))
        rows.append(
            {
                "h": h,
                "exact": float(world.problem.expected_off_support(torch.zeros(()))),
                "measured": float(off.mean()),
                "se": float(off.std() / math.sqrt(len(off))),
            }
        )
    return rows


def label_noise(config: Config, a: float = 4.0) -> list[dict[str, float]]:
    """Term (0), a ν²/s², for three ν."""
    rows, n, g = [], 8 * config.samples, torch.Generator().manual_seed(3)
    for nu in (0.01, config.nu, 0.5):
        world = World(dataclasses.replace(config, nu=nu), 0)
        sampler = Multistep(world.exact(), (config.dim,), 50, grid="log_snr")
        row = world.sweep(sampler, [a], n, 1.0, g)[0]
        se = row["sd_fhat"] / math.sqrt(n)
        rows.append({"nu": nu, "exact": row["exact_term0"], "measured": a - row["fhat"], "se": se})
    return rows


def regret_rate(config: Config, a: float = 5.0, repeats: int = 100) -> dict[str, Any]:
    r"""E1 at aim a against n2; its rms is :math:`a\sigma/(\sqrt{n_2}(1+\nu^2))` to first order."""
    problem = GaussianSubspace.random(config.dim, config.latent, seed=0)
    g, noise, rows = torch.Generator().manual_seed(4), 0.5, []
    for n in (256, 1_024, 4_096, 16_384):
        errors = []
        for _ in range(repeats):
            x = points(problem, n, g)
            y = problem.labels(x, noise, generator=g)[:, 0]
            beta = problem.frame.T @ Ridge.fit(x, y, lam=1.0, intercept=False).coefficients.float()
            gap = beta @ beta - beta @ problem.direction
            errors.append(a * gap / (beta @ beta + config.nu**2))
        rms = float(torch.stack(errors).square().mean().sqrt())
        rows.append(
            {"n2": n, "rms": rms, "first_order": a * noise / math.sqrt(n) / (1 + config.nu**2)}
        )
    return {"aim": a, "label_sd": noise, "slope": _slope(rows, "n2", "rms"), "rows": rows}


def angle_rate(config: Config, alpha2: float = 0.5, repeats: int = 5) -> dict[str, Any]:
    r"""Subspace angle of the linear class against n1, from one noise draw a point.

    The noise :math:`\varepsilon` is regressed on :math:`x_t` by least squares, which is the ε-loss
    over linear networks, and V spans the leading eigenvectors of the symmetrised estimate of the
    x0-map. First-order perturbation of that eigenproblem gives :math:`d(D-d)/(2\alpha^2 n_1)`.
    """
    rows, dim, latent = [], config.dim, config.latent
    alpha, sigma = math.sqrt(alpha2), math.sqrt(1 - alpha2)
    for n in (256, 1_024, 4_096, 16_384, 65_536):
        angles = []
        for seed in range(repeats):
            problem = GaussianSubspace.random(dim, latent, seed=seed, dtype=torch.float64)
            g = torch.Generator().manual_seed(seed)
            x = points(problem, n, g)
            noise = torch.randn(n, dim, generator=g, dtype=torch.float64)
            x_t = alpha * x + sigma * noise
            linear = torch.linalg.solve(x_t.T @ x_t, x_t.T @ noise).T
            to_x0 = (torch.eye(dim, dtype=torch.float64) - sigma * linear) / alpha
            v = torch.linalg.eigh(to_x0 + to_x0.T)[1][:, -latent:]
            angles.append((v @ v.T - problem.frame @ problem.frame.T).square().sum())
        rows.append(
            {
                "n1": n,
                "angle": float(torch.stack(angles).mean()),
                "first_order": latent * (dim - latent) / (2 * alpha2 * n),
                "bound": math.sqrt((dim * latent**2 + dim**2 * latent) / n),
            }
        )
    return {"alpha2": alpha2, "slope": _slope(rows, "n1", "angle"), "rows": rows}


def _slope(rows: list[dict[str, float]], x: str, y: str) -> float:
    """Least-squares slope of log y on log x."""
    u = torch.tensor([math.log(r[x]) for r in rows], dtype=torch.float64)
    v = torch.tensor([math.log(r[y]) for r in rows], dtype=torch.float64)
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())


def closed_forms(config: Config) -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        return {
            "exact_sampling": exact_sampling(config),
            "off_support": off_support_at_stop(config),
            "label_noise": label_noise(config),
            "regret_rate": regret_rate(config),
            "angle_rate": angle_rate(config),
        }
