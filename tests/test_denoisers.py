"""Behaviour at the edges; exactness and minimisers are in tests/laws/test_prediction_laws.py."""

from __future__ import annotations

import pytest
import torch

from payoff.denoisers import Denoiser, NetDenoiser, Subspace, TokenDenoiser
from payoff.nets import ResidualMLP
from payoff.predictions import SPELLINGS, TokenPrediction
from payoff.processes import GaussianProcess, MaskProcess
from payoff.spaces import Centered, Tokens


class PointNet(torch.nn.Module):
    """Row-wise on (B, N, 3), with a common shift that centring has to remove."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x, level, cond):
        return self.scale * x.tanh() + 5.0


@pytest.mark.parametrize("spelling", ["edm", *SPELLINGS])
def test_the_estimate_lives_in_the_space_and_the_loss_is_a_mean_over_it(spelling: str) -> None:
    denoiser = NetDenoiser(PointNet(), GaussianProcess(Centered()), spelling)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    cond = {"mask": mask}
    x0 = denoiser.process.space.noise((2, 4, 3), cond)
    t = torch.tensor([0.3, 0.6])
    x_t = denoiser.process.corrupt(x0, t, cond)
    found = denoiser(x_t, t, cond).x0
    assert (found[~mask] == 0).all()
    assert found.sum(1).abs().max() < 1e-4
    loss = denoiser.loss(x0, t, cond)
    assert loss.shape == (2,)
    loss.sum().backward()
    assert torch.isfinite(denoiser.net.scale.grad)  # type: ignore[union-attr, arg-type]


def test_conditions_reach_the_network() -> None:
    net = ResidualMLP(2, width=16, depth=1, label_dim=1)
    torch.nn.init.normal_(net.head.weight)
    denoiser = NetDenoiser(net, GaussianProcess())
    x, t = torch.randn(3, 2), torch.tensor(0.5)
    one, two = (denoiser(x, t, {"label": torch.full((3, 1), v)}).x0 for v in (0.0, 2.0))
    assert not torch.allclose(one, two)


def test_wrong_arguments_are_errors() -> None:
    process = GaussianProcess()
    with pytest.raises(ValueError, match="spelling"):
        NetDenoiser(torch.nn.Identity(), process, "eps")

    class Narrow(torch.nn.Module):
        def forward(self, x, level, cond):
            return x[:, :1]

    x, t = torch.zeros(2, 3), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 3\)"):
        NetDenoiser(Narrow(), process, "noise")(x, t)
    with pytest.raises(ValueError, match="latent_dim"):
        Subspace(NetDenoiser(ResidualMLP(4), process), 3, 4)

    class Nothing(Denoiser):
        def forward(self, x_t, t, cond=None):
            return None

    with pytest.raises(NotImplementedError, match="Nothing"):
        Nothing().loss(x, t)


def test_the_frame_stays_orthonormal_under_training() -> None:
    denoiser = Subspace(NetDenoiser(ResidualMLP(2, width=16, depth=1), GaussianProcess()), 5, 2)
    optimiser = torch.optim.Adam(denoiser.parameters(), 0.05)
    x0 = torch.randn(64, 2) @ torch.randn(2, 5)
    start = denoiser.frame.detach().clone()
    for _ in range(20):
        optimiser.zero_grad()
        denoiser.loss(x0, torch.rand(64)).mean().backward()
        optimiser.step()
    frame = denoiser.frame.detach()
    torch.testing.assert_close(frame.T @ frame, torch.eye(2), atol=1e-5, rtol=0)
    assert (frame - start).abs().max() > 0.01


def test_a_given_frame_is_kept() -> None:
    frame = torch.linalg.qr(torch.randn(5, 2))[0]
    denoiser = Subspace(
        NetDenoiser(ResidualMLP(2, width=16, depth=1), GaussianProcess()), 5, 2, frame
    )
    found = denoiser.frame.detach()
    torch.testing.assert_close(found @ found.T, frame @ frame.T, atol=1e-5, rtol=0)


def test_token_predictions_keep_what_is_decided() -> None:
    class Net(torch.nn.Module):
        def forward(self, x, level, cond):
            return torch.zeros(*x.shape, 3)

    denoiser = TokenDenoiser(Net(), MaskProcess(Tokens(3)))
    x_t = torch.tensor([[1, 3]])
    found = denoiser(x_t, torch.tensor(0.5)).log_probs.exp()
    torch.testing.assert_close(found[0], torch.tensor([[0.0, 1.0, 0.0], [1 / 3] * 3]))
    assert torch.isfinite(denoiser.loss(torch.tensor([[1, 2]]), torch.tensor([1e-6]))).all()
    with pytest.raises(ValueError, match=r"\(B, L, V\)"):
        TokenPrediction.of_logits(torch.zeros(1, 3, 3), x_t, 3)
