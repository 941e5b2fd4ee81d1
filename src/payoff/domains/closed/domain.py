"""Points of a problem with a closed form as objects, and their distance from the exact answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from torch import Tensor, nn

from payoff.configs import suggest
from payoff.denoisers import Denoiser
from payoff.domains.base import Bar, Data, Domain, Judge, no_bar
from payoff.domains.closed.kind import TEMPERATURE
from payoff.domains.closed.model import ExactModel, make_problem, untrained
from payoff.errors import UserError
from payoff.metrics import bootstrap, energy_distance, sliced_wasserstein
from payoff.problems import GaussianMixture, TokenChain
from payoff.problems.base import Problem
from payoff.rewards.remembered import design_keys
from payoff.spaces import Condition
from payoff.training import FitConfig

REWARD = "reward"
MIN_LABELLED = 20
EXACT_DRAWS, REFERENCE = 4000, 20_000  # draws of p* that samples are compared with; their seed
REPEATS, LEAST_ENERGY = 30, 100
LEAST_KL = 1e-3  # nats: below this the share is noise over noise
Point = tuple[float, ...] | tuple[int, ...]


class Closed(Domain[Point]):
    """The samples of one problem: tuples of numbers, or of tokens.

    Args:
        problem: its name, one of :data:`~payoff.domains.closed.kind.PROBLEMS`.

    Attributes:
        exact: the problem in double precision, at temperature 1.
        tokens: whether its points are sequences of tokens.
        vocabulary: number of tokens; 0 for numbers.

    Raises:
        KeyError: there is no problem of that name.
    """

    training: ClassVar[FitConfig] = FitConfig(steps=3000, batch_size=256, learning_rate=2e-3)
    compared: ClassVar[tuple[str, ...]] = (
        *("reward", "gain", "w1", "energy", "mode_1", "mode_2", "weight_error", "diversity"),
        *("frontier", "share"),
    )
    measure_help: ClassVar[Mapping[str, str]] = {
        "gain": "mean reward above the base's, which is exactly known",
        "frontier": "the most gain that any law has at this divergence",
        "share": "share of that gain",
        "weight_error": "largest error of a mode's weight against p*, in its standard errors",
        "w1": "Wasserstein-1 distance to exact draws of p*, over random directions where there are "
        "several",
        "energy": "energy distance to them, 0 for equal laws (tokens as indicators)",
        "mode_1": "share of samples in the first mode",
        "mode_2": "share of samples in the second mode",
    }

    def __init__(self, problem: str) -> None:
        self.problem = self.meaning = problem
        self.exact: Problem = make_problem(problem, dtype=torch.float64)
        self.shape = self.exact.shape
        self.space = self.exact.base.process.space
        self.tokens = isinstance(self.exact, TokenChain)
        self.vocabulary = int(getattr(self.exact.base, "vocabulary", 0))

    def config(self) -> dict[str, Any]:
        return {"problem": self.problem}

    # --- data and tensors ---------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        source: Any,
        options: Any,
        score: str | None = None,
        *,
        seed: int = 0,
        bar: Bar = no_bar,
    ) -> Data[Point]:
        """Draw from the exact base law; with a score, label a random share by the reward."""
        domain, generator = cls(str(source)), torch.Generator().manual_seed(seed)
        x = make_problem(domain.problem).sample_base(options.draws, generator=generator)
        objects = _points(x)
        labels = None
        if score is not None:
            if score != REWARD:
                raise UserError(
                    f"--score {score}: {source} has one score only, its own {REWARD}"
                    f"{suggest(score, [REWARD])}"
                )
            labels = _labels(domain._values(objects), options, generator)
        return Data(
            domain,
            objects,
            labels,
            name=domain.problem,
            score=score or "",
            fingerprint=f"{domain.problem}, {options.draws} draws, seed {seed}",
            about=f"exact draws of {_law_in_words(domain)}",
            summary={"problem": domain.problem, "draws": options.draws},
            source=domain.problem,
        )

    def encode(self, objects: Sequence[Point]) -> tuple[Tensor, dict[str, Tensor]]:
        x = self._tensor(objects)
        return (x if self.tokens else x.to(torch.get_default_dtype())), {}

    def decode(self, x: Tensor, cond: Condition) -> Sequence[Point | None]:
        """Points of samples; None where a number is not finite or a token is masked."""
        return [thing if self._sound(thing) else None for thing in _points(x.detach().cpu())]

    def adapt(self, data: Data[Point]) -> Closed:
        """This domain, if the data are of the same problem.

        Raises:
            UserError: they are of another one.
        """
        other = getattr(data.domain, "problem", None)
        if other != self.problem:
            raise UserError(f"the model is one of {self.problem}, and the data are of {other}")
        return self

    # --- a model ------------------------------------------------------------------------------

    def denoiser(self, labels: int = 0, **size: Any) -> Denoiser:
        """Make an untrained network that learns from draws what is known exactly."""
        return untrained(make_problem(self.problem).denoiser, labels, **size)

    def base_denoiser(self) -> Denoiser:
        """The exact denoiser with a trainable correction, zero at the start."""
        return ExactModel(self.problem)

    def work(self, rows: int, **size: Any) -> float:
        return super().work(rows, **{"width": 128, **size})

    # --- the worth of an object ---------------------------------------------------------------

    def check(self, objects: Sequence[Point | None]) -> list[str | None]:
        return [None if thing is not None else "no point" for thing in objects]

    def keys(self, objects: Sequence[Point]) -> list[str]:
        return design_keys(self._tensor(objects)) if objects else []

    def features(self, objects: Sequence[Point]) -> Tensor:
        """The numbers themselves; tokens as indicators."""
        return self._numbers(self._tensor(objects))

    def judge_names(self) -> tuple[str, ...]:
        return (REWARD,)

    def judge(self, name: str) -> Judge[Point] | None:
        if name != REWARD:
            return None
        slope = None if self.tokens else self.exact.reward
        said = f"the reward of {self.problem}"
        return Judge(f"closed:{REWARD}", self._values, help=said, slope=slope)

    def numbers(self, x: Tensor, cond: Condition) -> Tensor | None:
        return None if self.tokens else x

    def measures(
        self,
        objects: Sequence[Point | None],
        known: frozenset[str],
        *,
        temperature: float | None = None,
        kl: float | None = None,
    ) -> dict[str, Any]:
        r"""Distance of points from the exact answer p*, each with its standard error.

        ``w1``: Wasserstein-1 distance to exact draws of p*, over random directions where there are
        several. ``energy``: energy distance to them, 0 for equal laws (tokens as indicators).
        ``gain``: mean reward above the base's. Of a mixture: ``mode_1``, ``mode_2`` (shares of the
        points in each mode of p*) and ``weight_error`` (the largest error of these, in standard
        errors). With ``kl`` also ``frontier``, the most gain that any law has at this divergence,

        .. math:: R(k) = \max_{\mathrm{KL}(q\|p)\le k} E_q[r] = E_{p^*_\tau}[r],\qquad
                  \tau:\ \mathrm{KL}(p^*_\tau\|p) = k ,

        and ``share``, the share of it that was gained.

        Args:
            objects: samples; None among them are left out.
            known: not used: every point is new.
            temperature: τ of p*; None: 1.
            kl: divergence of the samples' law from the base, nats.
        """
        x = self._tensor(sorted(thing for thing in objects if thing is not None))
        if len(x) < 2:
            return {}
        # designs come best first, and estimates by blocks need rows in random order
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(REFERENCE))]
        problem = self.exact
        if temperature not in (None, TEMPERATURE):
            problem = make_problem(self.problem, float(temperature or TEMPERATURE), torch.float64)
        reward = problem.reward(x).double()
        gain = float(reward.mean() - problem.base_reward())
        error = float(reward.std()) / len(x) ** 0.5
        found: dict[str, Any] = {"gain": gain, "gain_stderr": error, **self._distances(problem, x)}
        if isinstance(problem.base, GaussianMixture) and len(problem.base.means) > 1:
            found |= _weights(problem, x)
        if kl is not None:
            top = problem.frontier_gain(kl) if kl > LEAST_KL else None
            share = (gain / top, error / top) if top else (None, None)
            found |= {"frontier": top, "share": share[0], "share_stderr": share[1]}
        return found

    def exact_answer(
        self, n: int, temperature: float | None, generator: torch.Generator
    ) -> tuple[Sequence[Point], dict[str, float]] | None:
        tau = TEMPERATURE if temperature is None else float(temperature)
        problem = make_problem(self.problem, tau, torch.float64)
        drawn = make_problem(self.problem, tau).sample_target(n, generator=generator)
        reward, kl = float(problem.target_reward()), float(problem.kl())
        gain = reward - float(problem.base_reward())
        top = problem.frontier_gain(kl)
        known = {"reward": reward, "reward_stderr": 0.0, "gain": gain, "gain_stderr": 0.0, "kl": kl}
        if top:
            known |= {"frontier": top, "share": gain / top, "share_stderr": 0.0}
        if isinstance(problem.base, GaussianMixture) and len(problem.base.means) > 1:
            tilted = problem.tilted()
            assert isinstance(tilted, GaussianMixture)
            for i, weight in enumerate(tilted.log_weights.exp().tolist()):
                known |= {f"mode_{i + 1}": weight, f"mode_{i + 1}_stderr": 0.0}
        return _points(drawn), known

    def _distances(self, problem: Problem, x: Tensor) -> dict[str, Any]:
        own = torch.Generator().manual_seed(REFERENCE)
        y = problem.sample_target(max(EXACT_DRAWS, len(x)), generator=own)
        rows, exact = self._numbers(x), self._numbers(y)
        found: dict[str, Any] = {}
        if not self.tokens:

            def far(some: Tensor) -> Tensor:
                directions = torch.Generator().manual_seed(REFERENCE)
                return torch.tensor(sliced_wasserstein(some, exact, generator=directions).value)

            w1 = bootstrap(far, rows, REPEATS, generator=own)
            found |= {"w1": w1.value, "w1_stderr": w1.stderr}
        if len(rows) >= LEAST_ENERGY:
            energy = energy_distance(rows, exact[: len(rows)])
            found |= {"energy": energy.value, "energy_stderr": energy.stderr}
        return found

    # --- files --------------------------------------------------------------------------------

    def table(self, objects: Sequence[Point | None]) -> pl.DataFrame:
        kind = pl.Int64 if self.tokens else pl.Float64
        return pl.DataFrame(
            [
                pl.Series(name, [None if o is None else o[i] for o in objects], dtype=kind)
                for i, name in enumerate(self._names())
            ]
        )

    def read_back(self, folder: Path, name: str, table: pl.DataFrame) -> Sequence[Point | None]:
        names = self._names()
        if missing := [column for column in names if column not in table.columns]:
            raise UserError(f"{folder / name}: the table has no column {missing[0]}")
        rows = table.select(names).rows()
        return [None if any(cell is None for cell in row) else row for row in rows]

    def _names(self) -> list[str]:
        letter = "token" if self.tokens else "x"
        return [f"{letter}{i + 1}" for i in range(self.shape[0])]

    # --- points as numbers --------------------------------------------------------------------

    def _tensor(self, objects: Sequence[Point]) -> Tensor:
        """Points as (n, D) float64, or tokens as (n, L) int64."""
        dtype = torch.int64 if self.tokens else torch.float64
        try:
            x = torch.tensor(list(objects), dtype=dtype).reshape(len(objects), *self.shape)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"a point of {self.problem} has {self.shape[0]} numbers each: {error}"
            ) from error
        return x

    def _numbers(self, x: Tensor) -> Tensor:
        """Points (n, D), or tokens as indicators (n, L · V); float64."""
        if not self.tokens:
            return x.double()
        return nn.functional.one_hot(x, self.vocabulary).flatten(1).double()

    def _values(self, objects: Sequence[Point]) -> list[float]:
        """The reward of each point."""
        values: list[float] = self.exact.reward(self._tensor(objects)).double().tolist()
        return values

    def _sound(self, thing: Point) -> bool:
        if self.tokens:
            return all(0 <= token < self.vocabulary for token in thing)
        return all(math.isfinite(number) for number in thing)


def _points(x: Tensor) -> list[Point]:
    return [tuple(row) for row in x.tolist()]


def _labels(values: Sequence[float], options: Any, generator: torch.Generator) -> Tensor:
    """Rewards with noise for a random share, NaN for the others."""
    exact, n = torch.tensor(values, dtype=torch.float64), round(options.labelled * len(values))
    if n < MIN_LABELLED:
        raise UserError(
            f"--labelled {options.labelled:g} of {len(values)} draws are {n} labels: at least "
            f"{MIN_LABELLED} are needed"
        )
    chosen = torch.randperm(len(values), generator=generator)[:n]
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    labels = torch.full((len(values),), math.nan, dtype=torch.float64)
    labels[chosen] = exact[chosen] + options.noise * exact.std() * noise
    return labels


def _weights(problem: Problem, x: Tensor) -> dict[str, Any]:
    """Shares of the points in each mode of p*, and the largest error of one."""
    tilted = problem.tilted()
    assert isinstance(tilted, GaussianMixture)
    own = tilted.responsibilities(x, torch.zeros((), dtype=x.dtype)).argmax(1)
    exact = tilted.log_weights.exp().double()
    share = torch.bincount(own, minlength=len(exact)).double() / len(x)
    error = (exact * (1 - exact) / len(x)).sqrt()
    own_error = (share * (1 - share) / len(x)).sqrt().tolist()
    found: dict[str, Any] = {f"mode_{i + 1}": v for i, v in enumerate(share.tolist())}
    found |= {f"mode_{i + 1}_stderr": v for i, v in enumerate(own_error)}
    found["weight_error"] = float(((share - exact).abs() / error.clamp(min=1e-12)).max())
    return found


def _law_in_words(domain: Closed) -> str:
    names: Mapping[str, str] = {
        "mixture": "a mixture of two normal laws",
        "subspace": "a normal law on a subspace of 4 dimensions in 16",
        "chain": "a Markov chain of 5 tokens out of 4",
    }
    return names[domain.problem]
