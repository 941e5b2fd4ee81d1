"""Whitening: the identity as covariance, an exact inverse, and dependence that stays dependence."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from payoff.whitening import Whitening


def rows(n: int = 500, dim: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated columns of very different scale, with one that depends on two others."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    mixed = x @ torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    mixed = mixed * torch.logspace(-2, 2, dim).double() + 7
    return torch.cat([mixed, mixed[:, :1] - 2 * mixed[:, 1:2]], dim=1).to(dtype)


def test_white_rows_have_mean_0_and_covariance_1() -> None:
    x = rows()
    white = Whitening(x)
    z = white.encode(x)
    assert white.dim == z.shape[1] == 4, "the dependent direction is left out"
    assert torch.allclose(z.mean(0), torch.zeros(4).double(), atol=1e-9)
    assert torch.allclose(torch.cov(z.T), torch.eye(4).double(), atol=1e-8)


def test_decoding_is_the_inverse_on_the_data() -> None:
    x = rows()
    white = Whitening(x)
    assert torch.allclose(white.decode(white.encode(x)), x, rtol=1e-9, atol=1e-9)


def test_what_is_dependent_stays_dependent() -> None:
    """Anything made in white coordinates obeys the table's linear relations."""
    white = Whitening(rows())
    x = white.decode(torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).double() * 9)
    assert torch.allclose(x[:, 4], x[:, 0] - 2 * x[:, 1], rtol=1e-6, atol=1e-6)


def test_shrinkage_follows_its_formula() -> None:
    x = rows()
    epsilon = 0.1
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    shrunk = values.clamp(min=0) + epsilon * values.mean()
    expected = (x - x.mean(0)) @ vectors / shrunk.sqrt()
    white = Whitening(x, epsilon)
    assert white.dim == 5
    # eigenvectors have no sign: compare the distances
    assert torch.allclose(torch.pdist(white.encode(x)), torch.pdist(expected), rtol=1e-6)
    assert torch.allclose(white.decode(white.encode(x)), x, rtol=1e-6, atol=1e-6)


def test_constant_rows_have_no_coordinates() -> None:
    white = Whitening(torch.ones(5, 3))
    assert white.dim == 0
    assert torch.equal(white.decode(white.encode(torch.ones(2, 3))), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_that_of_what_is_given(dtype: torch.dtype) -> None:
    x = rows(dtype=dtype)
    white = Whitening(x)
    z = white.encode(x)
    assert z.dtype == dtype
    assert white.decode(z).dtype == dtype
    assert white.dim == 4, "rounding of single precision is no direction"


def test_it_is_restored_exactly_from_json() -> None:
    x = rows()
    white = Whitening(x, 0.05)
    again = Whitening.from_config(json.loads(json.dumps(white.config())))
    assert torch.equal(again.encode(x), white.encode(x))
    z = white.encode(x)
    assert torch.equal(again.decode(z), white.decode(z))


@pytest.mark.parametrize("shape", [(1, 3), (5,), (2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(n, D\), n > 1"):
        Whitening(torch.zeros(shape))
