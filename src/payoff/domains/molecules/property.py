r"""Networks that read properties off a molecule, and two bounds that need none.

A network is trained by the mean absolute error of standardised properties,

.. math:: L = \frac1k\sum_j \frac{|f_j(m) - y_j|}{d_j}, \qquad
          d_j = \operatorname{mean}|y_j - \bar y_j| ,

on all atoms of the molecules, hydrogens included. As an evaluator of generators (EDM's protocol) it
learns from ``first_half`` and is never seen by a generator, which learns from ``second_half``.

    python -m payoff.domains.molecules.property --properties alpha --out runs/alpha

Reference: E(3) Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom, Satorras, Vignac,
Welling, 2022), section 5.2 and appendix E.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from payoff.domains.molecules.codecs import AllAtoms
from payoff.domains.molecules.config import PropertyConfig
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.program import command
from payoff.domains.molecules.qm9 import PROPERTIES, labelled, load_qm9
from payoff.errors import UserError
from payoff.nets.invariant import InvariantTransformer
from payoff.pretrained import CONFIG, build, describe, find_beside, read_weights, write_module
from payoff.training.loop import MODEL, Loop, refuse_folder

EVALUATOR = "evaluator"  # the folder beside shipped weights
CHUNK = 256  # molecules evaluated at once


class PropertyNet(nn.Module):
    """Molecules to properties, in the properties' own units.

    Args:
        net: (x, cond) of all atoms to (B, k) standardised values.
        codec: what encodes the atoms.
        names: of the k properties.
        location, spread: (k,) mean and mean absolute deviation of each.
    """

    location: Tensor
    spread: Tensor

    def __init__(
        self,
        net: InvariantTransformer,
        codec: AllAtoms,
        names: Sequence[str],
        location: Tensor,
        spread: Tensor,
    ) -> None:
        super().__init__()
        if not len(names) == net.outputs == len(location) == len(spread):
            raise ValueError(
                f"{len(names)} names, {net.outputs} outputs, {len(location)} means and "
                f"{len(spread)} deviations: they must be as many"
            )
        self.net, self.codec, self.names = net, codec, tuple(names)
        self.register_buffer("location", location.float().clone())
        self.register_buffer("spread", spread.float().clone())

    def standardised(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, k) of encoded atoms x (B, N, C)."""
        found: Tensor = self.net(x, cond={"mask": mask})
        return found

    def forward(self, molecules: Sequence[Molecule | None]) -> Tensor:
        """Properties (n, k) in their units; NaN where there is no molecule to be read.

        Raises:
            UserError: an element that the network has no feature for.
        """
        found = torch.full((len(molecules), len(self.names)), float("nan"))
        there = [i for i, m in enumerate(molecules) if _readable(m)]
        there.sort(key=lambda i: len(molecules[i] or ()))  # little padding in each chunk
        with torch.no_grad():
            for start in range(0, len(there), CHUNK):
                rows = there[start : start + CHUNK]
                x, cond = self.codec.encode([m for i in rows if (m := molecules[i]) is not None])
                values = self.standardised(x.to(self.location), cond["mask"])
                found[rows] = (self.location + self.spread * values).cpu()
        return found

    def save_pretrained(
        self,
        folder: str | Path,
        metadata: dict[str, Any] | None = None,
        half: str | None = None,
    ) -> Path:
        """Write ``model.safetensors`` and ``config.json``; the weights first, each whole.

        ``half``: see :func:`~payoff.pretrained.save_pretrained`.
        """
        units = [PROPERTIES[n][2] if n in PROPERTIES else "" for n in self.names]
        config = {
            "property": describe(self.net),
            "codec": dataclasses.asdict(self.codec),
            "names": list(self.names),
            "units": units,
            "metadata": metadata or {},
        }
        return write_module(self, folder, config, half)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PropertyNet:
        """The inverse of :meth:`save_pretrained`; a run folder means its ``model/``.

        The name of shipped weights means the evaluator that comes with them.

        Raises:
            UserError: there is no property network, or its files are damaged.
        """
        here = find_beside(folder, EVALUATOR)
        here = here if (here / CONFIG).exists() else here / MODEL
        try:
            config = json.loads((here / CONFIG).read_text())
            net = build(config["property"])
            codec = AllAtoms(**config["codec"])
            blank = torch.zeros(len(config["names"]))
            made = cls(net, codec, config["names"], blank, blank)
            made.load_state_dict(read_weights(here, config))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} holds no property network ({Path(str(error.filename)).name} is "
                "missing): train one with python -m payoff.domains.molecules.property"
            ) from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{here} holds no property network that loads: {error}") from error
        return made.eval().requires_grad_(False)


