"""Best-of-n, SVDD and CoDe against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.errors import UserError
from payoff.metrics import Estimate
from payoff.metrics.distances import wasserstein
from payoff.problems import MixtureProblem, TokenChain
from payoff.problems.quadratic import Quadratic
from payoff.rewards import FunctionReward
from payoff.steering import Degenerate
from payoff.steering.best_of_n import BestOfN
from payoff.steering.blockwise import CoDe
from payoff.steering.search import choose, gumbel
from payoff.steering.svdd import SVDD
from payoff.targets import Target

ALL = 10**6  # one batch


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def left(x: torch.Tensor) -> Estimate:
    """The weight of the mode below zero."""
    return Estimate.of((x[:, 0] < 0).float())


def weight_of(problem: MixtureProblem) -> float:
    return float(problem.tilted().log_weights[0].exp())  # type: ignore[attr-defined]


def test_the_choice_has_its_probabilities_also_in_blocks() -> None:
    logits = torch.tensor([0.0, 1.0, -math.inf, 2.0]).expand(40_000, 4)
    expected = logits[0].softmax(0)
    drawn = choose(logits, generator=seeded())
    keys = logits + gumbel(logits, generator=seeded(1))
    first, second = keys[:, :2].max(1), keys[:, 2:].max(1)
    blocks = torch.where(first.values > second.values, first.indices, 2 + second.indices)
    for found in (drawn, blocks):
        share = torch.bincount(found, minlength=4) / len(found)
        error = (expected * (1 - expected) / len(found)).sqrt() + 1e-12
        assert ((share - expected) / error).abs().max() < 4
    assert choose(logits[:3], "argmax").tolist() == [3, 3, 3]


def test_soft_best_of_n_converges_to_the_target() -> None:
    problem = MixtureProblem.two_modes(temperature=0.25)
    n = 4000
    exact = problem.sample_target(n, generator=seeded(9))[:, 0]
    floor = wasserstein(problem.sample_target(n, generator=seeded(8))[:, 0], exact)
    distances = []
    for candidates in (2, 8, 64):
        method = BestOfN(problem, problem.shape, steps=30, candidates=candidates)
        x = method.sample(n, generator=seeded(1), batch_size=ALL)
        distances.append(float(wasserstein(x[:, 0], exact)))
    assert distances[0] > 2 * distances[1] > 2 * distances[2]
    # steps leave about 0.03 in the standard deviations
    assert distances[2] < float(floor) + 0.06
    assert abs(left(x).z(weight_of(problem))) < 4
    # Z is unbiased up to the base sampler's own error of 30 steps
    gap = method.summary["log_z"] - float(problem.log_partition())
    assert abs(gap) < 4 * method.summary["log_z_stderr"] + 0.05


def test_blocks_of_candidates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = MixtureProblem.two_modes(temperature=0.5)
    options = {"steps": 10, "candidates": 12}
    whole = BestOfN(problem, problem.shape, **options)
    x = whole.sample(6000, generator=seeded(1), batch_size=ALL)
    monkeypatch.setattr("payoff.steering.best_of_n.BLOCK", 5)
    parts = BestOfN(problem, problem.shape, **options)
    y = parts.sample(6000, generator=seeded(2), batch_size=ALL)
    assert abs(left(x).z(left(y))) < 4
    for name in ("ess", "log_z"):
        assert whole.summary[name] == pytest.approx(parts.summary[name], rel=0.03)
    assert (whole.cost(), parts.rows) == (parts.cost(), 5)


def test_the_arg_max_has_the_law_of_the_largest_and_its_divergence() -> None:
    """A normal base and a rising reward: Φ(x)^n is uniform, and KL = log n − (n−1)/n exactly."""
    rising = Quadratic(torch.tensor([2.0]))
    problem = MixtureProblem(torch.zeros(1, 1), torch.ones(1), None, rising)
    k, n = 8, 8000
    # a linear denoiser makes a normal base law of any number of steps: take that one's scale
    base = BestOfN(problem, problem.shape, steps=20, candidates=1)
    scale = base.sample(200_000, generator=seeded(3), batch_size=ALL).std()
    method = BestOfN(problem, problem.shape, steps=20, candidates=k, choice="argmax")
    x = method.sample(n, generator=seeded(), batch_size=ALL)[:, 0] / scale
    u = torch.special.ndtr(x.double())
    uniform = u**k
    assert abs(Estimate.of(uniform).z(0.5)) < 4
    assert abs(Estimate.of((uniform - 0.5) ** 2).z(1 / 12)) < 4
    divergence = Estimate.of(math.log(k) + (k - 1) * u.log())
    assert abs(divergence.z(math.log(k) - (k - 1) / k)) < 4
    assert method.summary["kl_bound"] == pytest.approx(math.log(k) - (k - 1) / k)


def test_tokens_converge_too() -> None:
    chain = TokenChain.random(3, 2, 0.5)
    n = 2000
    expected = chain.tilted().log_table.exp()  # type: ignore[attr-defined]
    method = BestOfN(chain, chain.shape, steps=30, candidates=32)
    x = method.sample(n, generator=seeded(1), batch_size=ALL)
    share = torch.bincount(chain.base.index(x), minlength=9) / n  # type: ignore[attr-defined]
    base = chain.base.log_table.exp()  # type: ignore[attr-defined]
    noise = (expected * (1 - expected) / n).sqrt().sum() / 2
    assert (share - expected).abs().sum() / 2 < 1.5 * noise + 0.03
    assert (base - expected).abs().sum() / 2 > 0.2


def test_the_plug_in_bias_of_svdd_stays_and_the_exact_value_has_none() -> None:
    """More candidates do not help the wrong value; the right one needs few."""
    problem = MixtureProblem.two_modes()
    n, weight = 4000, weight_of(problem)
    exact = problem.sample_target(n, generator=seeded(9))[:, 0]
    for candidates in (4, 16):
        x = SVDD(problem, problem.shape, steps=40, candidates=candidates).sample(
            n, generator=seeded(1), batch_size=ALL
        )
        assert left(x).z(weight) < -4
        assert wasserstein(x[:, 0], exact) > 0.2
    x = SVDD(problem, problem.shape, steps=60, candidates=16, value=problem.value()).sample(
        n, generator=seeded(1), batch_size=ALL
    )
    assert abs(left(x).z(weight)) < 4
    assert wasserstein(x[:, 0], exact) < 0.1
    greedy = SVDD(problem, problem.shape, steps=40, candidates=16, choice="argmax")
    found = greedy.sample(500, generator=seeded(1), batch_size=ALL)
    # the reward's maximum, 0, is between the modes: mode seeking by construction
    assert problem.reward(found).mean() > -0.05


def test_svdd_is_right_on_tokens_with_the_exact_value() -> None:
    chain = TokenChain.random(3, 3, 0.5)
    reward = float(chain.target_reward())
    options = {"steps": 30, "candidates": 8}
    exact = SVDD(chain, chain.shape, value=chain.value(), **options)
    one = SVDD(chain, chain.shape, **options)
    x = exact.sample(1500, generator=seeded(1), batch_size=ALL)
    y = one.sample(1500, generator=seeded(1), batch_size=ALL)
    # 8 candidates and positions revealed together leave 0.02
    assert abs(float(chain.reward(x).mean()) - reward) < 0.06
    assert Estimate.of(chain.reward(y)).z(reward) < -4


def test_one_block_is_best_of_n_and_smaller_ones_are_biased() -> None:
    problem = MixtureProblem.two_modes()
    n, k = 6000, 16
    flat = BestOfN(problem, problem.shape, steps=20, candidates=k)
    x = flat.sample(n, generator=seeded(1), batch_size=ALL)
    for block in (20, 50):
        code = CoDe(problem, problem.shape, steps=20, candidates=k, block=block)
        assert code.cost() == flat.cost()
        y = code.sample(n, generator=seeded(2), batch_size=ALL)
        assert abs(left(x).z(left(y))) < 4
        z = Estimate.of(problem.reward(x)).z(Estimate.of(problem.reward(y)))
        assert abs(z) < 4
    small = CoDe(problem, problem.shape, steps=20, candidates=k, block=2)
    assert left(small.sample(n, generator=seeded(3), batch_size=ALL)).z(weight_of(problem)) < -4


def test_a_reference_is_kept_at_low_strength_and_forgotten_at_one() -> None:
    problem = MixtureProblem.two_modes(temperature=4.0)
    options = {"steps": 20, "candidates": 4, "block": 5}
    reference = torch.tensor([[-2.0], [3.0]])
    for strength, near in ((0.2, True), (1.0, False)):
        one = CoDe(problem, problem.shape, reference=reference[1:], strength=strength, **options)
        x = one.sample(500, generator=seeded(), batch_size=ALL)
        assert bool((x > 0).all()) == near
    two = CoDe(problem, problem.shape, reference=reference, strength=0.2, **options)
    x = two.sample(2000, generator=seeded(), batch_size=ALL)
    assert abs(left(x).z(0.5)) < 4
    with pytest.raises(UserError, match="reference"):
        CoDe(problem, problem.shape, reference=torch.zeros(3))


def test_a_missing_value_on_the_way_does_not_stop_a_chain() -> None:
    """A reward that only knows points near the modes fails for clean estimates between them."""
    problem = MixtureProblem.two_modes()
    off = FunctionReward(
        lambda x, cond: torch.where((x[:, 0] > -1) & (x[:, 0] < 2), math.nan, -(x[:, 0] ** 2) / 8)
    )
    target = Target(problem.base, off)
    method = SVDD(target, problem.shape, steps=30, candidates=4)
    with pytest.warns(Degenerate, match="nothing has chosen"):
        x = method.sample(300, generator=seeded(), batch_size=ALL)
    # the few of which all four last candidates failed
    assert int(off(x).isnan().sum()) == method.summary["failed"] < 10


def test_few_effective_candidates_are_reported() -> None:
    problem = MixtureProblem.two_modes(temperature=1e-6)
    for method in (
        BestOfN(problem, problem.shape, steps=5, candidates=8),
        SVDD(problem, problem.shape, steps=5, candidates=8),
    ):
        with pytest.warns(Degenerate, match="effective sample size") as caught:
            method.sample(40, generator=seeded(), batch_size=80)
        assert len(caught) == 1  # once a call, not once a batch
        assert f"{method.summary['ess']:.2g}" in str(caught[0].message)
