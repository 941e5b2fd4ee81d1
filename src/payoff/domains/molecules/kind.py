"""Molecules in three dimensions as a kind: sources, options and defaults."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payoff.configs import option
from payoff.domains.kind import NO, OWN, Kind
from payoff.domains.molecules.config import DATA_SET, NOISE, PARTS, STEPS
from payoff.errors import UserError

GROUP = "Molecules"
CODEC_NAMES = ("united", "all")
STRUCTURES = (".sdf", ".sd", ".xyz", ".smi")
TABLES = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq")


@dataclass
class MoleculeOptions:
    """Options that only molecules have."""

    smiles: str | None = option(
        None, "the column of SMILES of a table: its rows are molecules", group=GROUP
    )
    codec: str | None = option(
        None,
        "nodes of the network: united (a heavy atom with its hydrogens) or all (any atom); "
        "default: that of the base model; from scratch united, if the molecules can be so",
        group=GROUP,
    )
    part: str = option("train", f"{DATA_SET}: the part that is read", group=GROUP)
    labelled: float = option(
        0.05, f"{DATA_SET}: share of the molecules that get a label", group=GROUP
    )
    noise: float = option(
        0.0, f"{DATA_SET}: noise of the labels, as a share of the scores' sd", group=GROUP
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work before any time is spent."""
        if self.codec not in (None, *CODEC_NAMES):
            raise UserError(f"--codec {self.codec}: choose one of {', '.join(CODEC_NAMES)}")
        if self.part not in PARTS:
            raise UserError(f"--part {self.part}: choose one of {', '.join(PARTS)}")
        if not 0 < self.labelled <= 1:
            raise UserError(f"--labelled is a share in (0, 1], got {self.labelled}")
        if not 0 <= self.noise < math.inf:
            raise UserError(f"--noise must not be negative, got {self.noise}")


def reads(source: Any, given: Collection[str]) -> int:
    """Claim QM9, files of molecules and tables with a column of SMILES.

    Of a table only the first hundred lines are read.

    Raises:
        UserError: the user set an option of QM9 for a file.
    """
    if not isinstance(source, (str, Path)):
        return NO
    if str(source) == DATA_SET:
        return OWN
    path = Path(source)
    ending = path.suffix.lower()
    found = ending in STRUCTURES
    if not found and ending in TABLES and path.is_file():
        if "smiles" in given:
            found = True
        else:
            from payoff.domains.molecules.columns import is_molecules

            found = is_molecules(path)
    if found and "part" in given:
        raise UserError(f"--part is for {DATA_SET} only: the molecules of {source} are all taken")
    return OWN if found else NO


SAMPLING = {"sampler_steps": STEPS, "sampler_noise": NOISE, "matmul_precision": "auto"}
# at a temperature of 0.1 sd few molecules carry all of p*
TILT = {**SAMPLING, "temperature_share": 0.3}
FINETUNE = {
    **TILT,
    "evaluate": 128,  # measuring takes as long as a round
    "noise_floor": 0.01,  # 0.05 sd are 0.06 Å, as much as a bond's margin
    "data": 0,
}
DESIGN = {
    **SAMPLING,
    # drawing a molecule takes a thousand times as long as drawing a row of a table
    **{"sweep": 40, "enough": 10, "sweep_anyway": False, "oversample": 1, "keep_refused": True},
    **{"diversity": 0.0, "order": "nearest", "novelty": "identity"},
}
TOY_DESIGN = {
    **{"width": 32, "depth": 1, "steps": 150, "sampler_steps": 10, "count": 20, "aims": 4},
    **{"part": "test", "oversample": 1},
}
TIME_LIMIT = 20.0
"""Seconds that a worker may take over a molecule: a thousand times the usual."""
RATE, SHIFTED_RATE = 1e-4, 3e-4  # a network of millions of weights is soon somewhere else
VALUED = {
    **{"radius": "4", "latest": "0.7", "value_rate": "0.001", "catch_up": "true", "gain": "5"},
    **{"feasible": "true", "insist": "30"},
}
CONTROLLED = {"control": "true"}
ROUNDS, LEAST_PER_ROUND, MOST_PER_ROUND = 8, 100, 2500
CALLS = 10_000


def method_defaults(
    job: str, method: str, settings: Mapping[str, str], options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Settings of a method and options of a job that molecules need, where the user set none.

    Where rgdm learns a value: it begins with blocks of the base and has learned what a thousand
    scored molecules tell in some hundreds of steps, four for one of the model's, which has learned
    what x_t tells of a shift in some fifty. Beyond t = 0.7, a log-SNR of 0 for the shipped weights,
    a value knows next to nothing of a molecule, and nothing is shifted. The late steps, whose
    slopes are error too, are not left out: they would drift unlearned. Of the tilt that a round
    plans, only a part is learned: the plan is raised accordingly. The reward's direction leads to
    where fewer molecules are valid, so the chance of a valid one is learned apart, with a weight.
    The targets have no noise of samples, so the rate may be three times the others'. Regressed on
    its own few samples, as in rwr and rgdm with level=sample, a network drifts away from all of
    them without the control variate. rgdm begins from ``data`` molecules with level=sample.

    Returns:
        settings of the method by name, and options of the job by name.
    """
    limits = {"time_limit": TIME_LIMIT} if options.get("workers") else {}
    if job == "steer":
        return {}, limits
    own: dict[str, str] = {}
    filled: dict[str, Any] = {}
    if method == "rgdm" and options.get("data") and not {"level", "score"} & settings.keys():
        own["level"] = "sample"
    if method == "rwr" or (method == "rgdm" and {**own, **settings}.get("level") == "sample"):
        own |= CONTROLLED
    elif method == "rgdm" and settings.get("score", "value") == "value":
        calls = options.get("calls") or CALLS
        per_round = min(MOST_PER_ROUND, max(LEAST_PER_ROUND, math.ceil(calls / ROUNDS)))
        filled = {"per_round": per_round, "updates": 75, "batch_size": 128}
        filled["learning_rate"] = SHIFTED_RATE
        updates = options.get("updates") or filled["updates"]
        own = {**VALUED, "value_steps": str(4 * updates)}
    filled = {"learning_rate": RATE, **filled}
    unset = {name: value for name, value in filled.items() if options.get(name) is None}
    return {name: v for name, v in own.items() if name not in settings}, {**unset, **limits}


KIND = Kind(
    name="molecules",
    help="qm9, an SDF, XYZ or .smi file, or a table with a column of SMILES",
    reads=reads,
    domain="payoff.domains.molecules.domain:Molecules",
    options=MoleculeOptions,
    sources=(DATA_SET,),
    defaults={
        "finetune": FINETUNE,
        "finetune:toy": {"updates": 5},
        "steer": TILT,
        "compare": {"temperature_share": 0.3, "matmul_precision": "auto"},
        "design": DESIGN,
        "design:toy": TOY_DESIGN,
        "design.guide": {"learning_rate": 1e-3},
        "design.labels": {"learning_rate": 5e-4},
    },
    method_defaults=method_defaults,
    packages=("rdkit", "tblite", "dftd4"),
    plural="molecules",
    formats=(".sdf", ".xyz", ".smi"),
)
