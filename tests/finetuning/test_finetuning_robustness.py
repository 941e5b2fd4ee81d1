"""Bad rewards, odd budgets, broken models: a clear message, or the right continuation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from finetuning_cases import QUICK, aimed, chain_target, plane, quick, seeded, small, weights_of

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning import DDPO, DPO, GRPO, METHODS, RWR, Monitor, RatioMismatch, RewardFailed
from payoff.finetuning.draft import DRaFT
from payoff.metrics.paths import path_kl
from payoff.rewards import FunctionReward, Reward
from payoff.samplers import DDIM
from payoff.targets import Target

ALL = list(METHODS)
BLACK_BOX = [name for name in ALL if not METHODS[name].needs_gradient]
CANDIDATES = ("candidates", "zeroth-order")
# a value learned on steps, and pay-off laws whose candidates are scored
VARIANTS = [(name, {}) for name in ALL] + [
    ("rgdm", {"level": "sample"}),
    ("rgdm", {"score": "x0hat", "shift": "candidates"}),
    ("rgdm", {"score": "noisy", "shift": "zeroth-order", "proposal": "ball"}),
    ("rgdm", {"score": "noisy", "shift": "gradient"}),
    ("awm", {"kl": "velocity"}),
    ("dpo", {"online": True}),
]


class Log(Reward):
    """Notes how many rows were asked for."""

    differentiable = True

    def __init__(self, fn) -> None:
        self.fn, self.rows = fn, 0

    def __call__(self, x, cond=None):
        self.rows += len(x)
        return self.fn(x)


@pytest.mark.parametrize(("name", "given"), VARIANTS)
@pytest.mark.parametrize("calls", [1, 25])
def test_never_more_calls_than_allowed(name: str, given: dict[str, Any], calls: int) -> None:
    """Budgets that no round divides; and what is left of them ruins nothing."""
    reward = Log(plane().reward)
    monitor = Monitor()
    target = aimed(reward)
    if calls == 1 and (name in ("grpo", "dpo") or given.get("shift") in CANDIDATES):
        # one design is no pair, no group and no set of candidates: said before it is spent
        with pytest.raises(UserError, match="raise"):
            quick(name, **given).fit(target, small(calls=calls))
        assert reward.rows == 0
        return
    tuned = quick(name, **given).fit(target, small(calls=calls), monitor=monitor)
    assert reward.rows <= calls
    assert reward.rows > calls - 4  # whole groups, pairs and candidates
    assert monitor.history[-1]["calls"] == reward.rows
    assert weights_of(tuned).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_no_calls_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no reward calls to spend"):
        quick(name).fit(aimed(), small(calls=0))


@pytest.mark.parametrize("name", ALL)
def test_a_reward_that_raises(name: str) -> None:
    def broken(x, cond):
        raise OSError("no licence")

    designs = 4 if name == "draft" else 8  # draft makes its optimiser steps on parts of a round
    with pytest.raises(RewardFailed, match=f"{designs} designs in round 1: OSError: no licence"):
        quick(name).fit(aimed(broken), small())


@pytest.mark.parametrize("name", ["rwr", "draft"])
def test_a_reward_of_the_wrong_kind(name: str) -> None:
    for fn in (lambda x, cond: x, lambda x, cond: x.sum(), lambda x, cond: 1.0):
        with pytest.raises(RewardFailed, match="one number a row"):
            quick(name).fit(aimed(fn), small())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_fails_everywhere(name: str, value: float) -> None:
    with pytest.raises(UserError, match="every evaluation of the reward failed"):
        quick(name).fit(aimed(lambda x, cond: 0 * x[:, 0] + value), small())


@pytest.mark.parametrize("name", ALL)
def test_a_constant_reward(name: str) -> None:
    with pytest.raises(UserError, match="constant reward teaches nothing"):
        quick(name).fit(aimed(lambda x, cond: 0 * x[:, 0] + 2.0), small(calls=64))


@pytest.mark.parametrize(("name", "given"), VARIANTS)
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.where(x[:, 0] > 0.2, math.nan, x[:, 0]),
        lambda x: torch.where(x[:, 0].abs() > 0.7, x[:, 0] * math.inf, x[:, 0]),
        lambda x: (x[:, 0] + 0.2).sqrt(),  # NaN with a gradient that is NaN, too
    ],
)
def test_failed_designs_leave_the_weights_finite(name: str, given, fn) -> None:
    """Also in the last round of one design, which may fail itself."""
    monitor = Monitor()
    config = small(calls=17, per_round=16, batch_size=16)
    tuned = quick(name, **given).fit(aimed(lambda x, cond: fn(x)), config, monitor=monitor)
    assert weights_of(tuned).isfinite().all()
    # clean estimates are small at high noise: of those none may fail
    assert monitor.history[-1]["failed"] > 0 or given.get("score") == "x0hat"


def test_a_last_design_that_fails_loses_nothing() -> None:
    """The rest of a budget is one design, and it fails: the run ends, it does not raise."""
    seen = []

    def once(x, cond):
        seen.append(len(x))
        return x[:, 0] if len(x) > 1 else x[:, 0] * math.nan

    monitor = Monitor()
    tuned = DDPO().fit(aimed(once), small(calls=17), monitor=monitor)
    assert seen == [8, 8, 1]
    assert monitor.history[-1]["calls"] == 17
    assert weights_of(tuned).isfinite().all()


def test_a_model_that_has_come_to_the_top_is_kept() -> None:
    """All designs are as good as can be: the run ends with them, it does not complain."""
    state = {"batches": 0}

    def saturating(x, cond):
        state["batches"] += 1
        return x[:, 0] if state["batches"] < 3 else 0 * x[:, 0] + 1.0

    monitor = Monitor()
    tuned = DDPO().fit(aimed(saturating), small(calls=80), monitor=monitor)
    assert "nothing more to learn" in (monitor.stopped or "")
    assert monitor.history[-1]["round"] == 5
    assert not torch.equal(weights_of(tuned), weights_of(aimed().denoiser))


@pytest.mark.parametrize("name", ALL)
def test_a_model_that_breaks_down_is_not_returned(name: str) -> None:
    """A step to nowhere: the last good weights come back, and the run says why it ended."""
    monitor = Monitor()
    config = small(learning_rate=1e30, updates=1, gradient_clip=0.0)
    tuned = quick(name).fit(aimed(), config, monitor=monitor)
    assert weights_of(tuned).isfinite().all()
    assert "not finite" in (monitor.stopped or "")
    assert monitor.best == 0


@pytest.mark.parametrize("name", ALL)
def test_a_frozen_model_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        quick(name).fit(Target(plane().base, plane().reward), small())


@pytest.mark.parametrize("name", ["draft", "adjoint"])
def test_gradient_methods_refuse_black_boxes(name: str) -> None:
    box = FunctionReward(lambda x, cond: x[:, 0], differentiable=False)
    with pytest.raises(UserError, match="black-box rewards"):
        quick(name).fit(aimed(box), small())


@pytest.mark.parametrize("name", BLACK_BOX)
def test_black_box_methods_never_ask_for_a_gradient(name: str) -> None:
    def plain(x, cond):
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return torch.tensor([float(v) for v in x[:, 0]])

    quick(name).fit(aimed(FunctionReward(plain, differentiable=False)), small())


@pytest.mark.parametrize("name", [n for n in ALL if not METHODS[n].tokens])
def test_methods_for_vectors_refuse_tokens(name: str) -> None:
    chain, target = chain_target()
    smooth = FunctionReward(chain.reward)
    with pytest.raises(UserError, match="not on token sequences"):
        quick(name).fit(Target(target.denoiser, smooth), small(), shape=(3,))
    with pytest.raises(UserError, match="level=sample"):
        quick("rgdm").fit(target, small(), shape=(3,))


@pytest.mark.parametrize(("name", "given"), VARIANTS)
def test_what_is_given_stays_as_it_is(name: str, given: dict[str, Any]) -> None:
    """The denoiser, and the global generator; and the same seed gives the same weights."""
    target = aimed()
    before = copy.deepcopy(target.denoiser.state_dict())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = quick(name, **given).fit(target, small())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    two = quick(name, **given).fit(target, small())
    assert torch.equal(weights_of(one), weights_of(two))
    after = target.denoiser.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert not torch.equal(weights_of(one), weights_of(target.denoiser))
    assert [p.requires_grad for p in one.parameters()] == [
        p.requires_grad for p in target.denoiser.parameters()
    ]
    assert all(p.grad is None for p in target.denoiser.parameters())
    assert not one.training


def test_the_global_generator_comes_back_after_a_failure() -> None:
    target = aimed(lambda x, cond: x[:, 0] * math.nan)
    state = torch.get_rng_state()
    with pytest.raises(UserError):
        DDPO().fit(target, small())
    assert torch.equal(torch.get_rng_state(), state)


class Crowd(Denoiser):
    """A denoiser whose answer depends on the rest of the batch."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner, self.process = inner, inner.process
        self.shape = (4,)

    def forward(self, x_t, t, cond=None):
        found = self.inner(x_t, t, cond)
        return type(found)(found.x0 + 0.1 * x_t.mean(0), x_t, found.alpha, found.sigma)


