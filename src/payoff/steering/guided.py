r"""Guided sampling as steering methods: a guided denoiser and the ordinary sampler.

=========== ========================= ================ ======================================
name        value, or guide           reward           ``size``, what a budget buys
=========== ========================= ================ ======================================
classifier  learned at x_t            black box        ``calls``: scored samples to learn from
cfg         label, no reward          none             ``steps``
dps         r at the clean estimate   differentiable   ``steps``
lgd         r around it               differentiable   ``draws``
universal   both ways, recurrent      differentiable   ``recurrences``
freedom     recurrent in the middle   differentiable   ``recurrences``
tfg         smoothed, both ways       differentiable   ``recurrences``
gradient    linearised r              differentiable   ``rounds``
=========== ========================= ================ ======================================

All are biased: their values are estimates that no budget makes right (see the docstrings of
:mod:`payoff.guidance`), so none claims to converge to p* with its ``size``. A :class:`Value` given
as ``value`` takes the place of the method's own; with an exact one the samples are those of p*, up
to the sampler's steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.guidance import ClassifierFree, Guided
from payoff.spaces import Condition
from payoff.steering.base import AllFailed, Cost, Steered
from payoff.steering.guided_base import GuidedSampler, price
from payoff.steering.guided_family import TFG, FreeDoM, Universal
from payoff.steering.guided_rounds import GradientGuidance
from payoff.values import Learned, PlugIn, Posterior, Value, not_learnable, value_network

__all__ = [
    "CFG",
    "DPS",
    "LGD",
    "TFG",
    "ClassifierGuidance",
    "FreeDoM",
    "GradientGuidance",
    "Universal",
]


@dataclass(eq=False)
class DPS(GuidedSampler):
    """Guidance along r(x̂0)/τ: the plug-in value. Its bias does not vanish with ``steps``.

    Reference: Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023);
    for its published step sizes see :class:`payoff.guidance.Guided`.
    """

    name: ClassVar[str] = "dps"
    size: ClassVar[str] = "steps"

    scale: float = option(1.0, "strength; 1 is the tilt at the temperature, were the value right")
    normalise: str = option(
        "none", "none; residual (least-squares rewards, by the residual's norm) or unit length"
    )
    limit: float = option(0.0, "largest move of a clean estimate a coordinate; 0: none")
    value: Value | None = option(None, "a value to guide by instead of the plug-in")

    def guided(self) -> Guided:
        value = PlugIn(self.target) if self.value is None else self.value
        kept = {"normalise": self.normalise, "limit": self.limit}
        return Guided(self.target.denoiser, value, self.scale, **kept)  # type: ignore[arg-type]

    def cost(self) -> Cost:
        calls, back = price(self.guide.value)  # type: ignore[arg-type]
        return Cost(calls * self.steps, self.steps, back * self.steps)


@dataclass(eq=False)
class LGD(DPS):
    """Guidance along the log-mean of e^(r/τ) over ``draws`` points around the clean estimate.

    Right as ``draws`` grows for data that are normal with deviation ``sigma_data`` in every
    coordinate, biased for all others.

    Reference: Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al.,
    2023).
    """

    name: ClassVar[str] = "lgd"
    size: ClassVar[str] = "draws"

    draws: int = option(4, "points around the clean estimate: reward calls a step")
    sigma_data: float = option(1.0, "the data's standard deviation a coordinate")

    def guided(self) -> Guided:
        value = self.value
        if value is None:
            value = Posterior(self.target, self.draws, self.sigma_data)
        kept = {"normalise": self.normalise, "limit": self.limit}
        return Guided(self.target.denoiser, value, self.scale, **kept)  # type: ignore[arg-type]


@dataclass(eq=False)
class ClassifierGuidance(GuidedSampler):
    """Guidance along a value that is regressed on noised samples; the reward is a black box.

    A call of :meth:`sample` for n samples draws n · ``calls`` of the base, scores them and fits one
    :class:`~payoff.values.Learned`, shared by all n. So the cost a sample is ``calls`` reward calls
    whatever n, and more samples get a better value. A fitted one can be given instead: then nothing
    is spent. As good as the regressor: biased by its fit, which fails first at low temperatures.

    Reference: Diffusion Models Beat GANs on Image Synthesis (Dhariwal, Nichol, 2021), with a
    regressor of the soft value for the classifier.
    """

    name: ClassVar[str] = "classifier"
    needs_gradient: ClassVar[bool] = False
    size: ClassVar[str] = "calls"

    calls: int = option(20, "samples of the base that are scored to learn from, a sample drawn")
    scale: float = option(1.0, "strength; 1 is the tilt at the temperature, were the value right")
    limit: float = option(0.0, "largest move of a clean estimate a coordinate; 0: none")
    objective: str = option("soft", "what is learned: soft (the value) or mean (a bound below it)")
    value_steps: int = option(1000, "training steps of the regressor")
    value_width: int = option(128, "width of its network")
    value: Value | None = option(None, "a fitted value; nothing is learned then")

    def guided(self) -> Denoiser:
        # the untrained base until there is a value
        return self.target.denoiser if self.value is None else self._along(self.value)

    def cost(self) -> Cost:
        calls = self.calls if self.value is None else 0
        _, back = (0, 0) if self.value is None else price(self.value)
        return Cost(calls, (calls + 1) * self.steps, back * self.steps)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        if not isinstance(self.guide, Guided):
            self.learn(n, cond, generator=generator)
        return super().draw(n, cond, generator=generator)

    def stream(self, n, cond=None, *, generator=None, batch_size=4096, progress=None):
        if self.value is None and n:
            self.learn(n, cond, generator=generator)
        yield from super().stream(
            n, cond, generator=generator, batch_size=batch_size, progress=progress
        )
        self.summary["learned_from"] = self.calls * n if self.value is None else 0

    def learn(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Value:
        """Fit a value to ``calls`` scored samples of the base for each of n samples."""
        if cond is not None:
            cond = {k: v.expand(n, *v.shape[1:]) for k, v in cond.items()}
            cond = {k: v.repeat_interleave(self.calls, 0) for k, v in cond.items()}
        x0 = self.walk.sample(n * self.calls, cond, generator=generator).clone()
        with torch.no_grad():
            scores = self.score(x0, cond)
        if bool(scores.isnan().all()):
            raise AllFailed(
                f"{self.name}: every one of {len(x0)} evaluations of the reward failed (NaN): there"
                " is nothing to learn from. Check the reward on samples of the base model first",
                {"x0": x0},
            )
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)  # a network's first weights come from the global generator
            net = value_network(self.target.denoiser, self.shape, self.value_width)
            spread = float(x0.std()) if len(x0) > 1 else 1.0
            value = Learned(net, self.target, self.objective, max(spread, 1e-6)).to(x0)
            value.fit(x0, cond, scores=scores, steps=self.value_steps, generator=generator)
        self.guide = self._along(value.requires_grad_(False))
        self.sampler = self.sampler_of(self.guide)
        return value

    def _along(self, value: Value) -> Guided:
        return Guided(self.target.denoiser, value, self.scale, limit=self.limit)

    def _check(self) -> None:
        super()._check()
        width = self.value_width
        refused = (
            not_learnable(self.target.denoiser, self.shape, width) if self.value is None else ""
        )
        if refused:
            raise UserError(
                f"{self.name}: {refused}; or give it a fitted value, or use smc, svdd or best-of-n"
            )


@dataclass(eq=False)
class CFG(GuidedSampler):
    """Classifier-free guidance towards a label; the reward is not asked.

    The base must have been trained with label drop-out, and the label stand for the reward. It
    costs no reward call, so a budget of them says nothing: ``size`` is ``steps``.

    Reference: Classifier-Free Diffusion Guidance (Ho, Salimans, 2022).
    """

    name: ClassVar[str] = "cfg"
    needs_gradient: ClassVar[bool] = False
    size: ClassVar[str] = "steps"

    weight: float = option(1.0, "w: 0 is the conditional model, more exaggerates the label")
    label: float | None = option(None, "the label asked for, in the model's units; default: cond's")

    def guided(self) -> Denoiser:
        return ClassifierFree(self.target.denoiser, self.weight)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        if self.label is not None:
            label = self.start(0).new_full((n, 1), self.label)
            cond = {**(cond or {}), "label": label}
        if cond is None or "label" not in cond:
            raise UserError(
                'cfg needs a label: give the option label, or cond["label"] of shape (n, 1)'
            )
        return super().draw(n, cond, generator=generator)

    def cost(self) -> Cost:
        return Cost(0.0, self.steps * (2 if self.weight else 1))

    @classmethod
    def within(
        cls, target, shape, *, rewards=math.inf, network=math.inf, **options: Any
    ) -> Steered:
        """As for every method; without a budget of network evaluations ``steps`` stay as given."""
        if math.isinf(network) and not math.isinf(rewards):
            return cls(target, shape, **options)
        return super().within(target, shape, rewards=rewards, network=network, **options)

    def _check(self) -> None:
        super()._check()
        if self.weight < 0:
            raise UserError(f"cfg: weight must not be negative, got {self.weight}")
