"""Every method raises the reward, on vectors, tokens and clouds with conditions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from finetuning_cases import (
    F64,
    TOKEN_METHODS,
    aimed,
    chain_target,
    corrected,
    gain_of,
    plane,
    quick,
    run_of,
    seeded,
    small,
    weights_of,
)
from torch import nn

from payoff.denoisers import Corrected
from payoff.finetuning import DPO, METHODS, RGDM, AdjointMatching, DRaFT, FinetuneConfig, Monitor
from payoff.finetuning.adjoint import lean_adjoints
from payoff.finetuning.dpo import preferred
from payoff.finetuning.rollouts import Rollout
from payoff.metrics.estimate import Estimate
from payoff.problems import CloudProblem, GaussianSubspace
from payoff.rewards import FunctionReward
from payoff.samplers import DDIM
from payoff.targets import Target

FORWARD = {"updates": 20, "batch_size": 128, "learning_rate": 5e-3}
BUDGETS: dict[str, dict[str, Any]] = {
    "rgdm": FORWARD,
    "rwr": {**FORWARD, "updates": 80},
    "dpo": FORWARD,
    "nft": FORWARD,
    "awm": FORWARD,
    "ddpo": {"updates": 10, "batch_size": 384, "learning_rate": 3e-3},
    "dpok": {"updates": 10, "batch_size": 384, "learning_rate": 3e-3},
    "grpo": {"updates": 10, "batch_size": 384, "learning_rate": 3e-3},
    "draft": {"updates": 4, "batch_size": 64, "learning_rate": 3e-3},
    "adjoint": {"updates": 10, "batch_size": 384, "learning_rate": 3e-3},
    "gradient": FORWARD,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    ("rgdm", {"level": "sample"}),
    ("rgdm", {"score": "x0hat", "shift": "candidates", "proposal": "gaussian", "radius": 1.0}),
    ("rgdm", {"score": "x0hat", "shift": "zeroth-order", "proposal": "ball", "choice": "argmax"}),
    ("rgdm", {"score": "noisy", "shift": "gradient", "radius": 1.0}),
    ("rwr", {"control": True}),
    ("rwr", {"tempered": False}),
    ("grpo", {"trust": "kl"}),
    ("awm", {"kl": "velocity"}),
    ("dpo", {"online": True}),
    ("draft", {"last": 2}),
    ("draft", {"kl": True}),
]


def budget(name: str, **options: Any) -> FinetuneConfig:
    given = {
        **{"calls": 960, "per_round": 240, "sampler_steps": 8, "evaluate": 16},
        **{"evaluate_every": 100, "ema_decay": 0.8},
    }
    return FinetuneConfig(**{**given, **BUDGETS[name], **options})


@pytest.mark.parametrize(("name", "given"), VARIANTS)
def test_every_method_raises_the_reward(name: str, given: dict[str, Any]) -> None:
    """960 calls on a Gaussian with a linear reward: up by more than 6 standard errors.

    The law lies on a plane and the last kernels are next to points there: without a floor of noise
    a divergence of paths weighs the smallest step off it more than any reward.
    """
    target = aimed(temperature=0.5, floor=0.1)
    sizes = {"rgdm": {"candidates": 6, "value_steps": 60, "value_width": 32}}
    sizes |= {"dpo": {"draws": 4}, "awm": {"draws": 4}}
    options = {**sizes.get(name, {}), **given}
    tuned = METHODS[name](**options).fit(target, budget(name))
    gain = gain_of(tuned, target, (4,), steps=8)
    assert gain.z(0.0) > 6, gain


@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_methods_for_tokens_raise_the_reward_of_sequences(name: str) -> None:
    _, target = chain_target()
    config = budget(name, calls=960, learning_rate=1e-2, sampler_steps=4)
    options = {**TOKEN_METHODS[name], **({"draws": 4} if name in ("dpo", "awm") else {})}
    monitor = Monitor()
    tuned = METHODS[name](**options).fit(target, config, shape=(3,), monitor=monitor)
    gain = gain_of(tuned, target, (3,), steps=4)
    assert gain.z(0.0) > 6, gain
    assert monitor.history[-1]["kl"] > 0
    assert 0 < monitor.history[-1]["diversity"] <= 3
    assert weights_of(tuned).isfinite().all()


class Breath(nn.Module):
    """A correction of a cloud that makes it larger or smaller, by size and level."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 16)
        self.outer = nn.Linear(16, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x, level, cond=None):
        count = (
            cond["mask"].sum(1).to(x) if cond is not None else torch.full_like(level, x.shape[1])
        )
        seen = torch.stack([level, count / 4], 1)
        return self.outer(torch.tanh(self.inner(seen))).unsqueeze(-1) * x


@pytest.mark.parametrize("name", ["ddpo", "rwr", "dpo", "awm", "grpo", "draft"])
def test_conditions_reach_reward_and_model_and_groups_share_them(name: str) -> None:
    """Masked clouds of two sizes: every row of x has its own mask wherever it is seen."""
    problem = CloudProblem(4, temperature=2.0)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    torch.manual_seed(0)
    denoiser = Corrected(problem.base, Breath())
    masks: list[torch.Tensor] = []

    def watched(x, cond):
        assert cond is not None
        assert (x[~cond["mask"]] == 0).all()
        masks.append(cond["mask"])
        return problem.reward(x, cond)

    target = Target(denoiser, FunctionReward(watched), 2.0)
    config = budget(name, calls=960, learning_rate=2e-2)
    tuned = METHODS[name]().fit(target, config, cond={"mask": mask})
    seen = torch.cat(masks)
    assert 0.3 < seen[:, 3].double().mean() < 0.7
    size = {"grpo": 24, "dpo": 2}.get(name, 1)
    grouped = masks[0].view(-1, size, 4)
    assert (grouped == grouped[:, :1]).all()
    cond = {"mask": mask.repeat(1000, 1)}
    before, after = (
        DDIM(d, (4, 3), 8, eta=1.0).sample(2000, cond, generator=seeded(9))
        for d in (denoiser, tuned)
    )
    gain = Estimate.of(problem.reward(after, cond)), Estimate.of(problem.reward(before, cond))
    assert gain[0].z(gain[1]) > 4, gain