@pytest.mark.parametrize("name", ["ddpo", "dpok", "grpo"])
def test_a_model_that_sees_its_batch_is_found_out_before_a_call(name: str) -> None:
    reward = Log(plane().reward)
    target = Target(Crowd(aimed().denoiser), reward)
    with pytest.raises(RatioMismatch, match="a batch and its rows differently"):
        quick(name).fit(target, small())
    assert reward.rows == 0


def test_broken_groups_are_refused() -> None:
    for given, config in (
        ({"group": 16}, small()),
        ({"group": 1}, small()),
        ({"group": 8}, small(calls=7)),
    ):
        with pytest.raises(UserError, match="group"):
            GRPO(**given).fit(aimed(), config)
    reward = Log(plane().reward)
    GRPO(group=3).fit(aimed(reward), small(calls=20))
    assert reward.rows == 18  # 6 + 6 + 6: whole groups alone


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("grpo", {"trust": "ratio"}),
        ("grpo", {"scale": "sd"}),
        ("awm", {"kl": "x"}),
        ("rwr", {"share": 1.5}),
        ("draft", {"last": 9}),
        ("adjoint", {"quantile": 0.0}),
        ("adjoint", {"switch": 1.5}),
        ("dpo", {"draws": 0}),
        ("dpo", {"strength": 0.0}),
    ],
)
def test_impossible_options_are_refused(name: str, given: dict[str, Any]) -> None:
    option = next(iter(given))
    with pytest.raises(UserError, match=option):
        METHODS[name](**{**QUICK.get(name, {}), **given}).fit(aimed(), small())


