"""Options of ``payoff sample``."""

from __future__ import annotations

from dataclasses import dataclass

from payoff.configs import option
from payoff.jobs.options import MATMUL_PRECISIONS, Checked


@dataclass
class SampleOptions(Checked):
    """How many objects to draw, and how."""

    count: int = option(100, "number of designs")
    aim: float | None = option(
        None, "runs of payoff design: the score to aim at; default: the run's own"
    )
    seed: int = option(1, "another seed gives other designs")
    sampler_steps: int | None = option(None, "steps of the sampler; default: as the run has them")
    matmul_precision: str | None = option(
        None,
        "precision of matrix products: fp32, bf16 or auto; default: as the run has it",
    )
    guide: str | None = option(
        None, "folder of the guide for --property; default: the one that comes with the kind"
    )
    properties: list[str] = option([], "a value to ask for: alpha=95", metavar="NAME=VALUE")
    strength: float = option(1.0, "with --property: of the guide; 1 is Bayes' rule")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "count", "sampler_steps")
        self.one_of("matmul_precision", (None, *MATMUL_PRECISIONS))
