"""The model that a run starts from: trained without a score, or taken from an earlier run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.vectors import Codec
from payoff.errors import UserError
from payoff.experiments.design.jobs import Job
from payoff.experiments.design.model import build_denoiser, fitted, held_slots, held_values
from payoff.experiments.finetune.config import TuneConfig
from payoff.experiments.finetune.tables import same_columns
from payoff.experiments.progress import Reporter
from payoff.experiments.records import STATE, RunFolder
from payoff.pretrained import CONFIG, from_pretrained, read_config, save_pretrained
from payoff.whitening import Whitening

BASE, MODEL, CODEC = "base", "model", "codec.json"


@dataclass
class Base:
    """A denoiser of designs with what is needed to speak to it.

    Attributes:
        denoiser: of samples in model coordinates (n, d).
        whitening: codec coordinates <-> model coordinates; None: they are the same.
        dim: d.
        held: slots of the codec that are labels of the model, and the values they are held at.
    """

    denoiser: Denoiser
    whitening: Whitening | None
    dim: int
    held: list[int]
    values: list[float]

    @property
    def cond(self) -> dict[str, Tensor] | None:
        """The condition (1 row) that samples are drawn under, or None."""
        if not self.held:
            return None
        like = next(self.denoiser.parameters())
        return {"label": torch.tensor([self.values]).to(like)}

    def to_codec(self, z: Tensor) -> Tensor:
        """Model coordinates to codec coordinates, on the CPU in single precision."""
        z = z.cpu()
        return (z if self.whitening is None else self.whitening.decode(z)).float()

    def to_model(self, x: Tensor) -> Tensor:
        """Codec coordinates to model coordinates, on the model's device and in its dtype."""
        like = next(self.denoiser.parameters())
        return (x if self.whitening is None else self.whitening.encode(x)).to(like)

    def with_denoiser(self, denoiser: Denoiser) -> Base:
        """The same coordinates with another model."""
        return Base(denoiser, self.whitening, self.dim, self.held, self.values)

    def save(self, folder: RunFolder, name: str) -> None:
        """Write the model's folder, ``base/`` or ``model/``, as :meth:`load` reads it."""
        metadata = {
            "kind": "finetune",
            "whitening": None if self.whitening is None else self.whitening.config(),
            "dim": self.dim,
            "held": self.held,
            "values": self.values,
        }
        with folder.replacing_files(name) as path:
            save_pretrained(self.denoiser, path, metadata)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", precision: int | None = None) -> Base:
        """A model of a fine-tuning run, or of a design run with its label dropped.

        Raises:
            UserError: there is no such model, or its files are damaged.
        """
        kept: dict[str, Any] = dict(read_config(folder)["metadata"])
        try:
            whitening = kept["whitening"]
            restored = None if whitening is None else Whitening.from_config(whitening)
            # a design run's label is its score first: without a label it draws from all rows
            own = kept.get("kind") == "finetune"
            held, values = (kept["held"], kept["values"]) if own else ([], [])
            dim = int(kept["dim"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / CONFIG} does not say what its model's coordinates mean ({error}): "
                "give a run of payoff finetune or payoff design"
            ) from error
        denoiser = from_pretrained(folder, device)
        if precision is not None:
            denoiser = denoiser.to(torch.float64 if precision == 64 else torch.float32)
        return cls(denoiser, restored, dim, list(held), list(values))


def make_base(
    job: Job, config: TuneConfig, seed: int, folder: RunFolder, reporter: Reporter
) -> Base:
    """The base model of a run: finished in its folder, trained now, or copied from another."""
    if not (folder.path / BASE / CONFIG).exists():
        found = _trained(job, config, seed, folder, reporter) if config.base is None else None
        (found or borrowed(job, config)).save(folder, BASE)
    base = Base.load(folder.path / BASE, config.device, config.precision)
    base.denoiser.requires_grad_(True)
    return base


def _trained(
    job: Job, config: TuneConfig, seed: int, folder: RunFolder, reporter: Reporter
) -> Base:
    design = config.as_design(seed)
    whitening = Whitening(job.x)
    z, held = whitening.encode(job.x), held_slots(job)
    dtype = torch.float64 if config.precision == 64 else torch.float32
    denoiser = build_denoiser(z, len(held), design).to(config.device, dtype)
    label = job.x[:, held].to(config.device, dtype) if held else None
    design.label_noise = 0.0  # these labels are exact
    checkpoint = folder.path / STATE / "base.pt"
    rows = z.to(config.device, dtype)
    trained = fitted(denoiser, rows, label, design, checkpoint, reporter, "training the base")
    return Base(trained, whitening, z.shape[1], held, held_values(job, held))


def base_folder(run: str | Path) -> Path:
    """Where a run keeps the model that ``--base`` means.

    Raises:
        UserError: there is none.
    """
    for place in (Path(run) / BASE, Path(run) / MODEL):
        if (place / CONFIG).exists():
            return place
    raise UserError(
        f"--base {run}: there is no base model. Give the folder of a finished run of payoff "
        "finetune or payoff design"
    )


def check_base(job: Job, config: TuneConfig) -> None:
    """Refuse a base that does not fit the table, and take over how it reads the columns.

    Raises:
        UserError: the run is missing, or its model was trained on other columns.
    """
    if config.base is None:
        return
    place = base_folder(config.base)
    path = place.parent / CODEC
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--base {config.base}: {path} cannot be read") from error
    codec = _codec(path, text)
    if not same_columns(codec, job.codec):
        raise UserError(
            f"--base {config.base}: its model was trained on other columns or other rows than "
            f"{job.name}; train a base of its own by leaving --base out"
        )
    base = Base.load(place)
    held = held_slots(job)
    if held != base.held or held_values(job, held) != base.values:
        raise UserError(
            f"--base {config.base}: its model was trained without --fixed or with other values; "
            "train a base of its own by leaving --base out"
        )


def borrowed(job: Job, config: TuneConfig) -> Base:
    """The base model of the run that ``--base`` names."""
    assert config.base is not None
    check_base(job, config)
    return Base.load(base_folder(config.base), config.device, config.precision)


def _codec(path: Path, text: str) -> Codec:
    try:
        return Codec.from_config(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
