"""Parts with one fault each, and sound ones, for the tests of the checker."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from payoff.denoisers import Denoiser, NetDenoiser
from payoff.finetuning import DDPO
from payoff.kernels import GaussianKernel
from payoff.nets import ResidualMLP
from payoff.predictions import Prediction
from payoff.problems import ExactValue, GaussianMixture
from payoff.processes import GaussianProcess
from payoff.rewards import Reward
from payoff.samplers import DDIM, Ancestral, Heun
from payoff.schedules import CosineKeep, LogLinear
from payoff.values import Value

F64 = torch.float64

# rewards -------------------------------------------------------------------------------------


class Size(Reward):
    """A sound one: −‖x‖² + x_0."""

    differentiable = True

    def __call__(self, x, cond=None):
        return x[:, 0] - x.square().sum(1)


class Column(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x).unsqueeze(1)


class AListOfNumbers(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x).tolist()


class AlwaysFails(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x) * math.nan


class InPlace(Size):
    def __call__(self, x, cond=None):
        value = super().__call__(x)
        if not x.requires_grad and len(x):
            x[0].mul_(0.5)
        return value


class Noisy(Size):
    def __init__(self) -> None:
        self.g = torch.Generator().manual_seed(0)

    def __call__(self, x, cond=None):
        return super().__call__(x) + 0.1 * torch.randn(len(x), generator=self.g).to(x)


class Draws(Size):
    def __call__(self, x, cond=None):
        torch.rand(3)
        return super().__call__(x)


class Ranks(Size):
    """Minus the mean of the batch, as advantages are."""

    def __call__(self, x, cond=None):
        value = super().__call__(x)
        return value - value.mean() if len(x) else value


class NoEmptyBatch(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x) + 0 * x.nan_to_num().max()


class SingleOnly(Size):
    differentiable = False

    def __init__(self) -> None:
        self.weight = torch.ones(2, 1)

    def __call__(self, x, cond=None):
        return (x @ self.weight)[:, 0]


class SpoilsTheBatch(Size):
    def __call__(self, x, cond=None):
        value = super().__call__(x)
        return value * math.nan if bool(value.isnan().any()) else value


class WrongGradient(Size):
    def __call__(self, x, cond=None):
        return x[:, 0] - x.square().sum(1).detach()


class NoGradient(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x.detach())


REWARDS = {
    Column: "one number a row",
    AListOfNumbers: "one number a row",
    AlwaysFails: "one number a row",
    InPlace: "the input is not changed",
    Noisy: "the same rows score the same twice",
    Draws: "the global random state is left alone",
    Ranks: "a row does not depend on its batch",
    NoEmptyBatch: "an empty batch is answered",
    SingleOnly: "double precision is accepted",
    SpoilsTheBatch: "a failure is NaN and stays alone",
    WrongGradient: "the declared gradient is right",
    NoGradient: "the declared gradient is right",
}


class InNumpy(Reward):
    def __call__(self, x, cond=None):
        return torch.as_tensor(np.square(x.numpy()).sum(1))


class Constant(Reward):
    differentiable = True

    def __call__(self, x, cond=None):
        return x.new_ones(len(x)) + 0 * x.sum(1)


class OnTheCPU(Reward):
    differentiable = True

    def __call__(self, x, cond=None):
        return (x * torch.ones(x.shape[1], dtype=x.dtype)).sum(1)


class Unpicklable(Size):
    def __init__(self) -> None:
        self.f = lambda x: x


class NumberForFailure(Size):
    def __call__(self, x, cond=None):
        return super().__call__(x).nan_to_num(-99.0)


class Undeclared(Size):
    differentiable = False


class Steps(Size):
    def __call__(self, x, cond=None):
        return (10 * x).round().sum(1) + 0 * x.sum(1)


REMARKED_REWARDS = {
    InNumpy: "the device is followed",
    Constant: "the reward varies",
    OnTheCPU: "the device is followed",
    Unpicklable: "it can be sent to worker processes",
    NumberForFailure: "a failure is NaN and stays alone",
    Undeclared: "the declared gradient is right",
    Steps: "the declared gradient is right",
}


# networks ------------------------------------------------------------------------------------


class Net(nn.Module):
    """A sound one, with options that make it unsound."""

    def __init__(self, dim: int = 2, fault: str = "") -> None:
        super().__init__()
        self.dim, self.fault = dim, fault
        self.inner = nn.Linear(dim + 1, 32)
        self.outer = nn.Linear(32, dim)
        self.norm = nn.BatchNorm1d(32, track_running_stats=False) if fault == "batch" else None
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x, noise_level, cond=None):
        level = noise_level.unsqueeze(1)
        if self.fault == "end":
            level = (level + 1.6).log()
        if self.fault == "deaf":
            level = 0 * level
        h = torch.tanh(self.inner(torch.cat([x, level], 1)))
        h = self.norm(h) if self.norm is not None and len(x) > 1 else h
        if self.fault == "drop":
            h = h * (1 + 0.1 * torch.randn(h.shape, generator=_drawing).to(h))
        if self.fault == "draws":
            torch.rand(1)
        if self.fault == "counts":
            self.count += 1
        if self.fault == "frozen":
            h = h.detach()
        out = self.outer(h)
        if self.fault == "no_grad":
            out = out.detach()
        if self.fault == "flat":
            out = 0.01 * torch.tanh(out)
        if self.fault == "wide":
            return torch.cat([out, out], 1)
        return out.double() if self.fault == "dtype" else out


_drawing = torch.Generator().manual_seed(0)


class Renamed(Net):
    """Cannot be saved: it does not keep its argument."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size)


