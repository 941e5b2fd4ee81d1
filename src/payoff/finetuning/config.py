"""Options that all fine-tuning methods share."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from payoff.configs import option
from payoff.errors import UserError


@dataclass
class FinetuneConfig:
    """How much to spend and when to stop; None leaves a choice to the method."""

    calls: int = option(10_000, "reward calls to spend: designs scored while learning")
    per_round: int | None = option(None, "designs scored a round; default: the method's own")
    updates: int | None = option(None, "optimiser steps a round; default: the method's own")
    batch_size: int | None = option(
        None, "rows or transitions an optimiser step; default: the method's own"
    )
    learning_rate: float | None = option(None, "peak learning rate; default: the method's own")
    sampler_steps: int = option(25, "steps of the sampler")
    sampler_noise: float | None = option(
        None,
        "draw samples by the second-order method with so many times DDPM's noise, which forgets "
        "more of the model's errors; default: DDPM's own steps, as paths always are",
    )
    noise_floor: float = option(
        0.05,
        "least noise of a step while tuning, in the data's sd: without one, nearly all divergence "
        "and all variance of a policy gradient sit in the last step",
    )
    gradient_clip: float = option(1.0, "largest gradient norm; 0: no limit")
    ema_decay: float = option(0.95, "decay of the weight average that is measured and returned")
    max_kl: float = option(0.0, "stop beyond this divergence from the base, nats; 0: never")
    patience: int = option(
        0, "stop after so many rounds without a better held-out reward; 0: never"
    )
    evaluate: int = option(
        256, "samples drawn to measure divergence, diversity and held-out reward"
    )
    evaluate_every: int = option(1, "rounds between two measurements")
    keep: str = option(
        "best", "weights to return: best (by the held-out reward, if there is one) or last"
    )
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Refuse what cannot work before any call is spent."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{field.name} must be a finite number, got {value}")
        for name in ("per_round", "updates", "batch_size", "sampler_steps", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        for name in ("calls", "noise_floor", "gradient_clip", "max_kl", "patience", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.sampler_noise is not None and not 0 < self.sampler_noise < math.inf:
            raise UserError(f"sampler_noise must be above 0, got {self.sampler_noise}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.keep not in ("best", "last"):
            raise UserError(f"keep must be best or last, got {self.keep!r}")
        if self.evaluate < 16:
            raise UserError(f"evaluate must be at least 16 samples, got {self.evaluate}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    def filled(self, defaults: dict[str, float]) -> FinetuneConfig:
        """A copy in which every None has the method's default."""
        blank = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return replace(self, **blank)  # type: ignore[arg-type]
