r"""Molecules drawn at an aim, judged, and the choice of the aim.

The rule is that of tables (:mod:`payoff.experiments.design.aims`): the aim is the one of a sweep
whose molecules have the best mean pessimistic score, the prediction minus ``pessimism`` standard
deviations. What counts is valid, inside the data's support and another compound than those before
it. It differs in two ways, since drawing a molecule takes a thousand times as long: every aim is
judged by :data:`DRAWN` molecules, and all of them that count are taken, of which there must be at
least :data:`ENOUGH`, where a table takes the best eighth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.bonds import in_table
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.quality import flat_smiles
from payoff.experiments.design.aims import Aim, Draws
from payoff.experiments.molecules.design.conditioners import Conditioner
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.molecules.design.score import Scorer
from payoff.experiments.molecules.setting import is_stable
from payoff.experiments.progress import Reporter

DRAWN, ENOUGH = 40, 10  # molecules an aim is judged by; how many of them have to count
BATCH = 100
NEAREST = 0.01  # share of the molecules that sizes are taken from
LEAST = 50  # of them, at least
DIGITS = 6
BEYOND = 2.5  # standard deviations above the best prediction that the largest aim lies


class AtLabel(Denoiser):
    """A conditional denoiser held at one label, that of ``cond[key]``."""

    def __init__(self, base: Denoiser, label: float, key: str = "label") -> None:
        super().__init__()
        self.base, self.process = base, base.process
        self.label, self.key = label, key

    def forward(self, x_t, t, cond=None):
        label = x_t.new_full((len(x_t), 1), self.label)
        return self.base(x_t, t, {**(cond or {}), self.key: label})


@dataclass
class Drawer:
    """Draws molecules at an aim, their sizes those of the data's nearest.

    Attributes:
        by: what was taught the label.
        pseudo, nodes: predicted score and number of nodes of the data's molecules (n,).
        guidance: its weight.
        noise: that of the labels, in their deviations.
        steps: of the sampler.
        kind: what matrix products are taken in, see
            :func:`~payoff.domains.molecules.evaluate.products`.
    """

    by: Conditioner
    pseudo: Tensor
    nodes: Tensor
    guidance: float
    noise: float
    steps: int
    kind: str = "auto"

    @property
    def location(self) -> float:
        """The mean of the labels, in the score's unit."""
        return float(self.by.scales.location)

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return float(self.by.scales.spread)

    def at(self, aim: float) -> AtLabel:
        """The denoiser of molecules at an aim in the score's unit."""
        conditional = self.by.denoiser(self.guidance, self.noise)
        return AtLabel(conditional, (aim - self.location) / self.spread, self.by.key)

    def __call__(
        self, aim: float, n: int, generator: torch.Generator, reporter: Reporter | None = None
    ) -> list[Molecule | None]:
        """``n`` molecules at an aim in the score's unit."""
        denoiser = self.at(aim)
        sizes = self.nodes[near(self.pseudo, aim)]
        found: list[Molecule | None] = []
        settings: dict[str, Any] = {"generator": generator, "steps": self.steps}
        bar = (reporter or Reporter(True)).bar("drawing molecules", n)
        with products(self.kind), bar as advance:
            advance(0)
            while len(found) < n:
                part = min(BATCH, n - len(found))
                found += sample(denoiser, self.by.codec, sizes, part, **settings)
                advance(len(found))
        return found

    def calls(self, n: int) -> int:
        """Network evaluations for n molecules."""
        return n * self.steps * self.by.evaluations(self.guidance)


def drawer_of(
    by: Conditioner, pseudo: Tensor, nodes: Tensor, config: MoleculeDesignConfig
) -> Drawer:
    """What draws molecules at aims as the options say."""
    noise = config.label_noise or 0.0
    return Drawer(by, pseudo, nodes, config.guidance, noise, config.sampler_steps)


@dataclass
class Verdict:
    """What is known about some molecules; a score is in the user's unit.

    Attributes:
        molecules: they; None where a row could not be decoded.
        smiles: of the valid ones, None otherwise.
        compounds: the same without stereochemistry.
        mean, std, support: prediction, its sd and the support distance (n,), NaN for None.
        counts: valid and inside the support (n,).
    """

    molecules: list[Molecule | None]
    smiles: list[str | None]
    compounds: list[str | None]
    mean: Tensor
    std: Tensor
    support: Tensor
    counts: np.ndarray


