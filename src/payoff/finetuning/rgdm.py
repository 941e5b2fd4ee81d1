r"""RGDM: learn from the pay-off law instead of from the policy.

One step of the reverse process is a policy; on a feasible set around the posterior sample
:math:`x_s\sim q(x_s|x_t,x_0)` the pay-off law is :math:`q_{pd}\propto e^{r/\tau}`. With the
divergence turned round (as in RAML) its samples are regressed on, :math:`x_s+\delta` instead of
:math:`x_s`, which for the clean estimate reads

.. math:: L = \Big\|\hat x_\theta(x_t) - \Big(x_0 + \frac{\bar\delta}{a}\Big)\Big\|^2 ,

a the weight of :math:`x_0` in the mean of the reverse kernel. No gradient of the reward is needed,
no density, and no sample of the policy.

Where the reward is scored decides what is learned (``score``):

========== ===================================================== ===============================
``value``  the soft value V of x_s, learned from scored samples   p*, for ``proposal="kernel"``
``x0hat``  r at the base's clean estimate of x_s                  biased: a plug-in value
``noisy``  r at x_s itself, the literal method                    biased: noise is scored
========== ===================================================== ===============================

With Gaussian proposals of deviation :math:`\rho\,s_t` the shift is
:math:`\rho^2s_t^2\nabla r/\tau`: training amortises classifier guidance of scale :math:`\rho^2`.
The published derivation is disputed and leaves choices open; this is a reconstruction with its
switches, and the page of the method says which are known.

The shift may be made once more at sampling (:class:`payoff.finetuning.ShiftedSampler`).

References: Towards Controllable Diffusion Models via Reward-Guided Exploration (Zhang, Xu, 2023);
Reward Augmented Maximum Likelihood (Norouzi et al., 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning.base import Finetuner
from payoff.finetuning.neighbourhood import CHOICES, PROPOSALS, SHIFTS
from payoff.finetuning.rgdm_sample import play_sample
from payoff.finetuning.rgdm_step import play_known, play_reward, play_value, steps_shifted
from payoff.finetuning.run import Run
from payoff.spaces import Tokens
from payoff.values.base import Value
from payoff.values.learned import OBJECTIVES
from payoff.values.networks import not_learnable

ROUNDS, LEAST_A_ROUND, MOST_A_ROUND = 20, 100, 2500
OPTIONS = {
    "level": ("step", "sample"),
    "score": ("value", "x0hat", "noisy"),
    "shift": SHIFTS,
    "choice": CHOICES,
    "proposal": PROPOSALS,
    "anchor": ("data", "model"),
    "objective": OBJECTIVES,
}


@dataclass
class RGDM(Finetuner):
    """Reward-guided diffusion by regression on the pay-off law; black-box rewards by default."""

    name: ClassVar[str] = "rgdm"
    claims_target: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 500,
        "updates": 40,
        "batch_size": 256,
        "learning_rate": 1e-3,
    }

    radius: float = option(0.5, "ρ: size of the feasible set, in the step's standard deviation")
    level: str = option("step", "what is shifted: step, or sample (weighted clean samples)")
    score: str = option("value", "where the reward is scored: value, x0hat or noisy")
    shift: str = option("gradient", "how: gradient, candidates or zeroth-order")
    choice: str = option("soft", "which of the pay-off law: soft (mean), sampled or argmax")
    proposal: str = option(
        "kernel", "the feasible set: kernel (the step's own law, moves up to ρ), gaussian or ball"
    )
    candidates: int = option(16, "moves tried a step, the draft among them")
    mix: float = option(1.0, "λ: 1 the shifted target alone, 0 the plain loss")
    anchor: str = option("model", "what is shifted: the clean datum, or the model's own estimate")
    latest: float = option(1.0, "noise level t beyond which nothing is shifted")
    earliest: float = option(0.0, "noise level t below which nothing is shifted")
    share: float = option(0.5, "share of the effective samples that a tempered round keeps")
    objective: str = option(
        "mean", "score=value: mean (the expected reward, tilt by small tilt) or soft (their log)"
    )
    feasible: bool = option(
        False, "score=value: learn the chance to have a reward apart from what it is"
    )
    insist: float = option(1.0, "feasible: what the slope of the log chance is multiplied by")
    value_steps: int = option(400, "score=value: training steps of the value a round")
    value_width: int = option(128, "score=value: width of its network")
    value_rate: float = option(2e-3, "score=value: first learning rate of its training")
    catch_up: bool = option(
        False, "score=value: tell by the samples' mean reward how far the model has come"
    )
    gain: float = option(1.0, "catch_up: what the value's slope is multiplied by at first")
    control: bool = option(
        False, "level=sample: the model's own estimate as a control variate; for many samples"
    )

    value: ClassVar[Value | None] = None

    @classmethod
    def of_value(cls, value: Value, **options: Any) -> RGDM:
        """RGDM on steps with a value of the target that is already known, such as an exact one.

        It takes no reward call to learn from; ``calls`` counts transitions then.
        """
        method = cls(**{"anchor": "model", "radius": math.inf, **options})
        object.__setattr__(method, "value", value)
        return method

    def begin(self, run: Run) -> None:
        for name, known in OPTIONS.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"rgdm: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.radius < 0 or (self.radius == 0 and self.level == "step"):
            raise UserError(f"rgdm: radius must be positive, got {self.radius}")
        if not 0 <= self.mix <= 1 or not 0 < self.latest <= 1 or not 0 < self.share < 1:
            raise UserError("rgdm: mix, latest and share must lie between 0 and 1")
        if not self.gain >= 1:
            raise UserError(f"rgdm: gain must be at least 1, got {self.gain}")
        if not 0 < self.insist < math.inf:
            raise UserError(f"rgdm: insist must be positive, got {self.insist:g}")
        if self.feasible and run.shape == (1,):
            raise UserError("rgdm: feasible=true needs samples of two columns or more")
        least = 3 if self.shift == "zeroth-order" else 2
        if self.candidates < least:
            raise UserError(f"rgdm: candidates must be at least {least}, got {self.candidates}")
        if self.cost() > run.config.calls:
            raise UserError(
                f"rgdm: {run.config.calls} calls do not pay for one step of {self.cost()} "
                "candidates: raise calls or lower candidates"
            )
        first, end = steps_shifted(self, run)
        if first >= end:
            raise UserError(
                f"rgdm: no step of {run.config.sampler_steps} starts at a noise level between "
                f"earliest = {self.earliest:g} and latest = {self.latest:g}: raise latest or "
                "sampler_steps, or lower earliest"
            )
        self._check_data(run)
        self._check_reward(run)

    def _check_data(self, run: Run) -> None:
        if run.data is not None and run.cond is not None:
            rows = len(next(iter(run.cond.values())))
            if rows != len(run.data):
                raise UserError(
                    f"rgdm: {len(run.data)} data rows have {rows} rows of conditions: give each "
                    "datum its own"
                )
        learns = self.level == "step" and self.score == "value" and self.value is None
        refused = not_learnable(run.base, run.shape, self.value_width) if learns else ""
        if refused:
            raise UserError(f"rgdm: score=value: {refused}; or take score=x0hat, or level=sample")

    def defaults_for(self, calls: int) -> dict[str, Any]:
        # a round is one small tilt: twenty of them, whatever the budget
        per_round = min(MOST_A_ROUND, max(LEAST_A_ROUND, math.ceil(calls / ROUNDS)))
        return {**self.defaults, "per_round": per_round}

    def _check_reward(self, run: Run) -> None:
        if isinstance(run.base.process.space, Tokens) and self.level == "step":
            raise UserError("rgdm: tokens have no neighbourhood to shift in; use level=sample")
        needs = self.level == "step" and self.shift == "gradient" and self.score != "value"
        if needs and not run.target.reward.differentiable:
            raise UserError(
                f"rgdm: shift=gradient with score={self.score} needs the gradient of the reward, "
                f"and {type(run.target.reward).__name__} is not differentiable: take "
                "shift=candidates or zeroth-order, or score=value"
            )

    def cost(self) -> int:
        """Reward calls a shifted transition."""
        if self.level == "sample" or self.score == "value":
            return 1
        return 1 if self.shift == "gradient" else self.candidates

    def ready(self, run: Run) -> bool:
        return run.remaining >= self.cost()

    def play(self, run: Run) -> None:
        if self.level == "sample":
            play_sample(self, run)
        elif self.value is not None:
            play_known(self, run)
        elif self.score == "value":
            play_value(self, run)
        else:
            play_reward(self, run)
