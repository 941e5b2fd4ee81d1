"""The cells of a comparison on molecules: the base, best of n, and tuned models."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from payoff.denoisers import Denoiser
from payoff.domains.molecules.evaluate import products
from payoff.domains.molecules.metrics import to_rdkit
from payoff.domains.molecules.model import MoleculeModel, model_folder
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.quality import diversity, known_smiles, novelty
from payoff.errors import UserError
from payoff.experiments.compare.cell import learned, learning
from payoff.experiments.compare.config import CompareConfig
from payoff.experiments.compare.plan import Cell
from payoff.experiments.finetune.methods import make_method
from payoff.experiments.molecules.config import DEFAULTS, MoleculeConfig, suited
from payoff.experiments.molecules.run import MODEL, finetune
from payoff.experiments.molecules.setting import MoleculeSetting, find_judges
from payoff.experiments.records import RECORD, read_record
from payoff.finetuning import FinetuneConfig
from payoff.finetuning.monitor import floored_kl
from payoff.metrics import Estimate
from payoff.pretrained import WEIGHTS

MEASURES = {
    "mean": "mean score of the valid molecules",
    "top": "mean score of the best tenth of all molecules drawn",
    "best": "the best",
    "held_out": "mean held-out score of the valid molecules",
    "valid": "share of molecules that are valid and have a score",
    "stable": "share of molecules whose atoms all have their valence",
    "unique": "share of different compounds among the valid",
    "novel": "share of these that the data do not have",
    "diversity": "mean Tanimoto distance of two valid molecules",
    "heavy": "mean number of heavy atoms of the valid molecules",
    "kl": "divergence of the model's paths from the base's, nats, no kernel narrower than 0.05",
    "failed": "share of molecules without a score",
    "spent": "reward calls used to learn or to choose",
    "distinct": "different molecules among them",
    "network": "network evaluations for that, those of learning included",
    "seconds": "time for that, without judging",
    "memory": "largest memory of the process, MiB",
}
COLUMNS = (
    *("mean", "top", "held_out", "valid", "stable", "unique", "novel", "diversity"),
    *("kl", "distinct", "network", "seconds"),
)
KEPT = 100  # molecules that best-of-n chooses
BLUR = 0.05  # least width of a kernel for the divergence, in the model's unit
PATHS_OF = 250  # paths that a divergence is measured on
JUDGED, CHOSEN, PATHS = 11, 12, 13  # streams of random numbers
MOLECULES = "molecules.csv"  # of a cell: what its row was measured on


def tuning(config: CompareConfig) -> MoleculeConfig:
    """The options that every run of a comparison on molecules shares."""
    names = ("source", "reward", "minimize", "temperature", "held_out", "scored", "device")
    shared = {name: getattr(config, name) for name in names}
    return MoleculeConfig(**shared, threads=1, count=KEPT)


def check(config: CompareConfig, cells: Sequence[Cell]) -> tuple[str, str]:
    """(what tells a changed model, the comparison's name), after refusing what cannot work.

    Raises:
        UserError: there is no such model or reward, or a method does not apply.
    """
    own = tuning(config)
    folder = model_folder(own.weights)
    judged: set[str] = set()
    for cell in cells:
        if cell.kind == "steer":
            raise UserError(
                f"--methods {cell.label}: steering of molecules cannot be compared yet; choose "
                "methods that tune, such as rgdm, rwr or ddpo"
            )
        if cell.kind == "tune" and cell.label not in judged:
            judged.add(cell.label)
            assert cell.method is not None
            settings, _ = suited(cell.method, cell.settings, loop_of(cell))
            find_judges(own, make_method(cell.method, settings))
    find_judges(own)
    return str(zlib.crc32((folder / WEIGHTS).read_bytes())), Path(own.weights).name


def run_molecules(cell: Cell, shared: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rows of a cell of a comparison on molecules."""
    config = MoleculeConfig(**shared["tuning"])
    with products():
        if cell.kind == "tune":
            return [_tuned(cell, config, shared, folder)]
        work = folder / "work"
        work.mkdir(exist_ok=True)
        model = MoleculeModel.load(config.weights, config.device)
        setting = MoleculeSetting(model, find_judges(config), config, loop_of(cell), work)
        if cell.kind == "base":
            drawn = setting.draw(model.denoiser, shared["samples"], JUDGED)
            free = {"family": "base", "kl": 0.0, "spent": 0, "distinct": 0, "seconds": 0.0}
            return [{**free, **measure(setting, drawn, folder)}]
        if cell.kind == "rcgdm":
            return [_conditional(cell, setting, shared, folder)]
        return [_best_of_n(cell, setting, folder)]


def loop_of(cell: Cell) -> FinetuneConfig:
    """The options of the learning, with the values that molecules need where none are given."""
    given = {**DEFAULTS, **cell.learning}
    return learning(Cell(cell.kind, cell.label, cell.calls, cell.seed, learning=given))


def measure(
    setting: MoleculeSetting, molecules: Sequence[Molecule | None], folder: Path
) -> dict[str, Any]:
    """The measures of molecules; scores in the user's direction, None where unknown.

    The molecules go to :data:`MOLECULES` in the cell's folder, with their numbers of heavy atoms: a
    method that draws other sizes than the data's has its score from these, too.
    """
    sign = setting.sign()
    heavy = [0 if m is None else int((m.numbers > 1).sum()) for m in molecules]
    frame = setting.judged(molecules).with_columns(pl.Series("heavy", heavy))
    frame.write_csv(folder / MOLECULES)
    score, valid = frame["score"].to_numpy().astype(float), frame["valid"].to_numpy()
    held = frame["held_out"].to_numpy().astype(float) if "held_out" in frame.columns else None
    smiles = [text for text, fine in zip(frame["smiles"], valid, strict=True) if fine]
    mols = [mol for m, fine in zip(molecules, valid, strict=True) if fine and (mol := to_rdkit(m))]
    usable = score[valid]
    new = novelty(smiles, known_smiles("train")) if smiles else None
    tenth = max(1, len(score) // 10)
    best = np.sort(sign * usable)[::-1][:tenth]
    return {
        "samples": len(score),
        "mean": _mean(usable),
        "mean_stderr": float(usable.std(ddof=1) / len(usable) ** 0.5) if len(usable) > 1 else None,
        "top": sign * float(best.mean()) if len(best) else None,
        "best": sign * float(best[0]) if len(best) else None,
        "held_out": None if held is None else _mean(held[valid & np.isfinite(held)]),
        "valid": float(valid.mean()),
        "stable": float(frame["stable"].mean()),  # type: ignore[arg-type]
        "unique": new.n / len(smiles) if new else None,
        "novel": new.value if new else None,
        "diversity": diversity(mols).value if len(mols) > 2 else None,
        "heavy": _mean(frame["heavy"].to_numpy()[valid]),
        "failed": float(np.isnan(score).mean()),
    }


def divergence(setting: MoleculeSetting, denoiser: Denoiser, base: Denoiser, n: int) -> Estimate:
    """How far a model's paths are from the base's, nats, over n paths."""
    generator = setting.generator(PATHS)
    cond = setting.model.conditions(n, generator=generator)
    steps, shape = setting.loop.sampler_steps, setting.model.shape
    return floored_kl(denoiser, base, shape, steps, n, cond, BLUR, generator=generator)


def _tuned(
    cell: Cell, config: MoleculeConfig, shared: dict[str, Any], folder: Path
) -> dict[str, Any]:
    assert cell.method is not None
    config.method, config.settings = cell.method, cell.settings
    loop = loop_of(cell)
    if not (folder / RECORD).exists():
        finetune(config, loop, folder, resume=True)
    record = read_record(folder)
    tuned = MoleculeModel.load(folder / MODEL, config.device)
    base = MoleculeModel.load(folder / "base", config.device)
    setting = MoleculeSetting(tuned, find_judges(config), config, loop, folder)
    drawn = setting.draw(tuned.denoiser, shared["samples"], JUDGED)
    with products("fp32"):
        kl = divergence(setting, tuned.denoiser, base.denoiser, min(PATHS_OF, shared["samples"]))
    return {
        **measure(setting, drawn, folder),
        **learned(record),
        "kl": kl.value,
        "kl_stderr": kl.stderr,
    }


def _conditional(
    cell: Cell, setting: MoleculeSetting, shared: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """RCGDM, its molecules as they are drawn."""
    from payoff.experiments.compare.labelled import conditional

    model, drawn, told = conditional(cell, setting, shared, folder)
    with products("fp32"):
        kl = divergence(setting, model, setting.model.denoiser, min(PATHS_OF, len(drawn)))
    return {**told, "kl": kl.value, "kl_stderr": kl.stderr, **measure(setting, drawn, folder)}


def _best_of_n(cell: Cell, setting: MoleculeSetting, folder: Path) -> dict[str, Any]:
    """The best of calls/100 molecules of the base, a hundred times; its KL to the base is known."""
    began, judge = time.perf_counter(), setting.judges.reward
    kept = min(KEPT, cell.calls)
    n = max(1, cell.calls // kept)
    drawn = setting.draw(setting.model.denoiser, n * kept, CHOSEN)
    # sizes come sorted: spread them, so that every group holds all sizes
    order = torch.arange(n * kept).reshape(n, kept).T.reshape(-1).tolist()
    drawn = [drawn[i] for i in order]
    values = setting.sign() * setting.reward.values(drawn)
    places = values.nan_to_num(nan=-math.inf).reshape(kept, n).argmax(1).tolist()
    chosen = [drawn[i * n + place] for i, place in enumerate(places)]
    return {
        "family": "baseline",
        "network": n * kept * setting.loop.sampler_steps,
        "kl": math.log(n) - (n - 1) / n,
        "spent": n * kept,
        "distinct": setting.ledger.count(judge.name, judge.version),
        "seconds": time.perf_counter() - began,
        **measure(setting, chosen, folder),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
