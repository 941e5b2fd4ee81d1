"""Molecules of a source with the labels of some: QM9 with most labels hidden, or a user's file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.configs import suggest
from payoff.domains.base import Bar
from payoff.domains.molecules.codecs import CODECS, AllAtoms, Codec, UnitedAtoms
from payoff.domains.molecules.columns import TABLES, find_smiles
from payoff.domains.molecules.config import DATA_SET
from payoff.domains.molecules.files import Read, read_molecules
from payoff.domains.molecules.kind import MoleculeOptions
from payoff.domains.molecules.metrics import to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import PROPERTIES, load_qm9, split
from payoff.domains.molecules.quality import flat_smiles
from payoff.domains.vectors.kinds import read_numbers
from payoff.domains.vectors.reading import RawTable, read_raw
from payoff.errors import UserError

MIN_LABELLED = 20


@dataclass
class Labelled:
    """Molecules with the labels of some.

    Attributes:
        molecules: all of them.
        labels: (n,) in the score's unit, NaN = unlabelled; None: no score was asked for.
        unit: of the score, None where nobody said.
        failed: entries that are no molecules: row (from 1) -> reason.
        remarks: notes for the user.
        fingerprint: changes with the data.
        read: contents of the user's file; None: QM9.
        texts: SMILES as the user's table writes them.
    """

    molecules: Sequence[Molecule]
    labels: Tensor | None
    unit: str | None = None
    failed: dict[int, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    fingerprint: str = ""
    read: Read | None = None
    texts: list[str] = field(default_factory=list)

    def compounds(self) -> frozenset[str]:
        """Known compounds of a file, as it writes them and as its geometries are perceived."""
        assert self.read is not None
        written = {flat_smiles(text) for text in self.texts}
        mols = (to_rdkit(m) for m in self.read.molecules)
        perceived = {flat_smiles(mol) for mol in mols if mol is not None}
        return frozenset(text for text in written | perceived if text)


def read_qm9(options: MoleculeOptions, score: str | None, seed: int) -> Labelled:
    """A part of QM9, with a score: labels, noisy ones, for a random share.

    Raises:
        UserError: QM9 is missing, has no such property, or the share is too small.
    """
    data = load_qm9()
    rows = split(options.part, len(data))
    name = f"{DATA_SET}, {options.part}, {len(rows)} molecules"
    if score is None:
        return Labelled(data.molecules(rows), None, fingerprint=name)
    if not score:
        raise UserError(f"which property? Name it with --score: one of {', '.join(PROPERTIES)}")
    if score not in PROPERTIES:
        raise UserError(
            f"--score {score}: {DATA_SET} has no such property{suggest(score, PROPERTIES)} (there "
            f"are: {', '.join(PROPERTIES)})"
        )
    values, n = data.column(score).double()[rows], round(options.labelled * len(rows))
    if n < MIN_LABELLED:
        raise UserError(
            f"--labelled {options.labelled:g} of {len(rows)} molecules are {n} labels: at least "
            f"{MIN_LABELLED} are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=generator)[:n]
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    labels = torch.full((len(rows),), float("nan"), dtype=torch.float64)
    labels[chosen] = values[chosen] + options.noise * values.std() * noise
    unit = PROPERTIES[score][2]
    return Labelled(data.molecules(rows), labels, unit, fingerprint=f"{name}, seed {seed}")


def read_file(path: Path, options: MoleculeOptions, score: str | None, bar: Bar) -> Labelled:
    """The molecules of a file; rows with an empty score are unlabelled.

    The score's column is checked before geometries are made of SMILES, which takes long.

    Raises:
        UserError: the file, an option or the score does not fit.
    """
    for name, usual in (("labelled", 0.05), ("noise", 0.0)):
        if getattr(options, name) != usual:
            raise UserError(
                f"--{name} is for {DATA_SET} only: the molecules of {path} with a score are the "
                "labelled ones"
            )
    texts: list[str] = []
    remarks: list[str] = []
    labels = None
    if path.suffix.lower() in TABLES:
        raw = read_raw(path)
        column = _smiles_column(raw, options.smiles)
        if score is not None:
            labels = _labels(raw, score, [column])
        with bar("making geometries", raw.height) as advance:
            advance(0)
            found = read_molecules(path, column, progress=advance)
        lost = {failure.row - 1 for failure in found.failed}
        if labels is not None:
            labels = labels[[i for i in range(raw.height) if i not in lost]]
        texts = raw.columns[column].cast(pl.String).drop_nulls().to_list()
        if options.smiles is None:
            remarks.append(f"{path}: the column {column!r} holds SMILES, so its rows are molecules")
        remarks += raw.warnings
    else:
        found = read_molecules(path, options.smiles)
        if score is not None:
            columns = {name: found.table[name] for name in found.table.columns}
            labels = _labels(RawTable(str(path), columns), score, [])
    if labels is not None:
        _check_labels(str(path), str(score), labels)
    return Labelled(
        found.molecules,
        labels,
        failed={failure.row: failure.reason for failure in found.failed},
        remarks=remarks,
        fingerprint=hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        read=found,
        texts=texts,
    )


def fitting_codec(
    molecules: Sequence[Molecule], name: str | None, own: bool
) -> tuple[Codec, Tensor, Tensor, str]:
    """A codec for molecules, their rows x (n, N, C) and mask (n, N), and a remark or nothing.

    Args:
        molecules: to be encoded.
        name: of the codec; None: united atoms, if the molecules can be so, else all.
        own: the molecules are a user's: elements and length are taken from them.

    Raises:
        UserError: the codec has no room for one of them.
    """

    def encoded(cls: type[UnitedAtoms] | type[AllAtoms]) -> tuple[Codec, Tensor, Tensor]:
        codec = cls.fitting(molecules) if own else cls()
        x, cond = codec.encode(molecules)
        return codec, x, cond["mask"]

    if name is not None:
        return *encoded(CODECS[name]), ""
    try:
        return *encoded(UnitedAtoms), ""
    except UserError as error:
        return *encoded(AllAtoms), f"every atom is a node, since united atoms do not fit: {error}"


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


def _labels(raw: RawTable, score: str, others: Sequence[str]) -> Tensor:
    """The score's column (n,), NaN where it is empty."""
    names = [name for name in raw.columns if name not in others]
    if not names:
        where = "no columns beside its molecules" if others else "no tags or key=value comments"
        raise UserError(f"{raw.origin} has {where}: there has to be one with the score")
    if not score:
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
