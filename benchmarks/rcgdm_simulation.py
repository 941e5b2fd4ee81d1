r"""The simulation of the RCGDM paper, with its closed forms beside the measurements.

    python benchmarks/rcgdm_simulation.py --out runs/rcgdm           # the full study
    python benchmarks/rcgdm_simulation.py --quick --out runs/toy     # seconds, for tests

Data x = A z, z ~ N(0, I_d) in D dimensions; reward :math:`f(x)=\theta\cdot x - 5\|x_\perp\|^2`, of
which the data only show the first part. Ridge regression on n2 noisy labels gives
:math:`\hat\theta`; n1 unlabelled points get pseudo-labels :math:`\hat\theta\cdot x+\nu\xi`; a
conditional diffusion model is trained on those and sampled at the aim a. The gap splits exactly,

.. math::
    a - E_{\hat P_a}f = \underbrace{a - E_{P_a}\hat f}_{(0)} + \underbrace{E_{P_a}[\hat f-g]}_{E_1}
    + \underbrace{E_{P_a}g - E_{\hat P_a}g}_{E_2} + \underbrace{E_{\hat P_a}5\|x_\perp\|^2}_{E_3},

with g = θ·x on the support. (0) and E1 are closed forms here, E2 and E3 are measured.

Reference: Reward-Directed Conditional Diffusion: Provable Distribution Estimation and Reward
Improvement (Yuan, Huang, Ni, Chen, Wang, 2023). What is fact, derived or recalled about it is in
docs/methods/rcgdm.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rcgdm_report import curves, tables  # beside this file
from torch import Tensor

from payoff.configs import option, to_dict
from payoff.denoisers import Denoiser, NetDenoiser, Subspace
from payoff.guidance import ClassifierFree
from payoff.nets import ResidualMLP
from payoff.problems.gaussian import GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.rewards.learned import Ridge
from payoff.samplers import Ancestral, Multistep, Sampler
from payoff.schedules import Cosine
from payoff.training import FitConfig, fit

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


def make_denoiser(name: str, config: Config, process: GaussianProcess) -> Denoiser:
    """An untrained network of :data:`NETWORKS` with its preconditioning."""
    options = dict(NETWORKS[name])
    subspace = options.pop("subspace", False)
    dim = config.latent if subspace else config.dim
    net = ResidualMLP(dim, config.width, config.depth, label_dim=1, **options)
    # the data's standard deviation along their support, for both classes: with the rms over all D
    # coordinates (1/2) the residual MLP is a little worse
    inner = NetDenoiser(net, process, sigma_data=1.0)
    return Subspace(inner, config.dim, config.latent) if subspace else inner


def run_network(name: str, seed: int, config: Config) -> dict[str, Any]:
    """Train one network on one seed and sample it at every aim."""
    torch.set_num_threads(1)
    world, started, cpu = World(config, seed), time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    denoiser = make_denoiser(name, config, world.process)
    scale = float(world.pseudo.std())
    settings = FitConfig(
        steps=config.train_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
    )
    trained = fit(denoiser, world.x, {"label": world.pseudo / scale}, settings)
    fitted = time.perf_counter() - started
    g = torch.Generator().manual_seed(20_000 + seed)
    sampler = Multistep(trained, (config.dim,), config.sample_steps, grid="log_snr")
    aims = config.aim_list()
    result = {
        "network": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in trained.parameters()),
        "rows": world.sweep(sampler, aims, config.samples, scale, g),
        "guided": [],
        "angle": subspace_angle(trained, world),
        "ridge_error": float((world.theta_hat - world.problem.theta).norm()),
    }
    if config.guidance:
        guided = ClassifierFree(trained, config.guidance)
        sampler = Multistep(guided, (config.dim,), config.sample_steps, grid="log_snr")
        low = [a for a in aims if a <= 8]
        result["guided"] = world.sweep(sampler, low, config.samples // 2, scale, g)
    result["seconds"] = {
        "training": fitted,
        "total": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }
    return result


def subspace_angle(denoiser: Denoiser, world: World) -> float | None:
    """‖VVᵀ − AAᵀ‖_F² in double precision; None for a network without an encoder."""
    if not isinstance(denoiser, Subspace):
        return None
    v, a = torch.linalg.qr(denoiser.frame.detach().double())[0], world.problem.frame.double()
    return float((v @ v.T - a @ a.T).square().sum())


# --- closed forms against sampling with the exact denoiser: no training ------------------------


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


def study(config: Config) -> dict[str, Any]:
    """Everything: closed forms, then every network on every seed."""
    started = time.perf_counter()
    jobs = [(n.strip(), s) for s in range(config.seeds) for n in config.networks.split(";")]
    for name, _ in jobs:
        if name not in NETWORKS:
            raise SystemExit(f"unknown network {name!r}: expected one of {'; '.join(NETWORKS)}")
    results: list[dict[str, Any]] = []
    if config.processes == 1:
        theory = closed_forms(config)
        results = [run_network(*job, config) for job in jobs]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
            first = pool.submit(closed_forms, config)
            futures = [pool.submit(run_network, *job, config) for job in jobs]
            for future in as_completed(futures):
                results.append(future.result())
                spent = time.perf_counter() - started
                left = spent / len(results) * (len(jobs) - len(results))
                done = results[-1]
                print(
                    f"[{len(results)}/{len(jobs)}] {done['network']}, seed {done['seed']}: "
                    f"{done['seconds']['total']:.0f} s; about {left:.0f} s left",
                    flush=True,
                )
            theory = first.result()
    results.sort(key=lambda r: (list(NETWORKS).index(r["network"]), r["seed"]))
    seconds = time.perf_counter() - started
    return {"config": to_dict(config), "seconds": seconds, "theory": theory, "networks": results}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for field in dataclasses.fields(Config):
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.type == "bool":
            parser.add_argument(flag, action="store_true", help=text)
        else:
            text = f"{text} (default: {field.default})".replace("%", "%%")
            parser.add_argument(flag, type=type(field.default), default=field.default, help=text)
    config = Config(**vars(parser.parse_args(arguments)))
    result = study(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    text = tables(result)
    (out / "results.md").write_text(text)
    curves(result).write_html(out / "curves.html", include_plotlyjs=True)
    print(text)
    print(f"{result['seconds']:.0f} s; written to {out}")
    return result


if __name__ == "__main__":
    main()
