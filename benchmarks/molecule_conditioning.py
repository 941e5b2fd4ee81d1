"""Molecules at properties that are asked for: EDM's protocol, with its bounds.

    python -m payoff.domains.molecules.property --properties alpha,gap,homo,lumo,mu,cv \
        --out runs/evaluator
    payoff train qm9 --part second_half --label alpha,gap,homo,lumo,mu,cv --out runs/conditional
    python benchmarks/molecule_conditioning.py runs/conditional --evaluator runs/evaluator
    python -m payoff.domains.molecules.guide --steps 8000 --out runs/guide
    python benchmarks/molecule_conditioning.py qm9 --evaluator runs/evaluator \
        --guide runs/guide --strength 1

Sizes and values are drawn together from ``second_half``; the generator draws a molecule for each
and the evaluator, which learned from ``first_half``, reads it. Mean absolute errors in the units of
published tables, with their standard error. Rows: values dealt out anew among the molecules, the
best guess from the number of atoms, the evaluator on the real molecules, the same after the
generator's codec has encoded and decoded them (hydrogens placed anew), and the generator: for each
precision, a row for each guidance weight if it learned labels, and with ``--guide`` a row for each
strength, drawn along a guide. A second table tells what the generator's molecules are like.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

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
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.guided import INTERVAL, LIMIT, ByGuide
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


def sources(
    model: MoleculeModel, guide: LabelGuide | None, args: argparse.Namespace
) -> Iterator[tuple[str, Conditional | ByGuide]]:
    """The generator in every way that it is to be asked, with a title."""
    common = {"steps": args.steps, "batch_size": args.batch, "seed": args.seed}
    for precision in args.precision:
        drawing = {**common, "precision": precision}
        # without a guide a model that learned no label is an error, and told as one
        if model.metadata.get("label") or guide is None:
            for weight in args.guidance:
                title = f"{args.model}, weight {weight:g}, {precision}"
                yield title, Conditional(model, args.model, guidance=weight, **drawing)
        if guide is not None:
            options = {"limit": args.limit, "interval": args.interval, "tell": args.tell}
            for strength in args.strength:
                title = f"{args.model}, guide, strength {strength:g}, {precision}"
                yield (
                    title,
                    ByGuide(model, guide, args.model, strength=strength, **options, **drawing),
                )


def generated(
    source: Conditional | ByGuide, title: str, read: Evaluators, asked: Asked
) -> dict[str, tuple[Answer, float]]:
    """By property: the answer and molecules a CPU second."""
    found = {}
    for name in asked.names:
        began = time.process_time()
        one = answer(source, read, asked.only(name))
        found[name] = one, len(asked) / (time.process_time() - began)
        print(f"{title}, {name}: {one.errors[name]}", file=sys.stderr, flush=True)
    return found


def heading(first: str, names: list[str]) -> None:
    print(f"| {first} | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}", flush=True)


def run(args: argparse.Namespace) -> None:
    """Everything that may fail is tried before the first molecule is drawn."""
    names = list(args.properties)
    model, read = MoleculeModel.load(args.model), Evaluators(args.evaluator)
    read.check(names)
    guide = None if args.guide is None else LabelGuide.from_pretrained(args.guide)
    rows = list(sources(model, guide, args))
    for _, source in rows:
        source.check(names)
    data = load_qm9()
    part = split("second_half", len(data))
    generator = torch.Generator().manual_seed(args.seed)
    asked = ask(data, part, names, model.codec, args.samples, generator)
    heading("", [f"{name} {TABLE_UNITS[name][1]}" for name in names])
    for title, cells in bounds(data, read, model, asked, args.seed):
        print(f"| {title} | {' | '.join(cells[name] for name in names)} |", flush=True)
    kept = []
    for title, source in rows:
        found = generated(source, title, read, asked)
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
    parser.add_argument("model", help="a run or model folder, or a shipped name")
    parser.add_argument(
        "--evaluator", nargs="+", required=True, help="folders of property networks"
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--properties", nargs="+", default=list(PROPERTIES), choices=PROPERTIES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0], help="weights")
    parser.add_argument("--guide", help="folder of a guide")
    parser.add_argument("--strength", type=float, nargs="+", default=[1.0], help="of the guide")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="largest move by the guide; 0 = any"
    )
    parser.add_argument(
        "--interval", type=float, nargs=2, default=INTERVAL, help="log-SNRs that the guide looks at"
    )
    parser.add_argument(
        "--tell", action="store_true", help="with a guide, tell the generator its labels as well"
    )
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
