r"""Fine-tuning: a Denoiser in, a Denoiser out, moved towards the pay-off distribution.

.. math:: p^*(x)\propto p(x)\,e^{r(x)/\tau} = \arg\max_q\; E_q[r] - \tau\,\mathrm{KL}(q\|p)

A method says what one round does: which samples it scores and which loss it takes of them. The
budget of reward calls, the optimiser, the averages, measuring, stopping, checkpoints and resuming
are shared (:mod:`payoff.finetuning.run`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning.config import FinetuneConfig
from payoff.finetuning.monitor import Monitor
from payoff.finetuning.run import NothingKnown, Run
from payoff.spaces import Condition, Tokens
from payoff.targets import Target


class Finetuner(ABC):
    """A method. Its dataclass fields are its own options.

    Attributes:
        name: what the command line calls it.
        claims_target: whether its fixed point is p* at the target's temperature.
        needs_gradient: whether the reward must be differentiable.
        tokens: whether it works on token sequences as well.
        paths: whether it learns from the densities of paths; these then keep a least noise.
        defaults: what it takes for the options of :class:`FinetuneConfig` that are None.
    """

    name: ClassVar[str]
    claims_target: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False
    tokens: ClassVar[bool] = False
    paths: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def play(self, run: Run) -> None:
        """One round: score samples, learn from them."""

    def ready(self, run: Run) -> bool:
        """Whether the budget allows another round."""
        return run.remaining > 0

    def begin(self, run: Run) -> None:
        """Before the first round; raises a UserError for what cannot work."""
        return

    def fit(
        self,
        target: Target,
        config: FinetuneConfig | None = None,
        *,
        data: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        cond: Condition | None = None,
        monitor: Monitor | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
        progress: Callable[[dict[str, Any]], None] | None = None,
        drawing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Denoiser:
        """Tune a copy of the target's denoiser; the original stays as it is.

        Args:
            target: base model, reward and temperature.
            config: the budget and how to spend it.
            data: clean samples (n, ...) of the base's kind. Methods that start from data use them;
                for the others they only tell the shape.
            shape: of one sample, where there are no data and the denoiser does not know it.
            cond: condition rows (m, ...) that samples are drawn under, picked at random.
            monitor: held-out reward and validity; afterwards it holds the history.
            checkpoint: a file written after every round.
            resume: continue from it if it exists, with the result of an uninterrupted run. A round
                that was cut off asks for the same designs again: wrap an expensive reward in
                :class:`payoff.rewards.Remembered` and no call is paid for twice.
            progress: called with the latest history entry after every round, its ``round`` and
                ``calls`` brought up to date.
            drawing: makes a context, as of lower precision, for drawing what is scored and for
                learning values: their rounding moves no weight of the model.

        Raises:
            RewardFailed: the reward raised or gave a wrong answer; the last checkpoint is kept.
            UserError: the method does not apply to this target, there are no calls to spend, or no
                reward could be evaluated.
        """
        asked = config or FinetuneConfig()
        filled = asked.filled(self.defaults_for(asked.calls))
        self._check(target, filled)
        run = Run(
            target,
            filled,
            identity={"method": self.name, "temperature": target.temperature} | self.options(),
            data=data,
            shape=_shape_of(target.denoiser, data, shape),
            cond=cond,
            monitor=monitor or Monitor(),
            checkpoint=checkpoint,
            floored=self.paths,
            drawing=drawing,
        )
        # dropout and network initialisation know only the global generator: lend it, put it back
        with torch.random.fork_rng():
            torch.manual_seed(filled.seed)
            self._begin(run, resume)
            self._loop(run, progress)
        return run.result()

    def _begin(self, run: Run, resume: bool) -> None:
        if resume and run.checkpoint is not None and run.checkpoint.exists():
            run.load()
            return
        self.begin(run)
        run.monitor.forget()
        run.measure()

    def _loop(self, run: Run, progress: Callable[[dict[str, Any]], None] | None) -> None:
        while run.monitor.stopped is None and self.ready(run):
            # what a network draws from the global generator must not depend on where a run resumed
            torch.manual_seed(run.config.seed + 104_729 * (run.round + 1))
            before = run.reward.meter.rows
            try:
                self.play(run)
            except NothingKnown:
                if run.round == 0 and run.last_rewards is None:
                    raise  # it has never worked
                # the rest of a budget can be one design, and that may fail; more than that means
                # that the model has gone where nothing can be scored: its best weights are kept
                run.last_rewards = None
                if self.ready(run):
                    run.monitor.stopped = (
                        f"every design failed in round {run.round + 1}: the model has moved to "
                        "where nothing can be scored; learn more slowly (learning_rate), or set "
                        "max_kl"
                    )
            run.round += 1
            last = not self.ready(run) or run.reward.meter.rows == before
            last |= run.monitor.stopped is not None
            if last or run.round % run.config.evaluate_every == 0:
                run.measure()
            run.save()
            if progress is not None:
                latest = run.monitor.history[-1]
                progress({**latest, "round": run.round, "calls": run.reward.meter.rows})
            if run.reward.meter.rows == before:
                return

    def defaults_for(self, calls: int) -> dict[str, Any]:
        """:attr:`defaults`, for a budget."""
        return self.defaults

    def options(self) -> dict[str, Any]:
        """The method's own options by name."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}  # type: ignore[call-overload]

    def _check(self, target: Target, config: FinetuneConfig) -> None:
        if config.calls == 0:
            raise UserError(f"{self.name} has no reward calls to spend: calls must be at least 1")
        if self.needs_gradient and not target.reward.differentiable:
            raise UserError(
                f"{self.name} needs the gradient of the reward, and "
                f"{type(target.reward).__name__} is not differentiable: use a method for black-box "
                "rewards, such as rgdm, ddpo or rwr"
            )
        if isinstance(target.denoiser.process.space, Tokens) and not self.tokens:
            raise UserError(f"{self.name} works on real vectors only, not on token sequences")


def _shape_of(
    denoiser: Denoiser, data: Tensor | None, shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    if data is not None:
        found = tuple(data.shape[1:])
        if shape is not None and tuple(shape) != found:
            raise UserError(f"shape is {tuple(shape)}, the data have {found}")
        return found
    for part in (denoiser, getattr(denoiser, "base", None)):
        if shape is None and part is not None and hasattr(part, "shape"):
            shape = tuple(part.shape)  # type: ignore[arg-type]
    if shape is None:
        raise UserError("the shape of a sample is not known: give data or shape")
    return tuple(shape)
