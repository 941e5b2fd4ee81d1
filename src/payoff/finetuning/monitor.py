"""What is watched while a model is tuned, when to stop, and which weights to keep."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.metrics.diversity import mean_pairwise_distance, vendi_score
from payoff.metrics.estimate import Estimate
from payoff.metrics.paths import path_kl
from payoff.processes import GaussianProcess
from payoff.rewards.base import Reward
from payoff.samplers import DDIM, stochastic
from payoff.spaces import Condition, Tokens

Valid = Callable[[Tensor, Condition | None], Tensor]
VENDI_SAMPLES = 256


class Monitor:
    r"""Reward, divergence from the base, diversity and validity of a model being tuned.

    A tuned reward always rises, also when the designs get worse; what tells is a reward that the
    tuning never sees, how far the model has moved, and how varied and valid its samples are.

    Args:
        held_out: another judge of the same thing; never used to learn, only to stop and to choose.
        valid: valid(x, cond) -> (n,) bool.

    Attributes:
        history: one dict of plain numbers a measured round: ``round``, ``calls``, ``failed``,
            ``reward`` (mean over the round's scored samples), ``reward_best``, ``loss``, ``kl`` and
            ``kl_stderr`` (paths, nats), ``held_out`` and ``held_out_stderr``, ``valid``,
            ``diversity`` (mean pairwise distance), ``vendi``, ``seconds``, ``reward_seconds``.
            Round 0 is the base.
        stopped: why the run ended before its calls did, or None.
        best: the round whose weights are returned.
    """

    def __init__(self, held_out: Reward | None = None, valid: Valid | None = None) -> None:
        self.held_out, self.valid = held_out, valid
        self.forget()

    def forget(self) -> None:
        """Begin anew: what an earlier run has left is not this one's."""
        self.history: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.best = 0

    @torch.no_grad()
    def measure(
        self,
        denoiser: Denoiser,
        base: Denoiser,
        shape: tuple[int, ...],
        steps: int,
        n: int,
        cond: Condition | None = None,
        *,
        noise_floor: float = 0.0,
        noise: float | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """Everything that can be measured on n fresh samples; for kl see :func:`floored_kl`.

        ``noise`` as in :func:`payoff.samplers.stochastic`, which draws them.
        """
        x = stochastic(denoiser, shape, steps, noise).sample(n, cond, generator=generator).clone()
        models = denoiser, base
        divergence = floored_kl(*models, shape, steps, n, cond, noise_floor, generator=generator)
        found = {"kl": divergence.value, "kl_stderr": divergence.stderr, "held_out": None}
        found |= {"held_out_stderr": None, "valid": None, "diversity": None, "vendi": None}
        if self.held_out is not None:
            held = Estimate.of(self.held_out(x, None if cond is None else dict(cond)))
            found |= {"held_out": held.value, "held_out_stderr": held.stderr}
        if self.valid is not None:
            found["valid"] = float(self.valid(x, cond).double().mean())
        if x.is_floating_point() and bool(x.isfinite().all()):
            found["diversity"] = mean_pairwise_distance(x).value
            found["vendi"] = vendi_score(x[:VENDI_SAMPLES])
        if isinstance(denoiser.process.space, Tokens):
            found["diversity"] = _hamming(x)
        return {k: None if v is not None and not math.isfinite(v) else v for k, v in found.items()}

    def judge(
        self, entry: dict[str, Any], max_kl: float, patience: int, keep: str = "best"
    ) -> bool:
        """Take note of a measured round; whether its weights are the best so far.

        With a held-out reward the best is the round where that is highest; without one, or to
        ``keep`` the last, the latest. A round beyond ``max_kl`` never is. Sets :attr:`stopped` when
        the run should end.
        """
        self.history.append(entry)
        if max_kl and entry["kl"] is not None and entry["kl"] > max_kl:
            self.stopped = (
                f"the divergence from the base, {entry['kl']:.3g} nats, went beyond max_kl = "
                f"{max_kl:g} in round {entry['round']}"
            )
            return False
        if entry["kl"] is None:
            self.stopped = (
                f"the divergence from the base is not finite in round {entry['round']}: the model "
                "has broken down, try a lower learning rate"
            )
            return False
        if self.held_out is None or (keep == "last" and not patience):
            self.best = entry["round"]
            return True
        earlier = [e for e in self.history if e["round"] == self.best]
        value, before = entry["held_out"], earlier[0]["held_out"] if earlier else None
        better = value is not None and (before is None or value > before)
        if better or len(self.history) == 1:
            self.best = entry["round"]
            return True
        if patience and entry["round"] - self.best >= patience:
            self.stopped = (
                f"the held-out reward has not risen for {patience} rounds: {_told(value)} in round "
                f"{entry['round']}, {_told(before)} in round {self.best}, whose weights are kept"
            )
        return False


def floored_kl(
    denoiser: Denoiser,
    base: Denoiser,
    shape: tuple[int, ...],
    steps: int,
    n: int,
    cond: Condition | None = None,
    noise_floor: float = 0.0,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The divergence of a model's paths from the base's, nats, over n ancestral paths.

    Of kernels at least ``noise_floor`` wide, in the data's sd: where they get narrower nothing is
    decided any more, and yet the last of them alone can be nine tenths of the whole.
    """
    models = (with_floor(model, noise_floor) for model in (denoiser, base))
    mine, theirs = (DDIM(model, shape, steps, eta=1.0) for model in models)
    return path_kl(mine, theirs, n, cond, generator=generator)


def with_floor(denoiser: Denoiser, noise_floor: float) -> Denoiser:
    """The same model, its reverse kernels at least ``noise_floor`` data sd wide."""
    process = denoiser.process
    if not isinstance(process, GaussianProcess):
        return denoiser
    floor = noise_floor * getattr(denoiser, "sigma_data", 1.0)
    other = copy.copy(denoiser)
    other.process = replace(process, noise_floor=max(process.noise_floor, floor))
    return other


def _told(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _hamming(x: Tensor) -> float:
    """Mean number of positions in which two different rows differ."""
    same = torch.stack([(x == row).sum(1) for row in x[:VENDI_SAMPLES]]).double()
    n = len(x)
    return float((x.shape[1] - same).sum() / (len(same) * (n - 1)))
