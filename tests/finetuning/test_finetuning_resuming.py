"""A run that is cut off and taken up again is the run that was not cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_cases import aimed, chain_target, plane, quick, same_history, small, weights_of
from torch import Tensor

from payoff.errors import UserError
from payoff.finetuning import DPO, Monitor
from payoff.rewards import FunctionReward, Ledger
from payoff.rewards.remembered import Remembered, design_keys
from payoff.targets import Target

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rgdm": ("rgdm", {}),
    "rgdm sample": ("rgdm", {"level": "sample"}),
    "rgdm x0hat": ("rgdm", {"score": "x0hat", "shift": "candidates", "proposal": "ball"}),
    "rwr": ("rwr", {}),
    "rwr plain": ("rwr", {"tempered": False, "control": True}),
    "ddpo": ("ddpo", {}),
    "dpok": ("dpok", {}),
    "grpo": ("grpo", {"trust": "kl", "beta": 0.1}),
    "nft": ("nft", {}),
    "awm": ("awm", {}),
    "draft": ("draft", {"kl": True}),
    "adjoint": ("adjoint", {}),
    "adjoint, switched": ("adjoint", {"switch": 0.5}),
    "dpo": ("dpo", {}),
    "dpo online": ("dpo", {"online": True}),
    "gradient": ("gradient", {}),
}
WITH_GRADIENT = ("draft", "adjoint", "gradient")


class Counted:
    """The reward of a target, its designs noted, that is cut off at call number ``at``."""

    def __init__(self, target: Target, at: int = 0) -> None:
        self.target, self.at, self.calls = target, at, 0
        self.keys: list[str] = []

    def __call__(self, x: Tensor, cond: Any) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.keys += design_keys(x)
        return self.target.reward(x)


def remembered(target: Target, counted: Counted, ledger: Ledger) -> Target:
    """Sub-batches of 3: a round of 8 is cut off inside."""
    gradient = target.reward.differentiable
    reward = FunctionReward(counted, differentiable=gradient)
    memory = Remembered(reward, ledger, "test", batch_size=3)
    return Target(target.denoiser, memory, target.temperature)


def options() -> dict[str, Any]:
    # the loss of a round that is not measured has to be carried over, too
    return {"calls": 32, "per_round": 8, "evaluate_every": 2}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_cut_off_inside_a_round_ends_the_same(variant: str, tmp_path: Path) -> None:
    name, given = VARIANTS[variant]
    target, config = aimed(temperature=0.5), small(**options())
    held_out = FunctionReward(lambda x, cond: x[:, 1])

    def fit(counted: Counted, ledger: Ledger, **keywords: Any):
        monitor = Monitor(held_out)
        aim = remembered(target, counted, ledger)
        tuned = quick(name, **given).fit(aim, config, monitor=monitor, **keywords)
        return weights_of(tuned), monitor

    whole = Counted(target)
    weights, monitor = fit(whole, Ledger(tmp_path / "whole.db"))
    ledger, checkpoint = Ledger(tmp_path / "cut.db"), tmp_path / "cut.pt"
    asked: list[str] = []
    # twice: in the second round, after a round that was not measured, and in the last one
    for at in (5, 6):
        cut = Counted(target, at)
        with pytest.raises(KeyboardInterrupt):
            fit(cut, ledger, checkpoint=checkpoint, resume=True)
        asked += cut.keys
    rest = Counted(target)
    again, resumed = fit(rest, ledger, checkpoint=checkpoint, resume=True)
    asked += rest.keys
    assert torch.equal(again, weights)
    assert same_history(resumed.history, monitor.history)
    assert resumed.best == monitor.best
    if name not in WITH_GRADIENT:  # a number from a table has no gradient
        assert len(set(asked)) == len(asked)
        assert set(asked) == set(whole.keys)


def test_a_finished_run_is_taken_up_without_a_call(tmp_path: Path) -> None:
    target, config, checkpoint = aimed(), small(), tmp_path / "run.pt"
    one = quick("rwr").fit(target, config, checkpoint=checkpoint)
    never = FunctionReward(lambda x, cond: pytest.fail("the reward was called"))
    again = Target(target.denoiser, never, target.temperature)
    two = quick("rwr").fit(again, config, checkpoint=checkpoint, resume=True)
    assert torch.equal(weights_of(one), weights_of(two))


def test_tokens_are_taken_up_as_well(tmp_path: Path) -> None:
    _, target = chain_target()
    config = small(**options())
    whole = quick("ddpo").fit(target, config, shape=(3,))
    cut = Counted(target, 3)
    checkpoint = tmp_path / "run.pt"
    aim = Target(target.denoiser, FunctionReward(cut), target.temperature)
    with pytest.raises(KeyboardInterrupt):
        quick("ddpo").fit(aim, config, shape=(3,), checkpoint=checkpoint)
    rest = quick("ddpo").fit(target, config, shape=(3,), checkpoint=checkpoint, resume=True)
    assert torch.equal(weights_of(whole), weights_of(rest))


def test_another_run_is_not_taken_up(tmp_path: Path) -> None:
    """Another option of the loop, of the method, another method, another temperature."""
    target, checkpoint = aimed(), tmp_path / "run.pt"
    quick("ddpo").fit(target, small(), checkpoint=checkpoint)

    def resume(name: str, target: Target, config, told: str, **given: Any) -> None:
        with pytest.raises(UserError, match=told):
            quick(name, **given).fit(target, config, checkpoint=checkpoint, resume=True)

    resume("ddpo", target, small(seed=1), "seed = 0, now it is 1")
    resume("ddpo", target, small(calls=32), "calls = 24, now it is 32")
    resume("ddpo", target, small(), "clip = 0.2, now it is 0.3", clip=0.3)
    resume("dpok", target, small(), "method = ddpo, now it is dpok")
    resume("ddpo", aimed(temperature=0.5), small(), "temperature = 1.0, now it is 0.5")


def test_without_resume_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    target, checkpoint = aimed(), tmp_path / "run.pt"
    one = quick("ddpo").fit(target, small(), checkpoint=checkpoint)
    two = quick("ddpo").fit(target, small(), checkpoint=checkpoint)
    other = quick("ddpo").fit(target, small(seed=1), checkpoint=checkpoint)
    assert torch.equal(weights_of(one), weights_of(two))
    assert not torch.equal(weights_of(one), weights_of(other))


def test_recorded_pairs_are_taken_up(tmp_path: Path) -> None:
    problem = plane()
    x = problem.sample_base(40)
    target, config, checkpoint = aimed(), small(), tmp_path / "run.pt"
    whole = DPO(draws=2).fit_pairs(target.denoiser, x[:20], x[20:], config=config)

    class Cut(Exception):
        pass

    def stop(entry: dict[str, Any]) -> None:
        if entry["round"] == 2:
            raise Cut

    given = {"config": config, "checkpoint": checkpoint, "resume": True}
    with pytest.raises(Cut):
        DPO(draws=2).fit_pairs(target.denoiser, x[:20], x[20:], progress=stop, **given)
    rest = DPO(draws=2).fit_pairs(target.denoiser, x[:20], x[20:], **given)
    assert torch.equal(weights_of(whole), weights_of(rest))


def test_a_damaged_checkpoint_is_told_apart(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        quick("ddpo").fit(aimed(), small(), checkpoint=checkpoint, resume=True)
