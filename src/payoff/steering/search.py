r"""What the searches share: choosing among candidates, and reporting once a call.

A choice among k candidates with log-weights :math:`\ell_i` is one draw with probabilities
:math:`\propto e^{\ell_i}` (``soft``) or the largest (``argmax``). The draw adds Gumbel noise and
takes the largest, so candidates can come in blocks: the largest of the largest is the same draw.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from payoff.metrics.weights import log_mean_exp
from payoff.predictions import Prediction, TokenPrediction
from payoff.spaces import Condition, Scalar
from payoff.steering.base import CALLER, AllFailed, Degenerate, Steered

CHOICES = ("soft", "argmax")


class Search(Steered):
    """A steered sampler that reports on all batches of a call together.

    Attributes:
        noted: what the batches of this call have noted so far: sums by name.
        log_z: the logarithms of each sample's estimate of Z.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._forget()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """The summary and any warning follow the last batch."""
        self._forget()
        yield
        if self.noted:
            self.summary.update(self.report())

    def report(self) -> dict[str, Any]:
        """The summary of a finished call; it warns of what the samples do not show."""
        total = int(self.noted["samples"])
        failed = int(self.noted.get("failed", 0))
        if failed:
            warnings.warn(
                f"{self.name}: no clean candidate of {failed} of {total} samples could be scored "
                "(NaN), and these samples are ones that nothing has chosen. Raise "
                f"{self.size}, or look at why the reward fails",
                Degenerate,
                stacklevel=CALLER + 1,
            )
        found: dict[str, Any] = {"samples": total, "failed": failed}
        for name, value in self.noted.items():
            if name not in found:
                found[name] = float(value) / total
        if self.log_z:
            estimate = log_mean_exp(torch.cat(self.log_z))
            found |= {"log_z": estimate.value, "log_z_stderr": estimate.stderr}
        return found

    def note(self, **sums: Tensor | float) -> None:
        """Add to the sums over samples that the summary shows as means."""
        for name, value in sums.items():
            self.noted[name] = self.noted.get(name, 0.0) + value

    def note_failures(self, failed: Tensor, state: dict[str, Tensor]) -> None:
        """Count samples (n,) of which no reward is known; raise if none of the call's is.

        Raises:
            AllFailed: with ``state``, the batch.
        """
        self.note(samples=len(failed), failed=failed.sum())
        if float(self.noted["failed"]) == self.noted["samples"]:
            raise AllFailed(
                f"{self.name}: the reward of every one of {len(failed)} samples and all their "
                "candidates failed (NaN). Look at what the reward does with a sample of the base; "
                "the error's state holds them",
                state,
            )

    def advance(
        self,
        x: Tensor,
        grid: list[Tensor],
        cond: Condition | None,
        generator: torch.Generator | None,
        prediction: Any = None,
    ) -> Tensor:
        """States (B, ...) at ``grid[0]`` taken to ``grid[-1]``; a first prediction may be known."""
        process = self.denoiser.process
        for t, s in itertools.pairwise(grid):
            prediction = self.denoiser(x, t, cond) if prediction is None else prediction
            kernel = process.reverse(x, t, s, prediction, 1.0, cond)
            x, prediction = kernel.sample(generator=generator), None
        return x

    def time_grid(self, x: Tensor, first: float = 1.0) -> list[Tensor]:
        """The steps + 1 times from ``first`` down to 0, with their noise levels at hand."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        times = self.times(x.device, dtype, torch.tensor(first, device=x.device, dtype=dtype))
        return self.tabulated(times)

    def _forget(self) -> None:
        self.noted: dict[str, Any] = {}
        self.log_z: list[Tensor] = []


def choose(
    logits: Tensor, choice: str = "soft", *, generator: torch.Generator | None = None
) -> Tensor:
    """One index per row of log-weights (..., k): shape (...). A row of −inf alone gives its first.

    ``soft`` draws in proportion to the weights, ``argmax`` takes the largest.
    """
    keys = logits if choice == "argmax" else logits + gumbel(logits, generator=generator)
    return keys.argmax(-1)


def gumbel(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise of ``like``'s shape, in double precision: its tail is long."""
    where = generator.device if generator is not None else like.device
    u = torch.rand(like.shape, generator=generator, device=where, dtype=torch.float64)
    return -torch.log(-torch.log(u)).to(like.device)


def known_or_nothing(scores: Tensor) -> Tensor:
    """Scores as log-weights: one that failed (NaN) has no weight."""
    return torch.where(scores.isnan(), -math.inf, scores)


def effective(logits: Tensor) -> Tensor:
    """What the weights of each row are worth, (..., k) -> (...); 0 where there is no weight."""
    weights = logits.double().softmax(-1).nan_to_num(0.0)
    return (1 / weights.square().sum(-1)).nan_to_num(0.0, 0.0, 0.0)


def indexed(cond: Condition | None, rows: Tensor) -> Condition | None:
    """The rows (k,) of a condition."""
    return None if cond is None else {name: value[rows] for name, value in cond.items()}


def taken(prediction: Any, rows: Tensor) -> Any:
    """The rows (k,) of a prediction."""
    if isinstance(prediction, TokenPrediction):
        return TokenPrediction(prediction.log_probs[rows], prediction.x_t[rows])
    level = [_row(v, rows) for v in (prediction.alpha, prediction.sigma)]
    return Prediction(prediction.x0[rows], prediction.x_t[rows], *level)


def _row(level: Scalar, rows: Tensor) -> Scalar:
    return level[rows] if isinstance(level, Tensor) and level.ndim else level