class Judge:
    """Judges molecules by the learned score and by the data.

    Args:
        scorer: the score, and the distance from the data.
        config: how far from the data a molecule may lie, and how much doubt costs.
        known: compounds of the data.
    """

    def __init__(
        self, scorer: Scorer, config: MoleculeDesignConfig, known: frozenset[str] = frozenset()
    ) -> None:
        self.scorer, self.config, self.known = scorer, config, known

    def __call__(self, molecules: list[Molecule | None]) -> Verdict:
        there = [i for i, m in enumerate(molecules) if m is not None]
        mean, std, support = torch.full((3, len(molecules)), float("nan"), dtype=torch.float64)
        if there:
            found = self.scorer.predict([m for m in molecules if m is not None])
            mean[there], std[there], support[there] = found
        mols = [to_rdkit(m) for m in molecules]
        smiles = [None if mol is None else smiles_of(mol) for mol in mols]
        compounds = [None if mol is None else flat_smiles(mol) for mol in mols]
        valid = np.array([text is not None for text in smiles], dtype=bool)
        counts = valid & (support <= self.config.support).numpy()
        return Verdict(molecules, smiles, compounds, mean, std, support, counts)

    def pessimistic(self, found: Verdict) -> Tensor:
        """Prediction minus so many standard deviations, (n,), higher is better."""
        return self.scorer.sign * found.mean - self.config.pessimism * found.std

    def frame(
        self, found: Verdict, aim: float | None
    ) -> tuple[pl.DataFrame, list[Molecule | None]]:
        """The table of designs and the molecules, in the same order.

        Those that count come first, then the other valid ones. Among them the nearest to the aim
        come first or, without one, the best by pessimistic score.
        """
        half = self.scorer.reward.half_width(found.std, beyond=True)
        rank = -self.pessimistic(found) if aim is None else (found.mean - aim).abs()
        frame = pl.DataFrame(
            {
                "smiles": pl.Series(found.smiles, dtype=pl.String),
                "predicted": found.mean.numpy(),
                "predicted_low": (found.mean - half).numpy(),
                "predicted_high": (found.mean + half).numpy(),
                "novel": pl.Series(
                    [None if c is None else c not in self.known for c in found.compounds],
                    dtype=pl.Boolean,
                ),
                "support": found.support.numpy(),
                "valid": [text is not None for text in found.smiles],
                "stable": pl.Series([_stable(m) for m in found.molecules], dtype=pl.Boolean),
                "_counts": found.counts,
                "_rank": rank.numpy(),
            }
        ).with_columns(pl.col(pl.Float64).fill_nan(None))
        frame = frame.with_row_index("_place").sort(
            [~pl.col("_counts"), ~pl.col("valid"), pl.col("_rank")],
            nulls_last=True,
            maintain_order=True,
        )
        order = frame["_place"].to_list()
        frame = frame.drop("_place", "_counts", "_rank")
        rounded = frame.with_columns(pl.col(pl.Float64).round_sig_figs(DIGITS))
        return rounded, [found.molecules[i] for i in order]


@dataclass
class Sweep:
    """Aims with what was drawn at each, and their table in the score's unit."""

    aims: list[Aim]
    judge: Judge

    @cached_property
    def frame(self) -> pl.DataFrame:
        """One row an aim."""
        scorer, rows = self.judge.scorer, []
        for aim in self.aims:
            there = aim.draws.mean.isfinite()
            mean = scorer.sign * float(aim.draws.mean[there].mean())
            half = float(scorer.reward.half_width(aim.draws.std[there].mean(), beyond=True))
            fine = np.isfinite(aim.value)
            rows.append(
                {
                    "aim": scorer.sign * aim.aim,
                    "predicted_mean": mean,
                    "predicted_low": mean - half,
                    "predicted_high": mean + half,
                    "pessimistic": scorer.sign * aim.value if fine else None,
                    "off_support": float(aim.draws.support[there].median()),
                    "drawn": len(there),
                    "accepted": len(aim.kept),
                }
            )
        frame = pl.DataFrame(rows, infer_schema_length=None)
        return frame.with_columns(pl.col(pl.Float64).fill_nan(None).round_sig_figs(DIGITS))


def sweep(drawer: Drawer, judge: Judge, config: MoleculeDesignConfig, reporter: Reporter) -> Sweep:
    """Every aim between the better half of the molecules and well beyond the best, judged."""
    sign = judge.scorer.sign
    best = float((sign * drawer.pseudo).max())
    top = (best - sign * drawer.location) / drawer.spread + BEYOND
    generator = torch.Generator().manual_seed(config.seed + 1)
    found = []
    with reporter.bar("trying aims", config.aims) as advance:
        advance(0)
        for i, step in enumerate(np.linspace(min(1.0, top), top, config.aims)):
            aim = sign * drawer.location + drawer.spread * float(step)
            verdict = judge(drawer(sign * aim, DRAWN, generator))
            found.append(_judged(aim, verdict, judge))
            advance(i + 1)
    return Sweep(found, judge)


def near(pseudo: Tensor, aim: float) -> Tensor:
    """Rows of the molecules whose pseudo-labels (n,) are nearest to the aim."""
    count = min(len(pseudo), max(LEAST, round(NEAREST * len(pseudo))))
    return (pseudo - aim).abs().argsort(stable=True)[:count]


def _judged(aim: float, found: Verdict, judge: Judge) -> Aim:
    """An aim (higher is better) as the choice of tables wants it."""
    low = judge.pessimistic(found)
    different: dict[str, int] = {}
    for i in np.flatnonzero(found.counts).tolist():
        different.setdefault(str(found.compounds[i]), i)
    kept = torch.tensor(list(different.values()), dtype=torch.long)
    value = float(low[kept].mean()) if len(kept) >= ENOUGH else float("-inf")
    refused = np.where(found.counts, "", "not valid, or outside the data's support").astype(object)
    mean = judge.scorer.sign * found.mean
    x = low.new_zeros(len(low), 0)  # molecules have no rows to compare
    return Aim(aim, Draws(x, mean, found.std, low, found.support, refused, np.nan), kept, value)


def _stable(molecule: Molecule | None) -> bool | None:
    """Whether every atom has its valence; None where the table does not know an element."""
    if molecule is not None and not in_table(molecule.numbers):
        return None
    return is_stable(molecule)
