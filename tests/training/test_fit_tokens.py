"""Training of networks on tokens, whose data are whole numbers."""

from __future__ import annotations

import torch

from payoff.denoisers import TokenDenoiser
from payoff.domains.closed.model import TokenNet
from payoff.problems import TokenChain
from payoff.training import FitConfig, fit

LENGTH, LETTERS = 5, 4


def test_a_token_denoiser_learns_the_chain() -> None:
    """Its loss falls below that of a network that knows the letters' frequencies only.

    The chain's letters depend on each other, so that a trained network is at least a tenth better
    than one whose answer is the same at every place. Times of zero would leave nothing masked, and
    the loss without a sense.
    """
    problem = TokenChain.random(vocabulary=LETTERS, length=LENGTH)
    generator = torch.Generator().manual_seed(0)
    data = problem.sample_base(4000, generator=generator)
    assert not data.is_floating_point()
    net = TokenNet(LENGTH, LETTERS, width=64)
    denoiser = TokenDenoiser(net, problem.denoiser.process)
    times = torch.rand(len(data), generator=generator).clamp(0.05, 0.95)

    def loss(model: TokenDenoiser) -> float:
        with torch.no_grad():
            own = torch.Generator().manual_seed(1)
            return float(model.loss(data, times, generator=own).mean())

    untrained = loss(denoiser)
    config = FitConfig(steps=400, batch_size=128, learning_rate=3e-3, label_dropout=0.0)
    trained = fit(denoiser, data, None, config)
    assert isinstance(trained, TokenDenoiser)
    assert loss(trained) < 0.9 * untrained
