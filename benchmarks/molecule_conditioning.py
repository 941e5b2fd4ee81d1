"""Molecules at properties that are asked for: EDM's protocol, with its bounds.

    python -m payoff.domains.molecules.property --properties alpha,gap,homo,lumo,mu,cv \
        --out runs/evaluator
    payoff train qm9 --part second_half --label alpha,gap,homo,lumo,mu,cv --out runs/conditional
    python benchmarks/molecule_conditioning.py runs/conditional --evaluator runs/evaluator

Sizes and values are drawn together from ``second_half``; the generator draws a molecule for each
and the evaluator, which learned from ``first_half``, reads it. Mean absolute errors in the units of
published tables, with their standard error. Rows: values dealt out anew among the molecules, the
best guess from the number of atoms, the evaluator on the real molecules, the same after the
generator's codec has encoded and decoded them (hydrogens placed anew), and the generator, a row for
each guidance weight and precision. A second table tells what the generator's molecules are like.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import product

import torch

from payoff.domains.molecules.conditional import (
    TABLE_UNITS,
    Answer,
    Asked,
    Conditional,
    Evaluators,
    Real,
    answer,
    ask,
)
from payoff.domains.molecules.config import PRODUCTS, STEPS
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.property import size_error
from payoff.domains.molecules.qm9 import PROPERTIES, QM9, load_qm9, split
from payoff.errors import UserError
from payoff.metrics import Estimate

Cells = dict[str, str]


def cell(found: Estimate) -> str:
    """Value and standard error to two digits of the latter."""
    if not 0 < found.stderr < float("inf"):
        return f"{found.value:.3g}"
    digits = max(0, 1 - int(torch.tensor(found.stderr).log10().floor()))
    return f"{found.value:.{digits}f} ± {found.stderr:.{digits}f}"


def percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ± {100 * found.stderr:.1f}"


def bounds(
    data: QM9, read: Evaluators, model: MoleculeModel, asked: Asked, seed: int
) -> Iterator[tuple[str, Cells]]:
    """The rows that need no generator."""
    a, b = (split(half, len(data)) for half in ("first_half", "second_half"))
    order = torch.randperm(len(b), generator=torch.Generator().manual_seed(seed))
    shuffled, sized = {}, {}
    for name in asked.names:
        y, factor = data.column(name).double(), TABLE_UNITS[name][0]
        shuffled[name] = cell(Estimate.of(factor * (y[b][order] - y[b]).abs()))
        sized[name] = f"{factor * size_error(data.sizes[a], y[a], data.sizes[b], y[b]):.4g}"
    yield "shuffled (U-bound)", shuffled
    yield "number of atoms", sized
    real = {
        "real molecules (L-bound)": Real(data),
        "real molecules, encoded and decoded": Real(data, model.codec),
    }
    for title, source in real.items():
        found = answer(source, read, asked).errors
        yield title, {name: cell(error) for name, error in found.items()}


def generated(
    model: MoleculeModel, read: Evaluators, asked: Asked, args: argparse.Namespace
) -> Iterator[tuple[str, dict[str, tuple[Answer, float]]]]:
    """For each weight and precision, by property: the answer and molecules a CPU second."""
    for weight, precision in product(args.guidance, args.precision):
        found = {}
        for name in asked.names:
            source = Conditional(
                model,
                args.model,
                guidance=weight,
                steps=args.steps,
                batch_size=args.batch,
                precision=precision,
                seed=args.seed,
            )
            began = time.process_time()
            one = answer(source, read, asked.only(name))
            found[name] = one, len(asked) / (time.process_time() - began)
            print(f"{name}, weight {weight:g}: {one.errors[name]}", file=sys.stderr, flush=True)
        yield f"{args.model}, weight {weight:g}, {precision}", found


def heading(first: str, names: list[str]) -> None:
    print(f"| {first} | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}", flush=True)


def run(args: argparse.Namespace) -> None:
    """Everything that may fail is tried before the first molecule is drawn."""
    names = list(args.properties)
    model, read = MoleculeModel.load(args.model), Evaluators(args.evaluator)
    read.check(names)
    Conditional(model, args.model).check(names)
    data = load_qm9()
    part = split("second_half", len(data))
    generator = torch.Generator().manual_seed(args.seed)
    asked = ask(data, part, names, model.codec, args.samples, generator)
    heading("", [f"{name} {TABLE_UNITS[name][1]}" for name in names])
    for title, cells in bounds(data, read, model, asked, args.seed):
        print(f"| {title} | {' | '.join(cells[name] for name in names)} |", flush=True)
    kept = []
    for title, found in generated(model, read, asked, args):
        errors = [cell(found[name][0].errors[name]) for name in names]
        print(f"| {title} | {' | '.join(errors)} |", flush=True)
        kept += [(title, name, *found[name]) for name in names]
    print()
    heading("", ["asked for", "not read", "valid %", "stable %", "molecules a second"])
    for title, name, one, speed in kept:
        shares = percent(one.valid), percent(one.stable)
        print(
            f"| {title}, {name} | {one.asked} | {one.failed} | {' | '.join(shares)} | {speed:.1f} |"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a run folder or a model folder that learned labels")
    parser.add_argument(
        "--evaluator", nargs="+", required=True, help="folders of property networks"
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--properties", nargs="+", default=list(PROPERTIES), choices=PROPERTIES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0], help="weights")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=PRODUCTS)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        run(args)
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
