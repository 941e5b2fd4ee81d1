"""What a run of molecules learns from: QM9 with most labels hidden, or a file of one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.configs import suggest
from payoff.denoisers import NetDenoiser
from payoff.domains.molecules.codecs import CODECS, AllAtoms, Codec, UnitedAtoms
from payoff.domains.molecules.columns import TABLES, find_smiles
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.files import Failure, Read, read_molecules
from payoff.domains.molecules.metrics import to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import PROPERTIES, load_qm9, split
from payoff.domains.molecules.quality import flat_smiles, known_smiles
from payoff.domains.vectors.kinds import read_numbers
from payoff.domains.vectors.reading import RawTable, read_raw
from payoff.errors import UserError
from payoff.experiments.molecules.design.config import MoleculeDesignConfig
from payoff.experiments.progress import Reporter
from payoff.pretrained import shipped

MIN_LABELLED = 20


@dataclass
class Labelled:
    """Molecules with the labels of some.

    Attributes:
        name: what reports call them.
        molecules: all of them.
        labels: (n,) in the score's unit, NaN = unlabelled.
        unit: of the score, None where nobody said.
        find_compounds: SMILES without stereochemistry of all that are known.
        failed: entries of the file that are no molecules.
        remarks: what the user should hear.
        fingerprint: changes with the data.
    """

    name: str
    molecules: list[Molecule]
    labels: Tensor
    unit: str | None
    find_compounds: Callable[[], frozenset[str]]
    failed: list[Failure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fingerprint: str = ""


@dataclass
class Setting:
    """The data of one run as the generator sees them.

    Attributes:
        data: molecules and labels.
        codec, x, mask: the molecules encoded.
        base: the model that the generator begins with, or None.
        origin: whose weights these are, or why there are none.
    """

    data: Labelled
    codec: Codec
    x: Tensor
    mask: Tensor
    base: MoleculeModel | None
    origin: str

    @property
    def molecules(self) -> list[Molecule]:
        return self.data.molecules

    @property
    def labels(self) -> Tensor:
        return self.data.labels

    @cached_property
    def compounds(self) -> frozenset[str]:
        """The known compounds, as :func:`~payoff.domains.molecules.quality.flat_smiles` writes."""
        return self.data.find_compounds()

    @property
    def kind(self) -> str:
        """The codec's name among the options."""
        return kind_of(self.codec)

    def start(self, conditioning: str) -> str:
        """Where the generator begins, a sentence."""
        if self.base is None:
            return f"the model begins from scratch {self.origin}"
        if conditioning == "guide":
            return f"the {self.origin} stay as they are; a guide leads them"
        return f"the model begins with the {self.origin}"


def make_setting(config: MoleculeDesignConfig, reporter: Reporter) -> Setting:
    """Read the molecules and their labels, and find the base model.

    Raises:
        UserError: there is no such file, column, property or model, the model has no room for the
            molecules, or there are too few labels.
    """
    given = None if config.base in (None, "none") else _load(str(config.base), config.codec)
    data = read_own(config, reporter) if config.own else hide_labels(config)
    if given is not None:
        try:
            x, cond = given.codec.encode(data.molecules)
        except UserError as error:
            raise UserError(f"--base {config.base} does not fit these molecules: {error}") from None
        return Setting(data, given.codec, x, cond["mask"], given, f"weights of {config.base}")
    why = "as asked for"
    if config.base is None and DATA_SET in shipped():
        model = MoleculeModel.load(DATA_SET)
        fits = _fitting(model, data.molecules, config.codec)
        if not isinstance(fits, str):
            return Setting(data, model.codec, *fits, model, f"shipped weights of {DATA_SET}")
        why = f"the shipped weights of {DATA_SET} do not fit: {fits}"
    elif config.base is None:
        why = "no weights are shipped"
    codec, x, mask, told = _from_scratch(data.molecules, config)
    return Setting(data, codec, x, mask, None, f"({why}){told}")


def hide_labels(config: MoleculeDesignConfig) -> Labelled:
    """A part of QM9 with labels, noisy ones, for a random share."""
    if config.score is None:
        raise UserError(f"which property? Name it with --score: one of {', '.join(PROPERTIES)}")
    data = load_qm9()
    truth = data.column(config.score).double()
    rows = split(config.part, len(data))
    values, n = truth[rows], round(config.labelled * len(rows))
    if n < MIN_LABELLED:
        raise UserError(
            f"--labelled {config.labelled:g} of {len(rows)} molecules are {n} labels: at least "
            f"{MIN_LABELLED} are needed"
        )
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(rows), generator=generator)[:n]
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    labels = torch.full((len(rows),), float("nan"), dtype=torch.float64)
    labels[chosen] = values[chosen] + config.noise * values.std() * noise
    unit = PROPERTIES[config.score][2]
    molecules = data.molecules(rows)
    return Labelled(DATA_SET, molecules, labels, unit, lambda: known_smiles(config.part))


