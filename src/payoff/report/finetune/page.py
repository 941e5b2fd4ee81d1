"""The page of a ``payoff finetune`` run."""

from __future__ import annotations

from payoff.domains.airfoils.geometry import COLUMNS
from payoff.report import foils, molecules
from payoff.report.canvas import Figure
from payoff.report.finetune import curves, prose, tables
from payoff.report.finetune.run import Scored, TuneRun
from payoff.report.formatting import count, number, short, text
from payoff.report.frame import Head, Section, draw, folded, render
from payoff.report.recorded import Recorded
from payoff.report.tables import columns, command, files, pairs, timings

STRUCTURES = "designs.sdf"


def page(run: TuneRun) -> str:
    """The whole page."""
    figures: list[Figure] = []
    sections = [
        _rounds(run, figures),
        _path(run, figures),
        _scores(run, figures),
        _designs(run, figures),
        _made(run),
    ]
    return render(run, _head(run), sections, figures)


def _head(run: TuneRun) -> Head:
    asked, lacking = run.number("designs", "asked"), []
    if asked is not None and len(run.designs.score) < asked:
        found = count(len(run.designs.score))
        lacking.append(f"{found} of the {count(asked)} designs asked for were found.")
    return Head(
        command="payoff finetune",
        title=f"{short(run.name, 80)}: tuned for {short(run.score, 60)}",
        question=prose.question(run),
        answer=prose.answer(run),
        verdict=prose.verdict(run),
        cards=prose.cards(run),
        warnings=lacking,
    )


def _rounds(run: TuneRun, figures: list[Figure]) -> Section | None:
    if len(run.history["round"]) == 0:
        return None
    big = "".join(draw(f, figures) for f in curves.rewards(run))
    small = "".join(draw(f, figures, titled=True) for f in curves.costs(run))
    note = (
        '<p class="caption">Measured on fresh samples of the tuned model after each round. The '
        "divergence is the Kullback-Leibler divergence of the two models' sampling paths, in nats "
        f"(units of the natural logarithm): 0 is the base itself. {_varied(run)}Dashed: the round "
        "that was returned.</p>"
    )
    content = f'{big}<div class="grid">{small}</div>{note if small else ""}'
    table = folded([("Round by round", tables.rounds(run))])
    return Section("rounds", "What happened, round by round", f"{content}{table}")


def _varied(run: TuneRun) -> str:
    if not (run.column("vendi") == run.column("vendi")).any():
        return ""
    return (
        "The effective number counts samples that differ clearly; it is at most the number "
        f"drawn{_drawn(run)}. "
    )


def _drawn(run: TuneRun) -> str:
    samples = run.number("config", "evaluate")
    return "" if samples is None else f", here {count(min(samples, 256))}"


def _path(run: TuneRun, figures: list[Figure]) -> Section | None:
    figure = curves.path(run)
    if figure is None:
        return None
    return Section("path", "Reward against divergence", draw(figure, figures))


def _scores(run: TuneRun, figures: list[Figure]) -> Section | None:
    drawn = curves.distributions(run)
    if not drawn:
        return None
    told = (
        "<p>Samples of the base model, before any tuning, and the designs, which are samples of "
        "the tuned model: none of them was chosen for its score.</p>"
    )
    content = "".join(draw(f, figures) for f in drawn)
    return Section("histograms", "The scores, before and after", f"{told}{content}")


def _designs(run: TuneRun, figures: list[Figure]) -> Section:
    if len(run.designs.score) == 0:
        return Section("designs", "The designs", "<p>There are none.</p>")
    table = f'<div class="wide">{tables.top_designs(run)}</div>'
    drawn = structures(run, figures) if run.get("domain") == "molecules" else shapes(run)
    return Section("designs", "The designs", f"{drawn or ''}{table}")


def structures(run: TuneRun, figures: list[Figure]) -> str:
    """The best molecules of the tuned model and of the base, and one in three dimensions."""
    sides = []
    for title, scored in (("The best designs", run.designs), ("The best of the base", run.base)):
        valid = scored.valid.nonzero()[0][: molecules.SHOWN]
        if "smiles" in scored.rows.columns:
            smiles = [str(scored.rows["smiles"][int(i)]) for i in valid]
            notes = [_note(run, int(i), scored) for i in valid]
            sides.append(molecules.gallery(title, smiles, notes))
    found = molecules.first_structure(run.folder / STRUCTURES, int(run.designs.valid.sum()))
    turned = ""
    if found is not None:
        place, molecule = found
        told = f"Design {place + 1}: {text(_note(run, place)).replace(chr(10), ', ')}."
        turned = draw(molecules.ball_and_stick("structure", molecule, told), figures)
    return f'<div class="pair">{"".join(sides)}</div>{turned}'


def shapes(run: TuneRun) -> str | None:
    """The shapes, where the designs are airfoils."""
    rows, designs = run.base.rows, run.designs
    if run.get("domain") != "airfoils" or not set(designs.rows.columns).issuperset(COLUMNS):
        return None
    reference, usable = None, run.base.valid & (run.base.score == run.base.score)
    values = run.base.score.copy()
    values[~usable] = float("nan")
    best = run.argbest(values)
    if best is not None and set(rows.columns).issuperset(COLUMNS):
        note = f"{number(values[best])}, of {count(len(values))} samples"
        title = "best sample of the base"
        reference = foils.Reference(title, note, rows[best : best + 1])
    data = run.data if run.data is not None else rows
    if not set(data.columns).issuperset(COLUMNS):
        return None
    notes = [_note(run, i) for i in range(min(foils.SHOWN, len(designs.score)))]
    return foils.multiples(data, designs.rows, notes, reference)


def _note(run: TuneRun, i: int, designs: Scored | None = None) -> str:
    designs = run.designs if designs is None else designs
    note = f"{short(run.score, 24)} {number(designs.score[i])}"
    if designs.held_out is not None:
        note += f"\nheld-out {number(designs.held_out[i])}"
    return note if designs.valid[i] else f"{note}\n(not valid)"


def circumstances(run: Recorded) -> list[tuple[str, str]]:
    """What a run was made from and with: titles and tables, to be folded."""
    facts = {k: v for k, v in run.entries("data").items() if k != "columns"}
    return [
        ("Data", pairs(facts)),
        ("Columns", columns(run)),
        ("Configuration", pairs(run.entries("config"))),
        ("Time", timings(run)),
        ("Versions", pairs(run.entries("versions"))),
        ("Files", files(run.folder)),
    ]


def source(run: Recorded) -> str:
    """Where the base model came from."""
    base = run.get("base", "from")
    if base:
        return f"The base model was taken from <code>{text(base, 80)}</code>."
    return "The base model was trained on the table's rows first, without any score."


def _made(run: TuneRun) -> Section:
    parts = [
        ("The method's options", pairs(run.entries("method", "options"))),
        ("The learning", pairs(run.entries("method", "filled"))),
        *circumstances(run),
    ]
    content = (
        f"<p>{prose.aim(run)}</p><p>{source(run)} {prose.calls(run)}</p>"
        "<p>To make it again (the same seed gives the same designs on the same machine):</p>"
        f"<pre>{text(command(run))}</pre>{folded(parts)}"
    )
    return Section("made", "How it was made", content)
