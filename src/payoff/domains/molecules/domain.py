"""Molecules in three dimensions as objects: read, encoded, judged, compared, written and drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import torch
from torch import Tensor, nn

from payoff.denoisers import Denoiser, NetDenoiser
from payoff.domains.base import Bar, Data, Domain, Judge, no_bar
from payoff.domains.molecules.bonds import in_table, stable_atoms
from payoff.domains.molecules.chemistry import Unscored, valid_mol
from payoff.domains.molecules.codecs import CODECS, Codec, decoded
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.evaluate import draw_sizes
from payoff.domains.molecules.features import ELEMENTS, features
from payoff.domains.molecules.files import read_written, write_molecules
from payoff.domains.molecules.judges import key_of, named_judge, rounded, users_judge
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import SYMBOLS, Molecule
from payoff.domains.molecules.quality import diversity, flat_smiles, known_smiles, novelty
from payoff.domains.molecules.rewards import REWARDS
from payoff.domains.molecules.sources import Labelled, fitting_codec, read_file, read_qm9
from payoff.domains.molecules.train import SCHEDULE
from payoff.errors import UserError
from payoff.nets.equivariant import EquivariantTransformer
from payoff.nets.invariant import InvariantTransformer
from payoff.processes import GaussianProcess
from payoff.spaces import Centered, Condition
from payoff.training import FitConfig

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FINE = 1_000_000  # sizes that weights are rounded to
ROW = "payoff_row"  # the tag that says which row an entry is, where rows are left out
PAIR_WIDTH, VECTORS = 64, 32
INTERVAL = (0.0, 6.0)
"""The log-SNRs at which a guide is looked at. Below, it knows little more than the size of a
molecule, and 1/α makes the error of its flat value large; above, the atoms are decided. On 300
molecules (-2, 8) gave the same errors, for a third more time."""
LIMIT = 0.1
"""The largest move of a clean estimate by a guide, root mean square a coordinate, in the codec's
units. The steepest moves are where the guide is least to be believed, and break molecules."""


class Molecules(Domain[Molecule]):
    """Atoms in space; a codec says what a node of the network is.

    Args:
        codec: its name, elements, length and scale, see
            :class:`~payoff.domains.molecules.codecs.Codec`.
        sizes: numbers of the data's molecules with 0, 1, 2, … nodes.

    Attributes:
        codec: molecules <-> tensors.
        counts: the sizes, (N + 1,) int64.
        nodes: number of nodes of each row of the data (m,), whose weights :meth:`conditions` takes;
            None where no data are at hand.
        explicit: whether the user chose the codec.

    Raises:
        KeyError, TypeError, ValueError: the values describe no codec or no sizes.
    """

    space = Centered()
    training: ClassVar[FitConfig] = FitConfig(
        batch_size=256,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup=300,
        gradient_clip=2.0,
        log_snr_mean=2.0,
        log_snr_sd=3.0,
        label_dropout=0.2,
    )
    batch: ClassVar[int] = 250
    guiding: ClassVar[Mapping[str, Any]] = {"interval": INTERVAL, "limit": LIMIT}
    standardise: ClassVar[bool] = True
    compared: ClassVar[tuple[str, ...]] = (
        *("mean", "top", "best", "held_out_mean", "valid", "stable", "unique", "novel"),
        *("diversity", "heavy", "failed"),
    )
    measure_help: ClassVar[Mapping[str, str]] = {
        "stable": "share of molecules whose atoms all have their valence",
        "unique": "share of different compounds among the valid",
        "novel": "share of these that the data do not have",
        "diversity": "mean Tanimoto distance of two valid molecules",
        "heavy": "mean number of heavy atoms of the valid molecules",
    }

    def __init__(self, codec: Mapping[str, Any], sizes: Sequence[int]) -> None:
        settings = dict(codec)
        kind = CODECS[settings.pop("name")]
        settings["elements"] = tuple(settings["elements"])
        self.codec: Codec = kind(**settings)
        self.counts = torch.tensor(sizes, dtype=torch.long)
        usable = self.counts.ndim == 1 and bool((self.counts >= 0).all())
        if not usable or not int(self.counts[1:].sum()):
            raise ValueError("'sizes' are no numbers of molecules")
        self.shape = (len(self.counts) - 1, 3 + self.codec.features)
        self.nodes: Tensor | None = None
        self.explicit = False
        self._encoded: tuple[Sequence[Molecule], Tensor, Tensor] | None = None

    @property
    def codec_name(self) -> str:
        """The codec's name among the options."""
        return next(name for name, cls in CODECS.items() if type(self.codec) is cls)

    @property
    def sizes(self) -> Tensor:
        """The number of nodes of every molecule of the data, in order, (M,)."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @property
    def elements(self) -> tuple[int, ...]:
        """The elements that features count: QM9's where they suffice, else the codec's."""
        present = set(self.codec.elements)
        return ELEMENTS if present <= set(ELEMENTS) else (1, *sorted(present - {1}))

    def config(self) -> dict[str, Any]:
        settings = asdict(self.codec) | {"elements": list(self.codec.elements)}
        return {"codec": {"name": self.codec_name, **settings}, "sizes": self.counts.tolist()}

    @classmethod
    def earlier(cls, metadata: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        codec, sizes = metadata.get("codec"), metadata.get("sizes")
        if not isinstance(codec, Mapping) or codec.get("name") not in CODECS:
            return None
        return {"codec": dict(codec), "sizes": sizes}

    # --- data and tensors ---------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        source: Any,
        options: Any,
        score: str | None = None,
        *,
        seed: int = 0,
        bar: Bar = no_bar,
    ) -> Data[Molecule]:
        own = str(source) != DATA_SET
        if own:
            found = read_file(Path(source), options, score, bar)
        else:
            if options.smiles is not None:
                raise UserError(f"--smiles is for a table of your own: {DATA_SET} has no columns")
            found = read_qm9(options, score, seed)
        codec, x, mask, remark = fitting_codec(found.molecules, options.codec, own)
        name = next(key for key, kind in CODECS.items() if type(codec) is kind)
        sizes = mask.sum(1)
        domain = cls({"name": name, **asdict(codec)}, torch.bincount(sizes).tolist())
        domain.nodes, domain.explicit = sizes, options.codec is not None
        domain._encoded = (found.molecules, x, mask)
        return _data(domain, source, options, found, score, [remark] if remark else [])

    def encode(self, objects: Sequence[Molecule]) -> tuple[Tensor, dict[str, Tensor]]:
        if self._encoded is not None and self._encoded[0] is objects:
            x, mask = self._encoded[1:]
        else:
            x, cond = self.codec.encode(objects)
            mask = cond["mask"]
        missing = self.shape[0] - x.shape[1]
        if missing < 0:
            raise UserError(
                f"there are molecules of {x.shape[1]} nodes, and the model draws at most "
                f"{self.shape[0]}"
            )
        pad = nn.functional.pad
        return pad(x, (0, 0, 0, missing)), {"mask": pad(mask, (0, missing))}

    def decode(self, x: Tensor, cond: Condition) -> Sequence[Molecule | None]:
        return decoded(self.codec, x, dict(cond))

    def conditions(
        self, n: int, weights: Tensor | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Masks (n, N) of sets of the data's sizes, smallest first, padded to the largest.

        Args:
            n: number of samples.
            weights: of the data's rows, (m,); or int64 places of rows, (k,), of which one is drawn
                evenly for each sample; None: all rows evenly.
            generator: random numbers.
        """
        sizes = self.sizes if weights is None else self._weighted(weights)
        mask = draw_sizes(sizes, n, generator=generator)["mask"]
        return {"mask": nn.functional.pad(mask, (0, self.shape[0] - mask.shape[1]))}

    def _weighted(self, weights: Tensor) -> Tensor:
        """Sizes of which one is drawn evenly for each sample."""
        rows = self.sizes if self.nodes is None else self.nodes
        if not weights.is_floating_point():
            return rows[weights]
        if weights.shape != rows.shape:
            raise ValueError(f"{len(weights)} weights for {len(rows)} rows of the data")
        total = torch.zeros(self.shape[0] + 1, dtype=torch.float64)
        total.index_add_(0, rows, weights.double())
        counts = (total / total.sum() * FINE).round().long()
        return torch.arange(len(counts)).repeat_interleave(counts)

    def adapt(self, data: Data[Molecule]) -> Molecules:
        """This domain, that of a saved model, with the sizes of these data's rows.

        Raises:
            UserError: the model has no room for one of the molecules, or the user chose a codec
                that it does not have.
        """
        theirs = data.domain
        if isinstance(theirs, Molecules) and theirs.explicit and theirs.codec_name != (
            self.codec_name
        ):  # fmt: skip
            raise UserError(
                f"--codec {theirs.codec_name}: the model has {self.codec_name} atoms as nodes; "
                "leave one of them out"
            )
        x, cond = self.encode(data.objects)
        made = copy.copy(self)
        made.nodes = cond["mask"].sum(1)
        made._encoded = (data.objects, x, cond["mask"])
        return made

    def with_sizes(self, sizes: Tensor) -> Molecules:
        made = copy.copy(self)
        made.nodes = sizes.long()
        return made

    # --- a model ------------------------------------------------------------------------------

    def denoiser(self, labels: int = 0, **size: Any) -> NetDenoiser:
        """Make an untrained E(3)-equivariant transformer on the nodes.

        ``size``: width, depth, pair_width and vectors, see
        :class:`~payoff.nets.equivariant.EquivariantTransformer`.

        Raises:
            ValueError: the network's own rules do not allow the size.
        """
        net = EquivariantTransformer(
            self.codec.features,
            label_dim=labels,
            label_flags="column" if labels > 1 else "row",
            **{"width": 192, "depth": 8, "pair_width": PAIR_WIDTH, "vectors": VECTORS, **size},
        )
        return NetDenoiser(net, GaussianProcess(self.space, SCHEDULE))

    def reader(self, outputs: int, **size: Any) -> nn.Module:
        """Make an untrained E(3)-invariant transformer on the nodes; sizes as in ``denoiser``."""
        usual = {"width": 128, "depth": 5, "pair_width": 48, "vectors": VECTORS}
        return InvariantTransformer(self.codec.features, outputs, **{**usual, **size})

    def work(self, rows: int, **size: Any) -> float:
        wide = size.get("pair_width") or PAIR_WIDTH
        return float(rows) * self.shape[0] ** 2 * wide**2

    # --- the worth of an object ---------------------------------------------------------------

    def check(self, objects: Sequence[Molecule | None]) -> list[str | None]:
        return ["no molecule" if m is None else _seen(m)[0] for m in objects]

    def keys(self, objects: Sequence[Molecule]) -> list[str]:
        return [key_of(m) for m in objects]

    def identities(self, objects: Sequence[Molecule]) -> list[str]:
        """SMILES without stereochemistry; the key of a molecule that has none."""
        return [_seen(m)[2] or key_of(m) for m in objects]

    def features(self, objects: Sequence[Molecule]) -> Tensor:
        return features(objects, self.elements)

    def judge_names(self) -> tuple[str, ...]:
        return tuple(REWARDS)

    def judge(self, name: str) -> Judge[Molecule] | None:
        return named_judge(name)

    def own_judge(self, function: Callable[..., Any], name: str) -> Judge[Molecule]:
        """A user's function of one molecule, whose first parameter is ``mol`` or ``molecule``."""
        return users_judge(function, name)

    def known(self) -> frozenset[str]:
        try:
            return known_smiles("train")
        except UserError:  # the package with QM9 is missing
            return frozenset()

    def measures(
        self,
        objects: Sequence[Molecule | None],
        known: frozenset[str],
        *,
        temperature: float | None = None,
        kl: float | None = None,
    ) -> dict[str, Any]:
        """Shares of molecules, and with the known compounds the variety of the valid ones.

        Distances of padded coordinates mean nothing for molecules, which may be turned in any way,
        so ``diversity`` and ``vendi`` of tensors are replaced. Without ``known``: ``stable`` and
        ``unique``, the share of different SMILES among the valid. With ``known``: ``stable``,
        ``unique`` (different compounds among the valid), ``novel`` (the share of these that are not
        known), ``diversity`` (mean Tanimoto distance of two) and ``heavy`` (mean number of heavy
        atoms).
        """
        stable = sum(is_stable(m) for m in objects) / max(1, len(objects))
        valid = [m for m in objects if m is not None and _seen(m)[1] is not None]
        smiles = [str(_seen(m)[1]) for m in valid]
        if not known:
            unique = len(set(smiles)) / len(smiles) if smiles else None
            return {"diversity": None, "vendi": None, "stable": stable, "unique": unique}
        new = novelty(smiles, known) if smiles else None
        mols = [to_rdkit(m) for m in valid] if len(valid) > 2 else []
        heavy = [int((m.numbers > 1).sum()) for m in valid]
        return {
            "diversity": diversity(mols).value if mols else None,
            "vendi": None,
            "stable": stable,
            "unique": new.n / len(smiles) if new else None,
            "novel": new.value if new else None,
            "heavy": sum(heavy) / len(heavy) if heavy else None,
        }

    # --- files and pages ----------------------------------------------------------------------

    def table(self, objects: Sequence[Molecule | None]) -> pl.DataFrame:
        smiles = [None if m is None else _seen(m)[1] for m in objects]
        return pl.DataFrame([pl.Series("smiles", smiles, dtype=pl.String)])

    def notes(self, objects: Sequence[Molecule | None]) -> pl.DataFrame:
        """Whether each is stable; null where EDM's table of bonds does not know an element."""
        stable = [is_stable(m) if m is None or in_table(m.numbers) else None for m in objects]
        return pl.DataFrame([pl.Series("stable", stable, dtype=pl.Boolean)])

    def write(
        self,
        folder: Path,
        name: str,
        objects: Sequence[Molecule | None],
        table: pl.DataFrame,
    ) -> list[Path]:
        """Write ``NAME.sdf``: the molecules as rewards see them, the table's columns as tags."""
        if any(m is None for m in objects):
            table = table.with_row_index(ROW, offset=1)
        path = folder / f"{name}.sdf"
        write_molecules(path, [None if m is None else rounded(m) for m in objects], table)
        return [path]

    def read_back(self, folder: Path, name: str, table: pl.DataFrame) -> Sequence[Molecule | None]:
        path = folder / f"{name}.sdf"
        entries = read_written(path)
        found: list[Molecule | None] = [None] * table.height
        smiles = table["smiles"].to_list() if "smiles" in table.columns else []
        place = 0
        for molecule, tags in entries:
            if ROW in tags:
                place = int(tags[ROW]) - 1
            elif len(entries) < table.height:  # written before rows had a tag
                same = tags.get("smiles")
                while place < len(smiles) and smiles[place] != same:
                    place += 1
            if not 0 <= place < table.height:
                raise UserError(f"{path} is damaged: it does not fit its table")
            found[place] = molecule
            place += 1
        return found

    def guided(
        self, denoiser: Denoiser, guide: str | None, wanted: Mapping[str, float], strength: float
    ) -> tuple[Denoiser, Domain[Molecule], dict[str, Tensor]]:
        from payoff.domains.molecules.guide import LabelGuide
        from payoff.domains.molecules.guided import guided, sizes_given, told
        from payoff.domains.molecules.model import MoleculeModel

        found = LabelGuide.from_pretrained(guide or DATA_SET)
        found.scales.check(list(wanted), f"the guide {guide or DATA_SET}")
        model = MoleculeModel(denoiser, self.codec, self.counts, {})
        led = guided(model, found, "the model", scale=strength)
        nodes, weights = sizes_given(model, found, wanted)
        counts = torch.zeros_like(self.counts)
        counts[nodes] = (weights * FINE).round().long()
        domain = type(self)(**{**self.config(), "sizes": counts.tolist()})
        return led, domain, told(found, wanted, 1)

    def export(
        self, path: Path, objects: Sequence[Molecule | None], columns: pl.DataFrame | None
    ) -> int:
        ending = path.suffix.lower()
        if columns is not None:
            if ending == ".smi":
                columns = None
            elif ending == ".csv":
                columns = columns.drop("smiles", "valid", strict=False)
        return write_molecules(path, objects, columns)

    def draw(self, objects: Sequence[Molecule], notes: Sequence[str]) -> str:
        from payoff.domains.molecules.drawing import gallery

        return gallery([_seen(m)[1] for m in objects], notes)

    def figure(self, thing: Molecule) -> Figure:
        """A ball-and-stick model to be turned with the mouse."""
        from payoff.domains.molecules.drawing import ball_and_stick

        return ball_and_stick(thing)


