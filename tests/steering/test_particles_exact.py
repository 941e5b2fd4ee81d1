"""Particles are exact: draws of p*, Ẑ unbiased, whatever the value, the proposal and the way."""

from __future__ import annotations

import functools

import pytest
import torch
from particle_laws import (
    Case,
    Reference,
    chain,
    cloud,
    deviations,
    distance,
    floor,
    mixture,
    obeys,
    two_modes,
)

from payoff.denoisers import Denoiser
from payoff.predictions import Prediction, TokenPrediction
from payoff.samplers import Ancestral
from payoff.spaces import expand_to
from payoff.steering.das import DAS
from payoff.steering.fk import FeynmanKac
from payoff.steering.particles import Particles
from payoff.steering.population import Population
from payoff.steering.tds import TDS
from payoff.steering.vasr import VASR

pytestmark = pytest.mark.filterwarnings("ignore::payoff.steering.base.Degenerate")

CASES = {
    "two modes": two_modes,
    "two dimensions": functools.partial(mixture, 2, 2.0),
    "sixteen dimensions": functools.partial(mixture, 16, 4.0),
    "cloud": cloud,
    "tokens": chain,
}


@functools.cache
def case_of(name: str) -> tuple[Case, Reference]:
    case = CASES[name]()
    return case, Reference(case, 100_000 if name == "two modes" else 40_000)


METHODS = {
    "smc": (Particles, {"every": 3}),
    "smc, always resampled": (Particles, {"every": 3, "threshold": 1.0, "initial": True}),
    "smc, never resampled": (Particles, {"threshold": 0.0}),
    "smc, exact value": (Particles, {"every": 3, "value": "exact"}),
    "smc, posterior draws": (Particles, {"value": "posterior", "draws": 2}),
    "fk": (FeynmanKac, {"every": 5}),
    "fk, max": (FeynmanKac, {"every": 5, "potential": "max", "threshold": 0.9}),
    "fk, sum, residual": (FeynmanKac, {"potential": "sum", "resampling": "residual"}),
    "tds": (TDS, {}),
    "das": (DAS, {"resampling": "stratified", "threshold": 0.9}),
    "vasr": (VASR, {"every": 3}),
}


def made(case: Case, name: str, particles: int) -> Particles:
    cls, options = METHODS[name]
    if options.get("value") == "exact":
        options = {**options, "value": case.problem.value()}
    method = case.method(cls, particles=particles, **options)
    assert isinstance(method, Particles)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_draws_follow_the_target_in_one_dimension(name: str) -> None:
    case, reference = case_of("two modes")
    method = made(case, name, 32)
    assert method.exact
    z = deviations(method, case, reference, 1000)
    assert z.abs().max() < 4.5, z


@pytest.mark.parametrize(
    ("where", "name"),
    [
        *(("two dimensions", name) for name in ("smc", "tds", "das", "vasr")),
        *(("sixteen dimensions", name) for name in ("smc, exact value", "tds", "das")),
        *(("cloud", name) for name in ("smc", "fk, max", "tds", "vasr")),
        *(("tokens", name) for name in ("smc", "fk", "fk, sum, residual", "vasr")),
    ],
)
def test_draws_follow_the_target_elsewhere(where: str, name: str) -> None:
    case, reference = case_of(where)
    z = deviations(made(case, name, 48), case, reference, 600)
    assert z.abs().max() < 4.5, z


@pytest.mark.parametrize("name", ["smc", "fk", "fk, max", "tds", "das", "vasr"])
def test_the_distance_falls_to_that_of_exact_draws(name: str) -> None:
    case, reference = case_of("two modes")
    n = 800
    mean, spread = floor(reference, n)
    errors = [distance(made(case, name, k), reference, n, k) for k in (2, 4, 16, 64)]
    assert errors[-1] < mean + 4 * spread, (errors, mean)
    assert errors[0] > errors[-1], errors


def test_the_laws_above_are_laws_of_resampled_populations() -> None:
    case, _ = case_of("two modes")
    often = {}
    for name in METHODS:
        method = made(case, name, 32)
        method.populations(100, generator=torch.Generator().manual_seed(0))
        often[name] = method.summary["resampled"]
    assert often.pop("smc, never resampled") == 0
    assert often["smc, always resampled"] == 10
    assert often["vasr"] == 9
    assert min(often.values()) > 0.05, often