def read_own(config: MoleculeDesignConfig, reporter: Reporter) -> Labelled:
    """The molecules of a file; rows with an empty score are unlabelled.

    The score's column is checked before geometries are made of SMILES, which takes long.
    """
    path = Path(config.source)
    texts: list[str] = []
    remarks: list[str] = []
    if path.suffix.lower() in TABLES:
        raw = read_raw(path)
        column = _smiles_column(raw, config.smiles)
        labels = _labels(raw, config.score, [column])
        with reporter.bar("making geometries", raw.height) as advance:
            advance(0)
            found = read_molecules(path, column, progress=advance)
        lost = {failure.row - 1 for failure in found.failed}
        labels = labels[[i for i in range(raw.height) if i not in lost]]
        texts = raw.columns[column].cast(pl.String).drop_nulls().to_list()
        if config.smiles is None:
            remarks.append(f"{path}: the column {column!r} holds SMILES, so its rows are molecules")
        remarks += raw.warnings
    else:
        found = read_molecules(path, config.smiles)
        columns = {name: found.table[name] for name in found.table.columns}
        labels = _labels(RawTable(str(path), columns), config.score, [])
    _check_labels(str(path), str(config.score), labels)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Labelled(
        path.stem,
        found.molecules,
        labels,
        None,
        lambda: _compounds(found, texts),
        found.failed,
        remarks,
        digest,
    )


def kind_of(codec: Codec) -> str:
    """A codec's name among the options."""
    return next(name for name, cls in CODECS.items() if type(codec) is cls)


def _smiles_column(raw: RawTable, chosen: str | None) -> str:
    names = ", ".join(raw.columns)
    if chosen is not None:
        if chosen not in raw.columns:
            hint = suggest(chosen, raw.columns)
            raise UserError(f"--smiles {chosen}: {raw.origin} has no such column{hint} ({names})")
        return chosen
    if (found := find_smiles(raw)) is None:
        raise UserError(
            f"which column of {raw.origin} holds SMILES? Name it with --smiles: one of {names}"
        )
    return found


def _labels(raw: RawTable, score: str | None, others: list[str]) -> Tensor:
    """The score's column (n,), NaN where it is empty."""
    names = [name for name in raw.columns if name not in others]
    if not names:
        where = "no columns beside its molecules" if others else "no tags or key=value comments"
        raise UserError(f"{raw.origin} has {where}: there has to be one with the score")
    if score is None:
        raise UserError(
            f"which column of {raw.origin} is the score? Name it with --score: one of "
            f"{', '.join(names)}"
        )
    if score not in names:
        raise UserError(
            f"--score {score}: {raw.origin} has no such column{suggest(score, names)} (there are: "
            f"{', '.join(names)})"
        )
    cells = read_numbers(raw, raw.columns[score], "score")
    labels = torch.from_numpy(cells.fill_null(float("nan")).to_numpy().astype(np.float64))
    _check_labels(raw.origin, score, labels)
    return labels


def _check_labels(origin: str, score: str, labels: Tensor) -> None:
    known = labels[labels.isfinite()]
    if len(known) < MIN_LABELLED:
        raise UserError(
            f"{origin}: {len(known)} molecules have a value in the column {score!r}: at least "
            f"{MIN_LABELLED} are needed to learn from"
        )
    if bool((known == known[0]).all()):
        raise UserError(
            f"{origin}: the column {score!r} has the same value ({float(known[0]):g}) everywhere, "
            "so there is nothing to learn"
        )


def _compounds(found: Read, texts: list[str]) -> frozenset[str]:
    """As the file writes them and as their geometries are read: a design is known by either."""
    written = {flat_smiles(text) for text in texts}
    perceived = {flat_smiles(mol) for m in found.molecules if (mol := to_rdkit(m)) is not None}
    return frozenset(text for text in written | perceived if text)


def _load(name: str, codec: str | None) -> MoleculeModel:
    model = MoleculeModel.load(name)
    if not isinstance(model.denoiser, NetDenoiser):
        raise UserError(f"--base {name}: it is no model that payoff train wrote; give another")
    if codec not in (None, kind_of(model.codec)):
        raise UserError(
            f"--codec {codec}: the model of --base {name} has {kind_of(model.codec)} atoms; leave "
            "one of them out"
        )
    return model


def _fitting(
    model: MoleculeModel, molecules: list[Molecule], codec: str | None
) -> tuple[Tensor, Tensor] | str:
    """The molecules encoded for the model, or why it has no room for them."""
    if codec not in (None, kind_of(model.codec)):
        return f"they are of {kind_of(model.codec)} atoms"
    try:
        x, cond = model.codec.encode(molecules)
    except UserError as error:
        return str(error)
    if x.shape[1] > model.shape[0]:
        return f"there are molecules of {x.shape[1]} nodes, they know up to {model.shape[0]}"
    return x, cond["mask"]


def _from_scratch(
    molecules: list[Molecule], config: MoleculeDesignConfig
) -> tuple[Codec, Tensor, Tensor, str]:
    """A codec for the molecules, them encoded, and what to say about it."""

    def encoded(cls: type[UnitedAtoms] | type[AllAtoms]) -> tuple[Codec, Tensor, Tensor]:
        codec = cls.fitting(molecules) if config.own else cls()
        x, cond = codec.encode(molecules)
        return codec, x, cond["mask"]

    if config.codec is not None:
        return *encoded(CODECS[config.codec]), ""
    try:
        return *encoded(UnitedAtoms), ""
    except UserError as error:
        return *encoded(AllAtoms), f", with all atoms ({error})"
