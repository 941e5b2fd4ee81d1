r"""The target of a run, p*(x) ∝ p(x) exp(r(x)/τ): base model, reward, temperature, held-out judge.

Tuning and steering both begin with it. The base is the model that the source names, or the one of
``--base``, or it is trained on the source's data. The temperature is given, or a share of the
reward's standard deviation over a pilot of base samples, which the budget pays for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from payoff.domains.base import Data, Domain, Judge
from payoff.errors import UserError
from payoff.jobs.base import Asked, generator
from payoff.jobs.fitting import train_model
from payoff.jobs.judges import find_held_out, find_judge, short_name
from payoff.jobs.kept import kept_data
from payoff.jobs.model import BASE, MODEL, Drawn, Model, find_model, shipped_model
from payoff.jobs.options import BaseOptions, flag
from payoff.jobs.progress import Reporter
from payoff.jobs.records import STATE, RunFolder, warn
from payoff.jobs.rewards import ObjectReward, has_gradient
from payoff.jobs.scoring import Scored
from payoff.metrics.support import SupportDistance
from payoff.pretrained import CONFIG
from payoff.rewards.ledger import Ledger
from payoff.targets import Target

LEDGER = "ledger.sqlite"
PILOT, MIN_PILOT = 100, 10  # base samples that the temperature is taken from
MIN_OBJECTS = 20  # that a base model can be learned from at all
PILOT_STREAM, DESIGN_STREAM, BASE_STREAM, ROUND_STREAM = 1, 2, 3, 4


class Options(Protocol):
    """The options of a job that this module reads; see :mod:`payoff.jobs.options`."""

    reward: Any
    gate: str | None
    held_out: Any
    minimize: bool
    temperature: float | None
    temperature_share: float
    score_invalid: bool
    ledger: str | None
    base: str | None
    count: int
    sampler_steps: int
    sampler_noise: float | None
    seed: int
    device: str
    precision: int

    def size(self) -> dict[str, Any]: ...

    def training(self) -> dict[str, Any]: ...


@dataclass
class Begin:
    """Everything of a run that is known before anything is written.

    Attributes:
        asked: the request.
        data: objects to learn from; None: the source is a model whose data are not kept.
        model: the base that the source or ``--base`` names; None: it is trained.
        start: a shipped model whose weights the training begins with, or None.
        domain: of the objects, with the user's limits.
        reward, held_out: the judges.
        reward_name, gate: what the reward was made from.
    """

    asked: Asked
    data: Data | None
    model: Model | None
    start: Model | None
    domain: Domain
    reward: Judge
    held_out: Judge | None
    reward_name: Any
    gate: str | None


def begin(job: Options, asked: Asked, *, needs_gradient: str | None = None) -> Begin:
    """Read the source, find the base model and the rewards.

    Args:
        job: its options.
        asked: the request.
        needs_gradient: the method's name, where it needs the reward's gradient.

    Raises:
        UserError: a part is missing or does not fit.
    """
    data, model = _source(job, asked)
    start = None
    if model is None and data is not None:
        _check_size(data)
        model = _exact(data, asked, job.seed)
        if model is None and job.base is None:
            start, _ = shipped_model(data, asked.kind)
        if start is not None:  # the weights are of that domain
            data.domain = start.domain
    domain = data.domain if model is None else model.domain  # type: ignore[union-attr]
    if job.reward is None:
        raise UserError(
            "which reward? Name it with --reward: "
            + _rewards_of(domain, asked)
            + "MODULE:FUNCTION, a function that returns one number for each of the "
            + asked.kind.plural
        )
    reward = find_judge(domain, asked.kind, job.reward, gate=job.gate)
    if needs_gradient is not None:
        _check_gradient(domain, reward, needs_gradient)
    held_out = find_held_out(domain, asked.kind, job.held_out, reward)
    return Begin(asked, data, model, start, domain, reward, held_out, job.reward, job.gate)


def _rewards_of(domain: Domain, asked: Asked) -> str:
    names = domain.judge_names()
    return "".join(f"{asked.kind.name}:{name}, " for name in names[:3]) + ("… or " if names else "")


def _check_gradient(domain: Domain, reward: Judge, method: str) -> None:
    if has_gradient(domain, reward):
        return
    why = f"{reward.name} is a black box" if reward.slope is None else "designs are not all numbers"
    raise UserError(
        f"--method {method} needs the reward's gradient, and {why}: choose a method that only asks "
        "for values, such as rgdm, ddpo, dpok or rwr"
    )


def _source(job: Options, asked: Asked) -> tuple[Data | None, Model | None]:
    """The data of the source, and the base model that the source or ``--base`` names."""
    if asked.model is not None:
        if job.base is not None:
            raise UserError(
                f"--base {job.base}: {asked.source} is a model already; give data as the source, "
                "or leave --base out"
            )
        _refuse_training(asked)
        model = _resumed(job, asked) or Model.load(asked.model, job.device, job.precision)
        model.check_unlabelled(str(asked.source))
        return kept_data(asked.model.parent, model), model
    data = asked.kind.load().read(asked.source, asked.options, seed=job.seed)
    if job.base in (None, "none"):
        return data, None
    place = find_model(job.base, (BASE, MODEL))
    if place is None:
        raise UserError(
            f"--base {job.base}: there is no base model. Give the folder of a finished run, a "
            "model folder or the name of shipped weights"
        )
    model = Model.load(place, job.device, job.precision)
    model.check_unlabelled(f"--base {job.base}")
    if model.kind.name != asked.kind.name:
        raise UserError(
            f"--base {job.base}: it draws {model.kind.plural}, and {asked.source} holds "
            f"{asked.kind.plural}"
        )
    try:
        model.domain = model.domain.adapt(data)
    except UserError as error:
        raise UserError(
            f"--base {job.base}: {error}; train a base of its own by leaving --base out"
        ) from None
    return data, model


def _refuse_training(asked: Asked) -> None:
    """Refuse options of the base's training where the source is a model, and none is trained."""
    own = {field.name for field in dataclasses.fields(BaseOptions)}
    for name in asked.given:
        if name in own:
            raise UserError(
                f"{flag(name)} does not apply to {asked.source}: it is a model, and no base is "
                "trained; leave it out, or give data as the source"
            )