def test_a_presets_law_does_not_depend_on_how_it_is_batched() -> None:
    case, reference = case_of("two modes")
    method = made(case, "smc", 16)
    x = method.sample(1000, generator=torch.Generator().manual_seed(0), batch_size=500)
    z = (case.features(x).double().mean(0) - reference.mean) / (
        case.features(x).double().var(0) / 1000 + reference.error**2
    ).sqrt()
    assert z.abs().max() < 4.5
    assert method.summary["populations"] == 1000


class Misguided(Denoiser):
    """A guided denoiser that leads away from the reward: its score is off by ``push``."""

    def __init__(self, base: Denoiser, push: float) -> None:
        super().__init__()
        self.base, self.process, self.push = base, base.process, push

    def forward(self, x_t, t, cond=None):
        found = self.base(x_t, t, cond)
        if isinstance(found, TokenPrediction):
            logits = found.log_probs.clone()
            logits[..., 0] += self.push
            return TokenPrediction.of_logits(logits, x_t, self.process.space.mask_token)
        alpha, sigma = self.process.schedule(t)
        ratio = expand_to(sigma**2 / alpha, x_t).clamp(max=3.0)
        move = self.process.space.project(self.push * torch.sin(2 * x_t), cond)
        return Prediction(found.x0 + ratio * move, x_t, alpha, sigma)


@pytest.mark.parametrize("where", ["two modes", "cloud", "tokens"])
@pytest.mark.parametrize("cls", [Particles, TDS])
def test_particles_over_a_misguided_denoiser_stay_exact(cls: type[Particles], where: str) -> None:
    if cls is TDS and where == "tokens":
        pytest.skip("TDS does not work on tokens")
    case, reference = case_of(where)
    wrong = Misguided(case.problem.denoiser, 1.0)
    method = case.method(cls, particles=64, every=2, proposal=wrong)
    z = deviations(method, case, reference, 500)
    assert z.abs().max() < 4.5, z


class Uncorrected(Particles):
    """Broken: draws from the proposal and forgets log p − log q."""

    def _move(self, population, generator):
        before = population.log_base
        super()._move(population, generator)
        population.log_base = before


class Dropped(Particles):
    """Broken: weights that were not resampled away are forgotten at the next check."""

    def _select(self, population, mass, log_weights, due, generator):
        super()._select(population, mass, log_weights, due, generator)
        population.log_base = -population.potential


class Stale(Population):
    """Broken: values, potentials and proposals stay behind when particles are resampled."""

    def take(self, index, log_weights):
        behind = self.values, self.potential, self.seen, self.other
        super().take(index, log_weights)
        self.values, self.potential, self.seen, self.other = behind
        self.log_base = log_weights - self.potential


def test_the_law_sees_dropped_weights() -> None:
    """FK with adaptive resampling that forgets weights is hardly steering at any size."""
    case, reference = case_of("two modes")
    for particles in (4, 16, 64):
        options = {"particles": particles, "every": 3, "resampling": "multinomial"}
        assert not obeys(case.method(Dropped, **options), case, reference, 1000)
    assert obeys(case.method(Particles, **options), case, reference, 1000)


@pytest.mark.parametrize("cls", [TDS, DAS])
def test_the_law_sees_stale_twists(cls: type[TDS], monkeypatch: pytest.MonkeyPatch) -> None:
    case, reference = case_of("two modes")
    method = case.method(cls, particles=32, threshold=0.9)
    assert obeys(method, case, reference, 1000)
    monkeypatch.setattr("payoff.steering.particles.Population", Stale)
    assert not obeys(method, case, reference, 1000)


def test_the_law_sees_an_uncorrected_proposal_and_an_unsteered_base() -> None:
    case, reference = case_of("two modes")
    wrong = Misguided(case.problem.denoiser, 1.0)
    options = {"particles": 32, "every": 2, "proposal": wrong}
    assert not obeys(case.method(Uncorrected, **options), case, reference, 1000)
    plain = Ancestral(case.problem.denoiser, (1,), case.steps)
    assert not obeys(plain, case, reference, 1000)  # type: ignore[arg-type]


def test_the_max_form_of_vasr_says_that_it_is_biased_and_is() -> None:
    case, reference = case_of("two modes")
    method = case.method(VASR, particles=32, form="max", every=3)
    assert not method.exact
    assert VASR.exact
    assert not obeys(method, case, reference, 1000)
    assert "log_z" not in method.summary
