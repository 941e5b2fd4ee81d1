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
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rcgdm_closed_forms import closed_forms  # the files beside this one
from rcgdm_report import curves, tables
from rcgdm_world import NETWORKS, Config, World

from payoff.configs import to_dict
from payoff.denoisers import Denoiser, NetDenoiser, Subspace
from payoff.guidance import ClassifierFree
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.samplers import Multistep
from payoff.training import FitConfig, fit


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
