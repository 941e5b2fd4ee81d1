r"""RCGDM on molecules: few labels, a learned score, a conditional generator, samples at an aim.

Some molecules are labelled, :math:`y = f(m) + \varepsilon`. A score :math:`\hat f` is learned from
invariant features of these and labels all of them; :math:`p(m\mid\hat f(m) + \nu\xi)` is learned
from these pseudo-labels and sampled at the aim a. How large a molecule is drawn is taken from the
data too: from the hundredth of the molecules whose pseudo-labels are nearest to a, an estimate of
:math:`p(N\mid\hat y = a)`.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), algorithm 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.configs import to_dict
from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.molecule import Molecule
from payoff.experiments.design.aims import choose
from payoff.experiments.design.messages import tell_reward, warn
from payoff.experiments.machine import threads
from payoff.experiments.molecules.design.aims import (
    DRAWN,
    ENOUGH,
    Drawer,
    Judge,
    drawer_of,
    sweep,
)
from payoff.experiments.molecules.design.conditioners import train
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.data import Setting, make_setting
from payoff.experiments.molecules.design.record import (
    Chosen,
    conclude,
    introduce,
    make_record,
    tell_failed,
)
from payoff.experiments.molecules.design.score import Scorer, learn
from payoff.experiments.progress import Reporter
from payoff.experiments.records import TABLE, RunFolder, refuse_occupied

STRUCTURES, DESIGNS, REWARD = "designs.sdf", "designs.csv", "reward"
DATA, SWEEP = "data.parquet", "sweep.csv"
COMPOUND = "compounds.parquet"


def design(
    config: MoleculeDesignConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Draw molecules whose score is near the aim, learned from few labels.

    Args:
        config: what to design and how.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder.
        quiet: no progress on the terminal.

    Returns:
        the molecules as in ``designs.csv``: those that are valid and inside the data's support
        first, and among them the nearest to the aim or, where it was chosen, the best.

    Raises:
        UserError: an option is wrong or data are missing, and nothing has been written then.
    """
    reporter = Reporter(quiet)
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    setting = make_setting(config, reporter)
    config = config.filled(setting.base is not None)
    request = to_dict(config) | {"source": str(config.source)}
    asked = {**request, TABLE: setting.data.fingerprint} if config.own else request
    folder = RunFolder(out, asked, resume=resume, overwrite=overwrite)
    if resume and folder.finished:
        reporter.say(f"{folder.path} is finished already")
        return pl.read_csv(folder.path / DESIGNS)
    work = config.batch_size * setting.x.shape[1] ** 2 * 64**2
    with threads(config.threads, work), folder.guarded():
        return _run(setting, config, request, folder, reporter)


def _run(
    setting: Setting,
    config: MoleculeDesignConfig,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    introduce(setting, config, reporter)
    tell_failed(setting, folder, reporter)
    with folder.stage("reward"):
        scorer, summary, pseudo = learn(setting, config, reporter)
    tell_reward(summary, folder, reporter)
    with folder.stage("training"):
        trained = train(setting, pseudo, config, folder, reporter)
    drawer = drawer_of(trained.conditioner(), pseudo, setting.mask.sum(1), config)
    judge = Judge(scorer, config)
    with folder.stage("sweep"):
        chosen = _chosen(drawer, judge, config, folder, reporter)
    with folder.stage("designs"):
        judge.known = setting.compounds
        generator = torch.Generator().manual_seed(config.seed + 2)
        found = judge(drawer(chosen.aim, config.count, generator, reporter))
        frame, kept = judge.frame(found, config.aim)
    with folder.stage("writing"):
        trained.save(folder, config)
        _write(folder, setting, scorer, pseudo, chosen, frame, kept)
    folder.finish(
        make_record(setting, config, request, summary, frame, chosen, trained, drawer, folder.path)
    )
    folder.drop_state()
    reporter.say(conclude(frame, setting, config))
    return frame


def _chosen(
    drawer: Drawer,
    judge: Judge,
    config: MoleculeDesignConfig,
    folder: RunFolder,
    reporter: Reporter,
) -> Chosen:
    if config.aim is not None:
        return Chosen(config.aim, "asked for", None)
    found = sweep(drawer, judge, config, reporter)
    best, reason = choose(found.aims)
    aim = judge.scorer.sign * best.aim
    reporter.say(f"aim {aim:.4g}: {reason}")
    if best.value == float("-inf"):
        warn(
            f"at no aim {ENOUGH} of {DRAWN} molecules were valid, inside the data's support and "
            "different: the aim says little. Train longer (--steps), begin with weights that fit "
            "(--base), allow more with --support, or give an --aim",
            folder,
            reporter,
        )
    return Chosen(aim, reason, found)


def _write(
    folder: RunFolder,
    setting: Setting,
    scorer: Scorer,
    pseudo: Tensor,
    chosen: Chosen,
    frame: pl.DataFrame,
    kept: list[Molecule | None],
) -> None:
    """Everything but the model and the record."""
    with folder.replacing_files(REWARD) as path:
        scorer.save(path)
    data = {"label": setting.labels.numpy(), "predicted": pseudo.numpy()}
    table = pl.DataFrame({**data, "nodes": setting.mask.sum(1).numpy()})
    with folder.replacing(DATA) as path:
        table.with_columns(pl.col("label").fill_nan(None)).write_parquet(path)
    with folder.replacing(COMPOUND) as path:
        pl.DataFrame({"smiles": sorted(setting.compounds)}).write_parquet(path)
    if chosen.sweep is not None:
        with folder.replacing(SWEEP) as path:
            chosen.sweep.frame.write_csv(path)
    write_molecules(folder.path / STRUCTURES, kept, frame)
    with folder.replacing(DESIGNS) as path:
        frame.write_csv(path)
