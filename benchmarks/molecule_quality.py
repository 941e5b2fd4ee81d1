"""How good the molecules of a model are, against the number of steps and the precision.

    python benchmarks/molecule_quality.py qm9 --samples 1000 --steps 15 25 40 100 --samplers 0 1 2

A row per sampler, number of steps and precision, all from the same noise where the sampler allows
it: stability, validity and uniqueness in percent, the first two with their standard error, and
molecules a second by CPU time, drawing and placing hydrogens included. ``bf16`` takes the matrix
products of the network in bfloat16, as training does.

That molecules are stable is not yet that they follow the data's law: ``worst distance`` is the
largest of the Wasserstein distances from 4,000 molecules of the test part in QED, logP, synthetic
accessibility, D4 polarisability and the numbers of rings, heteroatoms and hydrogens, in the data's
standard deviations; behind it stands which. ``novel`` is the share of the compounds that the train
part does not have. The last row are real molecules of the test part, as many as drawn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch

from payoff.denoisers import Denoiser
from payoff.domains.molecules.config import NOISE
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.metrics import smiles_of, summary, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.quality import known_smiles, novelty, property_distances
from payoff.domains.molecules.rewards import REWARDS
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


def sampler_name(text: str) -> str:
    """The name, after checking that it means something: a ValueError is argparse's to tell."""
    sampler_of(text)
    return text


SCORES = ("qed", "logp", "sa", "alpha")
PROPERTIES = (*SCORES, "rings", "heteroatoms", "hydrogens")
REFERENCES = 4000
LAST = ("worst distance", "novel", "molecules a second")
COLUMNS = {
    "atom_stability": "atoms stable",
    "molecule_stability": "molecules stable",
    "table_validity": "EDM's validity",
    "validity": "valid",
    "uniqueness": "unique of valid",
}


def described(molecules: Sequence[Molecule | None]) -> torch.Tensor:
    """The properties (n, 7) of molecules, NaN = unknown."""
    from rdkit.Chem import rdMolDescriptors as counts

    named = [torch.as_tensor(REWARDS[name].answers(list(molecules))[0]) for name in SCORES]
    found = []
    for molecule in molecules:
        mol = to_rdkit(molecule)
        if mol is None or molecule is None:
            found.append([float("nan")] * 3)
            continue
        hydrogens = float((molecule.numbers == 1).sum())
        found.append(
            [float(counts.CalcNumRings(mol)), float(counts.CalcNumHeteroatoms(mol)), hydrogens]
        )
    return torch.cat([torch.stack(named, 1).double(), torch.tensor(found).double()], 1)


def likeness(molecules: Sequence[Molecule | None], reference: torch.Tensor) -> list[str]:
    """The cells of the last columns: the largest distance and which, and novelty."""
    found = described(molecules)
    if found.isfinite().sum(0).min() < 2:
        return ["", ""]  # too few valid ones to say
    distances = property_distances(found, reference, 2)
    values = [d.value for d in distances]
    worst = max(range(len(values)), key=values.__getitem__)
    smiles = [smiles_of(mol) for m in molecules if (mol := to_rdkit(m)) is not None]
    new = novelty(smiles, known_smiles("train")).value
    return [f"{values[worst]:.2f} {PROPERTIES[worst]}", f"{100 * new:.1f}"]


def shares(found: dict[str, float], n: int) -> list[str]:
    """The cells of shares, some with their standard errors."""
    cells = []
    for column in COLUMNS:
        share = found[column]
        error = (share * (1 - share) / n) ** 0.5
        known = column in ("molecule_stability", "table_validity", "validity")
        cells.append(f"{100 * share:.1f}" + (f" ± {100 * error:.1f}" if known else ""))
    return cells


def rows(model: MoleculeModel, args: argparse.Namespace) -> Iterator[list[str]]:
    """The cells of each row."""
    data = load_qm9()
    held = data.molecules(split("test", len(data))[: REFERENCES + args.samples])
    reference = described(held[:REFERENCES])
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
        cells = [name, str(steps), precision, *shares(summary(drawn), args.samples)]
        yield [*cells, *likeness(drawn, reference), f"{speed:.1f}"]
    real = held[REFERENCES:]
    yield ["QM9", "", "", *shares(summary(real), len(real)), *likeness(real, reference), ""]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="name of shipped weights, a model folder or a run folder")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 25, 40, 100])
    parser.add_argument(
        "--samplers",
        nargs="+",
        type=sampler_name,
        default=["2"],
        help="noises such as 0 1 2; first-order, heun",
    )
    parser.add_argument("--precision", nargs="+", default=["bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    heads = ["sampler", "steps", "products", *COLUMNS.values(), *LAST]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for cells in rows(MoleculeModel.load(args.model), args):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
