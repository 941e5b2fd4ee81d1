"""How good the molecules of a model are, against the number of steps and the precision.

    python benchmarks/molecule_quality.py qm9 --samples 1000 --steps 15 25 40 100 --samplers 0 1 2

A row per sampler, number of steps and precision, all from the same noise where the sampler allows
it: stability, validity and uniqueness in percent, the first two with their standard error, and
molecules a second by CPU time, drawing and placing hydrogens included. ``bf16`` takes the matrix
products of the network in bfloat16, as training does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import product

import torch

from payoff.denoisers import Denoiser
from payoff.domains.molecules.config import NOISE
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.model import MoleculeModel
from payoff.samplers import DDIM, Heun, Multistep, NoisyMultistep, Sampler


def with_noise(eta: float) -> Callable[..., Sampler]:
    """The sampler of molecules with another noise, in units of DDPM's."""

    def made(denoiser: Denoiser, shape: tuple[int, ...], steps: int) -> Sampler:
        if not eta:
            return Multistep(denoiser, shape, steps)
        return NoisyMultistep(denoiser, shape, steps, eta=eta)

    return made


def first_order(denoiser: Denoiser, shape: tuple[int, ...], steps: int) -> Sampler:
    """The same noise in steps of first order."""
    return DDIM(denoiser, shape, steps, eta=NOISE)


def sampler_of(name: str) -> Callable[..., Sampler]:
    """By name, or by the noise as a number."""
    known: dict[str, Callable[..., Sampler]] = {"heun": Heun, "first-order": first_order}
    return known[name] if name in known else with_noise(float(name))


COLUMNS = {
    "atom_stability": "atoms stable",
    "molecule_stability": "molecules stable",
    "table_validity": "EDM's validity",
    "validity": "valid",
    "uniqueness": "unique of valid",
}


def rows(model: MoleculeModel, args: argparse.Namespace) -> Iterator[list[str]]:
    """The cells of each row."""
    for name, precision, steps in product(args.samplers, args.precision, args.steps):
        generator = torch.Generator().manual_seed(args.seed)
        began = time.process_time()
        with products(precision):
            drawn = sample(
                model.denoiser,
                model.codec,
                model.sizes,
                args.samples,
                generator=generator,
                steps=steps,
                batch_size=args.batch,
                sampler=sampler_of(name),
            )
        speed = args.samples / (time.process_time() - began)
        found = summary(drawn)
        cells = [name, str(steps), precision]
        for column in COLUMNS:
            share = found[column]
            error = (share * (1 - share) / args.samples) ** 0.5
            known = column in ("molecule_stability", "table_validity", "validity")
            cells.append(f"{100 * share:.1f}" + (f" ± {100 * error:.1f}" if known else ""))
        yield [*cells, f"{speed:.1f}"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="name of shipped weights, a model folder or a run folder")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 25, 40, 100])
    parser.add_argument(
        "--samplers", nargs="+", default=["2"], help="a noise: 0, 1, 2; first-order, heun"
    )
    parser.add_argument("--precision", nargs="+", default=["bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    heads = ["sampler", "steps", "products", *COLUMNS.values(), "molecules a second"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for cells in rows(MoleculeModel.load(args.model), args):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
