"""QM9: 130,831 small organic molecules with B3LYP geometries and properties.

Read from the three CSV files of the package ``qm9pack``, found without importing it, and kept as
one safetensors file in the cache folder. A molecule is a slice of long arrays: nothing is padded
here.

References: Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan, Dral,
Rupp, von Lilienfeld, 2014). Split and property units: E(3) Equivariant Diffusion for Molecule
Generation in 3D (Hoogeboom, Satorras, Vignac, Welling, 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from payoff.domains.cache import cache_folder
from payoff.domains.molecules.cache import read_tensors, write_tensors
from payoff.domains.molecules.molecule import NUMBER_OF, Molecule
from payoff.errors import UserError

PACKAGE, FILES = "qm9pack", ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
FORMAT = 2
HARTREE = 27.211386245988
"""Electronvolt in a Hartree (CODATA 2018)."""

PROPERTIES = {
    "alpha": ("Polarizability_bohr3", 1.0, "bohr³"),
    "gap": ("HOMO_LUMO_gap_au", HARTREE, "eV"),
    "homo": ("HOMO_au", HARTREE, "eV"),
    "lumo": ("LUMO_au", HARTREE, "eV"),
    "mu": ("Dipole_debye", 1.0, "D"),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0, "cal/(mol K)"),
}
"""The six properties: name -> (column of the CSV files, factor, unit)."""

SPLITS = {"train": 100_000, "valid": 17_748, "test": 13_083}


@dataclass(frozen=True)
class QM9:
    """All molecules, in the order of the files.

    Attributes:
        numbers: atomic numbers of all atoms, (A,) uint8.
        positions: their positions in Å, (A, 3) float32.
        first: index of each molecule's first atom and, last, A: (M + 1,) int64.
        properties: (M, 6) float32, columns and units as in :data:`PROPERTIES`.
        index: number of each molecule in the original data set (1 … 133,885), (M,) int64.
        smiles: the relaxed molecules' SMILES as in the files, joined by newlines, uint8.
    """

    numbers: Tensor
    positions: Tensor
    first: Tensor
    properties: Tensor
    index: Tensor
    smiles: Tensor

    def __len__(self) -> int:
        return self.first.numel() - 1

    @property
    def sizes(self) -> Tensor:
        """Atoms of each molecule, (M,)."""
        return self.first.diff()

    def molecule(self, i: int) -> Molecule:
        """Molecule ``i`` by its place in the file."""
        part = slice(int(self.first[i]), int(self.first[i + 1]))
        return Molecule(self.numbers[part].long(), self.positions[part])

    def molecules(self, rows: Tensor) -> list[Molecule]:
        """The molecules of these places."""
        return [self.molecule(int(i)) for i in rows]

    def all_smiles(self) -> list[str]:
        """The SMILES of every molecule."""
        return self.smiles.numpy().tobytes().decode().split("\n")

    def column(self, name: str) -> Tensor:
        """One property of every molecule, (M,), in the unit of :data:`PROPERTIES`."""
        if name not in PROPERTIES:
            raise UserError(f"QM9 has no property {name!r}: choose from {', '.join(PROPERTIES)}")
        return self.properties[:, list(PROPERTIES).index(name)]


def split(name: str, size: int = sum(SPLITS.values())) -> Tensor:
    """The rows of EDM's ``train``, ``valid`` or ``test`` part, or of a half of the train part.

    ``first_half`` (D_a, which property evaluators are trained on) and ``second_half`` (D_b, for
    conditional generators) are the two halves of ``train``.

    Args:
        name: of the part.
        size: number of molecules; another than QM9's splits in the same proportions.

    Raises:
        UserError: no such part.
    """
    order = np.random.RandomState(0).permutation(size)
    train = size * SPLITS["train"] // sum(SPLITS.values())
    test = size * SPLITS["test"] // sum(SPLITS.values())
    parts = dict(
        zip(("train", "valid", "test"), np.split(order, [train, size - test]), strict=True)
    )
    halves = np.array_split(np.random.RandomState(42).permutation(train), 2)
    parts["first_half"], parts["second_half"] = (parts["train"][half] for half in halves)
    if name not in parts:
        raise UserError(f"QM9 has no part {name!r}: choose from {', '.join(parts)}")
    return torch.from_numpy(parts[name].copy())


def load_qm9(*, cache: bool = True) -> QM9:
    """All of QM9, from the cache where there is one: 0.02 s instead of 8 s.

    Two processes may do this at once: each sees no cache or a whole one. A damaged cache is made
    again.

    Args:
        cache: read and write the cache folder; see
            :func:`~payoff.domains.cache.cache_folder`.

    Raises:
        UserError: the package ``qm9pack`` is not installed, or its files are not as expected.
    """
    folder, version = _package()
    key = f"{PACKAGE} {version}, format {FORMAT}"
    kept = cache_folder() / f"qm9-{version}-v{FORMAT}.safetensors"
    if cache and (tensors := read_tensors(kept, key)) is not None:
        return QM9(**tensors)
    data = _read(folder)
    if cache:
        write_tensors(kept, vars(data), key)
    return data


def _package() -> tuple[Path, str]:
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"QM9 needs the package {PACKAGE!r}, which is not installed. "
            "Install the extra with: pip install payoff[molecules]"
        ) from None
    return Path(str(package.locate_file(f"{PACKAGE}/data"))), package.version


def labelled(
    data: QM9, names: Sequence[str], part: str, most: int = 0
) -> tuple[list[Molecule], Tensor]:
    """Molecules and properties (n, k), in their units, of a part; the first ``most``, 0 = all."""
    rows = split(part, len(data))
    rows = rows[:most] if most else rows
    columns = [data.column(name)[rows] for name in names]
    return data.molecules(rows), torch.stack(columns, dim=1)


def _read(folder: Path) -> QM9:
    import polars as pl

    columns = ["Index", "SMILES", "Elements", "XYZ_Ang", *(c for c, _, _ in PROPERTIES.values())]
    try:
        table = pl.concat(
            pl.read_csv(folder / name, columns=columns, infer_schema=False) for name in FILES
        )
    except Exception as error:
        raise UserError(
            f"{PACKAGE} is installed, but its data in {folder} cannot be read ({error}): "
            f"reinstall it with: pip install --force-reinstall --no-deps {PACKAGE}"
        ) from error
    letters = np.frombuffer("".join(table["Elements"]).encode(), dtype=np.uint8)
    number_of = np.zeros(256, dtype=np.uint8)
    for symbol in ("H", "C", "N", "O", "F"):
        number_of[ord(symbol)] = NUMBER_OF[symbol]
    numbers = number_of[letters]
    numbers = numbers[numbers > 0]
    sizes = table["Elements"].str.count_matches("[A-Z]").to_numpy().astype(np.int64)
    positions = _numbers_in(table["XYZ_Ang"]).reshape(-1, 3)
    if not len(numbers) == len(positions) == sizes.sum():
        raise UserError(f"{PACKAGE}: elements and coordinates do not match in {folder}")
    properties = np.stack(
        [table[c].cast(pl.Float64).to_numpy() * f for c, f, _ in PROPERTIES.values()], axis=1
    )
    smiles = np.frombuffer("\n".join(table["SMILES"]).encode(), dtype=np.uint8)
    return QM9(
        numbers=torch.from_numpy(numbers.copy()),
        positions=torch.from_numpy(positions.astype(np.float32)),
        first=torch.from_numpy(np.concatenate([[0], sizes.cumsum()])),
        properties=torch.from_numpy(properties.astype(np.float32)),
        index=torch.from_numpy(table["Index"].cast(pl.Int64).to_numpy().copy()),
        smiles=torch.from_numpy(smiles.copy()),
    )


def _numbers_in(column) -> npt.NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """All numbers of a column of bracketed lists, in order. ``1.`` and ``-.5`` are no JSON."""
    text = ",".join(column).replace("[", "").replace("]", "").replace("*^", "e")
    return np.array(text.split(","), dtype=np.float64)
