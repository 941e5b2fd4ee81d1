r"""What a run of particles reports, and when it complains.

Gaussian log-weights of standard deviation s leave an effective sample of
:math:`Ke^{-s^2}`, and beyond :math:`s=\sqrt{2\log K}` the largest of K carries them all, however
large K is within reason. That is where a temperature is called too small for the number of
particles.

Reference: Random-Energy Model: An Exactly Solvable Model of Disordered Systems (Derrida, 1981) for
the transition; Curse-of-dimensionality Revisited: Collapse of the Particle Filter in Very Large
Scale Systems (Bengtsson, Bickel, Li, 2008) for particles.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from payoff.metrics import log_mean_exp
from payoff.steering.base import Degenerate
from payoff.steering.population import Population

LEAST_ESS = 2.0  # effective samples at the end below which a population is one particle
FEW = 0.1  # share of different samples of a population below which they count as copies


class Watch:
    """Collects what populations report over the batches of one call.

    Args:
        name: of the method.
        particles: K.
        temperature: τ, to suggest another.
        checks: how often each particle is asked for a value.
    """

    def __init__(self, name: str, particles: int, temperature: float, checks: int) -> None:
        self.name, self.particles = name, particles
        self.temperature, self.checks = temperature, checks
        self.columns: dict[str, list[Tensor]] = {}

    def add(self, population: Population, handed_out: Tensor | None = None) -> None:
        """Note populations at the end of a batch; ``handed_out`` (P, K) if all are returned."""
        history = population.history
        rows = {
            "ess": population.ess,
            "log_z": population.log_z,
            "dead": population.dead,
            "failed": population.values.isnan().sum(1),
            "ancestors": population.ancestors,
            "resampled": history.resampled[:, 0],
            "least_ess": history.norm[:, 0] ** -2,
            "spread": torch.fmax(history.spread[:, 0], _spread(population.log_weights)),
            "answered": history.answered[:, 0],
        }
        if handed_out is not None:
            ordered = handed_out.sort(1).values
            rows["distinct"] = (ordered.diff(dim=1) != 0).sum(1) + 1
        for name, value in rows.items():
            self.columns.setdefault(name, []).append(value)

    @property
    def all_failed(self) -> bool:
        """Whether no population has a particle of any weight."""
        return bool(torch.cat(self.columns["dead"]).all())

    def summary(self) -> dict[str, Any]:
        """Numbers for a run's record; means over populations unless the name says otherwise."""
        found = {k: torch.cat(v).double() for k, v in self.columns.items()}
        z = log_mean_exp(found["log_z"])
        asked = len(found["ess"]) * self.particles * self.checks
        result: dict[str, Any] = {
            "populations": len(found["ess"]),
            "particles": self.particles,
            "ess": float(found["ess"].mean()),
            "least_ess": float(found["least_ess"].mean()),
            "log_z": z.value,
            "log_z_stderr": z.stderr,
            "resampled": float(found["resampled"].mean()),
            "ancestors": float(found["ancestors"].mean()),
            "failed": int(found["failed"].sum()),
            "failed_populations": int(found["dead"].sum()),
            "missing_values": asked - int(found["answered"].sum()),
            "spread": float(found["spread"].mean()),
        }
        if "distinct" in found:
            result["distinct"] = float(found["distinct"].mean())
        return result

    def warn(self, level: int = 3) -> None:
        """Say what makes the samples worth less than their number, ``level`` calls up from here."""
        if self.columns:
            for message in self.complaints():
                warnings.warn(f"{self.name}: {message}", Degenerate, stacklevel=level)

    def complaints(self) -> list[str]:
        """Sentences with a number and what to change."""
        s, k, found = self.summary(), self.particles, []
        populations = s["populations"]
        if s["failed_populations"]:
            found.append(
                f"every reward was NaN or -inf in {s['failed_populations']} of {populations} "
                f"populations of {k} particles; they return samples of the base model. Use more "
                "particles, or look at what the reward fails on"
            )
        limit = math.sqrt(2 * math.log(k)) if k > 1 else math.inf
        if s["spread"] > limit:
            found.append(
                f"temperature {self.temperature:g} is too small for {k} particles: at a check or "
                f"at the end their log-weights have a standard deviation of {s['spread']:.3g} "
                f"nats, and above {limit:.2g} one of them carries the weight. Raise it to about "
                f"{self.temperature * s['spread'] / limit:.2g}, use more particles, or check more "
                "often (every)"
            )
        elif s["ess"] < min(LEAST_ESS, 0.4 * k):
            found.append(
                f"the {k} particles of a population are worth {s['ess']:.2f} at the end: samples "
                "are close to those without steering or to copies of a few. Use more particles, "
                "another value, or a higher temperature"
            )
        if s.get("distinct", math.inf) < max(2.0, FEW * k):
            found.append(
                f"of the {k} samples of a population {s['distinct']:.1f} are different: the others "
                "are identical offspring. Use keep = draw, more particles, or a higher temperature"
            )
        share = s["missing_values"] / max(1, populations * k * self.checks)
        if share > 0.5:
            found.append(
                f"{100 * share:.0f} % of the values on the way failed (NaN), and their particles "
                "went on with the last known ones: the reward may not accept clean estimates. Use "
                "value = posterior or a learned value"
            )
        return found


def _spread(log_weights: Tensor) -> Tensor:
    """The standard deviation of those that are not −inf, (P,); NaN where there are none."""
    known = log_weights > -math.inf
    count = known.sum(1, keepdim=True)
    mean = torch.where(known, log_weights, 0.0).sum(1, keepdim=True) / count
    off = torch.where(known, log_weights - mean, 0.0)
    return (off.square().sum(1) / count[:, 0]).sqrt()