class Forgets(Net):
    """What it has learned is not in its state."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__(dim)
        self.gain = torch.rand(dim)

    def forward(self, x, noise_level, cond=None):
        return self.gain * super().forward(x, noise_level, cond)


class SetNet(nn.Module):
    """Over the members of a padded set; with the fault, padding is read."""

    def __init__(self, channels: int = 3, fault: bool = False) -> None:
        super().__init__()
        self.channels, self.fault = channels, fault
        self.member = nn.Linear(channels + 1, 32)
        self.out = nn.Linear(64, channels)

    def forward(self, x, noise_level, cond=None):
        exists = cond["mask"].unsqueeze(-1).to(x)
        level = noise_level[:, None, None].expand(*x.shape[:2], 1)
        h = torch.tanh(self.member(torch.cat([x, level], -1)))
        h = h if self.fault else h * exists
        mean = h.sum(1, keepdim=True) / exists.sum(1, keepdim=True)
        return self.out(torch.cat([h, mean.expand_as(h)], -1)) * exists


class Labelled(ResidualMLP):
    """With the fault a hidden label is read."""

    def __init__(self, fault: bool = False) -> None:
        super().__init__(2, width=32, depth=1, label_dim=1)
        self.fault = fault

    def forward(self, x, noise_level, cond=None):
        out = super().forward(x, noise_level, cond)
        if self.fault and cond is not None:
            out = out + cond["label"]
        return out


NETWORKS = {
    "wide": "the answer has x's shape",
    "dtype": "the answer has x's shape",
    "drop": "the same input gives the same output",
    "counts": "the same input gives the same output",
    "draws": "the global random state is left alone",
    "batch": "a row does not depend on its batch",
    "end": "finite at both ends of the noise",
    "flat": "it learns a Gaussian",
}


# denoisers -----------------------------------------------------------------------------------


class Own(NetDenoiser):
    """A sound one, with options that make it unsound."""

    def __init__(self, fault: str = "") -> None:
        super().__init__(Net(2), GaussianProcess())
        self.fault = fault

    def forward(self, x_t, t, cond=None):
        if self.fault == "one time" and t.ndim == 0:
            t = 0.5 * t
        p = super().forward(x_t, t, cond)
        if self.fault == "tensor":
            return p.x0
        if self.fault == "swapped":
            return Prediction(p.x0, x_t, p.sigma, p.alpha)
        if self.fault == "draws":
            return Prediction(p.x0 + torch.randn_like(p.x0), x_t, p.alpha, p.sigma)
        if self.fault == "batch":
            return Prediction(p.x0 - p.x0.mean(0), x_t, p.alpha, p.sigma)
        if self.fault == "end":
            gain = torch.as_tensor(t).log().reshape(-1, 1)
            return Prediction(p.x0 * gain, x_t, p.alpha, p.sigma)
        return p

    def loss(self, x0, t, cond=None, *, generator=None):
        if self.fault == "global":
            return super().loss(x0, t, cond)
        if self.fault == "same noise":
            generator = torch.Generator().manual_seed(0)
        value = super().loss(x0, t, cond, generator=generator)
        if self.fault == "mean":
            return value.mean()
        if self.fault == "no_grad":
            return value.detach()
        return -value.clamp(max=50) if self.fault == "sign" else value


class WrongDensity(GaussianMixture):
    def __init__(self) -> None:
        super().__init__(torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.5]))

    def log_prob_t(self, x, t, cond=None):
        return super().log_prob_t(x, t, cond) - 0.5 * x[:, 0].square()


DENOISERS = {
    "tensor": "it answers with a prediction",
    "swapped": "levels and spellings are consistent",
    "draws": "the same input gives the same estimate",
    "batch": "a row does not depend on its batch",
    "one time": "one time holds for all rows",
    "end": "finite at both ends of time",
    "mean": "the loss is one number a row",
    "global": "the loss draws from its generator",
    "same noise": "the loss draws from its generator",
    "sign": "training improves the estimate",
}


# samplers ------------------------------------------------------------------------------------


class Wide(Ancestral):
    def sample(self, n, cond=None, **options):
        return super().sample(n, cond, **options).unsqueeze(-1)


class Boasts(Ancestral):
    order = 2


class NoOrder(DDIM):
    order = None  # type: ignore[assignment]


class SecondOnGaussians(Heun):
    """Of the second order where the noise estimate is linear in x, of the first elsewhere."""

    calls_per_step = 5

    def step(self, x_t, t, s, cond, memory):
        kernel = super().step(x_t, t, s, cond, memory)
        noise = [self.denoiser(x_t + h, t, cond).noise for h in (-1, 0, 1)]
        bend = (t - s).reshape(-1, 1) ** 2 * (noise[0] - 2 * noise[1] + noise[2])
        return GaussianKernel(kernel.mean + bend, None, kernel.space)


class WrongMean(Heun):
    """Heun with a weight that is not 1/2."""

    def step(self, x_t, t, s, cond, memory):
        kernel = super().step(x_t, t, s, cond, memory)
        gap = (t - s).reshape(-1, 1) * (kernel.mean - x_t)
        return GaussianKernel(kernel.mean + 0.3 * gap, None, kernel.space)


class Together(DDIM):
    """Steps towards the mean of the batch by an amount that vanishes with the step, squared."""

    def step(self, x_t, t, s, cond, memory):
        kernel = super().step(x_t, t, s, cond, memory)
        if len(x_t) == 2:
            return kernel  # two rows are what an order is measured on
        pull = 0.05 * ((t - s) ** 2).reshape(-1, *(1,) * (x_t.ndim - 1) if t.ndim else ())
        return GaussianKernel(kernel.mean - pull * x_t.mean(0), None, kernel.space)


class WrongDensities(Ancestral):
    def rollout(self, n, cond=None, **options):
        path = super().rollout(n, cond, **options)
        path.log_probs = path.log_probs + 1.0
        return path


class Miscounts(Heun):
    calls_per_step = 1


class GlobalStart(DDIM):
    def start(self, n, cond=None, *, generator=None):
        return super().start(n, cond)


class Ungrouped(DDIM):
    def stream(self, n, cond=None, *, generator=None, batch_size=4096, progress=None):
        yield from super().stream(n, cond, generator=generator, batch_size=n, progress=progress)


class FinishesFromTheTop(DDIM):
    def finish(self, x_t, t, cond=None, *, generator=None):
        return super().finish(x_t, torch.ones_like(t), cond, generator=generator)


class Shrinks(DDIM):
    def stream(self, n, cond=None, **options):
        for part in super().stream(n, cond, **options):
            yield 0.8 * part


SAMPLERS = {
    Wide: "it draws samples",
    Boasts: "the declared order is measured",
    NoOrder: "the declared order is measured",
    SecondOnGaussians: "the declared order is measured",
    WrongMean: "the declared order is measured",
    Together: "a row does not depend on its batch",
    WrongDensities: "roll-outs carry their kernels' densities",
    Miscounts: "the declared number of network calls",
    GlobalStart: "all randomness comes from the generator",
    Ungrouped: "samples come in batches that fit",
    FinishesFromTheTop: "it finishes from any time",
    Shrinks: "samples follow the exact law",
}


# schedules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ragged(LogLinear):
    """A sound schedule, with options that make it unsound."""

    fault: str = ""

    def _log_snr(self, t):
        value = super()._log_snr(t)
        if self.fault == "flat":
            return value.clamp(max=12.0)
        return value.sum() if self.fault == "shape" else value

    def _levels(self, t):
        alpha, sigma = super()._levels(t)
        if self.fault == "end":
            sigma = sigma * (t > 0)
        return (alpha, 1.1 * sigma) if self.fault == "levels" else (alpha, sigma)

    def time(self, log_snr):
        return super().time(log_snr) + (0.01 if self.fault == "inverse" else 0.0)

    def config(self):
        kept = super().config()
        return {"log_snr_max": 10.0, "fault": kept["fault"]} if self.fault == "config" else kept


SCHEDULES = {
    "shape": "shape and dtype follow the time",
    "end": "finite and positive at both ends",
    "levels": "alpha, sigma and log-SNR agree",
    "flat": "strictly falling",
    "inverse": "time() is the inverse",
    "config": "its configuration rebuilds it",
}


class NeverGone(CosineKeep):
    def __call__(self, t):
        return 0.1 + 0.9 * super().__call__(t)

    def time(self, keep):
        return super().time((keep - 0.1) / 0.9)


# processes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Odd(GaussianProcess):
    """A sound process, with options that make it unsound."""

    fault: str = ""

    def prior(self, shape, cond=None, *, like=None, generator=None):
        x = super().prior(shape, cond, like=like, generator=generator)
        return 1.1 * x if self.fault == "prior" else x

    def corrupt(self, x0, t, cond=None, *, generator=None):
        generator = None if self.fault == "global" else generator
        x = super().corrupt(x0, t, cond, generator=generator)
        return x + 0.05 * (x - x0) if self.fault == "corrupt" else x

    def _coefficients(self, t, s, eta):
        on_x0, on_x, std = super()._coefficients(t, s, eta)
        if self.fault == "marginal" and std is not None and eta != 1:
            std = 1.2 * std
        if self.fault == "posterior" and eta == 1:
            return super()._coefficients(t, s, 0.8)
        if self.fault == "rows" and t.ndim:
            on_x0 = on_x0 + 0.1
        return on_x0, on_x, std


PROCESSES = {
    "corrupt": "corruption draws alpha x0 + sigma ε",
    "prior": "the prior is the law at t = 1",
    "marginal": "reverse kernels keep the marginals",
    "posterior": "eta = 1 is Bayes' rule",
    "rows": "one time holds for all rows",
    "global": "randomness comes from the generator",
}


# values --------------------------------------------------------------------------------------


class Exact(Value):
    """The exact value, with options that make it unsound."""

    exact = True
    differentiable = True

    def __init__(self, target, fault: str = "") -> None:
        self.inner = ExactValue(target.denoiser, target.reward, target.temperature)
        self.fault = fault

    def __call__(self, x_t, t, cond=None, *, generator=None):
        if self.fault == "gradient":
            x_t = x_t.detach() + 0.5 * (x_t - x_t.detach())
        value = self.inner(x_t, t, cond)
        if self.fault == "shape":
            return value.unsqueeze(1)
        if self.fault == "draws":
            return value + 1e-9 * torch.randn(len(value)).to(value)
        if self.fault == "batch" and len(value) > 1:
            return value + 1e-7 * (1 + value.abs()) * value.mean()
        return value + 0.01 if self.fault == "off" else value


VALUES = {
    "shape": "one number a row",
    "draws": "the same generator gives the same value",
    "batch": "a row does not depend on its batch",
    "off": "exact where it claims to be",
    "gradient": "the declared gradient is right",
}


def exact_value(fault: str = ""):
    def value(target):
        return Exact(target, fault)

    return value


# methods -------------------------------------------------------------------------------------


@dataclass
class Tuner(DDPO):
    """A policy gradient, with options that make it unsound."""

    name: ClassVar[str] = "tuner"
    fault: str = ""
    counter: ClassVar = itertools.count()

    def play(self, run):
        if self.fault == "overspends":
            run.target.reward(torch.zeros(100, 1))
        if self.fault == "down":
            reward, run.reward.reward = run.reward.reward, -run.reward.reward
            super().play(run)
            run.reward.reward = reward
            return
        if self.fault == "forgets":
            run.generator.manual_seed(next(self.counter))
        super().play(run)

    def fit(self, target, config=None, *, monitor=None, **options):
        kept = copy.deepcopy(target.denoiser)
        tuned = super().fit(target, config, monitor=monitor, **options)
        if self.fault == "nothing":
            return tuned.net
        if self.fault == "base":
            with torch.no_grad():
                for p in target.denoiser.parameters():
                    p.add_(0.01)
        if self.fault == "draws":
            torch.rand(1)
        if self.fault == "boasts" and monitor is not None:
            monitor.history[-1]["kl"] = 0.0
        if self.fault == "cheats":
            return Cheat(kept)
        return tuned


class Cheat(Denoiser):
    """The base model for whoever compares estimates, with a process that moves the samples."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner, self.process = inner, Shifted(schedule=inner.process.schedule)

    def forward(self, x_t, t, cond=None):
        return self.inner(x_t, t, cond)


@dataclass(frozen=True)
class Shifted(GaussianProcess):
    def prior(self, shape, cond=None, *, like=None, generator=None):
        return 40 + super().prior(shape, cond, like=like, generator=generator)


METHODS = {
    "nothing": "it gives a denoiser and a history",
    "overspends": "no more reward calls than allowed",
    "base": "the base is left as it is",
    "draws": "the global random state is left alone",
    "down": "the reward rises",
    "boasts": "the history tells the truth",
    "forgets": "resuming gives the same result",
}
