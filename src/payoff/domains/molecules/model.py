"""A saved model of molecules: its denoiser, its codec and the sizes it draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.codecs import CODECS, Codec
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.evaluate import draw_sizes
from payoff.errors import UserError
from payoff.pretrained import CONFIG, find_pretrained, from_pretrained, read_config, shipped
from payoff.rewards.base import Cond

INSIDE = ("model", "base")
"""Where a run folder keeps its models, the one that is meant first."""


@dataclass(frozen=True)
class MoleculeModel:
    """What draws molecules.

    Attributes:
        denoiser: of encoded molecules (n, N, 3 + features).
        codec: molecules <-> tensors.
        counts: how many molecules of the data have 0, 1, 2, … nodes, (N + 1,) int64.
        metadata: what else was saved beside the weights.
    """

    denoiser: Denoiser
    codec: Codec
    counts: Tensor
    metadata: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, 3 + features) of the largest molecules."""
        return len(self.counts) - 1, 3 + self.codec.features

    @property
    def sizes(self) -> Tensor:
        """The number of nodes of every molecule of the data, in order, (M,)."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    def work(self, rows: int) -> float:
        """Multiplications of the largest matrix product, that of all pairs of so many molecules."""
        wide = getattr(getattr(self.denoiser, "net", None), "pair_width", 64)
        return float(rows) * self.shape[0] ** 2 * wide**2

    def conditions(self, n: int, *, generator: torch.Generator) -> Cond:
        """Masks (n, N) of sets of the data's sizes, smallest first, padded to the largest."""
        mask = draw_sizes(self.sizes, n, generator=generator)["mask"]
        missing = self.shape[0] - mask.shape[1]
        return {"mask": torch.nn.functional.pad(mask, (0, missing))}

    def facts(self) -> dict[str, Any]:
        """The part of the metadata that :meth:`load` needs."""
        name = next(key for key, cls in CODECS.items() if type(self.codec) is cls)
        return {"codec": {"name": name, **asdict(self.codec)}, "sizes": self.counts.tolist()}

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> MoleculeModel:
        """A model by the name of shipped weights, a model folder or a run folder.

        Raises:
            UserError: there is none of that name, or it draws something else than molecules.
        """
        folder = model_folder(name)
        metadata = dict(read_config(folder).get("metadata") or {})
        try:
            codec = dict(metadata["codec"])
            kind = CODECS[codec.pop("name")]
            codec["elements"] = tuple(codec["elements"])
            counts = torch.tensor(metadata["sizes"], dtype=torch.long)
            made = kind(**codec)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / CONFIG} does not say how its model encodes molecules ({error}): give a "
                "folder that payoff train or payoff finetune wrote, or the name of shipped weights"
            ) from error
        if counts.ndim != 1 or not bool((counts >= 0).all()) or not int(counts.sum()):
            raise UserError(f"{folder / CONFIG} has no usable 'sizes' of molecules")
        return cls(from_pretrained(folder, device), made, counts, metadata)


def model_folder(name: str | Path) -> Path:
    """The folder with the weights that a name means: itself, its ``model/`` or ``base/``.

    Raises:
        UserError: there is none.
    """
    here = Path(name)
    if not (here / CONFIG).exists():
        for inside in INSIDE:
            if (here / inside / CONFIG).exists():
                return here / inside
    if str(name) == DATA_SET and DATA_SET not in shipped() and not here.is_dir():
        raise UserError(
            f"this installation of payoff has no weights for {DATA_SET}: give a model folder in "
            f"its place, such as one that payoff train {DATA_SET} --out FOLDER makes"
        )
    found = find_pretrained(name)
    if not (found / CONFIG).exists():
        raise UserError(
            f"{name} holds no saved model: there is no {CONFIG} in it, nor a folder "
            f"{' or '.join(INSIDE)} with one"
        )
    return found


def draws_molecules(name: str | Path) -> bool:
    """Whether a name stands for a model of molecules, by what is here; the hub is not asked."""
    here = Path(name)
    places = [here, *(here / inside for inside in INSIDE), *_shipped(name)]
    found = next((place for place in places if (place / CONFIG).exists()), None)
    if found is None:
        return str(name) == DATA_SET
    try:
        metadata = read_config(found).get("metadata")
    except UserError:
        return False
    codec = metadata.get("codec") if isinstance(metadata, dict) else None
    return isinstance(codec, dict) and codec.get("name") in CODECS


def _shipped(name: str | Path) -> list[Path]:
    known = shipped()
    return [known[str(name)]] if str(name) in known else []
