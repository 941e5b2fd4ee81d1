r"""Choosing a learned reward by cross-validation, and calibrating its uncertainty.

Every candidate is fitted on K - 1 folds and judged on the one left out. With m and s the held-out
mean and total sd (the noiseless function's and a measurement's), the calibration is the factor c on
all standard deviations for which 90 % of the residuals satisfy :math:`|y - m| \le 1.645\, c\, s`
(with the finite-sample correction of conformal prediction). The reported coverage of a fold uses
the factor of the other folds, so it is an honest estimate.

Designs, however, lie beyond the labelled rows, where a model that is calibrated among them can be
far too sure of itself. A second factor, ``extrapolation``, is what the same intervals need on the
best fifth of the rows when these are held out together; it widens the intervals reported for
designs and nothing else.

The simplest candidate is kept unless another one's squared error is lower by more than one standard
error of the paired difference: with noisy labels a smaller gap is no evidence.

Reference for the correction: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World"
(2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from payoff.rewards.ensemble import Ensemble
from payoff.rewards.learned import LearnedReward, Ridge, check_rows

LEVEL = 0.9
Z_LEVEL = 1.6448536269514722  # the normal's two-sided 90 % point
CANDIDATES = ("ridge", "ensemble")  # from simple to flexible
BEST_SHARE = 0.2  # of the rows, by label: what extrapolation is judged on
MIN_BEST = 10


@dataclass(frozen=True)
class Candidate:
    """How one regressor did on rows it had not seen.

    Attributes:
        name: "ridge" or "ensemble".
        spearman: rank correlation of held-out predictions with the labels.
        rmse: root mean squared error against the (noisy) labels, in their units.
        r2: 1 - squared error / variance of the labels.
        coverage: share of held-out labels inside their calibrated 90 % interval.
        calibration: factor put on the predicted standard deviations.
    """

    name: str
    spearman: float
    rmse: float
    r2: float
    coverage: float
    calibration: float


@dataclass
class FittedReward:
    """The chosen regressor, fitted on all labelled rows, and the evidence for the choice.

    Attributes:
        reward: the regressor, calibrated.
        chosen: the report of the one that was chosen.
        candidates: one report each.
        reason: one sentence on the choice.
        held_out: held-out predictions (n,) of the chosen one, in the order of the labels.
        held_out_std: their calibrated total sd (n,), the measurement's noise included.
    """

    reward: LearnedReward
    chosen: Candidate
    candidates: list[Candidate]
    reason: str
    held_out: Tensor = field(repr=False)
    held_out_std: Tensor = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Plain values for a run record."""
        candidates = [
            {
                "name": c.name,
                "rank_correlation": c.spearman,
                "rmse": c.rmse,
                "r2": c.r2,
                "coverage90": c.coverage,
                "calibration": c.calibration,
            }
            for c in self.candidates
        ]
        return {
            "chosen": self.chosen.name,
            "reason": self.reason,
            "noise_sd": float(self.reward.noise),
            "extrapolation": float(self.reward.extrapolation),
            "candidates": candidates,
        }


