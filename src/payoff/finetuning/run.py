"""One fine-tuning run: the models, the budget, and everything that a checkpoint has to hold."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from payoff.configs import to_dict
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning.config import FinetuneConfig
from payoff.finetuning.losses import draw_times
from payoff.finetuning.monitor import Monitor, with_floor
from payoff.finetuning.rollouts import Rollout, Samples, Transitions, rows_of
from payoff.kernels import GaussianKernel, Kernel
from payoff.rewards.metered import Meter, Metered
from payoff.samplers import DDIM, Sampler, stochastic
from payoff.spaces import Condition
from payoff.targets import Target
from payoff.training.checkpoints import check_same, load_checkpoint, save_checkpoint

M = TypeVar("M", bound=nn.Module)
EQUAL_ROUNDS = 3  # rounds in a row whose rewards are all equal before the run gives up
WARM_UP = 10  # optimiser steps
RATIO_TOLERANCE = 1e-3


class RewardFailed(UserError):
    """The reward raised, or answered with something that is not one number a design."""


class NothingKnown(UserError):
    """Every design of a batch failed."""


class RatioMismatch(RuntimeError):
    """Before any update the policy does not give its own roll-out the density it was drawn with."""


class Run:
    """What a method works with.

    Attributes:
        target: base, reward and temperature as they were given.
        base: the frozen base; policy: the trainable copy; both in evaluation mode, since dropout
            would make every density a random number.
        config: with no None left.
        reward: metered; its budget is ``config.calls``.
        generator: of everything drawn for learning.
        data: clean samples (n, ...), or None.
        memory: plain values and tensors that a method keeps from round to round.
        kept: further networks that a method keeps, such as a lagging copy or a value.
        drawing: a context for what is not tuned and has no density that counts: drawing samples
            to score, learning a value.
    """

    def __init__(
        self,
        target: Target,
        config: FinetuneConfig,
        *,
        identity: dict[str, Any],
        data: Tensor | None,
        shape: tuple[int, ...],
        cond: Condition | None,
        monitor: Monitor,
        checkpoint: Path | None,
        floored: bool = False,
        drawing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.target, self.config, self.monitor = target, config, monitor
        self.identity, self.data, self.shape, self.cond = identity, data, shape, cond
        self.checkpoint, self.drawing = checkpoint, drawing
        trainable = any(p.requires_grad for p in target.denoiser.parameters())
        self.base = copy.deepcopy(target.denoiser).eval().requires_grad_(False)
        self.policy = copy.deepcopy(target.denoiser).eval()
        if not trainable:
            raise UserError(
                "the model has no trainable parameter: unfreeze some, or put a trainable "
                "correction on it with payoff.denoisers.Corrected(model, network)"
            )
        if floored:
            process = with_floor(target.denoiser, config.noise_floor).process
            self.policy.process = self.base.process = process
        self.reward = Metered(target.reward, config.calls)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trainable, config.learning_rate or 0.0, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.average = (
            AveragedModel(self.policy, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
            if config.ema_decay
            else None
        )
        self.round, self.steps_done, self.equal_rounds = 0, 0, 0
        self.varied = False
        self.losses: list[Tensor] = []
        self.last_rewards: Tensor | None = None
        self.memory: dict[str, Any] = {}
        self.kept: dict[str, nn.Module] = {}
        self._saved: dict[str, Any] = {}
        self.best: dict[str, Tensor] | None = None
        self.seconds, self._clock = 0.0, time.perf_counter()

    @property
    def remaining(self) -> int:
        """Reward calls left."""
        return self.config.calls - self.reward.meter.rows

    @property
    def per_round(self) -> int:
        """Designs a round scores at most."""
        return min(self.config.per_round or 1, self.config.calls)

    @property
    def batch_size(self) -> int:
        """Rows or transitions an optimiser step."""
        return self.config.batch_size or 1

    @property
    def updates(self) -> int:
        """Optimiser steps a round."""
        return self.config.updates or 1

    @property
    def rounds(self) -> int:
        """The number of rounds that the budget is enough for."""
        return max(1, math.ceil(self.config.calls / max(1, self.per_round)))

    @property
    def tuned(self) -> Denoiser:
        """The model that is measured and returned: the average, if one is kept."""
        return self.policy if self.average is None else cast(Denoiser, self.average.module)

    @property
    def sigma_data(self) -> float:
        """The data's standard deviation, in which the policy's errors are measured."""
        return getattr(self.policy, "sigma_data", 1.0)

    def noised(self, x0: Tensor, cond: Condition | None = None) -> tuple[Tensor, Tensor]:
        """Noise levels t (B,) for clean samples (B, ...), and x_t."""
        process = self.policy.process
        t = draw_times(process, len(x0), like=x0, generator=self.generator)
        return t, process.corrupt(x0, t, cond, generator=self.generator)

    def sampler(self, denoiser: Denoiser | None = None, eta: float | None = None) -> Sampler:
        """The run's sampler on the policy or another model; with an ``eta`` DDIM, 1 for paths."""
        model, config = self.policy if denoiser is None else denoiser, self.config
        if eta is not None:
            return DDIM(model, self.shape, config.sampler_steps, eta=eta)
        return stochastic(model, self.shape, config.sampler_steps, config.sampler_noise)

    def conditions(self, n: int, group: int = 1) -> Condition | None:
        """Condition rows (n,) from the pool; ``group`` neighbours get the same one."""
        if self.cond is None:
            return None
        have = len(next(iter(self.cond.values())))
        picked = torch.randint(have, (math.ceil(n / group),), generator=self.generator)
        return rows_of(self.cond, picked.repeat_interleave(group)[:n])

    def affordable(self, group: int = 1) -> int:
        """Samples of this round: whole groups that the budget still allows."""
        return min(self.per_round, self.remaining) // group * group

    def samples(
        self, n: int, denoiser: Denoiser | None = None, eta: float | None = None
    ) -> Samples:
        """Scored samples (n, ...) of the policy or another model."""
        cond = self.conditions(n)
        with self.drawing():
            x0 = self.sampler(denoiser, eta).sample(n, cond, generator=self.generator).clone()
        return Samples(x0, self.score(x0, cond), cond)

    def rollout(self, n: int, group: int = 1) -> Rollout:
        """Scored paths of the policy; its densities are checked before anything is learned."""
        cond = self.conditions(n, group)
        path = self.sampler(eta=1.0).rollout(n, cond, generator=self.generator)
        assert path.log_probs is not None
        unknown = torch.full((n,), math.nan)
        found = Rollout(path.x0, unknown, cond, path.times, path.states, path.log_probs)
        self._check_ratio(found)  # first: a reward call may be dear
        found.rewards = self.score(path.x0, cond)
        return found

    def score(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Rewards (n,) of clean samples, counted; NaN where the evaluation failed.

        Raises:
            RewardFailed: the reward raised, or answered with the wrong shape or type.
            UserError: every evaluation failed, or all rewards were equal three times in a row.
        """
        with torch.no_grad():
            return self.score_with_gradient(x, cond).to(self.trainable[0].dtype)

    def score_with_gradient(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """As :meth:`score`, differentiable in x."""
        where = f"on {len(x)} designs in round {self.round + 1}"
        try:
            values = self.reward(x, None if cond is None else dict(cond)).to(x.device)
        except UserError:
            raise
        except Exception as error:
            raise RewardFailed(
                f"the reward failed {where}: {type(error).__name__}: {error}"
            ) from error
        known = self.checked(values.detach(), where)
        return torch.where(known.isnan(), math.nan, values)

    def checked(self, values: Tensor, where: str) -> Tensor:
        """Rewards in the policy's dtype; infinite ones become failures."""
        values = values.to(self.trainable[0].dtype)
        self.reward.meter.failed += int(values.isinf().sum())
        values = torch.where(values.isinf(), math.nan, values)
        known = values[~values.isnan()]
        if len(known) == 0:
            raise NothingKnown(
                f"every evaluation of the reward failed {where} (NaN or infinite): there is "
                "nothing to learn from. Check the reward on samples of the base model first"
            )
        equal = len(known) > 1 and bool((known == known[0]).all())
        self.equal_rounds = self.equal_rounds + 1 if equal else 0
        self.varied |= len(known) > 1 and not equal
        if self.equal_rounds >= EQUAL_ROUNDS:
            times = f"{EQUAL_ROUNDS} times in a row"
            told = f"the reward was {float(known[0]):g} for every design, {times}"
            if not self.varied:
                raise UserError(
                    f"{told}: a constant reward teaches nothing. Check that it reads the designs"
                )
            # not the reward's fault: the model has come to where it does not vary
            self.monitor.stopped = f"{told}: there is nothing more to learn from it"
        self.last_rewards = values
        return values

    def kernel(self, batch: Transitions, denoiser: Denoiser | None = None) -> Kernel:
        """The transition kernel of the policy, or another model, at x_t (B, ...)."""
        model = self.policy if denoiser is None else denoiser
        prediction = model(batch.x_t, batch.t, batch.cond)
        return model.process.reverse(batch.x_t, batch.t, batch.s, prediction, 1.0, batch.cond)

    def step(self, losses: Tensor) -> None:
        """One optimiser step on the mean of losses (B,)."""
        loss = losses.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        config = self.config
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.trainable, config.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = (config.learning_rate or 0.0) * self._pace()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.policy)
        self.steps_done += 1
        self.losses.append(loss.detach())

    def _pace(self) -> float:
        """Warm-up, then a cosine to a twentieth over the updates that the budget allows."""
        planned = self.rounds * self.updates
        done = min(1.0, self.steps_done / planned)
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
        return cosine * min(1.0, (self.steps_done + 1) / WARM_UP)

    def keep(self, name: str, make: Callable[[], M]) -> M:
        """A network that is kept from round to round, and saved; made when first asked for."""
        if name not in self.kept:
            self.kept[name] = make()
            if name in self._saved:
                self.kept[name].load_state_dict(self._saved.pop(name))
        return cast(M, self.kept[name])

    def old_policy(self, refresh: bool = True) -> Denoiser:
        """A frozen copy of the policy, brought up to date unless ``refresh`` is off."""
        old = self.keep("old", lambda: copy.deepcopy(self.policy).requires_grad_(False))
        if refresh:
            old.load_state_dict(self.policy.state_dict())
        return old

    def _check_ratio(self, rollout: Rollout) -> None:
        n = min(512, rollout.steps * len(rollout))
        index = torch.arange(n) * (rollout.steps * len(rollout) // n)
        batch = rollout.at(index // len(rollout), index % len(rollout))
        with torch.no_grad():
            kernel = self.kernel(batch)
            gap = torch.expm1(kernel.log_prob(batch.x_s) - batch.log_prob).abs()
        if isinstance(kernel, GaussianKernel) and kernel.std is not None:
            # what rounding alone may do where a kernel is narrow
            size = batch.x_s.flatten(1).norm(dim=1) * torch.finfo(batch.x_s.dtype).eps
            gap = gap - 10 * size / torch.as_tensor(kernel.std)
        worst = float(gap.max())
        if not worst <= RATIO_TOLERANCE:
            raise RatioMismatch(
                f"before any update the ratio of densities is off 1 by {worst:.2g}, more than "
                f"{RATIO_TOLERANCE:g}: the model answers a batch and its rows differently (batch "
                "normalisation, dropout, low precision), or the sampler and the kernel differ"
            )

    def measure(self) -> None:
        """Measure the tuned model, take note, and keep its weights if they are the best."""
        config, meter = self.config, self.reward.meter
        fresh = torch.Generator().manual_seed(config.seed + 7919 * (self.round + 1))
        cond = self.cond
        if cond is not None:
            have = len(next(iter(cond.values())))
            cond = rows_of(cond, torch.randint(have, (config.evaluate,), generator=fresh))
        found = self.monitor.measure(
            self.tuned,
            self.base,
            self.shape,
            config.sampler_steps,
            config.evaluate,
            cond,
            noise_floor=config.noise_floor,
            noise=config.sampler_noise,
            generator=fresh,
        )
        rewards = self.last_rewards if self.round else None
        known = None if rewards is None else rewards[~rewards.isnan()]
        entry = {
            "round": self.round,
            "calls": meter.rows,
            "failed": meter.failed,
            "reward": None if known is None else float(known.mean()),
            "reward_best": None if known is None else float(known.max()),
            "loss": float(torch.stack(self.losses).mean()) if self.losses else None,
            **found,
            "seconds": self.elapsed(),
            "reward_seconds": meter.seconds,
        }
        self.losses = []
        if self.monitor.judge(entry, config.max_kl, config.patience, config.keep):
            self.best = {k: v.detach().clone() for k, v in self.tuned.state_dict().items()}

    def elapsed(self) -> float:
        """Seconds of this run, those before a restart included."""
        return self.seconds + time.perf_counter() - self._clock

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.checkpoint is None:
            return
        state = {
            "identity": self.identity,
            "config": to_dict(self.config),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "kept": {**self._saved, **{k: v.state_dict() for k, v in self.kept.items()}},
            "generator": self.generator.get_state(),
            "meter": asdict(self.reward.meter),
            "counters": [self.round, self.steps_done, self.equal_rounds, self.varied],
            "memory": self.memory,
            "losses": self.losses,
            "best": self.best,
            "history": self.monitor.history,
            "judged": [self.monitor.stopped, self.monitor.best],
            "seconds": self.elapsed(),
        }
        save_checkpoint(self.checkpoint, state)

    def load(self) -> None:
        """Continue from the checkpoint."""
        assert self.checkpoint is not None
        state = load_checkpoint(self.checkpoint, self.trainable[0].device)
        check_same(self.checkpoint, state["identity"], self.identity)
        check_same(self.checkpoint, state["config"], to_dict(self.config))
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._saved = state["kept"]
        self.generator.set_state(state["generator"].cpu())
        self.reward.meter = Meter(**state["meter"])
        self.round, self.steps_done, self.equal_rounds, self.varied = state["counters"]
        self.memory, self.best = state["memory"], state["best"]
        self.losses = state["losses"]
        self.monitor.history = state["history"]
        self.monitor.stopped, self.monitor.best = state["judged"]
        self.seconds, self._clock = state["seconds"], time.perf_counter()

    def result(self) -> Denoiser:
        """The best model measured, in evaluation mode and trainable where the base was."""
        tuned = copy.deepcopy(self.tuned)
        tuned.process = self.target.denoiser.process
        if self.best is not None:
            tuned.load_state_dict(self.best)
        return tuned.eval()
