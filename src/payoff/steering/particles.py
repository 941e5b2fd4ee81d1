r"""Weighted particles: sequential Monte Carlo over the steps of a sampler.

K particles walk from noise to data together. With the base's kernel p and a proposal q, which is p
itself unless something better is known, and a potential φ made of values
(:mod:`payoff.steering.potentials`), a particle's weight is

.. math::
    \log w_i = \log w_{i-1} + \log\frac{p(x_i\mid x_{i-1})}{q(x_i\mid x_{i-1})}
               + \varphi_i-\varphi_{i-1} , \qquad \varphi_N = r(x_0)/\tau .

Where the effective sample size has become small the particles are resampled, and the weights of
those that are not stay what they were. The telescoping sum leaves
:math:`e^{r(x_0)/\tau}\,p(\text{path})/q(\text{path})` on every path, whatever the values were: a
poor value costs effective samples and not correctness. So the draws converge to p*, up to the base
sampler's own discretisation, as K grows, with a bias of order 1/K; and Ẑ is unbiased for every K.

The last transition is always drawn from p: its kernel is so narrow that a proposal a little off
would carry all the variance of the weights.

References: Sequential Monte Carlo Samplers (Del Moral, Doucet, Jasra, 2006); for diffusion,
Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu et al., 2023) and A
General Framework for Inference-time Scaling and Steering of Diffusion Models (Singhal et al.,
2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from payoff.configs import option, suggest
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.kernels import GaussianKernel, Kernel
from payoff.samplers import rows_of
from payoff.spaces import Condition
from payoff.steering.base import CALLER, AllFailed, Cost, Steered
from payoff.steering.population import Population
from payoff.steering.potentials import POTENTIALS, constant
from payoff.steering.resampling import SCHEMES, normalised, pick, shuffled
from payoff.steering.values_of import value_cost, value_for
from payoff.steering.watch import Watch
from payoff.values import Value

KEEP = ("draw", "best", "all")


@dataclass(eq=False)
class Particles(Steered):
    """The engine, and the plain bootstrap filter ``smc``.

    One population of ``particles`` a sample, all populations in one batch. One evaluation of the
    network a particle a step serves its value and its next kernel.

    A value that fails (NaN) on the way leaves the particle its last known one, or the population's
    mean before the first; a reward that fails at the end gives weight zero. A population in which
    every reward failed returns a particle weighted for the base, with a warning.

    ``keep="best"`` and ``keep="all"`` give up what ``exact`` says of one draw: the best of a
    population is biased to high rewards, and the samples of one population are right as a set but
    depend on each other.

    Attributes:
        judge: the value in use.
    """

    name: ClassVar[str] = "smc"
    exact: ClassVar[bool] = True
    size: ClassVar[str] = "particles"

    particles: int = option(16, "particles in a population; one population a sample")
    value: str | Value = option("auto", "plug-in, posterior or monte-carlo; auto: as the data ask")
    draws: int = option(1, "reward calls of a value that draws")
    sigma_data: float = option(1.0, "standard deviation of the data, for posterior draws")
    every: int = option(5, "steps between checks: values are asked and particles resampled there")
    initial: bool = option(False, "a check at pure noise too, where values hardly differ")
    potential: str = option("difference", "difference, max or sum of the values seen")
    resampling: str = option("systematic", "systematic, stratified, residual or multinomial")
    threshold: float = option(0.5, "resample below this share of effective samples; 1 = always")
    keep: str = option("draw", "one draw a population, its best, or all of them resampled")
    proposal: Denoiser | None = option(None, "a guided denoiser to draw from; the weights correct")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judge = value_for(self.target, self.value, self.draws, self.sigma_data)
        self.statistic = POTENTIALS[self.potential]
        self._watch: Watch | None = None

    @property
    def rows(self) -> int:
        """States held at once for one sample."""
        return 1 if self.keep == "all" else self.particles

    @property
    def checks(self) -> int:
        """How often values are asked on the way; the end is not counted."""
        return sum(map(self._is_check, range(self.steps)))

    def cost(self) -> Cost:
        """K · (steps) network evaluations and K · (checks · calls of the value + 1) rewards.

        A proposal is taken to evaluate the base once a step, all but the last. With ``keep="all"``
        a population is shared by its K samples, if a multiple of K is asked for.
        """
        value, checks = value_cost(self.judge), self.checks
        share = 1 if self.keep == "all" else self.particles
        network = self.steps + (self.steps - 1 if self.proposal is not None else 0)
        return Cost(
            rewards=share * (checks * value.rewards + 1),
            network=share * (network + checks * value.network),
            backward=share * checks * value.backward,
        )

    def populations(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Population:
        """Independent populations (n) in one batch, with particles, weights and Ẑ; not drawn from.

        ``cond`` has n rows, or one that holds for all. Sets ``summary`` and warns like
        :meth:`sample`.

        Raises:
            AllFailed: every reward of every population failed; ``state`` is the population.
        """
        watch = self._new_watch()
        with torch.no_grad():
            population = self._run(n, rows_of(cond, 0, n, n), generator)
        self._note(population, watch)
        watch.warn()
        return population

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Warnings come at the end, once for all batches."""
        self._watch = self._new_watch()
        try:
            yield
            self._watch.warn(CALLER + 1)
        finally:
            self._watch = None

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        """One batch of n samples (n, ...)."""
        count = -(-n // self.particles) if self.keep == "all" else n
        if self.keep == "all" and cond is not None:
            cond = self._shared(cond, count)
        population = self._run(count, cond, generator)
        watch = self._new_watch()
        watch = watch if self._watch is None else self._watch
        index = self._handed_out(population, generator)
        self._note(population, watch, index)
        first = torch.arange(count, device=index.device).unsqueeze(1) * self.particles
        return population.states[(index + first).flatten()[:n]]

    def _new_watch(self) -> Watch:
        return Watch(self.name, self.particles, self.target.temperature, self.checks)

    def tempering(self, progress: float) -> float:
        """λ of the potential at a check, ``progress`` of the steps done: 1 here."""
        return constant(progress)

    def _is_check(self, step: int) -> bool:
        return step % self.every == 0 and (step > 0 or self.initial)

    def _run(self, n: int, cond: Condition | None, generator: torch.Generator | None) -> Population:
        """All steps of n populations."""
        k = self.particles
        if cond is not None:
            cond = {name: v.repeat_interleave(k, 0) for name, v in cond.items()}
        x = self.start(n * k, cond, generator=generator)
        population = Population.of(x, k, self.statistic.start)
        real = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        grid = self.tabulated(self.times(x.device, real))
        for i in range(self.steps):
            t, s, check = grid[i], grid[i + 1], self._is_check(i)
            value = self._look(population, t, cond, check, generator)
            strength = self.tempering(i / self.steps)
            good = None if value is None else self._weigh(population, value.detach(), strength)
            self._aim(population, t, s, cond, strength, i + 1 == self.steps)
            if good is not None:
                self._resample(population, good, generator)
            self._move(population, generator)
        population.settle()
        score = self.score(population.states, cond).view(n, k)
        failed = score.isnan() | (score == math.inf)
        population.values = torch.where(failed, math.nan, score).to(population.potential)
        population.potential = torch.where(failed, -math.inf, population.values)
        return population

    def _look(
        self,
        population: Population,
        t: Tensor,
        cond: Condition | None,
        check: bool,
        generator: torch.Generator | None,
    ) -> Tensor | None:
        """The base's prediction at the states, and at a check their values (P * K,)."""
        x = population.states
        population.prediction = self.denoiser(x, t, cond)
        if not check:
            return None
        return self.judge.given(population.prediction, x, t, cond, generator=generator)

    def _weigh(self, population: Population, value: Tensor, strength: float) -> Tensor:
        """The new potential from values (P * K,); those that failed are the last known ones.

        Returns which did not fail, (P, K).
        """
        value = value.view_as(population.potential)
        # zero where finite, else not a number: a third of the time of isfinite
        zero = value - value
        good = zero == zero
        last = known = torch.where(good, value, population.values)
        if population.complete is None:
            # The one look at a result in a batch: who is known once stays so, and so does everyone
            population.complete = not bool(last.isnan().any())
        if not population.complete:
            # never known: as good as the rest; and if nothing is known, nothing changes
            mean = last.nanmean(1, keepdim=True)
            known = torch.where(last.isnan(), mean, last).nan_to_num(0.0)
        population.values = last
        population.seen = self.statistic.update(population.seen, known)
        population.potential = population.seen if strength == 1 else strength * population.seen
        return good

    def _resample(
        self, population: Population, good: Tensor, generator: torch.Generator | None
    ) -> None:
        """Select where the effective sample size, 1/Σw², is below the threshold.

        Beside a small network every operation counts; hence the few, and no look at any result.
        """
        log_weights = population.log_weights
        weights = log_weights.softmax(1)
        # NaN in a population where all weights are zero: it stays as it is
        norm = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        most = math.inf if self.threshold >= 1 else self.threshold * self.particles
        due = norm > (most**-0.5 if most else math.inf)
        population.history.add(log_weights, norm, due, good)
        self._select(population, weights, log_weights, due, generator)

    def _select(
        self,
        population: Population,
        mass: Tensor,
        log_weights: Tensor,
        due: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        """Resample the populations that are due (P, 1) by ``mass`` (P, K), leave the others.

        The mass is proportional to the weights, so offspring are equal: the mean of the weights is
        in the population's history.
        """
        index = SCHEMES[self.resampling](mass, generator)
        index = torch.where(due, index, population.slots)
        population.take(index, torch.where(due, 0.0, log_weights))

    def _aim(
        self,
        population: Population,
        t: Tensor,
        s: Tensor,
        cond: Condition | None,
        strength: float,
        last: bool,
    ) -> None:
        """The kernels of the next move.

        They come before the resampling and are selected with their particles: one tensor a kernel,
        in place of states, predictions and gradients.
        """
        x, process = population.states, self.denoiser.process
        base = process.reverse(x, t, s, population.prediction, 1.0, cond)
        other = None if last else self._propose(population, base, t, s, cond, strength)
        population.aimed(base, other)

    def _move(self, population: Population, generator: torch.Generator | None) -> None:
        base, other = population.base, population.other
        assert base is not None
        if other is None:
            population.moved(base.sample(generator=generator))
            return
        new = other.sample(generator=generator)
        population.moved(new, log_ratio(base, other, new))

    def _propose(
        self,
        population: Population,
        base: Kernel,
        t: Tensor,
        s: Tensor,
        cond: Condition | None,
        strength: float,
    ) -> Kernel | None:
        """Where to draw the next states from; None for the base's own kernel."""
        if self.proposal is None:
            return None
        prediction = self.proposal(population.states, t, cond)
        return self.denoiser.process.reverse(population.states, t, s, prediction, 1.0, cond)

    def _handed_out(self, population: Population, generator: torch.Generator | None) -> Tensor:
        """Which particles are returned: (P, 1), or (P, K) for ``keep="all"``."""
        dead = population.dead.unsqueeze(1)
        mass = normalised(torch.where(dead, population.log_base, population.log_weights))
        if self.keep == "all":
            return shuffled(SCHEMES[self.resampling](mass, generator), generator)
        index = pick(mass, generator).unsqueeze(1)
        if self.keep == "draw":
            return index
        alive = population.log_weights > -math.inf
        best = torch.where(alive, population.values, -math.inf).argmax(1, keepdim=True)
        return torch.where(dead, index, best)

    def _note(self, population: Population, watch: Watch, index: Tensor | None = None) -> None:
        watch.add(population, index if self.keep == "all" else None)
        self.summary = watch.summary()
        if watch.all_failed:
            raise AllFailed(
                f"{self.name}: every one of {population.log_base.numel()} rewards was NaN or -inf: "
                "check the reward on samples of the base model. The particles are in the error's "
                "attribute state",
                population,
            )

    def _shared(self, cond: Condition, count: int) -> Condition:
        """One condition a population, which all its samples must share."""
        k, found = self.particles, {}
        for name, v in cond.items():
            rows = v[::k]
            if not bool((rows.repeat_interleave(k, 0)[: len(v)] == v).all()):
                raise UserError(
                    f"{self.name} with keep = all hands out populations of {k} samples under one "
                    f'condition, and cond["{name}"] differs inside of them: use keep = draw'
                )
            found[name] = rows[:count]
        return found

    def _check(self) -> None:
        super()._check()
        self._check_options()

    def _check_options(self) -> None:
        for word, known in (
            ("resampling", SCHEMES), ("potential", POTENTIALS), ("keep", KEEP),
        ):  # fmt: skip
            one_of(self.name, word, getattr(self, word), known)
        if self.particles < 1:
            raise UserError(f"{self.name}: particles must be at least 1, got {self.particles}")
        if self.every < 1:
            raise UserError(f"{self.name}: every must be at least 1 step, got {self.every}")
        if not 0 <= self.threshold <= 1:
            raise UserError(
                f"{self.name}: threshold is a share of the particles, from 0 (never resample) to 1 "
                f"(always), got {self.threshold}"
            )
        if self.proposal is not None and self.proposal.process != self.target.denoiser.process:
            raise UserError(
                f"{self.name}: the proposal reverses {self.proposal.process}, the base "
                f"{self.target.denoiser.process}: they must be the same"
            )


def log_ratio(p: Kernel, q: Kernel, x: Tensor) -> Tensor:
    r"""Difference of log-densities log p(x) − log q(x), (B,).

    For Gaussians of one width :math:`\langle\mu_p-\mu_q,\,x-\tfrac12(\mu_p+\mu_q)\rangle/s^2`:
    the same without its cancelling parts, in precision and in time.
    """
    if not (isinstance(p, GaussianKernel) and isinstance(q, GaussianKernel)):
        return p.log_prob(x) - q.log_prob(x)
    numbers = isinstance(p.std, float) and isinstance(q.std, float)
    if not numbers or p.std != q.std or x.element_size() < 4:
        return p.log_prob(x) - q.log_prob(x)
    gap = p.space.project(p.mean - q.mean, p.cond)
    middle = torch.sub(x, p.mean + q.mean, alpha=0.5)
    return (gap * middle).flatten(1).sum(1) / p.std**2  # type: ignore[operator]


def one_of(name: str, word: str, asked: str, known: Iterable[str]) -> None:
    """Refuse an option's word that is none of the known ones."""
    known = list(known)
    if asked not in known:
        raise UserError(
            f"{name}: unknown {word} {asked!r}{suggest(str(asked), known)} "
            f"(known: {', '.join(known)})"
        )
