"""Entries of molecule files, one at a time: a molecule, or the reason why there is none.

A molecule here is neutral, in one piece and without unpaired electrons. Where a file gives bonds
and charges they decide; XYZ has neither, so there an odd number of electrons stands for a charge or
an unpaired one, and pieces are told by RDKit's distances.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from payoff.domains.molecules.metrics import pieces, quiet
from payoff.domains.molecules.molecule import NUMBER_OF, SYMBOLS, Molecule

Entry = tuple[Molecule | str, dict[str, Any]]
"""A molecule, or why there is none, and the named values beside it."""

MMFF_STEPS, TRIES = 2000, 20
_PAIR = re.compile(r'([^\s="\']+)=("(?:[^"\\]|\\.)*"|\S*)')
_TAG = re.compile(r"^>.*<(.+)>")
_NUMBER = re.compile(r"[-+]?(\d|\.\d)")
_LATTICE = ("Properties", "Lattice", "pbc")
"""Keys of extended XYZ that say how the frame is written and belong to no molecule."""


def sdf_entries(text: str, seed: int) -> Iterator[Entry]:
    """Entries of an SDF file; the mol blocks may be V2000 or V3000."""
    for block, row in _blocks(text):
        yield _from_block(block, seed), row


def written_entries(text: str) -> Iterator[tuple[Molecule | None, dict[str, Any]]]:
    """Entries of an SDF file as they stand, whether their bonds make sense or not.

    No atom is added and none is moved; None for a block that RDKit cannot read.
    """
    from rdkit import Chem

    quiet()
    for block, row in _blocks(text):
        found = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
        yield None if found is None else _taken(found), row


def _blocks(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mol block of each entry of an SDF file, with its title and tags."""
    lines = text.splitlines()
    ends = [i for i, line in enumerate(lines) if line.startswith("$$$$")]
    if any(line.strip() for line in lines[ends[-1] + 1 if ends else 0 :]):
        ends.append(len(lines))
    for start, end in zip([0, *(i + 1 for i in ends)], ends, strict=False):
        yield _cut(lines[start:end])


def xyz_entries(text: str) -> Iterator[Entry]:
    """Frames of an XYZ file: the number of atoms, a comment, a line an atom.

    A frame whose number does not fit its lines fails, and reading goes on at the next place that
    can be a frame.
    """
    lines = [line.strip() for line in text.splitlines()]
    i = 0
    while i < len(lines):
        if not lines[i]:
            i += 1
            continue
        end = _frame(lines, i)
        following = next((j for j in range(end or i + 1, len(lines)) if lines[j]), len(lines))
        if end and not (following < len(lines) and _is_atom(lines[following])):
            yield _from_atoms(lines[i + 2 : end]), _comment(lines[i + 1])
            i = following
            continue
        yield f"line {i + 1}: a frame whose number of atoms does not fit its lines", {}
        i = next((j for j in range(i + 1, len(lines)) if _frame(lines, j)), len(lines))


def smiles_entries(
    smiles: Sequence[str | None], rows: Sequence[Mapping[str, Any]], seed: int
) -> Iterator[Entry]:
    """SMILES with the values beside each, given a geometry."""
    from rdkit import Chem

    quiet()
    for text, row in zip(smiles, rows, strict=True):
        if text is None or not text.strip():
            yield "no SMILES", dict(row)
            continue
        found = Chem.MolFromSmiles(text, sanitize=False)
        if found is None:
            yield f"{text} is no SMILES", dict(row)
            continue
        yield _reason(found) or _embedded(found, seed), dict(row)


def _cut(lines: list[str]) -> tuple[str, dict[str, Any]]:
    """The mol block of an entry, and its title and tags."""
    last = next((i for i, line in enumerate(lines) if line.startswith(">")), len(lines))
    row: dict[str, Any] = {}
    if lines and lines[0].strip():
        row["name"] = lines[0].strip()
    tag: str | None = None
    for line in lines[last:]:
        if found := _TAG.match(line):
            tag = found.group(1)
            row[tag] = None
        elif tag is not None and line.strip():
            row[tag] = line.strip() if row[tag] is None else f"{row[tag]} {line.strip()}"
        else:
            tag = None
    return "\n".join([*lines[:last], ""]), row


def _from_block(block: str, seed: int) -> Molecule | str:
    from rdkit import Chem

    quiet()
    found = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
    if found is None or not found.GetNumAtoms():
        return "a mol block that RDKit cannot read"
    if not found.GetNumBonds() and found.GetNumAtoms() > 1:
        return _as_written(_taken(found))  # atoms only: the distances have to tell
    if reason := _reason(found):
        return reason
    if not found.GetConformer().Is3D():
        return _embedded(Chem.MolFromMolBlock(block, removeHs=False), seed)  # with its wedges
    return _taken(Chem.AddHs(found, addCoords=True))