class PropertyRun(Loop):
    """One training run of a property network.

    Args:
        config: see :class:`~payoff.domains.molecules.config.PropertyConfig`.
        molecules: what is learned from.
        values: their properties (n, k), in the properties' units.
        out: the run folder.
        held: molecules and values (m, k) that the error is measured on, or None.
    """

    shaping = ("properties", "part", "width", "depth", "pair_width", "vectors", "batch_size")

    def __init__(
        self,
        config: PropertyConfig,
        molecules: Sequence[Molecule],
        values: Tensor,
        out: Path,
        held: tuple[Sequence[Molecule], Tensor] | None = None,
    ) -> None:
        self.config, self.held = config, held
        codec = AllAtoms.fitting(molecules)
        self.x, cond = codec.encode(molecules)
        self.mask = cond["mask"]
        location, spread = standards(values)
        self.targets = ((values.double() - location) / spread).to(self.x)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            widths = {"pair_width": config.pair_width, "vectors": config.vectors}
            net = InvariantTransformer(
                codec.features, values.shape[1], config.width, config.depth, **widths
            )
        self.model = PropertyNet(net, codec, config.names, location, spread)
        super().__init__(config, self.model, self.mask.sum(1), 3, out)
        if config.compile:
            self.model.net.compile()

    def trained(self) -> nn.Module:
        return self.model

    def loss(self) -> Tensor:
        rows, nodes = self.batches.next()
        rows = self.processes.local_rows(rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            found = self.model.standardised(self.x[rows, :nodes], self.mask[rows, :nodes])
        return (found.float() - self.targets[rows]).abs().mean(1)

    def averaged(self) -> PropertyNet:
        """A frozen copy with averaged weights."""
        model = self.frozen()
        assert isinstance(model, PropertyNet)
        return model

    def errors(self) -> dict[str, float]:
        """Mean absolute error on what is held out, by property, in its unit."""
        if self.held is None:
            return {}
        return {f"mae_{k}": v for k, v in errors(self.averaged(), *self.held).items()}

    def evaluate(self) -> None:
        found = self.errors()
        self.log(**found)
        self.export(found)

    def export(self, found: dict[str, float]) -> None:
        """Write the averaged network to ``model/`` with what was measured on it."""
        facts = self.facts(f"QM9, {self.config.part}", found)
        self.averaged().save_pretrained(self.out / MODEL, facts)


def errors(
    net: PropertyNet, molecules: Sequence[Molecule | None], values: Tensor
) -> dict[str, float]:
    """Mean absolute error of each property, in its unit, on molecules whose values are (n, k)."""
    found = (net(molecules) - values).abs().mean(0)
    return {name: float(error) for name, error in zip(net.names, found, strict=True)}


def errors_on(net: PropertyNet, part: str, most: int = 0) -> dict[str, float]:
    """:func:`errors` on a part of QM9, or its first ``most`` molecules.

    On ``second_half`` this is EDM's L-bound for a network that learned from ``first_half``.
    """
    return errors(net, *labelled(load_qm9(), net.names, part, most))


def standards(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean absolute deviation of the columns of (n, k): two (k,) in double precision."""
    values = values.double()
    location = values.mean(0)
    return location, (values - location).abs().mean(0).clamp(min=1e-12)


def naive_error(values: Tensor, *, generator: torch.Generator) -> float:
    r"""The U-bound: the error of labels (n,) shuffled among their molecules.

    In expectation :math:`\frac1{n^2}\sum_{ij}|y_i - y_j|`, Gini's mean difference.
    """
    order = torch.randperm(len(values), generator=generator)
    return float((values[order] - values).double().abs().mean())


def size_error(sizes: Tensor, values: Tensor, new_sizes: Tensor, new_values: Tensor) -> float:
    """The #Atoms bound: the error of the best prediction from the number of atoms alone.

    That is the median of the values (n,) among the molecules of one size (n,); sizes that are new
    get the median of all.
    """
    guess = torch.full((int(max(sizes.max(), new_sizes.max())) + 1,), float(values.median()))
    for size in sizes.unique():
        guess[size] = values[sizes == size].median()
    return float((guess.to(values)[new_sizes] - new_values).double().abs().mean())


def train(
    config: PropertyConfig,
    out: Path,
    *,
    resume: bool = False,
    heard: Callable[[dict[str, Any]], None] | None = None,
) -> PropertyRun:
    """Train on QM9 in ``out`` until the configured end, Ctrl-C or SIGTERM, and export.

    Raises:
        UserError: the folder holds another run and ``resume`` is false, or an option cannot work.
    """
    refuse_folder(out, resume=resume)
    data = load_qm9()
    molecules, values = labelled(data, config.names, config.part)
    if config.batch_size > len(molecules):
        raise UserError(
            f"batch_size {config.batch_size} is more than the {len(molecules)} molecules"
        )
    held = labelled(data, config.names, "valid", config.samples)
    try:
        run = PropertyRun(config, molecules, values, out, held)
    except ValueError as error:  # the network's own rules, such as widths by the heads
        raise UserError(str(error)) from error
    run.to_the_end(heard)
    if run.processes.first:
        run.evaluate()
    return run


def _readable(molecule: Molecule | None) -> bool:
    return molecule is not None and len(molecule) > 0 and bool(molecule.positions.isfinite().all())


def main(arguments: list[str] | None = None) -> None:
    """The command; every option of :class:`PropertyConfig` is a flag."""
    command("payoff.domains.molecules.property", PropertyConfig, train, arguments)


if __name__ == "__main__":
    main()