def _resumed(job: Options, asked: Asked) -> Model | None:
    """The base that an interrupted run has copied into its folder: its source may have changed."""
    own = asked.out / BASE
    if asked.resume and (own / CONFIG).exists():
        return Model.load(own, job.device, job.precision)
    return None


def _check_size(data: Data) -> None:
    if len(data.objects) < MIN_OBJECTS:
        plural = "complete rows" if not data.failed else "usable entries"
        raise UserError(
            f"{data.name} has {len(data.objects)} {plural}; at least {MIN_OBJECTS} are needed to "
            "learn what a realistic design is"
        )


def _exact(data: Data, asked: Asked, seed: int) -> Model | None:
    """The base that needs no training, where the kind knows one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of weights that a tuning begins with
        denoiser = data.domain.base_denoiser()
    if denoiser is None:
        return None
    return Model(denoiser, data.domain, asked.kind, {"data": data.name})


@dataclass
class Temperature:
    """τ, and the samples that it was taken from.

    Attributes:
        value: τ in the reward's units.
        mode: ``given`` or ``pilot``.
        calls: base samples scored for it; they count against the budget.
        mean, sd, failed: of those samples' scores.
        share: of the sd, that the value is.
    """

    value: float
    mode: str = "given"
    calls: int = 0
    mean: float | None = None
    sd: float | None = None
    failed: int = 0
    share: float | None = None

    def describe(self, score_name: str) -> str:
        """The temperature and its origin in a line."""
        if self.mode == "given":
            return f"temperature {self.value:.4g}"
        return (
            f"temperature {self.value:.4g}, {self.share:g} sd of {self.calls} base samples' "
            f"{score_name} (mean {self.mean:.4g}, sd {self.sd:.4g}, {self.failed} failed)"
        )


class Tilt:
    """A run's target, and the ways to draw and score its objects.

    Args:
        base: the model to begin with.
        start: the request with its data and judges.
        job: its options.
        folder: where the ledger goes unless the options say otherwise.
    """

    def __init__(self, base: Model, start: Begin, job: Options, folder: Path) -> None:
        self.base, self.start, self.job = base, start, job
        self.domain, self.data = base.domain, start.data
        self.ledger = Ledger(job.ledger or folder / LEDGER)
        self.reward = self._scored_by(start.reward)
        self.held_out = None if start.held_out is None else self._scored_by(start.held_out)
        self.support: Callable[[Sequence[Any]], Tensor] | None = None
        if start.data is not None and len(start.data.objects) > 1:
            distance = SupportDistance(self.domain.features(start.data.objects))
            self.support = lambda objects: distance(self.domain.features(objects))

    def _scored_by(self, judge: Judge) -> ObjectReward:
        return ObjectReward(
            self.domain,
            judge,
            self.ledger,
            minimize=self.job.minimize,
            valid_only=not self.job.score_invalid,
        )

    @property
    def score_name(self) -> str:
        """The reward's name in tables: without its origin."""
        return short_name(self.reward.judge)

    @property
    def sign(self) -> float:
        """+1 when a higher score is better, −1 when a lower one is."""
        return -1.0 if self.job.minimize else 1.0

    def generator(self, stream: int) -> torch.Generator:
        """The run's random numbers for one purpose."""
        return generator(self.job.seed, stream)

    def draw(self, model: Model, n: int, stream: int) -> Drawn:
        """Samples of a model, by the sampler of the run."""
        job = self.job
        return model.draw(n, self.generator(stream), job.sampler_steps, job.sampler_noise)

    def score(self, objects: Sequence[Any]) -> Scored:
        """Objects with their scores, best first."""
        scored = Scored.of(self.domain, objects, self.reward, self.held_out, self.support)
        return scored.ranked(self.job.minimize)

    def score_base(self, temperature: Temperature) -> Scored:
        """Samples of the base: the pilot's, where there was one, since they are paid for."""
        pilot = (PILOT_STREAM, temperature.calls)
        stream, n = pilot if temperature.calls else (BASE_STREAM, self.job.count)
        return self.score(self.draw(self.base, n, stream).objects)

    def valid(self, x: Tensor, cond: Any = None) -> Tensor:
        """Validity (n,) of samples."""
        reasons = self.domain.check(self.domain.decode(x.detach(), cond or {}))
        return torch.tensor([why is None for why in reasons], device=x.device)

    def answers_known(self) -> int:
        """Answers that the ledger holds for the reward now."""
        return self.reward.answers_known()

    def target(self, temperature: Temperature) -> Target:
        """The pay-off distribution's base, reward and temperature."""
        return Target(self.base.denoiser, self.reward, temperature.value)

    def score_record(self) -> dict[str, Any]:
        """The record's entry on the score."""
        held = self.held_out
        return {
            "name": self.score_name,
            "reward": self.reward.judge.name,
            "held_out": None if held is None else held.judge.name,
            "direction": "minimize" if self.job.minimize else "maximize",
            "unit": self.reward.judge.unit or None,
            "help": self.reward.judge.help or None,
        }


