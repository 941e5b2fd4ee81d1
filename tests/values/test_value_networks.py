"""Which network values what, and that sets of points are valued as well as vectors are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from payoff.denoisers import NetDenoiser
from payoff.errors import UserError
from payoff.nets import ResidualMLP
from payoff.nets.equivariant import EquivariantTransformer
from payoff.nets.invariant import InvariantTransformer
from payoff.problems import CloudProblem, GaussianSubspace
from payoff.processes import GaussianProcess
from payoff.spaces import Centered
from payoff.values import Learned, not_learnable, value_network

SMALL = {"width": 32, "depth": 6, "pair_width": 16, "vectors": 8}


def base(**options) -> NetDenoiser:
    torch.manual_seed(0)
    net = EquivariantTransformer(features=2, **{**SMALL, **options})
    return NetDenoiser(net, GaussianProcess(Centered()))


def test_vectors_and_sets_have_a_network_and_nothing_else() -> None:
    plane, cloud = GaussianSubspace.random(3, 2).base, CloudProblem(4).base
    assert isinstance(value_network(plane, (3,), 16), ResidualMLP)
    assert isinstance(value_network(cloud, (4, 3), 16), InvariantTransformer)
    assert not not_learnable(plane, (3,), 20)
    assert not not_learnable(cloud, (4, 3), 16)
    assert not_learnable(plane, (4, 3), 16)  # rows without a common centre are no set of points
    assert not_learnable(cloud, (2, 4, 3), 16)
    with pytest.raises(UserError, match="shape"):
        value_network(plane, (4, 3), 16)
    with pytest.raises(UserError, match="multiple of 8"):
        value_network(cloud, (4, 3), 20)


def test_a_value_of_sets_begins_with_the_first_blocks_of_the_base() -> None:
    model = base()
    net = value_network(model, (5, 5), 8)
    assert isinstance(net, InvariantTransformer)
    assert (net.width, net.depth, net.features) == (32, 4, 2)
    own, given = dict(net.named_parameters()), dict(model.net.named_parameters())
    shared = own.keys() & given.keys()
    assert {name.split(".")[0] for name in shared} >= {"stem", "embed", "pair_stem", "blocks"}
    for name in shared:
        assert torch.equal(own[name], given[name][: len(own[name])]), name
        assert own[name] is not given[name]
    # what four blocks leave at the nodes is the base's own after four blocks
    short = base(depth=4)
    state = {
        k: v[: len(short.net.state_dict()[k])]
        for k, v in model.net.state_dict().items()
        if k in short.net.state_dict()
    }
    short.net.load_state_dict(state)
    x, level = torch.randn(3, 5, 5), torch.zeros(3)
    for mine, theirs in zip(net.body(x, level), short.net.body(x, level), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("options", [{"label_dim": 1}, {"radius": 3.0}, {"bumps": 12}])
def test_blocks_that_do_not_fit_are_not_taken(options) -> None:
    net = value_network(base(**options), (5, 5), 16)
    assert isinstance(net, InvariantTransformer)
    assert (net.width, net.depth) == (16, 4)


@pytest.mark.slow
def test_a_learned_value_of_ragged_sets_is_the_exact_one() -> None:
    """On clouds of two to five points: 85 % of the variance of the exact value explained."""
    generator, problem = torch.Generator().manual_seed(0), CloudProblem(5)
    sizes = torch.randint(2, 6, (4000,), generator=generator)
    cond = {"mask": torch.arange(5) < sizes[:, None]}
    x0 = problem.sample_base(4000, cond, generator=generator)
    torch.manual_seed(0)
    value = Learned(value_network(problem.base, (5, 3), 32), problem)
    value.fit(x0, cond, steps=500, batch_size=128, generator=generator)
    exact = problem.value()
    for time in (0.2, 0.5, 0.8):
        t = torch.tensor(time)
        x_t = problem.base.sample_t(2000, t, {"mask": cond["mask"][:2000]}, generator=generator)
        part = {"mask": cond["mask"][:2000]}
        with torch.no_grad():
            known, found = exact(x_t, t, part), value(x_t, t, part)
        assert float((found - known).square().mean() / known.var()) < 0.15, time


def test_a_value_of_sets_has_one_number_a_sample_and_follows_gradients() -> None:
    problem = CloudProblem(4)
    value = Learned(value_network(problem.base, (4, 3), 8), problem)
    x = torch.randn(6, 4, 3, requires_grad=True)
    found = value(x, torch.tensor(0.5))
    assert found.shape == (6,)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert slope.isfinite().all()
    # a value moves nothing as a whole
    assert torch.allclose(slope.sum(1), torch.zeros(6, 3), atol=1e-5)
    assert isinstance(value.net, nn.Module)