@pytest.mark.parametrize(
    "given",
    [
        {"calls": -1},
        {"per_round": 0},
        {"updates": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"evaluate": 4},
        {"ema_decay": 1.0},
        {"max_kl": -1.0},
        {"patience": -1},
    ],
)
def test_impossible_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        small(**given)


def test_the_divergence_stops_a_run_within_its_limit() -> None:
    monitor, limit = Monitor(), 0.05
    target = aimed()
    config = small(
        calls=2000, per_round=20, updates=10, learning_rate=1e-2, max_kl=limit, evaluate=200
    )
    tuned = DRaFT().fit(target, config, monitor=monitor)
    assert "went beyond max_kl = 0.05" in (monitor.stopped or "")
    last = monitor.history[-1]
    assert last["kl"] > limit
    assert last["calls"] < 2000
    kept = [e for e in monitor.history if e["round"] == monitor.best]
    assert kept[0]["kl"] <= limit
    samplers = (DDIM(d, (4,), config.sampler_steps, eta=1.0) for d in (tuned, target.denoiser))
    found = path_kl(*samplers, 1000, generator=seeded())
    assert found.value - 4 * found.stderr <= limit


def test_patience_ends_a_run_and_the_best_held_out_round_is_returned() -> None:
    """A judge that likes what the reward does not: the base is the best there is."""
    target = aimed()
    monitor = Monitor(held_out=-1.0 * target.reward)
    given = {"calls": 2000, "per_round": 40, "batch_size": 40, "learning_rate": 1e-2}
    config = small(**given, patience=3, evaluate=400)
    tuned = DRaFT().fit(target, config, monitor=monitor)
    assert "has not risen for 3 rounds" in (monitor.stopped or "")
    held = {e["round"]: e["held_out"] for e in monitor.history}
    assert held[monitor.best] == max(held.values())
    assert monitor.history[-1]["round"] == monitor.best + 3
    again = DRaFT().fit(target, small(**{**given, "calls": 200}))
    assert not torch.equal(weights_of(tuned), weights_of(again))
    if monitor.best == 0:
        assert torch.equal(weights_of(tuned), weights_of(target.denoiser))


