"""RCGDM on molecules from few labels: what is asked for against what comes out.

    python benchmarks/molecule_few_labels.py --evaluator qm9 --out runs/few-labels

For every share of labelled molecules of ``second_half`` and every noise on the labels (in standard
deviations of the property) one score is learned, a guide that leads the shipped generator or, with
``--conditioning labels``, the generator itself learns the pseudo-labels, and molecules are drawn at
every aim, inside and beyond the data's range, with every weight of guidance.
The evaluator learned from ``first_half`` and is seen by nothing here; its reading counts as the
truth. A row: the mean absolute distance of the true value from the aim, the mean true value with
its standard error, the mean the learned score believes, the share of valid molecules, and the
median support distance (1: the data's own 95 % quantile). Rows go to ``rows.jsonl`` as they come;
the same command goes on after an interruption, and with further weights or aims it draws from what
was trained.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), section 6.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.property import PropertyNet
from payoff.jobs.base import resolve
from payoff.jobs.design.aims import AimSampler
from payoff.jobs.design.conditioners import train_conditioner
from payoff.jobs.design.job import Design
from payoff.jobs.design.score import learn_score
from payoff.jobs.progress import Reporter
from payoff.jobs.records import RunFolder
from payoff.metrics import Estimate

ROWS = "rows.jsonl"
COLUMNS = {
    "conditioning": "conditioning",
    "labelled": "labels",
    "noise": "noise",
    "guidance": "guidance",
    "aim": "aim",
    "error": "MAE from the aim",
    "mean": "mean true value",
    "believed": "mean predicted",
    "valid": "valid",
    "support": "support distance",
}


def truth(evaluator: PropertyNet, molecules: Sequence[Molecule | None], name: str) -> torch.Tensor:
    """What the evaluator reads, (n,), NaN where there is no molecule."""
    return evaluator(molecules)[:, evaluator.names.index(name)].double()


def measured(
    sampler: AimSampler, evaluator: PropertyNet, args: argparse.Namespace, aim: float
) -> dict[str, Any]:
    """The figures of one aim."""
    draws = sampler.draw(aim, args.samples, torch.Generator().manual_seed(args.seed + 5))
    true = truth(evaluator, draws.objects, args.score)
    known, look = true.isfinite(), draws.look
    error, mean = Estimate.of((true[known] - aim).abs()), Estimate.of(true[known])
    return {
        "error": error.value,
        "error_stderr": error.stderr,
        "mean": mean.value,
        "mean_stderr": mean.stderr,
        "believed": float(look.mean[look.mean.isfinite()].mean()),
        "valid": sum(why is None for why in draws.reasons) / len(draws.objects),
        "support": float(look.support.nanmedian()),
        "unread": int((~known).sum()),
    }


def cell(
    args: argparse.Namespace, labelled: float, noise: float, done: set[tuple[float, float]]
) -> None:
    """Learn and train once, and write a row for every weight and aim that has none."""
    missing = [both for both in product(args.guidance, args.aims) if both not in done]
    if not missing:
        return
    given = {
        "score": args.score,
        "labelled": labelled,
        "noise": noise,
        "aim": args.aims[0],
        "part": "second_half",
        "steps": args.steps,
        "seed": args.seed,
        "base": args.base,
        "conditioning": args.conditioning,
    }
    name = f"{args.conditioning}-{labelled:g}-{noise:g}"
    folder, reporter = RunFolder(args.out / name, {"of": name}, resume=True), Reporter()
    job, asked = resolve(Design, "qm9", given)
    plan = job.prepare(asked, reporter)
    data, kind = plan.data, asked.kind
    score, _ = learn_score(data, job, folder, reporter)
    predicted = score.values(data.objects)
    by = train_conditioner(data, kind, plan.base, predicted, job, folder, reporter)
    evaluator = PropertyNet.from_pretrained(args.evaluator)
    for guidance, aim in missing:
        options = replace(job, guidance=guidance)
        sampler = AimSampler(by, score, data, predicted, options)
        row = {"conditioning": args.conditioning, "labelled": labelled, "noise": noise}
        row |= {"guidance": guidance, "aim": aim}
        row |= measured(sampler, evaluator, args, aim)
        with (args.out / ROWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["conditioning"], f"{100 * row['labelled']:g} %", f"{row['noise']:g}"]
    cells += [f"{row['guidance']:g}", f"{row['aim']:g}"]
    cells += [f"{row['error']:.2f} ± {row['error_stderr']:.2f}"]
    cells += [f"{row['mean']:.2f} ± {row['mean_stderr']:.2f}", f"{row['believed']:.2f}"]
    cells += [f"{100 * row['valid']:.1f} %", f"{row['support']:.2f}"]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluator", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--score", default="alpha")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.005, 0.01, 0.05, 0.1])
    parser.add_argument("--noises", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--aims", type=float, nargs="+", default=[70, 80, 90, 100, 110, 120])
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0], help="weights")
    parser.add_argument("--conditioning", choices=("guide", "labels"), default="guide")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--base", default="qm9")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(text) for text in _lines(args.out / ROWS)]
    print(f"| {' | '.join(COLUMNS.values())} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print(line(row))
    for share, noise in product(args.shares, args.noises):
        key = (args.conditioning, share, noise)
        these = [r for r in rows if (r["conditioning"], r["labelled"], r["noise"]) == key]
        done = {(r["guidance"], r["aim"]) for r in these}
        cell(args, share, noise, done)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
