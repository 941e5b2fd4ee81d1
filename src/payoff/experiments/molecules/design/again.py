"""More molecules from a finished design run: its model, its score and its data, no training."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from payoff.configs import from_dict
from payoff.domains.molecules.molecule import Molecule
from payoff.errors import UserError
from payoff.experiments.machine import threads
from payoff.experiments.molecules.design.aims import BATCH, Drawer, Judge, drawer_of
from payoff.experiments.molecules.design.conditioners import reopened
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.run import COMPOUND, DATA, REWARD
from payoff.experiments.molecules.design.score import Scorer
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RECORD, read_record

STREAMS = 10**6  # between the seeds of two calls: a run's own seeds are few and lie together


def reopen(run: Path) -> tuple[Drawer, Judge, float, bool]:
    """What draws and judges a finished run's molecules, its aim, and whether it was chosen.

    The run folder is enough: the file that it was made from may have changed or be gone.

    Raises:
        UserError: the folder holds no finished run of this kind, or a file of it is damaged.
    """
    record = read_record(run)
    try:
        config = from_dict(MoleculeDesignConfig, dict(record["config"]))
        aim, chosen = float(record["aim"]["chosen"]), record["aim"]["mode"] == "auto"
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / RECORD} is damaged: it lacks {error}") from error
    data = _table(run / DATA)
    drawer = drawer_of(
        reopened(run, config.conditioning),
        torch.from_numpy(data["predicted"].to_numpy(writable=True)),
        torch.from_numpy(data["nodes"].to_numpy(writable=True)),
        config,
    )
    known = frozenset(_table(run / COMPOUND)["smiles"].to_list())
    return drawer, Judge(Scorer.load(run / REWARD), config, known), aim, chosen


def sample(
    run: str | Path,
    *,
    count: int = 100,
    aim: float | None = None,
    seed: int = 1,
    steps: int | None = None,
    kind: str = "auto",
    quiet: bool = False,
) -> tuple[pl.DataFrame, list[Molecule | None]]:
    """Fresh molecules of a finished design run, as in its ``designs.csv``.

    Args:
        run: the folder of the run.
        count: number of molecules.
        aim: in the score's unit; by default the run's own.
        seed: another seed gives other molecules.
        steps: of the sampler; by default the run's own.
        kind: what matrix products are taken in: auto, bf16 or fp32.
        quiet: no progress on the terminal.

    Returns:
        the table and the molecules, in the same order; None where one could not be decoded.

    Raises:
        UserError: there is no finished run of this kind, or a number is out of range.
    """
    if aim is not None and aim - aim != 0:
        raise UserError(f"--aim must be a finite number, got {aim}")
    drawer, judge, own, chosen = reopen(Path(run))
    drawer.steps, drawer.kind = drawer.steps if steps is None else steps, kind
    generator = torch.Generator().manual_seed(judge.config.seed + STREAMS * (seed + 1))
    work = float(BATCH) * int(drawer.nodes.max()) ** 2 * 64**2
    with threads(judge.config.threads, work):
        found = judge(drawer(own if aim is None else aim, count, generator, Reporter(quiet)))
    goal = None if chosen and aim is None else (own if aim is None else aim)
    return judge.frame(found, goal)


def _table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the run folder is damaged: {path} cannot be read ({first})") from error
