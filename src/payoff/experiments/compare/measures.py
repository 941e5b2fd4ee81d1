"""What a model's fresh samples come to: the columns of the comparison."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.experiments.finetune.setting import Setting
from payoff.finetuning.monitor import floored_kl
from payoff.metrics import Estimate, mean_pairwise_distance, vendi_score
from payoff.samplers import Ancestral
from payoff.spaces import Condition

MEASURES = {
    "median": "median score of the valid samples",
    "mean": "their mean",
    "best": "their best",
    "valid": "share of samples that are valid and have a score",
    "median_all": "median over all samples, failed ones counted as the worst",
    "mean_all": "mean over all samples that have a score",
    "failed": "share of samples without a score",
    "held_out": "median held-out score of the valid samples",
    "support": "median distance from the data; 1 is the data's own 95 % quantile",
    "diversity": "mean distance of two samples, in decorrelated columns",
    "vendi": "effective number of different samples, at the data's own bandwidth",
    "kl": "divergence of the model's paths from the base's, nats, no kernel narrower than sd / 20",
    "spent": "reward calls used to learn or to choose",
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


def sampled(
    denoiser: Denoiser,
    base: Denoiser,
    shape: tuple[int, ...],
    steps: int,
    n: int,
    cond: Condition | None = None,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, Estimate]:
    """N samples of a model, and its divergence from the base with kernels ``BLUR`` wide."""
    seeds = torch.randint(2**60, (2,), generator=generator).tolist()
    first, second = (torch.Generator().manual_seed(seed) for seed in seeds)
    z = Ancestral(denoiser, shape, steps).sample(n, cond, generator=first).clone()
    return z, floored_kl(denoiser, base, shape, steps, n, cond, BLUR, generator=second)


def measure(setting: Setting, z: Tensor) -> dict[str, Any]:
    """The measures of samples z (n, d); scores in the user's direction, None where unknown."""
    return judged(setting, setting.judged(z), setting.designs.project(z))


def judged(setting: Setting, frame: pl.DataFrame, x: Tensor) -> dict[str, Any]:
    """The measures of judged designs, as ``Setting.judged`` makes them, encoded as x (n, D)."""
    names = setting.job.codec.columns
    extra = frame.columns[len(names) :]
    score = frame[extra[0]].to_numpy().astype(float)
    valid, support = frame[extra[-2]].to_numpy(), frame[extra[-1]].to_numpy().astype(float)
    usable, sign = score[valid], setting.sign()
    # failed samples rank below every other
    ranked = np.where(np.isnan(score), -np.inf, sign * score)
    middle = sign * float(np.median(ranked))
    held = None
    if setting.held_out is not None:
        values = frame[extra[1]].to_numpy().astype(float)[valid]
        held = _median(values[np.isfinite(values)])
    rows = setting.base.to_model(x).double().cpu()
    rows = rows[rows.isfinite().all(1)]
    return {
        "samples": len(score),
        "median": _median(usable),
        "mean": float(usable.mean()) if len(usable) else None,
        "best": sign * float((sign * usable).max()) if len(usable) else None,
        "valid": float(valid.mean()),
        "median_all": middle if math.isfinite(middle) else None,
        "mean_all": float(np.nanmean(score)) if np.isfinite(score).any() else None,
        "failed": float(np.isnan(score).mean()),
        "held_out": held,
        "support": float(np.nanmedian(support)) if np.isfinite(support).any() else None,
        "diversity": mean_pairwise_distance(rows).value if len(rows) > 2 else None,
        "vendi": vendi_score(rows[:VENDI], bandwidth(setting)) if len(rows) else None,
    }


def bandwidth(setting: Setting) -> float:
    """Median distance of two rows of the data: one scale for all models, however varied."""
    rows = setting.base.to_model(setting.job.x).double().cpu()
    generator = torch.Generator().manual_seed(0)
    some = rows[torch.randperm(len(rows), generator=generator)[:SPREAD]]
    gaps = torch.nn.functional.pdist(some)
    return float(gaps[gaps > 0].median()) if bool((gaps > 0).any()) else 1.0


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