def introduce(start: Begin, method: str, does: str, folder: RunFolder, reporter: Reporter) -> None:
    """Say what was understood, so that a misread column is seen before the work."""
    data, model = start.data, start.model
    if data is not None:
        about = f"; {data.about}" if data.about else ""
        reporter.say(f"{data.name}: {len(data.objects)} rows{about}")
    elif model is not None:
        trained = model.facts.get("data") or "an unrecorded data set"
        reporter.say(f"{start.asked.source}: a model of {model.kind.plural}, trained on {trained}")
    reward, held = start.reward, start.held_out
    watched = "" if held is None else f"; {held.name} is held out and {does}"
    more = ", in ".join(text for text in (reward.help, reward.unit) if text)
    reporter.say(f"{method} on {reward.name}{f' ({more})' if more else ''}{watched}")
    for remark in () if data is None else data.remarks:
        reporter.say(remark)
    for warning in () if data is None else data.warnings:
        warn(warning, folder, reporter)


def make_base(start: Begin, job: Options, folder: RunFolder, reporter: Reporter) -> Model:
    """The base of a run: from its folder, given, or trained now; the folder keeps it."""
    if not (folder.path / BASE / CONFIG).exists():
        model = start.model
        if model is None:
            assert start.data is not None
            model = train_model(
                start.data,
                start.asked.kind,
                seed=job.seed,
                size=job.size(),
                training=job.training(),
                device=job.device,
                precision=job.precision,
                checkpoint=folder.path / STATE / "base.pt",
                reporter=reporter,
                start=None if start.start is None else start.start.denoiser,
            )
        model.save(folder, BASE)
    base = Model.load(folder.path / BASE, job.device, job.precision)
    base.denoiser.requires_grad_(True)
    return base


def known_before(tilt: Tilt, folder: RunFolder) -> int:
    """Answers that the ledger had when the run began; the run did not pay for these."""
    name = f"{STATE}/ledger.json"
    if not (folder.path / name).exists():
        folder.write_json(name, {"known": tilt.answers_known()})
    return int(folder.read_json(name)["known"])


def pilot_size(temperature: float | None, calls: int) -> int:
    """Base samples that the temperature is taken from; 0 where it is given.

    Raises:
        UserError: a quarter of the calls is too few.
    """
    n = 0 if temperature is not None else min(PILOT, calls // 4)
    if temperature is None and n < MIN_PILOT:
        raise UserError(
            f"--calls {calls} is too few to find a temperature with a quarter of them: give more, "
            "or set --temperature in the reward's units"
        )
    return n


def find_temperature(tilt: Tilt, calls: int) -> Temperature:
    """The temperature that was given, or a share of the reward's sd over base samples.

    Raises:
        UserError: every pilot sample failed, all have the same reward, or the budget is too small.
    """
    job = tilt.job
    n = pilot_size(job.temperature, calls)
    if not n:
        assert job.temperature is not None
        return Temperature(job.temperature)
    drawn = tilt.draw(tilt.base, n, PILOT_STREAM)
    rewards = tilt.sign * tilt.reward.values(drawn.objects).double()
    known = rewards[rewards.isfinite()]
    name = tilt.reward.judge.name
    if len(known) < 2:
        refused = tilt.reward.refused
        refused = refused and f"{refused}; --score-invalid asks for it all the same"
        reason = tilt.reward.failure or refused or "it returned no finite number"
        raise UserError(
            f"the reward {name} failed on {n - len(known)} of {n} samples of the base model "
            f"({reason}): check it on designs of your own first"
        )
    sd = float(known.std())
    if not (math.isfinite(sd) and sd > 0):
        raise UserError(
            f"the reward {name} is {float(known[0]):g} for every sample of the base model, so "
            "there is nothing to learn from; check that it reads the designs"
        )
    share, mean = job.temperature_share, tilt.sign * float(known.mean())
    return Temperature(share * sd, "pilot", n, mean, sd, n - len(known), share)
