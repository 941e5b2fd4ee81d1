"""Milliseconds a molecule of every reward of molecules, and how they agree with DFT.

    OMP_NUM_THREADS=1 python benchmarks/molecule_rewards.py

Molecules are the first of QM9's test part, and the same with noise on every coordinate, which is
what a sampler holds before it is finished. Times are CPU times of one thread, the
median over rounds. R² is after a linear fit against B3LYP, on another number of molecules; rewards
that DFT does not know have none.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import QM9, load_qm9, split
from payoff.domains.molecules.rewards import REWARDS, NamedReward

COLUMN = {
    **{"xtb_gap": "gap", "gfn2_gap": "gap", "xtb_homo": "homo", "xtb_lumo": "lumo"},
    **{"xtb_dipole": "mu", "alpha": "alpha", "learned_gap": "gap", "learned_alpha": "alpha"},
}
"""The property of QM9 that a reward is compared with."""


def shaken(molecules: list[Molecule], scale: float) -> list[Molecule]:
    generator = torch.Generator().manual_seed(0)
    noise = [scale * torch.randn(len(m), 3, generator=generator) for m in molecules]
    return [Molecule(m.numbers, m.positions + e) for m, e in zip(molecules, noise, strict=True)]


def timed(named: NamedReward, molecules: list[Molecule], rounds: int) -> tuple[float, float]:
    """(milliseconds a molecule, share that has no value)."""
    named.score(molecules[:1])  # imports and tables
    times = []
    for _ in range(rounds):
        began = time.process_time()
        values = named.score(molecules)
        times.append(1e3 * (time.process_time() - began) / len(molecules))
    return statistics.median(times), float(np.isnan(values).mean())


def agreement(named: NamedReward, data: QM9, count: int) -> float | None:
    """R² against DFT after a linear fit, on the molecules that have a value."""
    if named.name not in COLUMN:
        return None
    rows = split("test", len(data))[:count]
    values = named.score(data.molecules(rows))
    truth, has = data.column(COLUMN[named.name])[rows].double().numpy(), np.isfinite(values)
    return float(np.corrcoef(values[has], truth[has])[0, 1] ** 2)


def row(named: NamedReward, data: QM9, options: argparse.Namespace) -> list[str]:
    real = data.molecules(split("test", len(data))[: options.molecules])
    fine, lost = timed(named, real, options.rounds)
    spoiled, failed = timed(named, shaken(real, options.noise), options.rounds)
    explained = agreement(named, data, options.fit)
    return [
        f"`{named.name}`",
        named.help,
        named.unit,
        f"{fine:.2f}",
        f"{100 * lost:.3g} %",
        f"{spoiled:.2f}",
        f"{100 * failed:.3g} %",
        "" if explained is None else f"{explained:.2f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--molecules", type=int, default=50, help="timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fit", type=int, default=300, help="compared with DFT")
    parser.add_argument("--noise", type=float, default=0.3, help="deviation in Å")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = load_qm9()
    head = ["reward", "what", "unit", "ms", "NaN", "ms, noisy", "NaN, noisy", "R²"]
    for cells in (head, ["---"] * len(head)):
        print(f"| {' | '.join(cells)} |")
    for named in REWARDS.values():
        print(f"| {' | '.join(row(named, data, options))} |", flush=True)


if __name__ == "__main__":
    main()
