"""How molecules are drawn: the products of the network, the noise of the steps."""

from __future__ import annotations

import pytest
import torch

from payoff.domains.molecules.config import NOISE, STEPS
from payoff.domains.molecules.evaluate import noisy, products
from payoff.errors import UserError
from payoff.finetuning import FinetuneConfig
from payoff.problems import MixtureProblem
from payoff.samplers import Ancestral, NoisyMultistep, stochastic


def test_products_follow_weights_that_are_trained_in_the_block() -> None:
    """Autocast keeps rounded copies of trainable weights, which are old after an update."""
    layer, x = torch.nn.Linear(8, 8), torch.randn(4, 8)
    with products("bf16"):
        before = layer(x).detach()
        with torch.no_grad():
            layer.weight.mul_(2.0)
            layer.bias.mul_(2.0)
        after = layer(x).detach()
    assert before.dtype == torch.bfloat16
    torch.testing.assert_close(after, 2 * before)


def test_products_in_single_precision_change_nothing() -> None:
    layer, x = torch.nn.Linear(8, 8), torch.randn(4, 8)
    with products("fp32"):
        assert torch.equal(layer(x), layer(x.clone()))
        assert layer(x).dtype == torch.float32


def test_products_know_three_kinds() -> None:
    with pytest.raises(ValueError, match="products"):
        products("half")


def test_molecules_are_drawn_with_more_noise_than_ddpms() -> None:
    law = MixtureProblem.two_modes().base
    sampler = noisy(law, (1,))
    assert isinstance(sampler, NoisyMultistep)
    assert (sampler.eta, sampler.steps) == (NOISE, STEPS)


def test_no_noise_named_means_ddpms_own_steps() -> None:
    law = MixtureProblem.two_modes().base
    plain, other = stochastic(law, (1,), 6), Ancestral(law, (1,), 6)
    drawn = [s.sample(5, generator=torch.Generator().manual_seed(0)) for s in (plain, other)]
    assert torch.equal(*drawn)
    assert isinstance(stochastic(law, (1,), 6, 1.5), NoisyMultistep)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("inf")])
def test_impossible_noise_is_refused(noise: float) -> None:
    with pytest.raises(UserError, match="sampler_noise"):
        FinetuneConfig(sampler_noise=noise)
    with pytest.raises(ValueError, match="eta"):
        NoisyMultistep(MixtureProblem.two_modes().base, (1,), 3, eta=noise)
