"""Molecules from a saved model: shipped weights, a training run, a fine-tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from payoff.domains.molecules.config import NOISE, PRODUCTS, STEPS
from payoff.domains.molecules.evaluate import draw_sizes, products
from payoff.domains.molecules.metrics import smiles_of, stability, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.errors import UserError
from payoff.experiments.machine import threads
from payoff.experiments.progress import Reporter
from payoff.experiments.records import RECORD, REQUEST, read_record
from payoff.samplers import stochastic

if TYPE_CHECKING:  # what trains guides takes time to import, and most samples have none
    from payoff.experiments.molecules.along import Along

BATCH = 250
STREAMS = 1000  # a finished run drew with its seed and a few numbers above


def sample(
    name: str | Path,
    *,
    count: int = 100,
    seed: int = 1,
    steps: int | None = None,
    kind: str = "auto",
    along: Along | None = None,
    quiet: bool = False,
) -> list[Molecule | None]:
    """Fresh molecules; no reward is called.

    Sampler: the reverse-time equation with twice DDPM's noise in 40 steps. A model that was
    fine-tuned is sampled as it was tuned: the same noise and number of steps. A run of ``payoff
    design`` is sampled at its aim. Along a guide the sizes are drawn given what is asked for, too.

    Args:
        name: of shipped weights, a model folder or a run.
        count: number of molecules.
        seed: another seed gives other molecules.
        steps: of the sampler.
        kind: what matrix products are taken in: auto, bf16 or fp32; see
            :func:`~payoff.domains.molecules.evaluate.products`.
        along: a guide, and properties that are asked for; not of a design.
        quiet: no progress on the terminal.

    Returns:
        one entry a molecule; None where it could not be decoded.

    Raises:
        UserError: there is no such model, a run is unfinished, or a number is out of range.
    """
    check_numbers(count, steps, seed, kind)
    record = _record(Path(name))
    if record.get("kind") == "design":  # its model without a label would draw any molecule
        from payoff.experiments.molecules.design.again import sample as designed

        return designed(name, count=count, seed=seed, steps=steps, kind=kind, quiet=quiet)[1]
    model = MoleculeModel.load(name)
    asked = (model.denoiser, model.sizes, {}) if along is None else along.asked(model, str(name))
    denoiser, sizes, told = asked
    default, noise, own = _sampling(record, Path(name))
    reporter = Reporter(quiet)
    generator = torch.Generator().manual_seed(own + STREAMS * (seed + 1))
    found: list[Molecule | None] = []
    bar = reporter.bar("drawing molecules", count)
    with threads(0, model.work(BATCH)), bar as advance, products(kind):
        advance(0)
        for cond in _parts(draw_sizes(sizes, count, generator=generator)["mask"]):
            shape = (cond["mask"].shape[1], model.shape[1])
            sampler = stochastic(denoiser, shape, steps or default, noise)
            cond |= {key: row.expand(len(cond["mask"]), -1) for key, row in told.items()}
            x = sampler.sample(len(cond["mask"]), cond, generator=generator)
            found += model.codec.decode(x, cond)
            advance(len(found))
    return found


def is_design(name: str | Path) -> bool:
    """Whether a name stands for a run of ``payoff design``.

    Raises:
        UserError: it is the folder of an unfinished or damaged run.
    """
    return _record(Path(name)).get("kind") == "design"


def check_numbers(count: int, steps: int | None, seed: int, kind: str = "auto") -> None:
    """Refuse what nothing can be drawn with.

    Raises:
        UserError: a number is out of range, or there is no such kind of products.
    """
    if kind not in PRODUCTS:
        raise UserError(f"--products must be one of {', '.join(PRODUCTS)}, got {kind}")
    for option, value in (("count", count), ("steps", steps)):
        if value is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, got {value}")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed must be at least 0 and below 2^31, got {seed}")


def told(molecules: list[Molecule | None]) -> str:
    """The shares of stable and of valid molecules, in a line."""
    atoms, whole = stability(molecules)
    n = len(molecules)
    valid = share_valid(molecules)
    shares = "" if valid is None else f"{valid:.1%} valid, "
    return f"{n} molecules: {shares}{whole:.1%} stable ({atoms:.1%} of the atoms)"


def share_valid(molecules: list[Molecule | None]) -> float | None:
    """The share that RDKit finds bonds for; None where RDKit is not installed."""
    try:
        return sum(to_rdkit(m) is not None for m in molecules) / max(1, len(molecules))
    except ImportError:
        return None


def lines(molecules: list[Molecule | None]) -> str:
    """For the terminal: a SMILES a line of the valid ones, or XYZ where RDKit is missing."""
    try:
        known = [found for m in molecules if (found := to_rdkit(m)) is not None]
        return "".join(f"{smiles_of(found)}\n" for found in known)
    except ImportError:
        return "".join(m.xyz() for m in molecules if m is not None)


def check_out(out: Path) -> None:
    """Refuse a file that molecules cannot be written to, before any are drawn.

    Raises:
        UserError: the suffix names no format, or the folder is missing.
    """
    from payoff.domains.molecules.columns import STRUCTURES
    from payoff.domains.molecules.files import LISTS

    known = ", ".join((*STRUCTURES, *LISTS))
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file ending in one of {known}")
    if out.suffix.lower() not in (*STRUCTURES, *LISTS):
        raise UserError(
            f"--out {out}: the format of molecules is told from the file's ending, one of {known}"
        )
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def _parts(mask: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Batches of sets, each with the nodes that its largest needs."""
    return [{"mask": part[:, : int(part.sum(1).max())]} for part in mask.split(BATCH)]


def _record(folder: Path) -> dict[str, Any]:
    """The record of a fine-tuning run; empty for a model or a training run."""
    begun = (folder / REQUEST).exists() or (folder / RECORD).exists()
    return read_record(folder) if begun else {}


def _sampling(record: dict[str, Any], folder: Path) -> tuple[int, float | None, int]:
    """(steps, noise, seed) that a run's molecules were drawn with."""
    if not record:
        return STEPS, NOISE, 0
    try:
        asked = record["config"]
        noise = asked.get("sampler_noise")  # older runs had no choice
        steps, seed = int(asked["sampler_steps"]), int(record["seed"])
        return steps, None if noise is None else float(noise), seed
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / RECORD} is damaged: {error}") from error