def test_a_monitor_can_be_used_again() -> None:
    """What an earlier run left, a stop included, is not the next one's."""
    monitor = Monitor()
    config = small(calls=2000, learning_rate=1e-2, max_kl=1e-3)
    DRaFT().fit(aimed(), config, monitor=monitor)
    assert monitor.stopped
    RWR().fit(aimed(), small(), monitor=monitor)
    assert monitor.stopped is None
    assert [e["round"] for e in monitor.history] == [0, 1, 2, 3]


def test_the_history_says_what_it_should() -> None:
    monitor = Monitor(
        held_out=FunctionReward(lambda x, cond: x[:, 0]), valid=lambda x, cond: x[:, 0] > 0
    )
    told: list[dict[str, Any]] = []
    DDPO().fit(aimed(), small(evaluate_every=2), monitor=monitor, progress=told.append)
    assert [e["round"] for e in monitor.history] == [0, 2, 3]
    assert [e["calls"] for e in monitor.history] == [0, 16, 24]
    assert [(e["round"], e["calls"]) for e in told] == [(1, 8), (2, 16), (3, 24)]
    first, last = monitor.history[0], monitor.history[-1]
    assert first["kl"] == 0.0
    assert first["reward"] is None
    assert last["kl"] > 0
    assert 0 < last["valid"] < 1
    assert last["reward_best"] >= last["reward"]
    assert 1 <= last["vendi"] <= 16
    assert all(isinstance(v, int | float | None) for e in monitor.history for v in e.values())


def test_shape_and_data_must_agree() -> None:
    with pytest.raises(UserError, match="the data have"):
        DDPO().fit(aimed(), small(), data=torch.zeros(3, 4), shape=(5,))


def test_pairs_must_match() -> None:
    denoiser = aimed().denoiser
    with pytest.raises(UserError, match="pairs of one shape"):
        DPO().fit_pairs(denoiser, torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(UserError, match="pairs of one shape"):
        DPO().fit_pairs(denoiser, torch.zeros(0, 4), torch.zeros(0, 4))


def test_a_model_that_leaves_the_scorable_region_stops_and_keeps_its_best() -> None:
    """From the third round on every design fails: no error, the weights before are returned."""
    asked = []

    def fragile(x, cond):
        asked.append(len(x))
        return x[:, 0] if len(asked) < 3 else x[:, 0] * math.nan

    monitor = Monitor()
    tuned = DDPO().fit(aimed(fragile), small(calls=64), monitor=monitor)
    assert "every design failed in round 3" in (monitor.stopped or "")
    assert asked == [8, 8, 8]
    assert weights_of(tuned).isfinite().all()
