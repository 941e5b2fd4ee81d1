"""What networks and denoisers are both tested for: training, saving, randomness."""

from __future__ import annotations

import copy
import tempfile
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from payoff.checks.findings import (
    Budget,
    Outcome,
    Spent,
    difference,
    fails,
    generator,
    holds,
    remark,
    rounding,
    told,
)
from payoff.checks.inputs import Cond, Inputs
from payoff.denoisers import Denoiser
from payoff.pretrained import from_pretrained, save_pretrained, trusting
from payoff.processes import GaussianProcess
from payoff.spaces import expand_to

STD = 0.3  # of the data that a network is trained on
STEPS, BATCH, RATE = 300, 64, 3e-3


def shaken(module: Any, seed: int) -> Any:
    """A copy in eval mode with 0.02 of noise on every parameter.

    Many networks start at exactly zero output, where every law holds for no reason.
    """
    module = copy.deepcopy(module)
    if isinstance(module, nn.Module):
        g = generator(seed)
        with torch.no_grad():
            for p in module.parameters():
                if p.is_floating_point():
                    p.add_(0.02 * torch.randn(p.shape, generator=g).to(p))
        module.eval()
    return module


class Training:
    r"""Denoising of x ~ N(0, 0.3² I), where the best estimate is known.

    :math:`\hat x_0 = \alpha s^2 x_t/(\alpha^2s^2+\sigma^2)` is linear in :math:`x_t`, so any kind
    of network, equivariant ones too, can learn it; one that ignores its input cannot.
    Errors are weighted by :math:`(\alpha^2+\sigma^2)/\sigma^2`.
    """

    def __init__(self, denoiser: Denoiser, inputs: Inputs, budget: Budget, dtype: torch.dtype):
        assert isinstance(denoiser.process, GaussianProcess)
        self.denoiser, self.inputs, self.budget, self.dtype = denoiser, inputs, budget, dtype
        self.process = denoiser.process
        self.seed = inputs.seed
        self.batch = self._draw(256, 1)
        self.steps = 0

    def _draw(self, rows: int, stream: int) -> tuple[Tensor, Tensor, Cond | None]:
        x, cond = self.inputs.draw(rows, self.dtype, stream)
        t = 0.2 + 0.7 * torch.rand(rows, generator=generator(stream), dtype=torch.float64)
        return STD * self.process.space.project(x, cond), t.to(self.dtype), cond

    def errors(self) -> tuple[float, float]:
        """(of the denoiser, of the exact estimate), on rows that it is not trained on."""
        x0, t, cond = self.batch
        x_t, _ = self.process.corrupt_with_noise(x0, t, cond, generator=generator(self.seed))
        alpha, sigma = (expand_to(v, x_t) for v in self.process.schedule(t))
        self.denoiser.eval()
        self.budget.spend()
        with torch.no_grad():
            found = self.denoiser(x_t, t, cond).x0
        exact = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x_t
        weight = (alpha**2 + sigma**2) / sigma**2
        own, best = ((weight * (e - x0) ** 2).mean() for e in (found, exact))
        return float(own), float(best)

    def run(self, enough: float) -> tuple[float, float, float, bool]:
        """Train until the error is ``enough`` of the way from its start to the best.

        Returns:
            error before, error after, the best error, whether the limits were too tight to tell.
        """
        before, best = self.errors()
        parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(parameters, RATE)
        g, after, late = generator(self.seed + 5), before, False
        while self.steps < STEPS:
            x0, t, cond = self._draw(BATCH, 100 + self.steps)
            self.denoiser.train()
            try:
                self.budget.spend()
            except Spent:
                late = True
                break
            loss = self.denoiser.loss(x0, t, cond, generator=g).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            self.steps += 1
            if self.steps % 25 == 0:
                after, _ = self.errors()
                if before - after >= enough * (before - best):
                    return before, after, best, False
        after, _ = self.errors() if not late else (after, best)
        return before, after, best, late


def trained(training: Training, enough: float) -> Outcome:
    """The outcome of a training."""
    if not any(p.requires_grad for p in training.denoiser.parameters()):
        return remark("it has no trainable parameters", "an exact or frozen part needs none")
    before, after, best, late = training.run(enough)
    text = f"error {before:.3f} -> {after:.3f} in {training.steps} steps; the best is {best:.3f}"
    if before - after >= enough * (before - best):
        return holds(text)
    return remark(f"{text}; too few to tell", "raise --calls or --seconds") if late else fails(text)


def unreached(module: nn.Module, loss: Tensor) -> Outcome:
    """Which trainable parameters the gradient of a loss does not reach."""
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not named:
        return fails("no parameter requires a gradient")
    if not loss.requires_grad:
        return fails("the output does not depend on the parameters", "remove no_grad and detach")
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    dead = [n for n, g in zip(named, gradients, strict=True) if g is None]
    numbers = sum(p.numel() for p in named.values())
    if len(dead) == len(named):
        return fails("the gradient reaches no parameter", "remove no_grad and detach")
    if dead:
        return remark(
            f"of {len(named)} tensors {len(dead)} get no gradient: {', '.join(dead[:3])}",
            "fine if they belong to conditions that were not given here; else they never learn",
        )
    return holds(f"{numbers} numbers in {len(named)} tensors, all reached")


def saved_and_loaded(denoiser: Denoiser, evaluate: Any) -> Outcome:
    """``save_pretrained`` and ``from_pretrained`` give the same denoiser back."""
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_pretrained(denoiser, folder)
            with trusting():  # the part is the user's own, and is imported already
                again = from_pretrained(folder)
    except Exception as error:
        return remark(
            str(error).splitlines()[0] if str(error) else told(error),
            "to be saved, a class is importable and keeps each argument under its own name",
        )
    a, b = evaluate(again), evaluate(denoiser)
    gap = difference(a, b)
    text = f"relative difference after loading {gap:.1e}"
    if gap <= rounding(a, b):
        return holds(text)
    return fails(text, "keep everything that was learned in parameters or persistent buffers")
