"""Token chains against loops over all sequences in plain Python."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from payoff.problems import AdditiveReward, EnumeratedTokens, TableReward, TokenChain
from payoff.processes import MaskProcess
from payoff.schedules import CosineKeep
from payoff.spaces import Tokens

F64 = torch.float64
V, L = 3, 3
INITIAL = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
TRANSITION = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=F64)


def probability(x: tuple[int, ...]) -> float:
    p = float(INITIAL[x[0]])
    for a, b in itertools.pairwise(x):
        p *= float(TRANSITION[a, b])
    return p


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_against_loops_over_all_sequences(additive: bool, tau: float) -> None:
    torch.manual_seed(1)
    table = torch.randn((L, V) if additive else (V,) * L, dtype=F64)
    reward = AdditiveReward(table) if additive else TableReward(table)
    problem = TokenChain(INITIAL, TRANSITION, L, reward, tau)
    every = list(itertools.product(range(V), repeat=L))

    def r(x: tuple[int, ...]) -> float:
        return float(sum(table[i, v] for i, v in enumerate(x))) if additive else float(table[x])

    z = sum(probability(x) * math.exp(r(x) / tau) for x in every)
    tilted = {x: probability(x) * math.exp(r(x) / tau) / z for x in every}
    assert float(problem.log_partition()) == pytest.approx(math.log(z))
    mean = sum(p * r(x) for x, p in tilted.items())
    assert float(problem.target_reward()) == pytest.approx(mean)
    kl = sum(p * math.log(p / probability(x)) for x, p in tilted.items())
    assert float(problem.kl()) == pytest.approx(kl)
    states = torch.cartesian_prod(*[torch.arange(V + 1)] * L)
    t = torch.tensor(0.4, dtype=F64)
    values = problem.value()(states, t)
    base, target = problem.base(states, t).log_probs, problem.tilted()(states, t).log_probs
    noisy = problem.base.log_prob_t(states, t).exp()
    for i, state in enumerate(states.tolist()):
        fits = [x for x in every if all(s in (V, v) for s, v in zip(state, x, strict=True))]
        mass = sum(probability(x) for x in fits)
        hidden = state.count(V)
        assert float(noisy[i]) == pytest.approx(mass * 0.6 ** (L - hidden) * 0.4**hidden)
        expected = math.log(sum(probability(x) * math.exp(r(x) / tau) for x in fits) / mass)
        assert float(values[i]) == pytest.approx(expected, abs=1e-12)
        for position, v in itertools.product(range(L), range(V)):
            chosen = [x for x in fits if x[position] == v]
            share = sum(probability(x) for x in chosen) / mass
            assert float(base[i, position, v].exp()) == pytest.approx(share, abs=1e-12)
            share = sum(tilted[x] for x in chosen) / sum(tilted[x] for x in fits)
            assert float(target[i, position, v].exp()) == pytest.approx(share, abs=1e-12)


def test_value_does_not_depend_on_time_even_at_its_ends() -> None:
    problem = TokenChain.random(3, 3, process=MaskProcess(Tokens(3), CosineKeep()), dtype=F64)
    states = torch.cartesian_prod(*[torch.arange(4)] * 3)
    value = problem.value()
    assert not value.differentiable
    middle = value(states, torch.tensor(0.5, dtype=F64))
    assert torch.isfinite(middle).all()
    for end in (0.0, 1.0):
        torch.testing.assert_close(value(states, torch.tensor(end, dtype=F64)), middle)


def test_single_token_and_largest_size() -> None:
    problem = TokenChain.random(5, 1, dtype=F64)
    x = torch.tensor([[5], [2]])
    assert problem.base(x, torch.tensor(0.5)).log_probs.shape == (2, 1, 5)
    assert TokenChain.random(4, 6).sample_target(3).shape == (3, 6)


def test_impossible_sequences_are_never_drawn() -> None:
    table = torch.zeros(2, 2, dtype=F64)
    table[0, 1] = -math.inf
    law = EnumeratedTokens(table)
    x = law.sample(1000)
    assert not ((x[:, 0] == 0) & (x[:, 1] == 1)).any()
    found = law(torch.tensor([[0, 2]]), torch.tensor(0.5)).log_probs[0, 1]
    assert found.exp().tolist() == [1.0, 0.0]
    blocked = law(torch.tensor([[0, 1]]), torch.tensor(0.5)).log_probs
    assert torch.isfinite(blocked.exp()).all()


def test_bad_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="too many"):
        EnumeratedTokens(torch.zeros((10,) * 5))
    with pytest.raises(ValueError, match="equal axes"):
        EnumeratedTokens(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="4 tokens"):
        EnumeratedTokens(torch.zeros(2, 2), MaskProcess(Tokens(4)))
    with pytest.raises(ValueError, match="expected"):
        TokenChain(torch.ones(2), torch.ones(3, 3), 2, AdditiveReward(torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="expected"):
        AdditiveReward(torch.zeros(2, 2))(torch.zeros(1, 3, dtype=torch.long))
