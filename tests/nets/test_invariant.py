"""The invariant regressor: no motion, order or padding changes it; the body is the denoiser's."""

from __future__ import annotations

import pytest
import torch

from payoff.nets.equivariant import EquivariantTransformer
from payoff.nets.invariant import InvariantTransformer


def made(n: int = 7, seed: int = 0) -> tuple[InvariantTransformer, torch.Tensor, dict]:
    torch.manual_seed(seed)
    net = InvariantTransformer(3, 2, width=32, depth=2, pair_width=16, vectors=8).double()
    x = torch.randn(4, n, 6, dtype=torch.float64)
    sizes = torch.tensor([n, n - 1, n - 3, 2])
    return net, x, {"mask": torch.arange(n) < sizes.unsqueeze(1)}


def test_motions_mirrors_and_translations_change_nothing():
    net, x, cond = made()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for sign in (1.0, -1.0):
        moved = x.clone()
        moved[..., :3] = sign * x[..., :3] @ turn + torch.tensor([3.0, -1.0, 9.0])
        assert torch.allclose(net(x, cond=cond), net(moved, cond=cond), atol=1e-10)


def test_order_and_padding_change_nothing_and_the_batch_is_its_rows():
    net, x, cond = made()
    full = net(x, cond=cond)
    order = torch.randperm(7)
    shuffled = net(x[:, order], cond={"mask": cond["mask"][:, order]})
    assert torch.allclose(full, shuffled, atol=1e-10)
    noisy = torch.where(cond["mask"].unsqueeze(-1), x, torch.nan)
    assert torch.allclose(full, net(noisy, cond=cond), atol=1e-10)
    for row in range(4):
        n = int(cond["mask"][row].sum())
        assert torch.allclose(full[row], net(x[row : row + 1, :n])[0], atol=1e-10)


def test_it_sees_geometry_and_features():
    net, x, cond = made()
    stretched = torch.cat([1.2 * x[..., :3], x[..., 3:]], dim=-1)
    other = torch.cat([x[..., :3], x[..., [4, 5, 3]]], dim=-1)
    for changed in (stretched, other):
        assert ((net(changed, cond=cond) - net(x, cond=cond)).abs() > 1e-6).all()


def test_slopes_are_finite_where_all_vectors_vanish():
    net, _, _ = made()
    alone = torch.zeros(1, 1, 6, dtype=torch.float64, requires_grad=True)
    net(alone).sum().backward()
    assert alone.grad.isfinite().all()


def test_the_body_has_the_denoisers_parameters():
    """One body: weights of a denoiser fit a regressor, whatever is read out of them."""
    sizes = {"width": 32, "depth": 1, "pair_width": 16, "vectors": 8}
    regressor = InvariantTransformer(3, **sizes).state_dict()
    denoiser = EquivariantTransformer(3, **sizes).state_dict()
    heads = ("head", "vector_head", "pair_head")
    shared = {k: v for k, v in denoiser.items() if k.partition(".")[0] not in heads}
    assert all(regressor[k].shape == v.shape for k, v in shared.items())


def test_impossible_outputs():
    with pytest.raises(ValueError, match="outputs >= 1"):
        InvariantTransformer(3, 0)