def is_stable(molecule: Molecule | None) -> bool:
    """Whether every atom has the valence that it should have by EDM's table of bonds."""
    return molecule is not None and bool(stable_atoms(molecule.numbers, molecule.positions).all())


@lru_cache(maxsize=8192)
def _seen(molecule: Molecule) -> tuple[str | None, str | None, str | None]:
    """The reason why it is not valid, its SMILES, and its SMILES without stereochemistry."""
    reason = None
    try:
        found = valid_mol(molecule)
    except Unscored as why:
        reason, found = str(why), to_rdkit(molecule)
    if found is None:
        return reason, None, None
    return reason, smiles_of(found), flat_smiles(found)


def _data(
    domain: Molecules,
    source: Any,
    options: Any,
    found: Labelled,
    score: str | None,
    remarks: Sequence[str],
) -> Data[Molecule]:
    own, numbers = found.read is not None, domain.codec.elements
    elements = ", ".join(SYMBOLS[n] for n in sorted({1, *numbers}))
    return Data(
        domain,
        found.molecules,
        found.labels,
        Path(source).stem if own else DATA_SET,
        score or "",
        found.unit,
        failed=found.failed,
        remarks=[*found.remarks, *remarks],
        fingerprint=found.fingerprint,
        about=f"molecules of {elements}, up to {domain.shape[0]} nodes",
        summary={"codec": domain.codec_name, "largest": domain.shape[0]},
        source=None if own else DATA_SET,
        find_known=found.compounds if own else lambda: known_smiles(options.part),
    )
