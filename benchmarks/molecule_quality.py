"""How good the molecules of a model are, against the number of steps and the precision.

    python benchmarks/molecule_quality.py qm9 --samples 1000 --steps 15 25 40 100 --samplers 0 1 2
    python benchmarks/molecule_steps_figure.py quality.csv steps.svg    # of the same with --csv

A row per sampler, number of steps and precision, all from the same noise where the sampler allows
it: stability, validity and uniqueness in percent, the first two with their standard error, and
molecules a second by CPU time, drawing and placing hydrogens included. ``bf16`` takes the matrix
products of the network in bfloat16, as training does.

That molecules are stable is not yet that they follow the data's law: ``worst distance`` is the
largest of the Wasserstein distances from 4,000 molecules of the test part in QED, logP, synthetic
accessibility, D4 polarisability and the numbers of rings, heteroatoms and hydrogens, in the data's
standard deviations; behind it stands which. ``novel`` is the share of the compounds that the train
part does not have. The last row are real molecules of the test part, as many as drawn.

``--csv`` keeps the same rows for figures, unrounded and as shares, with the distance in every
property and the standard errors. Uniqueness has none, as it depends on the number of samples
itself; that of the worst distance is the error of the distance in that one property.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import polars as pl
import torch

from payoff.denoisers import Denoiser
from payoff.domains.molecules.config import NOISE
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.metrics import smiles_of, stability, summary, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.quality import known_smiles, novelty, property_distances
from payoff.domains.molecules.rewards import REWARDS
from payoff.metrics import Estimate
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


@dataclass(frozen=True)
class Row:
    """What was measured of one set of molecules.

    Attributes:
        sampler: its name or noise, or whose molecules they are.
        steps: of the sampler, None for the data.
        precision: of the network's products, empty for the data.
        samples: how many molecules.
        shares: by the names of ``COLUMNS``.
        distances: by property; none where too few molecules are valid to say.
        novel: the share of new compounds, None with the distances.
        speed: molecules a second, None for the data.
    """

    sampler: str
    steps: int | None
    precision: str
    samples: int
    shares: dict[str, Estimate]
    distances: dict[str, Estimate]
    novel: Estimate | None
    speed: float | None

    @property
    def worst(self) -> str | None:
        """The property of the largest distance."""
        far = self.distances
        return max(far, key=lambda name: far[name].value) if far else None

    def cells(self) -> list[str]:
        """For the printed table."""
        cells = [self.sampler, "" if self.steps is None else str(self.steps), self.precision]
        for column, share in self.shares.items():
            told = column in ("molecule_stability", "table_validity", "validity")
            error = f" ± {100 * share.stderr:.1f}" if told else ""
            cells.append(f"{100 * share.value:.1f}{error}")
        worst = self.worst
        cells.append("" if worst is None else f"{self.distances[worst].value:.2f} {worst}")
        cells.append("" if self.novel is None else f"{100 * self.novel.value:.1f}")
        return [*cells, "" if self.speed is None else f"{self.speed:.1f}"]

    def record(self) -> dict[str, str | int | float | None]:
        """For the file: all of it, an error that is not known left empty."""
        worst = self.worst
        measured: dict[str, Estimate | None] = {
            **self.shares,
            **{f"{name}_distance": self.distances.get(name) for name in PROPERTIES},
            "worst_distance": None if worst is None else self.distances[worst],
            "novelty": self.novel,
        }
        found: dict[str, str | int | float | None] = {
            **{"sampler": self.sampler, "steps": self.steps, "products": self.precision},
            "samples": self.samples,
        }
        for name, estimate in measured.items():
            known = estimate is not None and math.isfinite(estimate.stderr)
            found[name] = None if estimate is None else round(estimate.value, 6)
            found[f"{name}_error"] = round(estimate.stderr, 6) if known else None
        speed = None if self.speed is None else round(self.speed, 2)
        return {**found, "worst_property": worst, "molecules_a_second": speed}


def shares(molecules: Sequence[Molecule | None]) -> dict[str, Estimate]:
    """The shares by the names of ``COLUMNS``.

    The atoms of a molecule stand or fall together, so the error of their stability is that of a
    ratio of two sums over molecules.
    """
    n, found = len(molecules), summary(molecules)
    kept = {}
    for column in COLUMNS:
        share = found[column]
        kept[column] = Estimate(share, (share * (1 - share) / n) ** 0.5, n)
    kept["uniqueness"] = Estimate(found["uniqueness"], math.inf, n)
    atoms = torch.tensor([0.0 if m is None else len(m) for m in molecules]).double()
    stable = torch.tensor([stability([m])[0] for m in molecules]).double() * atoms
    share = found["atom_stability"]
    error = float((stable - share * atoms).square().sum().sqrt() / atoms.sum().clamp(min=1))
    kept["atom_stability"] = Estimate(share, error, n)
    return kept


def likeness(
    molecules: Sequence[Molecule | None], reference: torch.Tensor
) -> tuple[dict[str, Estimate], Estimate | None]:
    """The distances by property, and novelty; nothing where too few are valid to say."""
    found = described(molecules)
    if found.isfinite().sum(0).min() < 2:
        return {}, None
    distances = property_distances(found, reference, generator=torch.Generator().manual_seed(0))
    smiles = [smiles_of(mol) for m in molecules if (mol := to_rdkit(m)) is not None]
    new = novelty(smiles, known_smiles("train"))
    return dict(zip(PROPERTIES, distances, strict=True)), new


def rows(model: MoleculeModel, args: argparse.Namespace) -> Iterator[Row]:
    """A row per setting, then the data's."""
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
        known = shares(drawn), *likeness(drawn, reference)
        yield Row(name, steps, precision, len(drawn), *known, speed)
    real = held[REFERENCES:]
    yield Row("QM9", None, "", len(real), shares(real), *likeness(real, reference), None)


def write_csv(path: Path, found: Sequence[Row]) -> None:
    """The rows so far; a run that is stopped leaves the finished ones, never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    frame = pl.DataFrame([row.record() for row in found], infer_schema_length=None)
    try:
        frame.write_csv(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    parser.add_argument("--csv", type=Path, help="also keep the rows in this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    heads = ["sampler", "steps", "products", *COLUMNS.values(), *LAST]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    found: list[Row] = []
    for row in rows(MoleculeModel.load(args.model), args):
        print(f"| {' | '.join(row.cells())} |", flush=True)
        found.append(row)
        if args.csv:
            write_csv(args.csv, found)


if __name__ == "__main__":
    main()
