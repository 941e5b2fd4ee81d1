"""Options of fine-tuning a model of molecules."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from payoff.configs import option
from payoff.domains.molecules.config import NOISE, PRODUCTS, STEPS
from payoff.errors import UserError
from payoff.experiments.finetune.config import TOY_LOOP, flag, same_option
from payoff.finetuning.config import FinetuneConfig

_JOB, _BASE, _MACHINE = "What to fine-tune for", "The base model", "The machine"
MOLECULES = "Molecules"
SCORED = ("valid", "all")


@dataclass
class OfMolecules:
    """Options of ``payoff finetune`` that only molecules have."""

    data: int = option(
        0,
        "molecules of QM9 that a method which starts from data scores first; 0: none",
        group=MOLECULES,
    )
    scored: str = option(
        "valid",
        "which molecules are scored, the others have failed: valid, those with bonds that explain "
        "every valence, or all",
        group=MOLECULES,
    )
    workers: int = option(
        0,
        "processes that evaluate the reward; 0: the run's own",
        group=MOLECULES,
    )
    products: str = option(
        "auto",
        "what the network's matrix products are taken in: fp32, bf16, or auto: fp32 for what "
        "moves the model, whose small updates bf16 would undo, and the fastest for the rest",
        group=MOLECULES,
    )
    time_limit: float = option(
        20.0, "seconds that a worker may take over a molecule; 0: no limit", group=MOLECULES
    )


@dataclass
class MoleculeConfig(OfMolecules):
    """What to fine-tune, for which reward."""

    source: Any = option("qm9", "shipped weights, a model folder, or a run of payoff train")
    reward: str | None = same_option("reward", _JOB)
    method: str = same_option("method", _JOB)
    settings: list[str] = same_option("settings", _JOB)
    minimize: bool = same_option("minimize", _JOB)
    temperature: float | None = same_option("temperature", _JOB)
    held_out: str | None = same_option("held_out", _JOB)
    ledger: str | None = same_option("ledger", _JOB)
    count: int = same_option("count", _JOB)
    base: str | None = same_option("base", _BASE)
    device: str = same_option("device", _MACHINE)
    threads: int = same_option("threads", _MACHINE)

    def __post_init__(self) -> None:
        """Refuse what cannot work before any time is spent."""
        for name in ("data", "workers", "time_limit", "threads"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{flag(name)} must not be negative, got {value}")
        if self.products not in PRODUCTS:
            raise UserError(f"--products must be one of {', '.join(PRODUCTS)}, got {self.products}")
        if self.scored not in SCORED:
            raise UserError(f"--scored must be one of {', '.join(SCORED)}, got {self.scored!r}")
        if self.count < 1:
            raise UserError(f"--count must be at least 1, got {self.count}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UserError(f"--temperature must be above 0, got {self.temperature:g}")

    @property
    def weights(self) -> str:
        """What the base model is loaded from; of a fine-tuning run given as base, its base."""
        if self.base is None:
            return str(self.source)
        inside = Path(self.base) / "base"
        return str(inside if inside.is_dir() else self.base)


DEFAULTS: dict[str, Any] = {
    "sampler_steps": STEPS,
    "sampler_noise": NOISE,
    "evaluate": 128,  # measuring takes as long as a round
    "noise_floor": 0.01,  # 0.05 sd are 0.06 Å, as much as a bond's margin
}
"""Where molecules need other values than tables do."""
PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULTS,
    "toy": {**DEFAULTS, **TOY_LOOP, "count": 20, "updates": 5},
}
SHARE = 0.3  # sd of the reward that are the temperature: at 0.1 few molecules carry all of p*
RATE, SHIFTED_RATE = 1e-4, 3e-4  # a network of millions of weights is soon somewhere else
VALUED = {
    **{"radius": "4", "latest": "0.7", "value_rate": "0.001", "catch_up": "true", "gain": "5"},
    **{"feasible": "true", "insist": "30"},
}
CONTROLLED = {"control": "true"}
ROUNDS, LEAST, MOST = 8, 100, 2500


def suited(
    method: str, given: list[str], loop: FinetuneConfig, data: int = 0
) -> tuple[list[str], FinetuneConfig]:
    """Options of a method and of its learning that molecules need, unless the user has set them.

    Where rgdm learns a value: it begins with blocks of the base and has learned what a thousand
    scored molecules tell in some hundreds of steps, four for one of the model's, which has learned
    what x_t tells of a shift in some fifty. Beyond t = 0.7, a log-SNR of 0 for the shipped weights,
    a value knows next to nothing of a molecule, and nothing is shifted. The late steps, whose
    slopes are error too, are not left out: they would drift unlearned. What a round asks is learned
    in part only: it catches up. What is asked for leads to where fewer molecules are valid, so the
    chance of that is learned apart and insisted on. Its targets have no noise of samples, so the
    rate may be three times the others'. Regressed on its own few samples, as in rwr and rgdm with
    level=sample, a network drifts away from all of them without the control variate. rgdm begins
    from ``data`` molecules with level=sample.
    """
    named = {key.strip().replace("-", "_"): value.strip() for key, value in map(_pair, given)}
    own: dict[str, str] = {}
    if method == "rgdm" and data and not {"level", "score"} & named.keys():
        own["level"] = "sample"
    if method == "rwr" or (method == "rgdm" and (own | named).get("level") == "sample"):
        own |= CONTROLLED
    elif method == "rgdm" and named.get("score", "value") == "value":
        per_round = min(MOST, max(LEAST, math.ceil(loop.calls / ROUNDS)))
        learning = {"per_round": per_round, "updates": 75, "batch_size": 128}
        loop = loop.filled({**learning, "learning_rate": SHIFTED_RATE})
        own = {**VALUED, "value_steps": str(4 * (loop.updates or 1))}
    loop = loop.filled({"learning_rate": RATE})
    return [*(f"{name}={value}" for name, value in own.items() if name not in named), *given], loop


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def refuse_others(given: set[str], *configs: type, what: str) -> None:
    """Stop if the user set an option that none of these dataclasses has.

    Raises:
        UserError: names the first one.
    """
    own = {field.name for config in configs for field in fields(config)}
    for name in sorted(given - own):
        raise UserError(f"{flag(name)} does not apply to {what}")
