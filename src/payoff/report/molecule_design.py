"""The page of a ``payoff design`` run of molecules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from payoff.report import molecules
from payoff.report.canvas import Figure
from payoff.report.finetune.page import circumstances
from payoff.report.formatting import count, number, plural, text
from payoff.report.frame import Card, Head, Section, draw, folded, render
from payoff.report.recorded import Array, Recorded, damaged, flags, floats, median, read
from payoff.report.recorded import read_record as record_of
from payoff.report.tables import command, reward_candidates

STRUCTURES, DESIGNS = "designs.sdf", "designs.csv"
COLUMNS = ("smiles", "predicted", "predicted_low", "predicted_high", "valid", "stable")


@dataclass(frozen=True)
class MoleculeDesigns(Recorded):
    """A finished run: its molecules, nearest to the aim first.

    Attributes:
        smiles: of each molecule (m); None where it is not valid.
        predicted: (m,) learned scores, in the property's unit.
        valid: (m,) whether bonds were found.
    """

    smiles: list[str | None]
    predicted: Array
    valid: npt.NDArray[np.bool_]


def load(folder: Path) -> MoleculeDesigns:
    """Read a run folder.

    Raises:
        UserError: a file or a column that must be there is missing or cannot be read.
    """
    folder = Path(folder)
    record = record_of(folder)
    frame = read(folder / DESIGNS, lambda path: pl.read_csv(path, infer_schema=False))
    lacking = [name for name in COLUMNS if name not in frame.columns]
    if lacking:
        raise damaged(folder / DESIGNS, f"has no column {', '.join(lacking)}")
    predicted, valid = floats(frame["predicted"]), flags(frame["valid"])
    return MoleculeDesigns(folder, record, frame["smiles"].to_list(), predicted, valid)


def page(run: MoleculeDesigns) -> str:
    """The whole page."""
    figures: list[Figure] = []
    sections = [_designs(run, figures), _reward(run), _made(run)]
    return render(run, _head(run), sections, figures)


def _head(run: MoleculeDesigns) -> Head:
    aim, unit, n = run.number("aim", "chosen"), text(run.unit), len(run.valid)
    middle = median(run.predicted[run.valid])
    labelled, rows = run.number("data", "labelled"), run.number("data", "rows")
    return Head(
        command="payoff design",
        title=f"{run.name}: molecules at {number(aim)}",
        question=(
            f"Molecules whose {text(run.score)} is {number(aim)} {unit}, learned from "
            f"{count(labelled)} labels among {count(rows)} molecules."
        ),
        answer=(
            f"{plural(n, 'molecule')}, of which {count(int(run.valid.sum()))} are valid; the "
            f"median predicted {text(run.score)} of these is {number(middle)} {unit}."
        ),
        verdict=(
            "Predicted scores are those of the learned score, which the generator was taught: "
            "an independent judge has to confirm them."
        ),
        cards=[
            Card("aim", number(aim), unit),
            Card("predicted", number(middle), "median of the valid"),
            Card("valid", count(int(run.valid.sum())), f"of {count(n)}"),
            Card("stable", count(run.number("designs", "stable")), f"of {count(n)}"),
            Card("different", count(run.number("designs", "unique")), "SMILES among the valid"),
        ],
    )


def _designs(run: MoleculeDesigns, figures: list[Figure]) -> Section:
    rows = np.flatnonzero(run.valid)[: molecules.SHOWN]
    notes = [f"predicted {number(run.predicted[i])}" for i in rows]
    content = molecules.gallery("Nearest to the aim", [run.smiles[i] for i in rows], notes)
    found = molecules.first_structure(run.folder / STRUCTURES, int(run.valid.sum()))
    if found is not None:
        place, molecule = found
        told = f"Molecule {place + 1}: predicted {number(run.predicted[place])}."
        content += draw(molecules.ball_and_stick("structure", molecule, told), figures)
    return Section("designs", "The molecules", content or "<p>None of them is valid.</p>")


def _reward(run: MoleculeDesigns) -> Section:
    told = (
        "<p>The score was learned from features of the labelled molecules. Each model was judged "
        "on molecules that it had not seen (cross-validation).</p>"
    )
    return Section("reward", "The learned score", f"{told}{reward_candidates(run)}")


def _made(run: MoleculeDesigns) -> Section:
    content = (
        "<p>To make it again (the same seed gives the same molecules on the same machine):</p>"
        f"<pre>{text(command(run))}</pre>{folded(circumstances(run))}"
    )
    return Section("made", "How it was made", content)