def fit_reward(
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    folds: int = 5,
    candidates: Sequence[str] = CANDIDATES,
    context: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedReward:
    """Cross-validate the candidates, choose one, fit it on all rows and calibrate it.

    Args:
        x: encoded labelled rows (n, D), roughly standardised.
        y: labels (n,), higher is better.
        generator: source of the folds and subsets; the same seed gives the same fit.
        folds: number of folds (at most n).
        candidates: names out of "ridge", "ensemble", simplest first.
        context: all encoded rows (m, D), labelled or not: their covariance helps the ensemble.
        progress: called as ``progress(done, total)`` after every fit.

    Raises:
        ValueError: the shapes do not fit, a value is not finite or a name is unknown.
    """
    x, y = check_rows(x, y)
    unknown = [name for name in candidates if name not in CANDIDATES]
    if unknown or not candidates:
        raise ValueError(f"candidates={list(candidates)}; choose from {', '.join(CANDIDATES)}")
    folds = min(folds, len(y))
    if folds < 2:
        raise ValueError(f"folds={folds}; cross-validation needs at least 2")
    order = torch.randperm(len(y), generator=generator, device=generator.device).to(y.device)
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(y), device=y.device) % folds
    total = len(candidates) * folds + 1
    done = 0
    held: dict[str, tuple[Tensor, Tensor]] = {}
    for name in candidates:
        mean, std = torch.empty_like(y), torch.empty_like(y)
        for k in range(folds):
            inside, outside = fold != k, fold == k
            reward = _fit(name, x[inside], y[inside], generator, context)
            m, s = reward.predict(x[outside])
            mean[outside] = m
            std[outside] = (s.square() + reward.noise.square()).sqrt()
            done += 1
            if progress is not None:
                progress(done, total)
        held[name] = (mean, std)
    reports = [_judge(name, y, *held[name], fold, folds) for name in candidates]
    chosen, reason = _choose(reports, held, y)
    reward = _fit(chosen.name, x, y, generator, context)
    reward.calibration = torch.as_tensor(chosen.calibration).to(y)
    reward.noise = reward.noise * chosen.calibration
    stretch = _beyond_the_best(chosen, x, y, generator, context)
    reward.extrapolation = torch.as_tensor(stretch).to(y)
    if progress is not None:
        progress(total, total)
    mean, std = held[chosen.name]
    return FittedReward(reward, chosen, reports, reason, mean, std * chosen.calibration)


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two (n,) tensors, ties sharing their mean rank; 0 if one is constant."""
    ra, rb = _ranks(a), _ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    scale = float(ra.norm() * rb.norm())
    return float(ra @ rb) / scale if scale > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[which]


def _fit(
    name: str, x: Tensor, y: Tensor, generator: torch.Generator, context: Tensor | None
) -> LearnedReward:
    if name == "ridge":
        return Ridge.fit(x, y)
    return Ensemble.fit(x, y, generator=generator, context=context)


def _calibration(residual: Tensor) -> float:
    """Factor that puts 90 % of the scaled residuals |y - m| / s inside +-1.645."""
    n = len(residual)
    rank = min(n, math.ceil(LEVEL * (n + 1)))
    return max(float(residual.sort().values[rank - 1]) / Z_LEVEL, 1e-3)


def _beyond_the_best(
    chosen: Candidate, x: Tensor, y: Tensor, generator: torch.Generator, context: Tensor | None
) -> float:
    """Factor on calibrated sds that 90 % intervals need beyond the labels, at least 1.

    Rows held out at random lie among the others; designs are chosen to lie beyond them. So the best
    fifth of the rows is held out together, and predicted from the rest.
    """
    count = max(MIN_BEST, round(BEST_SHARE * len(y)))
    if len(y) - count < MIN_BEST:
        return 1.0
    order = y.argsort()
    rest, best = order[:-count], order[-count:]
    reward = _fit(chosen.name, x[rest], y[rest], generator, context)
    mean, std = reward.predict(x[best])
    total = (std.square() + reward.noise.square()).sqrt() * chosen.calibration
    return max(1.0, _calibration((y[best] - mean).abs() / total.clamp(min=1e-12)))


def _judge(name: str, y: Tensor, mean: Tensor, std: Tensor, fold: Tensor, folds: int) -> Candidate:
    residual = (y - mean).abs() / std.clamp(min=1e-12)
    inside = torch.zeros_like(y)
    for k in range(folds):
        inside[fold == k] = (residual[fold == k] <= Z_LEVEL * _calibration(residual[fold != k])).to(
            y
        )
    error = float((y - mean).square().mean())
    variance = max(float(y.var(correction=0)), 1e-24)
    return Candidate(
        name=name,
        spearman=spearman(mean, y),
        rmse=math.sqrt(error),
        r2=1 - error / variance,
        coverage=float(inside.mean()),
        calibration=_calibration(residual),
    )


def _choose(
    reports: list[Candidate], held: dict[str, tuple[Tensor, Tensor]], y: Tensor
) -> tuple[Candidate, str]:
    chosen = reports[0]
    if len(reports) == 1:
        return chosen, f"{chosen.name} was asked for (held-out error {chosen.rmse:.4g})"
    reason = ""
    for other in reports[1:]:
        gain = (y - held[chosen.name][0]).square() - (y - held[other.name][0]).square()
        standard_error = float(gain.std()) / math.sqrt(len(y))
        if float(gain.mean()) > standard_error:
            reason = (
                f"{other.name}: held-out error {other.rmse:.4g} against {chosen.rmse:.4g} "
                f"of {chosen.name}"
            )
            chosen = other
        else:
            reason = (
                f"{chosen.name}: the simpler one, held-out error {chosen.rmse:.4g} against "
                f"{other.rmse:.4g} of {other.name}, not clearly worse"
            )
    return chosen, reason
