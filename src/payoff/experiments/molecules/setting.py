"""Everything that a fine-tuning run of molecules speaks to: base, rewards, validity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Cond
from payoff.domains.molecules.bonds import stable_atoms
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.rewards import NamedReward
from payoff.errors import UserError
from payoff.experiments.finetune.setting import LEDGER
from payoff.experiments.molecules.config import MoleculeConfig
from payoff.experiments.molecules.rewards import MoleculeBox, decoded, judge_of
from payoff.finetuning import FinetuneConfig, Finetuner, Monitor
from payoff.rewards.ledger import Ledger
from payoff.samplers import stochastic
from payoff.spaces import Condition

POOL = 4096  # sets of sizes that rounds draw their conditions from
BATCH = 250  # molecules drawn at once
DIGITS = 10  # significant ones of a score in a table


@dataclass(frozen=True)
class Judges:
    """The reward and the held-out reward of a run; the second may be None."""

    reward: NamedReward
    held_out: NamedReward | None


def find_judges(config: MoleculeConfig, method: Finetuner | None = None) -> Judges:
    """The rewards that the options name.

    Raises:
        UserError: none is named, there is none of that name, or the method needs a gradient.
    """
    if config.reward is None:
        raise UserError(
            "which reward? Name it with --reward molecules:NAME, such as molecules:qed, or "
            "MODULE:FUNCTION: a function of one molecule that returns a number"
        )
    reward = judge_of(config.reward)
    if method is not None and method.needs_gradient:
        raise UserError(
            f"--method {method.name} needs the reward's gradient, and {config.reward} is a black "
            "box: choose a method that only asks for values, such as rgdm, ddpo, dpok or rwr"
        )
    held = reward.held_out if config.held_out is None else config.held_out
    if held is None or held == "none":
        return Judges(reward, None)
    return Judges(reward, judge_of(held, "--held-out"))


class MoleculeSetting:
    """A run's base model, what its samples stand for, and who judges them.

    Args:
        model: the base, trainable.
        judges: the reward, and what is held out.
        config, loop: the run's options.
        folder: where the ledger goes unless the options say otherwise.
    """

    def __init__(
        self,
        model: MoleculeModel,
        judges: Judges,
        config: MoleculeConfig,
        loop: FinetuneConfig,
        folder: Path,
    ) -> None:
        self.model, self.judges, self.config, self.loop = model, judges, config, loop
        self.ledger = Ledger(config.ledger or folder / LEDGER)
        self.reward = self._box(judges.reward)
        self.held_out = None if judges.held_out is None else self._box(judges.held_out)

    @property
    def score_name(self) -> str:
        """What the reward is called in tables: its name without where it comes from."""
        return self.judges.reward.name.rpartition(":")[2]

    def sign(self) -> float:
        """+1 when a higher score is better, −1 when a lower one is."""
        return -1.0 if self.config.minimize else 1.0

    def _box(self, judge: NamedReward) -> MoleculeBox:
        minimize, scored = self.config.minimize, self.config.scored
        codec, ledger = self.model.codec, self.ledger
        return MoleculeBox(codec, judge, ledger, minimize=minimize, scored=scored)

    def generator(self, stream: int) -> torch.Generator:
        """The run's random numbers for one purpose."""
        return torch.Generator().manual_seed(self.loop.seed + stream)

    def pilot(self, n: int) -> Tensor:
        """Rewards (n,) of samples of the base."""
        return self.sign() * self.reward.values(self.draw(self.model.denoiser, n, 1))

    def draw(self, denoiser: Denoiser, n: int, stream: int) -> list[Molecule | None]:
        """Molecules of a model, by the sampler that the tuning uses."""
        generator = self.generator(stream)
        cond = self.model.conditions(n, generator=generator)
        loop = self.loop
        sampler = stochastic(denoiser, self.model.shape, loop.sampler_steps, loop.sampler_noise)
        x = sampler.sample(n, cond, generator=generator, batch_size=BATCH)
        return decoded(self.model.codec, x, {"mask": cond["mask"]})

    def learned_from(self) -> dict[str, Any]:
        """The conditions of rounds, and the data that the options ask for, for a method's fit."""
        if not self.config.data:
            cond = self.model.conditions(POOL, generator=self.generator(4))
            return {"shape": self.model.shape, "cond": cond}
        found = load_qm9()
        rows = split("train", len(found))[: self.config.data]
        x, cond = self.model.codec.encode(found.molecules(rows))
        missing = self.model.shape[0] - x.shape[1]
        if missing < 0:
            raise UserError(
                f"--data: QM9 has molecules of {x.shape[1]} nodes, the model draws at most "
                f"{self.model.shape[0]}: leave --data out"
            )
        pad = torch.nn.functional.pad
        mask = pad(cond["mask"], (0, missing))
        return {"data": pad(x, (0, 0, 0, missing)), "cond": {"mask": mask}}

    def judged(self, molecules: Sequence[Molecule | None]) -> pl.DataFrame:
        """Molecules with SMILES (null: not valid), score, held-out score, valid and stable."""
        smiles = [_smiles(molecule) for molecule in molecules]
        scores = {"score": self.reward.values(molecules).numpy()}
        if self.held_out is not None:
            scores["held_out"] = self.held_out.values(molecules).numpy()
        columns = [
            pl.Series(name, values).fill_nan(None).round_sig_figs(DIGITS)
            for name, values in scores.items()
        ]
        fine = np.array([text is not None for text in smiles]) & np.isfinite(scores["score"])
        stable = [is_stable(molecule) for molecule in molecules]
        columns += [pl.Series("valid", fine), pl.Series("stable", stable)]
        return pl.DataFrame([pl.Series("smiles", smiles, dtype=pl.String), *columns])


class Watch(Monitor):
    """A monitor of molecules: what varies is their SMILES, and how many are stable is told too.

    Distances of padded coordinates mean nothing for molecules, which may be turned in any way, so
    ``diversity`` and ``vendi`` are None. ``stable`` and ``unique`` (different SMILES among the
    valid) take their place.
    """

    def __init__(self, setting: MoleculeSetting) -> None:
        self.codec = setting.model.codec
        self.seen: dict[str, float | None] = {}
        super().__init__(setting.held_out, self._valid)

    def measure(self, *args, **kwargs):
        self.seen = {}
        found = super().measure(*args, **kwargs)
        return {**found, "diversity": None, "vendi": None, **self.seen}

    def _valid(self, x: Tensor, cond: Condition | None) -> Tensor:
        assert cond is not None
        mask: Cond = {"mask": cond["mask"]}
        molecules = decoded(self.codec, x, mask)
        smiles = [_smiles(molecule) for molecule in molecules]
        known = [text for text in smiles if text is not None]
        self.seen = {
            "stable": sum(map(is_stable, molecules)) / max(1, len(molecules)),
            "unique": len(set(known)) / len(known) if known else None,
        }
        return torch.tensor([text is not None for text in smiles])


def is_stable(molecule: Molecule | None) -> bool:
    """Whether every atom has the valence that it should have."""
    return molecule is not None and bool(stable_atoms(molecule.numbers, molecule.positions).all())


def _smiles(molecule: Molecule | None) -> str | None:
    found = to_rdkit(molecule)
    return None if found is None else smiles_of(found)
