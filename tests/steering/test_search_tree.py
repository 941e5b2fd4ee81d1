"""Tree sampling and tree search against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.errors import UserError
from payoff.metrics import Estimate
from payoff.metrics.distances import wasserstein
from payoff.problems import MixtureProblem, TokenChain
from payoff.rewards import FunctionReward
from payoff.steering import Degenerate
from payoff.steering.best_of_n import BestOfN
from payoff.steering.tree import Forest, Tree
from payoff.targets import Target

ALL = 10**6  # one batch


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def left(x: torch.Tensor) -> Estimate:
    return Estimate.of((x[:, 0] < 0).float())


def test_values_are_backed_up_by_the_soft_bellman_equation() -> None:
    """A hand-made tree: the root's first child has two leaves, its second one."""
    forest = Forest(1, 2)
    none = torch.zeros(1, 1, dtype=torch.float64)

    def grow(level: int, parent: int, score: float) -> None:
        nodes = torch.full((1, 1), parent)
        path = forest.ancestors(level, nodes)
        for i in range(level, 2):
            nodes = forest.add(i + 1, torch.zeros(1, 1, 1), nodes, none)
        forest.back_up(level, path, torch.full((1, 1), score, dtype=torch.float64))

    grow(0, 0, 1.0)
    grow(0, 0, -2.0)
    grow(1, 0, 3.0)
    first = math.log((math.exp(1) + math.exp(3)) / 2)
    root = math.log((math.exp(first) + math.exp(-2)) / 2)
    assert forest.values[1].flatten().tolist() == pytest.approx([first, -2.0])
    assert forest.values[0].flatten().tolist() == pytest.approx([root])
    # walking down by exp(V) is the same as drawing a leaf by exp(r) / Π n
    weights = (forest.base(2, corrected=False) + forest.values[2]).flatten()
    assert weights.exp().sum().log() == pytest.approx(root)
    down = math.exp(first - root) / 2 * math.exp(3) / (math.exp(1) + math.exp(3))
    assert float(weights.softmax(0)[2]) == pytest.approx(down)


def test_the_law_approaches_the_target_as_roll_outs_grow() -> None:
    problem = MixtureProblem.two_modes(temperature=0.25)
    n = 3000
    weight = float(problem.tilted().log_weights[0].exp())  # type: ignore[attr-defined]
    exact = problem.sample_target(n, generator=seeded(9))[:, 0]
    distances = []
    for rollouts in (3, 12, 96):
        tree = Tree(problem, problem.shape, steps=24, rollouts=rollouts, levels=4)
        x = tree.sample(n, generator=seeded(1), batch_size=ALL)
        distances.append(float(wasserstein(x[:, 0], exact)))
    assert distances[0] > 1.5 * distances[1] > 1.5 * distances[2]
    assert distances[2] < 0.15
    assert abs(left(x).z(weight)) < 4


def test_the_estimate_of_z_is_unbiased_and_the_published_one_is_not() -> None:
    """Against the base sampler's own Z at the same steps, by plain draws."""
    problem = MixtureProblem.two_modes(temperature=0.25)
    steps, n = 12, 4000
    flat = BestOfN(problem, problem.shape, steps=steps, candidates=40)
    flat.sample(n, generator=seeded(), batch_size=ALL)
    found = {}
    for corrected in (True, False):
        tree = Tree(
            problem, problem.shape, steps=steps, rollouts=20, levels=6, corrected=corrected,
            explore=0.3 if corrected else 0.0,
        )  # fmt: skip
        tree.sample(n, generator=seeded(1), batch_size=ALL)
        gap = tree.summary["log_z"] - flat.summary["log_z"]
        found[corrected] = gap / math.hypot(
            tree.summary["log_z_stderr"], flat.summary["log_z_stderr"]
        )
    assert abs(found[True]) < 4
    assert found[False] < -4


def test_search_beats_best_of_n_at_equal_calls_and_fewer_evaluations() -> None:
    problem = MixtureProblem.random(16)
    n, calls = 300, 64
    flat = BestOfN(problem, problem.shape, steps=24, candidates=calls, choice="argmax")
    tree = Tree(problem, problem.shape, steps=24, rollouts=calls, search="best")
    x = flat.sample(n, generator=seeded(), batch_size=ALL)
    y = tree.sample(n, generator=seeded(1), batch_size=ALL)
    assert tree.cost().rewards == flat.cost().rewards
    assert tree.cost().network < flat.cost().network
    assert Estimate.of(problem.reward(y)).z(Estimate.of(problem.reward(x))) > 4


def test_one_level_is_best_of_n() -> None:
    problem = MixtureProblem.two_modes(temperature=0.5)
    tree = Tree(problem, problem.shape, steps=10, rollouts=8, levels=1, together=3)
    flat = BestOfN(problem, problem.shape, steps=10, candidates=8)
    assert tree.cost() == flat.cost()
    x = tree.sample(5000, generator=seeded(), batch_size=ALL)
    y = flat.sample(5000, generator=seeded(1), batch_size=ALL)
    assert abs(left(x).z(left(y))) < 4
    assert tree.summary["ess"] == pytest.approx(flat.summary["ess"], rel=0.03)


def test_trees_of_tokens_and_roll_outs_that_fail() -> None:
    chain = TokenChain.random(3, 3, 1.0)
    tree = Tree(chain, chain.shape, steps=20, rollouts=24, levels=4)
    reward = Estimate.of(chain.reward(tree.sample(1000, generator=seeded(), batch_size=ALL)))
    assert abs(reward.value - float(chain.target_reward())) < 4 * reward.stderr + 0.05
    problem = MixtureProblem.two_modes()
    failing = FunctionReward(lambda x, cond: torch.where(x[:, 0] < 0, math.nan, 0 * x[:, 0]))
    some = Tree(Target(problem.base, failing), problem.shape, steps=10, rollouts=20, levels=4)
    with pytest.warns(Degenerate, match="could be scored"):
        x = some.sample(300, generator=seeded(), batch_size=ALL)
    # what failed has no weight, and Z is the share that did not; five roll-outs start from new
    # noise, and 0.7⁵ of the trees have none that gets through
    assert some.summary["failed"] == int((x < 0).sum()) < 0.7**5 * 300
    assert abs(some.summary["log_z"] - math.log(0.3)) < 4 * some.summary["log_z_stderr"] + 0.1


def test_a_tree_that_is_too_small_says_so_and_bad_options_are_refused() -> None:
    problem = MixtureProblem.two_modes(temperature=1e-3)
    with pytest.warns(Degenerate, match="raise rollouts|Raise rollouts") as caught:
        Tree(problem, problem.shape, steps=6, rollouts=8).sample(
            20, generator=seeded(), batch_size=40
        )
    assert len(caught) == 1
    for options in ({"search": "worst"}, {"levels": 0}, {"explore": 2.0}, {"rollouts": 0}):
        with pytest.raises(UserError, match="tree"):
            Tree(problem, problem.shape, **options)
