"""Problems with a closed form as a kind: exact data, an exact base, and the distance from p*."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from payoff.domains.base import Data
from payoff.domains.closed.domain import Closed, Point
from payoff.domains.closed.kind import KIND, PROBLEMS, ClosedOptions
from payoff.domains.closed.model import ExactModel, make_problem
from payoff.domains.installed import kind_of
from payoff.domains.kind import NO
from payoff.errors import UserError
from payoff.pretrained import from_pretrained, save_pretrained
from payoff.rewards.ledger import Entry, Ledger
from payoff.training import FitConfig, fit

NUMBERS = ("mixture", "subspace")


def data(problem: str, score: str | None = None, seed: int = 0, **options) -> Data[Point]:
    return Closed.read(problem, ClosedOptions(**options), score, seed=seed)


def points(x: torch.Tensor) -> list[Point]:
    return [tuple(row) for row in x.tolist()]


def test_the_kind_is_known_without_anything_heavy() -> None:
    code = (
        "import sys; import payoff.domains.closed.kind; "
        "print([m for m in ('torch', 'polars', 'rdkit') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_problems_are_claimed_by_name() -> None:
    assert [kind_of(name, ()) for name in PROBLEMS] == [KIND] * 3
    assert KIND.reads("mixtures", ()) == NO
    assert KIND.reads(Path("mixture"), ()) == NO
    for wrong in ({"draws": 1}, {"labelled": 2.0}, {"noise": -0.1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ClosedOptions(**wrong)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_data_are_exact_draws_with_the_rewards_of_some(problem: str) -> None:
    found = data(problem, "reward", labelled=0.25, draws=400)
    assert found.labels is not None
    known = found.labels.isfinite().nonzero()[:, 0].tolist()
    assert len(known) == 100
    judge = found.domain.judge("reward")
    assert judge is not None
    asked = list(judge.of([found.objects[i] for i in known]))
    assert found.labels[known].tolist() == asked
    assert data(problem, draws=400).objects == found.objects
    assert data(problem, seed=1, draws=400).objects != found.objects
    noisy = data(problem, "reward", labelled=1.0, noise=0.5, draws=2000)
    clean = data(problem, "reward", labelled=1.0, draws=2000)
    assert noisy.labels is not None
    assert clean.labels is not None
    share = (noisy.labels - clean.labels).std() / clean.labels.std()
    assert float(share) == pytest.approx(0.5, rel=0.1)
    with pytest.raises(UserError, match="did you mean 'reward'"):
        data(problem, "rewards")
    with pytest.raises(UserError, match="at least 20"):
        data(problem, "reward", draws=100)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_points_survive_tensors_tables_and_files(problem: str, tmp_path: Path) -> None:
    found = data(problem, draws=50)
    domain, objects = found.domain, list(found.objects)
    x, cond = domain.encode(objects)
    assert tuple(x.shape) == (50, *domain.shape)
    assert list(domain.decode(x, cond)) == objects
    keys = domain.keys(objects)
    assert keys == [domain.keys([thing])[0] for thing in objects]
    assert len(set(keys)) == len(set(objects))
    made = Closed(**json.loads(json.dumps(domain.config())))
    assert made.keys(objects) == keys
    assert torch.equal(made.features(objects[:7]), domain.features(objects)[:7])
    some = [*objects[:3], None]
    table = domain.table(some)
    assert list(domain.read_back(tmp_path, "designs", table)) == some
    with pytest.raises(UserError, match="no column"):
        domain.read_back(tmp_path, "designs", table.drop(table.columns[0]))
    with pytest.raises(UserError, match="numbers each"):
        domain.encode([(1,) * 40])


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_broken_sample_is_no_point(problem: str) -> None:
    domain = Closed(problem)
    x, _ = domain.encode(data(problem, draws=3).objects)
    x[1, 0] = domain.vocabulary if domain.tokens else float("nan")
    assert [thing is None for thing in domain.decode(x, {})] == [False, True, False]
    assert domain.check(list(domain.decode(x, {}))) == [None, "no point", None]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_base_is_the_exact_denoiser_and_can_be_saved(problem: str, tmp_path: Path) -> None:
    base = Closed(problem).base_denoiser()
    law = make_problem(problem).denoiser
    x = law.sample(64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.4)
    noised = law.process.corrupt(x, t, generator=torch.Generator().manual_seed(1))

    def estimate(denoiser) -> torch.Tensor:
        found = denoiser(noised, t)
        return found.log_probs.exp() if problem == "chain" else found.x0

    assert torch.allclose(estimate(base), estimate(law), atol=1e-5)
    with torch.no_grad():
        for parameter in base.net.head.parameters():  # type: ignore[union-attr]
            parameter.copy_(torch.linspace(0.1, 0.5, parameter.numel()).reshape(parameter.shape))
    moved = estimate(base)
    assert not torch.allclose(moved, estimate(law), atol=1e-3)
    save_pretrained(base, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert isinstance(again, ExactModel)
    assert torch.equal(estimate(again), moved)


@pytest.mark.parametrize("problem", NUMBERS)
def test_a_network_learns_what_is_known_exactly(problem: str) -> None:
    """Trained on draws it comes nearer to the exact denoiser than it was."""
    found = data(problem)
    domain, law = found.domain, make_problem(problem).denoiser
    x, _ = domain.encode(found.objects)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = domain.denoiser(width=32, depth=2)
        again = domain.denoiser(labels=1, width=32, depth=2)
    t = torch.tensor(0.5)
    noised = law.process.corrupt(x, t, generator=torch.Generator().manual_seed(1))

    def error(denoiser) -> float:
        return float((denoiser(noised, t).x0 - law(noised, t).x0).detach().square().mean())

    before = error(fresh)
    config = FitConfig(steps=200, batch_size=128, ema_decay=0.9)
    assert error(fit(fresh, x, None, config)) < 0.5 * before
    label = {"label": torch.zeros(len(x), 1)}
    assert again(noised, t, label).x0.shape == x.shape


def test_tokens_are_read_with_their_labels() -> None:
    domain = Closed("chain")
    x, _ = domain.encode(data("chain", draws=20).objects)
    net = domain.denoiser(labels=1, width=16, depth=1)
    found = net(x, torch.tensor(0.5), {"label": torch.ones(20, 1)})
    assert found.log_probs.shape == (20, 5, 4)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_reward_has_its_slope_where_there_is_one(problem: str) -> None:
    domain = Closed(problem)
    x, _ = domain.encode(data(problem, draws=10).objects)
    judge = domain.judge("reward")
    assert judge is not None
    assert domain.judge("other") is None
    if domain.tokens:
        assert judge.slope is None
        assert domain.numbers(x, {}) is None
        return
    numbers = domain.numbers(x.requires_grad_(True), {})
    assert numbers is not None
    assert judge.slope is not None
    values = judge.slope(numbers)
    exact = list(judge.of(points(x.detach())))
    assert values.tolist() == pytest.approx(exact, abs=1e-5)
    values.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_two_problems_do_not_share_answers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    versions = set()
    for problem in PROBLEMS:
        domain = Closed(problem)
        judge = domain.judge("reward")
        assert judge is not None
        versions.add(f"{judge.version} {domain.meaning}".strip())
    assert len(versions) == 3
    first, *others = sorted(versions)
    ledger.record("closed:reward", first, {"a" * 64: Entry(1.0)})
    assert not any(ledger.lookup("closed:reward", other, ["a" * 64]) for other in others)


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_only_draws_of_p_star_are_near_it(problem: str, temperature: float | None) -> None:
    """Those of the answer at another temperature are not, nor has the base its weights."""
    domain = Closed(problem)
    tau = 1.0 if temperature is None else temperature
    exact = make_problem(problem, tau, torch.float64)
    g = torch.Generator().manual_seed(0)
    right = points(exact.sample_target(1000, generator=g))
    kl = float(exact.kl())
    found = domain.measures(right, frozenset(), temperature=temperature, kl=kl)
    gain = float(exact.target_reward() - exact.base_reward())
    assert abs(found["gain"] - gain) < 4 * found["gain_stderr"]
    assert abs(found["share"] - 1) < 4 * found["share_stderr"]
    cold = points(exact.sample_target(1000, temperature=tau / 10, generator=g))
    other = domain.measures(cold, frozenset(), temperature=temperature)
    distances = {"energy"} if domain.tokens else {"energy", "w1"}
    for name in distances:
        assert abs(found[name]) < 0.5 * other[name]
    assert "share" not in other
    if problem == "mixture":
        base = points(exact.sample_base(1000, generator=g))
        error = domain.measures(base, frozenset(), temperature=temperature)["weight_error"]
        assert found["weight_error"] < 4 < error
    turned = sorted(right, reverse=True)
    assert domain.measures(turned, frozenset(), temperature=temperature, kl=kl) == found
    assert domain.measures([None, right[0]], frozenset()) == {}


def test_a_model_serves_its_own_problem_only() -> None:
    domain = Closed("mixture")
    assert domain.adapt(data("mixture")) is domain
    with pytest.raises(UserError, match="one of mixture"):
        domain.adapt(data("subspace"))