def test_dpo_learns_from_recorded_pairs() -> None:
    """Pairs ranked by a linear reward with the chance of Bradley-Terry, no reward at hand."""
    problem = plane(0.5)
    x = problem.sample_base(1600, generator=seeded())
    pairs = preferred(problem.reward(x), 0.5, generator=seeded(1))
    target = aimed(temperature=0.5)
    winners, losers = x[pairs[:, 0]], x[pairs[:, 1]]
    config = budget("dpo", calls=3, per_round=1)
    tuned = DPO(draws=4).fit_pairs(target.denoiser, winners, losers, config=config)
    gain = gain_of(tuned, target, (4,), steps=8)
    assert gain.z(0.0) > 6, gain


def test_pairs_with_conditions_are_measured_under_them() -> None:
    problem = CloudProblem(3, temperature=2.0)
    denoiser, seen = Corrected(problem.base, Breath()), []
    mask = torch.tensor([[True, True, False]]).repeat(20, 1)
    x = problem.sample_base(20, {"mask": mask}, generator=seeded())
    far = problem.sample_base(20, {"mask": mask}, generator=seeded(1))

    def valid(x, cond):
        seen.append(cond)
        assert (x[:, 2] == 0).all()
        return torch.ones(len(x), dtype=torch.bool)

    monitor = Monitor(valid=valid)
    config = small(calls=2, per_round=1)
    DPO(draws=2).fit_pairs(denoiser, x, far, {"mask": mask}, config, monitor=monitor)
    assert len(seen) == 3
    assert all(c is not None for c in seen)
    assert [e["calls"] for e in monitor.history] == [0, 1, 2]


def test_winners_win_with_the_chance_of_bradley_and_terry() -> None:
    n, tau = 40_000, 0.7
    rewards = torch.tensor([0.5, 1.0]).repeat(n)
    pairs = preferred(rewards, tau, generator=seeded())
    assert pairs.shape == (n, 2)
    assert (pairs.sort(1).values == torch.arange(2 * n).view(-1, 2)).all()
    won = (pairs[:, 0] % 2 == 1).double()
    assert Estimate.of(won).agrees(float(torch.sigmoid(torch.tensor(0.5 / tau))))


def test_a_failed_design_loses_and_two_make_no_pair() -> None:
    nan = float("nan")
    rewards = torch.tensor([nan, 1.0, 2.0, nan, nan, nan, 0.0])
    pairs = preferred(rewards, 1.0, generator=seeded())
    assert pairs.tolist() == [[1, 0], [2, 3]]


def test_the_lean_adjoint_of_a_gaussian_is_known() -> None:
    r"""Its reverse means are linear in x: the adjoint is a product of their slopes."""
    problem = GaussianSubspace.random(2, 2, isotropic=False, dtype=F64)
    target = Target(corrected(problem), problem.reward)
    run = run_of(AdjointMatching(), target, (2,), small(calls=10, per_round=10, sampler_steps=5))
    path = run.sampler().rollout(10, generator=seeded())
    found = Rollout(path.x0, path.x0[:, 0], None, path.times, path.states, path.log_probs)
    start = torch.randn(10, 2, dtype=F64, generator=seeded(1))
    adjoints = lean_adjoints(run, found, start)
    assert torch.equal(adjoints[-1], start)
    process, expected = run.base.process, start
    for step in reversed(range(1, 5)):
        t, s = path.times[step], path.times[step + 1]

        def mean(x: torch.Tensor, t=t, s=s) -> torch.Tensor:
            x = x.unsqueeze(0)
            return process.reverse(x, t, s, run.base(x, t)).mean[0]

        slope = torch.autograd.functional.jacobian(mean, path.states[step][0])
        expected = expected @ slope
        assert torch.allclose(adjoints[step - 1], expected)


def test_draft_through_its_last_steps_has_a_part_of_the_gradient() -> None:
    """All steps, and 0: the same number. Its samples do not depend on how far gradients reach."""
    target = aimed()
    ends = []
    for last in (0, 3, 1):
        run = run_of(DRaFT(last=last), target, (4,), small())
        x0, kl = DRaFT(last=last).sample(run, 6, None)
        (slope,) = torch.autograd.grad(target.reward(x0).sum(), run.trainable[-1])
        ends.append((x0.detach(), slope, kl))
    for x0, _, kl in ends:
        assert torch.equal(x0, ends[0][0])
        assert (kl == 0).all()
    assert torch.equal(ends[0][1], ends[1][1])
    assert not torch.allclose(ends[0][1], ends[2][1])


def test_rgdm_uses_its_data_once_each() -> None:
    """level=sample: rows of the data are scored first, none twice, then samples of the model."""
    problem, rows = plane(0.5), []
    target = aimed(lambda x, cond: rows.append(x.clone()) or problem.reward(x))
    data = problem.sample_base(20, generator=seeded())
    RGDM(level="sample").fit(target, small(calls=32), data=data)
    scored = torch.cat(rows)
    assert len(scored) == 32
    known = (scored.unsqueeze(1) == data.unsqueeze(0)).all(-1)
    assert (known.sum(0) == 1).all()
    assert known[:20].any(1).all()
    assert not known[20:].any()


def test_quick_options_exist() -> None:
    for name in METHODS:
        assert quick(name).name == name
