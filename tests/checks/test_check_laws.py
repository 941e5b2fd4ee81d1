"""The checker finds each planted fault and only that, and the library's own parts pass."""

from __future__ import annotations

from functools import partial

import broken_parts as broken
import pytest
import torch
from torch import nn

from payoff.checks import FAILS, REMARK, SKIPPED, Finding
from payoff.checks import check as check_within
from payoff.denoisers import NetDenoiser, Subspace, TokenDenoiser
from payoff.finetuning import DDPO
from payoff.nets import ResidualMLP
from payoff.problems import CloudProblem, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess, MaskProcess
from payoff.rewards import FunctionReward, Ridge
from payoff.samplers import SAMPLERS
from payoff.schedules import KEEP_SCHEDULES, SCHEDULES
from payoff.spaces import Tokens
from payoff.targets import Target
from payoff.values import Learned, MonteCarlo, PlugIn

COST = "what the check cost"
check = partial(check_within, seconds=None)  # on a busy machine too


def names(findings: list[Finding], status: str) -> list[str]:
    return [f.name for f in findings if f.status == status and f.name != COST]


def assert_only(findings: list[Finding], law: str) -> None:
    assert names(findings, FAILS) == [law], findings
    (found,) = [f for f in findings if f.name == law]
    assert found.measured
    assert found.advice


def assert_sound(findings: list[Finding]) -> None:
    assert not names(findings, FAILS), findings
    assert len(findings) > 4


@pytest.mark.parametrize("part", list(broken.REWARDS), ids=lambda c: c.__name__)
def test_broken_rewards(part) -> None:
    assert_only(check(part), broken.REWARDS[part])


@pytest.mark.parametrize("part", list(broken.REMARKED_REWARDS), ids=lambda c: c.__name__)
def test_remarks_on_rewards(part) -> None:
    findings = check(part)
    assert_sound(findings)
    assert names(findings, REMARK) == [broken.REMARKED_REWARDS[part]]


def test_sound_rewards() -> None:
    findings = check(broken.Size)
    assert not names(findings, FAILS) + names(findings, REMARK) + names(findings, SKIPPED)
    fitted = Ridge(5)
    fitted.fit(torch.randn(40, 5), torch.randn(40))
    for part in (fitted, MixtureProblem.random(3).reward, FunctionReward(lambda x, c: x[:, 0])):
        assert_sound(check(part))
    chain = TokenChain.random(3, 4)
    assert_sound(check(chain.reward, shape=(4,), tokens=3))


@pytest.mark.parametrize("fault", list(broken.NETWORKS))
def test_broken_networks(fault: str) -> None:
    assert_only(check(broken.Net(fault=fault)), broken.NETWORKS[fault])


def test_networks_that_cannot_be_trained() -> None:
    law = "the parameters can be trained"
    for part in (broken.Net(fault="no_grad"), lambda x, noise_level, cond=None: 0.5 * x):
        assert law in names(check(part), FAILS)
    assert law in names(check(broken.Net(fault="frozen")), REMARK)


def test_networks_with_sets_labels_and_files() -> None:
    for part in (broken.SetNet(), broken.Labelled(), broken.Net()):
        assert_sound(check(part))
    assert_only(check(broken.SetNet(fault=True), shape=(5, 3)), "padding changes nothing")
    assert_only(check(broken.Labelled(fault=True)), "the null label hides its value")
    saving = "it can be saved and loaded"
    assert names(check(broken.Renamed()), REMARK) == [saving]
    assert_only(check(broken.Forgets()), saving)
    assert names(check(broken.Net(fault="deaf")), REMARK) == ["the noise level is read"]


def test_sound_network_of_the_library() -> None:
    findings = check(ResidualMLP(3, width=32, depth=1))
    assert not names(findings, FAILS) + names(findings, REMARK)


@pytest.mark.parametrize("fault", list(broken.DENOISERS))
def test_broken_denoisers(fault: str) -> None:
    assert_only(check(broken.Own(fault)), broken.DENOISERS[fault])


def test_denoisers_that_cannot_be_trained_or_are_wrong() -> None:
    assert "the parameters can be trained" in names(check(broken.Own("no_grad")), FAILS)
    assert_only(check(broken.WrongDensity()), "the score is the gradient of the density")


def test_sound_denoisers() -> None:
    assert_sound(check(broken.Own()))
    small = NetDenoiser(ResidualMLP(2, width=32, depth=1), GaussianProcess())
    for problem in (MixtureProblem.random(2), CloudProblem(4), TokenChain.random(3, 4)):
        assert_sound(check(problem.base))
    assert_sound(check(Subspace(small, 5, 2)))
    logits = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 3))

    class TokenNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = logits

        def forward(self, x, noise_level, cond=None):
            return self.inner(x)

    assert_sound(check(TokenDenoiser(TokenNet(), MaskProcess(Tokens(3))), shape=(4,)))


@pytest.mark.parametrize("part", list(broken.SAMPLERS), ids=lambda c: c.__name__)
def test_broken_samplers(part) -> None:
    assert_only(check(part), broken.SAMPLERS[part])


@pytest.mark.parametrize("part", list(SAMPLERS.values()), ids=lambda c: c.__name__)
def test_sound_samplers(part) -> None:
    findings = check(part)
    assert not names(findings, FAILS) + names(findings, REMARK)


@pytest.mark.parametrize("fault", list(broken.SCHEDULES))
def test_broken_schedules(fault: str) -> None:
    assert_only(check(broken.Ragged(fault=fault)), broken.SCHEDULES[fault])


@pytest.mark.parametrize("part", [*SCHEDULES.values(), *KEEP_SCHEDULES.values()])
def test_sound_schedules(part) -> None:
    assert_sound(check(part))


def test_a_keep_schedule_that_keeps_some() -> None:
    assert_only(check(broken.NeverGone), "finite and positive at both ends")


@pytest.mark.parametrize("fault", list(broken.PROCESSES))
def test_broken_processes(fault: str) -> None:
    assert_only(check(broken.Odd(fault=fault)), broken.PROCESSES[fault])


@pytest.mark.parametrize("part", [*SCHEDULES.values()])
def test_sound_processes(part) -> None:
    assert_sound(check(GaussianProcess(schedule=part())))
    assert_sound(check(GaussianProcess(schedule=part(), noise_floor=0.05)))
    assert_sound(check(CloudProblem(4).base.process))


@pytest.mark.parametrize("fault", list(broken.VALUES))
def test_broken_values(fault: str) -> None:
    assert_only(check(broken.exact_value(fault)), broken.VALUES[fault])


def test_sound_values() -> None:
    problem = MixtureProblem.two_modes()
    learned = Learned(ResidualMLP(1, width=16, depth=1), Target(problem.base, problem.reward))
    parts = (broken.exact_value(), PlugIn, MonteCarlo, problem.value(), PlugIn(problem))
    for part in (*parts[:3], parts[4]):
        assert_sound(check(part))
    assert_sound(check(learned, shape=(1,)))


@pytest.mark.parametrize("fault", list(broken.METHODS))
def test_broken_methods(fault: str) -> None:
    assert_only(check(broken.Tuner(fault=fault)), broken.METHODS[fault])


def test_a_method_above_the_frontier() -> None:
    """Its estimates are the base's, so no divergence is seen, and its samples are elsewhere."""
    findings = check(broken.Tuner(fault="cheats"))
    assert "not above the frontier" in names(findings, FAILS)


def test_sound_method() -> None:
    assert_sound(check(DDPO))
