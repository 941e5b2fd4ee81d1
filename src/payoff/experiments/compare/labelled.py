"""RCGDM as a cell of a comparison on molecules: the reward calls are labels of real molecules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.quality import known_smiles
from payoff.errors import UserError
from payoff.experiments.compare.plan import Cell
from payoff.experiments.design.aims import choose
from payoff.experiments.molecules.design.aims import AtLabel, Judge, drawer_of, sweep
from payoff.experiments.molecules.design.conditioners import train
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.data import Labelled, Setting
from payoff.experiments.molecules.design.score import learn
from payoff.experiments.molecules.setting import MoleculeSetting
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RunFolder

PART, ROWS = "train", 14


def conditional(
    cell: Cell, setting: MoleculeSetting, shared: dict[str, Any], folder: Path
) -> tuple[AtLabel, list, dict[str, Any]]:
    """A model made conditional by ``calls`` labels, at the aim it would choose itself.

    Returns:
        the model held at its aim, fresh molecules of it, and what is known about the cell.

    Raises:
        UserError: the base has no room for QM9's molecules.
    """
    began, reward = time.perf_counter(), setting.judges.reward
    run, reporter = RunFolder(folder / "conditional", {"of": cell.name}, resume=True), Reporter()
    config = MoleculeDesignConfig(
        minimize=setting.config.minimize,
        steps=shared["label_steps"],
        sampler_steps=setting.loop.sampler_steps,
        seed=cell.seed,
        count=shared["samples"],
    ).filled(True)
    data = labelled(setting, cell.calls)
    try:
        x, cond = setting.model.codec.encode(data.molecules)
    except UserError as error:
        raise UserError(f"rcgdm learns from QM9, which does not fit this model: {error}") from None
    taught = Setting(data, setting.model.codec, x, cond["mask"], setting.model, "base's weights")
    scorer, summary, pseudo = learn(taught, config, reporter)
    trained = train(taught, pseudo, config, run, reporter)
    drawer = drawer_of(trained.conditioner(), pseudo, cond["mask"].sum(1), config)
    judge = Judge(scorer, config)
    aim = choose(sweep(drawer, judge, config, reporter).aims)[0].aim * judge.scorer.sign
    seconds = time.perf_counter() - began
    drawn = drawer(aim, shared["samples"], setting.generator(ROWS + 1), reporter)
    told = {
        "family": "baseline",
        "spent": int(min(cell.calls, len(data.molecules))),
        "distinct": setting.ledger.count(reward.name, reward.version),
        "seconds": seconds,
        "aim": aim,
        "learned_reward": summary["chosen"],
    }
    return drawer.at(aim), drawn, told


def labelled(setting: MoleculeSetting, calls: int) -> Labelled:
    """QM9's train part with the reward of ``calls`` random molecules, in the user's direction."""
    found = load_qm9()
    molecules = found.molecules(split(PART, len(found)))
    rows = torch.randperm(len(molecules), generator=setting.generator(ROWS))[:calls].tolist()
    labels = torch.full((len(molecules),), float("nan"), dtype=torch.float64)
    labels[rows] = setting.reward.values([molecules[i] for i in rows]).double()
    return Labelled(f"QM9, {PART}", molecules, labels, None, lambda: known_smiles(PART))
