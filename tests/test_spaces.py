from __future__ import annotations

import pytest
import torch

from payoff.spaces import Centered, Euclidean, Tokens, draw_noise, expand_to


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_fixed_by_its_generator_and_follows_dtype() -> None:
    like = torch.zeros((), dtype=torch.float64)
    one, two = (draw_noise((3, 2), like, generator=seeded()) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.float64
    assert draw_noise((3, 2)).dtype == torch.float32
    before = torch.random.get_rng_state()
    draw_noise((3, 2), generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing global was touched


@pytest.mark.parametrize("shape", [(), (4,)])
def test_expand_to_broadcasts_over_samples(shape: tuple[int, ...]) -> None:
    v, x = torch.rand(shape), torch.rand(4, 2, 3)
    torch.testing.assert_close((expand_to(v, x) * x)[1], v.expand(4)[1] * x[1])


def test_degrees_of_freedom() -> None:
    x = torch.zeros(2, 4, 5)
    cond = {"mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)}
    assert Euclidean().dof(x).tolist() == [20, 20]
    assert Euclidean().dof(x, cond).tolist() == [20, 10]
    assert Centered(3).dof(x, cond).tolist() == [3 * 3 + 2 * 4, 3 * 1 + 2 * 2]
    assert Centered(3).dof(x[..., :3]).tolist() == [9, 9]
    empty = {"mask": torch.zeros(2, 4, dtype=torch.bool)}
    assert Centered(3).dof(x[..., :3], empty).tolist() == [0, 0]
    assert Euclidean().dof(torch.zeros(0, 3)).shape == (0,)


def test_tokens_start_fully_masked() -> None:
    space = Tokens(5)
    x = space.noise((2, 3))
    assert x.dtype == torch.long
    assert (x == space.mask_token).all()
    assert space.dof(torch.tensor([[5, 0], [5, 5]])).tolist() == [1, 2]
    assert torch.equal(space.project(x), x)


def test_masks_that_do_not_fit_name_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4, 3\)"):
        Euclidean().project(torch.zeros(2, 4, 3), {"mask": torch.ones(2, 3, dtype=torch.bool)})
