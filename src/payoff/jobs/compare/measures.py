"""The columns of a comparison: measures of a model's fresh samples, of any kind of object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.base import Domain, select
from payoff.finetuning.monitor import floored_kl
from payoff.jobs.model import Model
from payoff.jobs.scoring import Scored
from payoff.jobs.tilt import Tilt
from payoff.metrics import Estimate, mean_pairwise_distance, vendi_score

MEASURES = {
    "reward": "mean score of all samples",
    "median": "median score of the valid samples",
    "mean": "their mean",
    "top": "mean score of the best tenth of all samples",
    "best": "the best score",
    "valid": "share of samples that are valid and have a score",
    "median_all": "median over all samples, failed ones counted as the worst",
    "mean_all": "mean over all samples that have a score",
    "failed": "share of samples without a score",
    "held_out": "median held-out score of the valid samples",
    "held_out_mean": "mean held-out score of the valid samples",
    "support": "median distance from the data; 1 is the data's own 95 % quantile",
    "diversity": "mean distance of two samples, in the model's coordinates",
    "vendi": "effective number of different samples, at the data's own bandwidth",
}
COSTS = {
    "kl": "divergence of the model's paths from the base's, nats, no kernel narrower than sd / 20",
    "spent": "reward calls used to learn or to choose; for a steering method those of 100 samples",
    "distinct": "different designs among them",
    "network": "network evaluations for that, those of learning included; for a steering method "
    "and best-of-n those of drawing 100 designs",
    "backward": "how many of these were differentiated by the input",
    "seconds": "time for that, without training the base and without judging",
    "memory": "largest memory of the process, MiB",
}
SPREAD = 1000  # rows that the data's bandwidth is taken from
BLUR = 0.05  # least width of a kernel for the divergence, in data sd
VENDI = 1000  # samples that the effective number is taken from


def help_of(domain: type[Domain]) -> dict[str, str]:
    """Explanations of the columns that a kind is compared by, in the order of the table."""
    known = {**MEASURES, **domain.measure_help}
    own = {name: known.get(name, name.replace("_", " ")) for name in domain.compared}
    own |= {name: text for name, text in domain.measure_help.items() if name not in own}
    return {**own, **COSTS}


def divergence(tilt: Tilt, denoiser: Denoiser, stream: int, n: int, **given: Any) -> Estimate:
    """Divergence of a model's paths from the base's, nats, over n paths.

    ``given`` are conditions that take the place of the domain's own.
    """
    generator = tilt.generator(stream)
    cond = tilt.base.conditions(n, generator) | given
    steps, shape, base = tilt.job.sampler_steps, tilt.domain.shape, tilt.base.denoiser
    return floored_kl(denoiser, base, shape, steps, n, cond or None, BLUR, generator=generator)


def measured(
    tilt: Tilt, objects: Sequence[Any], temperature: float | None, kl: float | None = None
) -> tuple[dict[str, Any], Scored]:
    """Measures of objects, and the scored objects; scores in the user's direction."""
    scored = Scored.of(tilt.domain, objects, tilt.reward, tilt.held_out, tilt.support)
    return judged(tilt, scored, temperature, kl), scored


def judged(
    tilt: Tilt, scored: Scored, temperature: float | None, kl: float | None = None
) -> dict[str, Any]:
    """The measures of scored objects; None where one is unknown."""
    score = scored.column("score").to_numpy().astype(float)
    valid = scored.column("valid").to_numpy().astype(bool)
    usable, sign, known = score[valid], tilt.sign, score[np.isfinite(score)]
    # failed samples rank below every other
    ranked = np.where(np.isnan(score), -np.inf, sign * score)
    middle = sign * float(np.median(ranked))
    best = np.sort(sign * usable)[::-1][: max(1, len(score) // 10)]
    held = np.array([])
    if "held_out" in scored.names:
        held = scored.column("held_out").to_numpy().astype(float)[valid]
        held = held[np.isfinite(held)]
    support = np.array([math.nan])
    if "support" in scored.names:
        support = scored.column("support").to_numpy().astype(float)
    found = {
        "samples": len(score),
        "reward": _mean(known),
        "reward_stderr": _stderr(known),
        "median": _median(usable),
        "mean": _mean(usable),
        "mean_stderr": _stderr(usable),
        "top": sign * float(best.mean()) if len(best) else None,
        "best": sign * float((sign * usable).max()) if len(usable) else None,
        "valid": float(valid.mean()),
        "median_all": middle if math.isfinite(middle) else None,
        "mean_all": _mean(known),
        "failed": float(np.isnan(score).mean()),
        "held_out": _median(held),
        "held_out_mean": _mean(held),
        "support": float(np.nanmedian(support)) if np.isfinite(support).any() else None,
        **_variety(tilt, scored.objects),
    }
    known_ones = tilt.data.known if tilt.data is not None else tilt.domain.known()
    found |= tilt.domain.measures(scored.objects, known_ones, temperature=temperature, kl=kl)
    return _wanted(found, type(tilt.domain))


def _wanted(found: Mapping[str, Any], domain: type[Domain]) -> dict[str, Any]:
    """The measures that a kind is compared by, with their standard errors, and its own."""
    shared = {*MEASURES} - {*domain.compared, *domain.measure_help}
    dropped = {*shared, *(f"{name}_stderr" for name in shared)}
    return {name: value for name, value in found.items() if name not in dropped}


def _variety(tilt: Tilt, objects: Sequence[Any]) -> dict[str, Any]:
    """Distances of samples as the model sees them; of sets of different sizes they mean nothing."""
    there = [i for i, thing in enumerate(objects) if thing is not None]
    nothing = {"diversity": None, "vendi": None}
    if len(there) < 3 or "mask" in tilt.domain.conditions(1, None, tilt.generator(0)):
        return nothing
    x, _ = tilt.domain.encode(select(objects, there))
    if not x.is_floating_point():
        return nothing
    rows = x.flatten(1).double()
    return {
        "diversity": mean_pairwise_distance(rows).value,
        "vendi": vendi_score(rows[:VENDI], bandwidth(tilt)),
    }


def bandwidth(tilt: Tilt) -> float:
    """Median distance of two rows of the data: one scale for all models, however varied."""
    if tilt.data is None:
        return 1.0
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(len(tilt.data.objects), generator=generator)[:SPREAD].tolist()
    x: Tensor = tilt.domain.encode(select(tilt.data.objects, places))[0]
    gaps = torch.nn.functional.pdist(x.flatten(1).double())
    return float(gaps[gaps > 0].median()) if bool((gaps > 0).any()) else 1.0


def network_of(model: Model) -> Denoiser:
    """The denoiser of a model, frozen."""
    return model.denoiser.requires_grad_(False).eval()


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _stderr(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