def _reason(found: Any) -> str | None:
    """Why an RDKit molecule is not one of the library's; sanitises it."""
    from rdkit import Chem

    if any(atom.GetAtomicNum() not in SYMBOLS for atom in found.GetAtoms()):
        return "an atom without an element"
    try:
        Chem.SanitizeMol(found)
    except Exception as error:  # RDKit's own classes
        return str(error).strip() or type(error).__name__
    if count := len(Chem.GetMolFrags(found)) - 1:
        return f"{count + 1} fragments"
    if charge := Chem.GetFormalCharge(found):
        return f"charge {charge:+d}"
    if any(atom.GetNumRadicalElectrons() for atom in found.GetAtoms()):
        return "an unpaired electron"
    return None


def _embedded(found: Any, seed: int) -> Molecule | str:
    """With all hydrogens, in three dimensions."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    full = Chem.AddHs(found)
    full.RemoveAllConformers()
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed + 1  # RDKit draws the same from 0 and from 1
    settings.timeout = 60
    if not _embeds(full, settings):
        # slower, and finds some that the first way does not
        settings.useRandomCoords = settings.useSmallRingTorsions = True
        if not _embeds(full, settings) and not _embedded_freely(full, settings):
            return "RDKit finds no geometry for it"
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(full):
        raw = _taken(full)
        try:
            rdForceFieldHelpers.MMFFOptimizeMolecule(full, maxIters=MMFF_STEPS)
        except RuntimeError:  # a search that got lost
            return raw
    return _taken(full)


def _embeds(full: Any, settings: Any) -> bool:
    from rdkit.Chem import rdDistGeom

    try:
        return bool(rdDistGeom.EmbedMolecule(full, settings) >= 0)
    except RuntimeError:  # a search that got lost
        return False


def _embedded_freely(full: Any, settings: Any) -> bool:
    """Whether one of some geometries, or its mirror image, has the right stereochemistry.

    In strained cages the search that keeps the stereochemistry on the way gets nowhere, while few
    stereoisomers can be made at all. Leaves the geometry with the molecule.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom
    from rdkit.Geometry import Point3D

    free = Chem.Mol(full)
    settings.enforceChirality = settings.useRandomCoords = False
    try:
        geometries = list(rdDistGeom.EmbedMultipleConfs(free, TRIES, settings))
    except RuntimeError:  # a search that got lost
        return False
    for found in geometries:
        conformer = Chem.Conformer(free.GetConformer(found))
        for sign in (1, -1):
            for atom, where in enumerate(sign * free.GetConformer(found).GetPositions()):
                conformer.SetAtomPosition(atom, Point3D(*where.tolist()))
            full.RemoveAllConformers()
            full.AddConformer(conformer, assignId=True)
            seen = Chem.Mol(full)
            Chem.RemoveStereochemistry(seen)
            Chem.AssignStereochemistryFrom3D(seen)
            if seen.HasSubstructMatch(full, useChirality=True):
                return True
    return False


def _taken(found: Any) -> Molecule:
    """Elements and positions of an RDKit molecule."""
    numbers = [atom.GetAtomicNum() for atom in found.GetAtoms()]
    positions = torch.from_numpy(found.GetConformer().GetPositions()).float()
    return Molecule(torch.tensor(numbers), positions)


def _as_written(molecule: Molecule) -> Molecule | str:
    """The molecule, or why it is none, where there are no bonds to go by."""
    if int(molecule.numbers.sum()) % 2:
        return "an odd number of electrons: a charge or an unpaired electron"
    if (count := pieces(molecule)) > 1:
        return f"{count} fragments"
    return molecule


def _from_atoms(lines: Sequence[str]) -> Molecule | str:
    numbers, positions = [], []
    for line in lines:
        symbol, *where = line.replace("*^", "e").split()[:4]
        number = int(symbol) if symbol.isdecimal() else NUMBER_OF.get(symbol.capitalize(), 0)
        if number not in SYMBOLS:
            return f"no element is called {symbol!r}"
        try:
            positions.append([float(x) for x in where])
        except ValueError:
            return f"no position: {line!r}"
        numbers.append(number)
    found = Molecule(torch.tensor(numbers), torch.tensor(positions))
    if not bool(found.positions.isfinite().all()):
        return "a position that is not finite"
    return _as_written(found)


def _frame(lines: Sequence[str], i: int) -> int | None:
    """Where the frame that starts at line i ends, or None if there is none."""
    if not lines[i].isdecimal() or int(lines[i]) < 1:
        return None
    end = i + 2 + int(lines[i])
    whole = end <= len(lines) and all(len(line.split()) >= 4 for line in lines[i + 2 : end])
    return end if whole else None


def _is_atom(line: str) -> bool:
    cells = line.split()[1:4]
    return len(cells) == 3 and all(_NUMBER.match(cell) for cell in cells)


def _comment(line: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _PAIR.findall(line):
        if value.startswith('"'):
            try:
                value = json.loads(value)
            except ValueError:
                value = value.strip('"')
        if name not in _LATTICE:
            found[name] = value
    return found if _PAIR.search(line) or not line else {"comment": line}
