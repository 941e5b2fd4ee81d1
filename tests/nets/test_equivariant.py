"""Laws of the equivariant transformer: symmetry, padding, zero start, gradients, saving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from payoff.denoisers import NetDenoiser
from payoff.nets.equivariant import EquivariantTransformer
from payoff.pretrained import from_pretrained, save_pretrained
from payoff.processes import GaussianProcess
from payoff.samplers import Multistep
from payoff.schedules import LogLinear
from payoff.spaces import Centered

FEATURES = 4
EXACT = 1e-10  # float64, a dozen layers of rounding


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def net() -> EquivariantTransformer:
    """A network whose every parameter is random: a new one returns zeros, which proves nothing."""
    net = EquivariantTransformer(FEATURES, width=32, depth=2, heads=4, pair_width=16, vectors=8)
    net.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            fan = p.shape[-1] if p.ndim > 1 else 16
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan**0.5)
    return net


@pytest.fixture
def clouds() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Three centred clouds of 5, 3 and 1 points, their noise levels and the mask."""
    mask = torch.arange(5) < torch.tensor([5, 3, 1]).unsqueeze(1)
    x = Centered().project(draw(3, 5, 3 + FEATURES), {"mask": mask})
    return x, torch.tensor([-1.0, 0.0, 0.8], dtype=torch.float64), {"mask": mask}


def turned(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat([x[..., :3] @ matrix.T, x[..., 3:]], dim=-1)


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_turning_the_points_turns_the_output(net, clouds, sign):
    x, level, cond = clouds
    matrix, _ = torch.linalg.qr(draw(3, 3, seed=2))
    matrix = matrix * torch.linalg.det(matrix) * sign
    assert float(torch.linalg.det(matrix)) == pytest.approx(sign)
    out = net(x, level, cond)
    assert float(out.detach()[..., :3].abs().max()) > 1e-2
    assert float(out.detach()[..., 3:].abs().max()) > 1e-2
    torch.testing.assert_close(
        net(turned(x, matrix), level, cond), turned(out, matrix), atol=EXACT, rtol=0
    )


def test_reordering_the_points_reorders_the_output(net, clouds):
    x, level, cond = clouds
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = net(x[:, order], level, {"mask": cond["mask"][:, order]})
    torch.testing.assert_close(moved, net(x, level, cond)[:, order], atol=EXACT, rtol=0)


def test_padding_is_never_read_and_comes_out_zero(net, clouds):
    x, level, cond = clouds
    out = net(x, level, cond)
    assert bool((out[~cond["mask"]] == 0).all())
    noisy = torch.where(cond["mask"].unsqueeze(-1), x, 1e3 * draw(*x.shape, seed=3))
    torch.testing.assert_close(net(noisy, level, cond), out, atol=EXACT, rtol=0)
    more = torch.cat([x, draw(3, 4, 3 + FEATURES, seed=4)], dim=1)
    mask = torch.cat([cond["mask"], torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(net(more, level, {"mask": mask})[:, :5], out, atol=EXACT, rtol=0)


def test_a_row_does_not_see_the_others(net, clouds):
    x, level, cond = clouds
    together = net(x, level, cond)
    alone = net(x[1:2, :3], level[1:2])
    torch.testing.assert_close(together[1:2, :3], alone, atol=EXACT, rtol=0)


def test_a_new_network_returns_zeros():
    net = EquivariantTransformer(FEATURES, width=32, depth=1, heads=4)
    assert bool((net(torch.randn(2, 3, 3 + FEATURES), torch.zeros(2)) == 0).all())


def test_gradients_are_finite_where_points_coincide(net):
    x = torch.zeros(1, 3, 3 + FEATURES, dtype=torch.float64, requires_grad=True)
    net(x, torch.zeros(1, dtype=torch.float64)).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_gradient_by_finite_differences(net, clouds):
    x, level, cond = clouds
    x = x[:2, :3].clone().requires_grad_(True)
    cond = {"mask": cond["mask"][:2, :3]}
    assert torch.autograd.gradcheck(lambda y: net(y, level[:2], cond), x, atol=1e-5)


def test_an_unknown_label_is_not_read():
    net = EquivariantTransformer(FEATURES, width=32, depth=1, heads=4, label_dim=2)
    with torch.no_grad():
        net.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    x, level = torch.randn(2, 3, 3 + FEATURES), torch.zeros(2)
    label = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    known, null = torch.ones(2), torch.zeros(2)
    blank = net(x, level)
    torch.testing.assert_close(net(x, level, {"label": label, "label_known": null}), blank)
    assert not torch.allclose(net(x, level, {"label": label, "label_known": known}), blank)


def test_samples_are_centred_and_independent_of_their_batch(net):
    """The network inside the denoiser and the sampler: a ragged batch equals its rows alone."""
    process = GaussianProcess(Centered(), LogLinear(-6.0, 6.0))
    sampler = Multistep(NetDenoiser(net, process), (4, 3 + FEATURES), steps=5)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    start = process.prior((2, 4, 3 + FEATURES), {"mask": mask}, like=draw(1))
    t = torch.ones((), dtype=torch.float64)
    both = sampler.finish(start, t, {"mask": mask})
    assert float(both[..., :3].sum(1).abs().max()) < EXACT
    assert bool((both[1, 2:] == 0).all())
    alone = sampler.finish(start[1:, :2], t, {"mask": mask[1:, :2]})
    torch.testing.assert_close(both[1:, :2], alone, atol=1e-8, rtol=0)


def test_saved_and_loaded_is_the_same(net, clouds, tmp_path):
    x, _, cond = clouds
    denoiser = NetDenoiser(net, GaussianProcess(Centered(), LogLinear(-6.0, 6.0)))
    loaded = from_pretrained(save_pretrained(denoiser, tmp_path))
    t = torch.full((3,), 0.4, dtype=torch.float64)
    assert torch.equal(loaded(x, t, cond).x0, denoiser(x, t, cond).x0)


@pytest.mark.parametrize(
    "options", [{"width": 30}, {"pair_width": 0}, {"depth": 0}, {"radius": 0.0}, {"label_dim": -1}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="EquivariantTransformer needs"):
        EquivariantTransformer(FEATURES, **options)


def test_a_wrong_shape_names_both_shapes(net):
    with pytest.raises(ValueError, match=r"\(B, N, 7\), got \(2, 3, 5\)"):
        net(torch.zeros(2, 3, 5), torch.zeros(2))
