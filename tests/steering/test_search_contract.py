"""What every search and noise method owes: its declared cost, its budget, its errors."""

from __future__ import annotations

import math

import pytest
import torch

from payoff.denoisers import Counted
from payoff.errors import UserError
from payoff.metrics import Estimate
from payoff.problems import CloudProblem, MixtureProblem, TokenChain
from payoff.rewards import FunctionReward, Metered
from payoff.steering import AllFailed
from payoff.steering.best_of_n import BestOfN
from payoff.steering.blockwise import CoDe
from payoff.steering.dno import DNO
from payoff.steering.fast_direct import FastDirect
from payoff.steering.svdd import SVDD
from payoff.steering.tree import Tree
from payoff.targets import Target

PROBLEMS = {
    "mixture": MixtureProblem.two_modes(),
    "cloud": CloudProblem(4),
    "tokens": TokenChain.random(3, 2),
}
SETTINGS = [
    (BestOfN, {"candidates": 5}),
    (BestOfN, {"candidates": 5, "choice": "argmax"}),
    (SVDD, {"candidates": 3}),
    (SVDD, {"candidates": 3, "value": "posterior", "draws": 2}),
    (SVDD, {"candidates": 2, "value": "monte-carlo", "draws": 2}),
    (SVDD, {"candidates": 3, "value": "exact"}),
    (CoDe, {"candidates": 3, "block": 4}),
    (CoDe, {"candidates": 3, "block": 4, "value": "exact"}),
    (Tree, {"rollouts": 7, "levels": 4, "together": 2}),
    (Tree, {"rollouts": 7, "levels": 20, "search": "best"}),
    (DNO, {"iterations": 3}),
    (DNO, {"iterations": 3, "gradient": "zeroth-order", "probes": 2}),
    (FastDirect, {"queries": 5, "updates": 2}),
]
IDS = [f"{cls.name}-{i}" for i, (cls, _) in enumerate(SETTINGS)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def condition(name: str, n: int) -> dict[str, torch.Tensor] | None:
    sizes = 2 + torch.arange(n) % 3
    return {"mask": torch.arange(4) < sizes.unsqueeze(1)} if name == "cloud" else None


@pytest.mark.filterwarnings("ignore::payoff.steering.Degenerate")
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(("cls", "options"), SETTINGS, ids=IDS)
def test_it_costs_what_it_declares(cls, options, name: str) -> None:
    problem, n = PROBLEMS[name], 5
    if options.get("value") == "exact":
        options = {**options, "value": problem.value()}
    denoiser, reward = Counted(problem.base), Metered(problem.reward)
    target = Target(denoiser, reward, problem.temperature)
    if name == "tokens" and not cls.tokens:
        with pytest.raises(UserError, match="token"):
            cls(target, problem.shape)
        return
    method = cls(target, problem.shape, steps=9, **options)
    x = method.sample(n, condition(name, n), generator=seeded(), batch_size=2 * method.rows)
    cost = method.cost()
    assert x.shape == (n, *problem.shape)
    assert reward.meter.rows == n * cost.rewards
    assert denoiser.rows == n * cost.network
    assert denoiser.backward == n * cost.backward
    assert method.summary["samples"] == n
    # the same generator gives the same samples
    again = cls(problem, problem.shape, steps=9, **options)
    y = again.sample(n, condition(name, n), generator=seeded(), batch_size=2 * method.rows)
    torch.testing.assert_close(x, y)
    if name == "cloud":
        mask = condition(name, n)["mask"]  # type: ignore[index]
        assert (x[~mask] == 0).all()


@pytest.mark.parametrize("cls", [BestOfN, SVDD, CoDe, Tree, DNO, FastDirect])
def test_a_budget_is_used_and_kept(cls) -> None:
    problem = PROBLEMS["mixture"]
    within = cls.within(problem, problem.shape, rewards=200, steps=6)
    more = cls(problem, problem.shape, steps=6, **{cls.size: getattr(within, cls.size) + 1})
    assert within.cost().rewards <= 200 < more.cost().rewards
    short = cls.within(problem, problem.shape, rewards=200, network=150, steps=6)
    assert short.cost().network <= 150
    with pytest.raises(UserError, match="cannot stay within"):
        cls.within(problem, problem.shape, rewards=0.5, steps=6)


@pytest.mark.parametrize("cls", [BestOfN, SVDD, CoDe, Tree, DNO, FastDirect])
def test_a_reward_that_always_fails_is_an_error_with_the_state(cls) -> None:
    problem = PROBLEMS["mixture"]
    never = FunctionReward(lambda x, cond: torch.full_like(x[:, 0], math.nan))
    size = {cls.size: 3}
    with pytest.raises(AllFailed, match="NaN") as caught:
        cls(Target(problem.base, never), problem.shape, steps=4, **size).sample(6)
    assert caught.value.state["x"].isfinite().all()


def test_what_is_exact_says_so() -> None:
    problem = PROBLEMS["mixture"]
    for cls, options in ((BestOfN, {"choice": "argmax"}), (Tree, {"search": "best"})):
        assert cls(problem, problem.shape).exact
        assert not cls(problem, problem.shape, **options).exact
    assert not any(cls.exact for cls in (SVDD, CoDe, DNO, FastDirect))


@pytest.mark.parametrize("cls", [BestOfN, SVDD, CoDe, Tree])
def test_clouds_of_each_size_get_their_own_target(cls) -> None:
    """A mask that strayed from its sample would mix the sizes, whose rewards differ by far."""
    problem, n = CloudProblem(4, temperature=2.0), 3000
    cond = condition("cloud", n)
    options = {cls.size: 24}
    if cls in (SVDD, CoDe):
        options = {cls.size: 8, "value": problem.value()}
    method = cls(problem, problem.shape, steps=24, **options)
    x = method.sample(n, cond, generator=seeded(), batch_size=10**5)
    off = problem.reward(x, cond) - problem.target_reward(cond=cond)
    for size in range(3):
        found = Estimate.of(off[size::3])
        # 24 steps shrink the base by a few hundredths
        assert abs(found.value) < 4 * found.stderr + 0.1


@pytest.mark.parametrize("cls", [BestOfN, SVDD, CoDe])
def test_an_unknown_choice_is_refused(cls) -> None:
    problem = PROBLEMS["mixture"]
    with pytest.raises(UserError, match="soft or argmax"):
        cls(problem, problem.shape, choice="greedy")
