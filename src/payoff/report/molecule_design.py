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
from payoff.report.formatting import aligned, count, number, plural, text
from payoff.report.frame import Card, Head, Section, draw, folded, render
from payoff.report.recorded import Array, Recorded, damaged, flags, floats, median, read
from payoff.report.recorded import read_record as record_of
from payoff.report.tables import Cell, command, number_cells, reward_candidates, table

STRUCTURES, DESIGNS, SWEEP = "designs.sdf", "designs.csv", "sweep.csv"
COLUMNS = ("smiles", "predicted", "predicted_low", "predicted_high", "valid", "novel", "support")
AIMS = {
    "aim": "aim",
    "predicted_mean": "predicted, mean",
    "pessimistic": "pessimistic",
    "off_support": "support, median",
    "accepted": "that count",
}
TOP_ROWS = 20


@dataclass(frozen=True)
class MoleculeDesigns(Recorded):
    """A finished run: its molecules in the order of ``designs.csv``.

    Attributes:
        smiles: of each molecule (m); None where it is not valid.
        predicted, low, high: (m,) learned scores and their 90 % intervals, in the score's unit.
        support: (m,) distance from the data, 1 = their own 95 % quantile.
        novel: whether the compound is new, "true", "false" or None, as text (m).
        valid: (m,) whether bonds were found.
        sweep: the columns of ``sweep.csv``, None where the aim was given.
    """

    smiles: list[str | None]
    predicted: Array
    low: Array
    high: Array
    support: Array
    novel: list[str | None]
    valid: npt.NDArray[np.bool_]
    sweep: dict[str, Array] | None


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
    sweep = None
    if record.get("aim", {}).get("mode") == "auto":
        tried = read(folder / SWEEP, lambda path: pl.read_csv(path, infer_schema=False))
        if absent := [name for name in AIMS if name not in tried.columns]:
            raise damaged(folder / SWEEP, f"has no column {', '.join(absent)}")
        sweep = {name: floats(tried[name]) for name in AIMS}
        if "kept" in tried.columns:  # since payoff 0.2 "accepted" is a share, as for tables
            sweep["accepted"] = floats(tried["kept"])
    return MoleculeDesigns(
        folder,
        record,
        smiles=frame["smiles"].to_list(),
        predicted=floats(frame["predicted"]),
        low=floats(frame["predicted_low"]),
        high=floats(frame["predicted_high"]),
        support=floats(frame["support"]),
        novel=frame["novel"].to_list(),
        valid=flags(frame["valid"]),
        sweep=sweep,
    )


def page(run: MoleculeDesigns) -> str:
    """The whole page."""
    figures: list[Figure] = []
    sections = [_designs(run, figures), _aims(run), _reward(run), _made(run)]
    return render(run, _head(run), sections, figures)


def _head(run: MoleculeDesigns) -> Head:
    aim, unit, n = run.number("aim", "chosen"), text(run.unit), len(run.valid)
    middle = median(run.predicted[run.valid])
    labelled, rows = run.number("data", "labelled"), run.number("data", "rows")
    score = text(run.score, 60)
    chosen = run.get("aim", "mode") == "auto"
    sense = "low" if run.sign < 0 else "high"
    wish = f"is as {sense} as the data allow" if chosen else f"is {number(aim)} {unit}".rstrip()
    cards = [
        Card("aim", number(aim), "chosen" if chosen else unit),
        Card("predicted", number(middle), "median of the valid"),
        Card("valid", count(int(run.valid.sum())), f"of {count(n)}"),
        Card("like the data", count(run.number("designs", "supported")), "valid, support up to 1"),
        Card("new", count(run.number("designs", "novel")), "compounds not in the data"),
    ]
    if run.number("designs", "stable") is not None:  # the table of valences knows the elements
        cards.append(Card("stable", count(run.number("designs", "stable")), f"of {count(n)}"))
    return Head(
        command="payoff design",
        title=f"{run.name}: molecules at {number(aim)}",
        question=(
            f"Molecules whose {score} {wish}, learned from {count(labelled)} labels among "
            f"{count(rows)} molecules."
        ),
        answer=(
            f"{plural(n, 'molecule')}, of which {count(int(run.valid.sum()))} are valid; the "
            f"median predicted {score} of these is {number(middle)} {unit}".rstrip()
            + "."
        ),
        verdict=(
            "Predicted scores are those of the learned score that led to these molecules: an "
            "independent judge has to confirm them."
        ),
        cards=cards,
    )


def _designs(run: MoleculeDesigns, figures: list[Figure]) -> Section:
    rows = np.flatnonzero(run.valid)[: molecules.SHOWN]
    notes = [f"predicted {number(run.predicted[i])}" for i in rows]
    title = "The best" if run.get("aim", "mode") == "auto" else "Nearest to the aim"
    content = molecules.gallery(title, [run.smiles[i] for i in rows], notes)
    found = molecules.first_structure(run.folder / STRUCTURES, int(run.valid.sum()))
    if found is not None:
        place, molecule = found
        told = f"Molecule {place + 1}: predicted {number(run.predicted[place])}."
        content += draw(molecules.ball_and_stick("structure", molecule, told), figures)
    content += _table(run)
    return Section("designs", "The molecules", content or "<p>None of them is valid.</p>")


def _table(run: MoleculeDesigns) -> str:
    """The first valid molecules with what is known about them; empty if there are none."""
    rows = np.flatnonzero(run.valid)[:TOP_ROWS]
    if not len(rows):
        return ""
    ends = zip(aligned(run.low[rows]), aligned(run.high[rows]), run.low[rows], strict=True)
    written: dict[str, list[Cell]] = {
        "#": [(str(i + 1), float(i + 1)) for i in rows],
        "molecule": [(text(run.smiles[i], 60), None) for i in rows],
        "predicted": number_cells(run.predicted[rows]),
        "90 % interval": [(f"{a} … {b}", float(key)) for a, b, key in ends],
        "new": [("yes" if run.novel[i] == "true" else "no", None) for i in rows],
        "support": number_cells(run.support[rows], 3),
    }
    shown = table(list(written), zip(*written.values(), strict=True), sortable=True)
    return (
        f'<div class="wide">{shown}</div><p class="caption">The first {len(rows)} valid ones; all '
        f"are in designs.csv. {_single(run)}New: the compound, its stereochemistry aside, is not "
        "in the data. Support is the distance from where the data are dense: up to 1, a molecule "
        "is as usual as 95 % of the data.</p>"
    )


def _single(run: MoleculeDesigns) -> str:
    """What the interval leaves out; nothing where it is not known."""
    rest = run.number("reward", "noise_sd")
    if rest is None:
        return ""
    varies = f"{number(rest)} {text(run.unit)}".rstrip()
    return (
        f"The interval is of the score's mean: a single value varies by {varies} (sd) more, by "
        "noise of the labels and by what features do not tell of a molecule. "
    )


def _aims(run: MoleculeDesigns) -> Section | None:
    """What every aim of the sweep gave; nothing where the aim was given."""
    if run.sweep is None:
        return None
    told = (
        f"<p>{number(run.number('aim', 'chosen'))}: {text(run.get('aim', 'reason'))}. The "
        "pessimistic score is the prediction less its doubt, averaged over the molecules that "
        "count: valid, inside the data's support and different from each other. Where too few "
        "count there is none.</p>"
    )
    cells = [
        [(count(v), float(v)) for v in values] if name == "accepted" else number_cells(values)
        for name, values in run.sweep.items()
    ]
    shown = table(list(AIMS.values()), zip(*cells, strict=True))
    return Section("aims", "How the aim was chosen", f"{told}{shown}")


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
