from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from torch import Tensor

from payoff.nets import FourierFeatures, ResidualMLP, label_inputs

VARIANTS = [
    {"label_dim": k, "label_features": f, "affine": a}
    for k, f, a in itertools.product((0, 1, 3), ("raw", "fourier"), (False, True))
]


def make(dim: int = 5, **options: object) -> ResidualMLP:
    """A small network whose output layers are not zero, so that every path shows."""
    torch.manual_seed(0)
    net = ResidualMLP(dim=dim, width=32, depth=2, **options)  # type: ignore[arg-type]
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.double()


def inputs(batch: int, dim: int = 5, k: int = 1, seed: int = 1) -> tuple[Tensor, Tensor, dict]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    level = 4 * torch.rand(batch, generator=g, dtype=torch.float64) - 2
    label = torch.randn(batch, k, generator=g, dtype=torch.float64)
    known = (torch.rand(batch, generator=g) < 0.5).double()
    return x, level, {"label": label, "label_known": known}


@pytest.mark.parametrize("options", VARIANTS)
def test_a_new_network_returns_zeros(options: dict) -> None:
    x, level, cond = inputs(7, k=max(1, options["label_dim"]))
    net = ResidualMLP(dim=5, width=32, depth=2, **options).double()
    assert torch.equal(net(x, level, cond), torch.zeros_like(x))


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_of_a_new_network_learns_within_two_steps(options: dict) -> None:
    torch.manual_seed(0)
    x, level, cond = inputs(64, k=max(1, options["label_dim"]))
    net = ResidualMLP(dim=5, width=32, depth=2, **options).double()
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (net(x, level, cond) - x.roll(1, 1)).square().mean().backward()
        optimiser.step()
    for (name, after), start in zip(net.named_parameters(), before, strict=True):
        assert not torch.equal(after, start), name


@pytest.mark.parametrize("options", VARIANTS)
def test_rows_are_independent(options: dict) -> None:
    net = make(**options)
    x, level, cond = inputs(9, k=max(1, options["label_dim"]))
    together = net(x, level, cond)
    for i in range(9):
        row = slice(i, i + 1)
        alone = net(x[row], level[row], {k: v[row] for k, v in cond.items()})
        torch.testing.assert_close(alone, together[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [v for v in VARIANTS if v["label_dim"]])
def test_the_null_label_is_the_flag_and_hides_the_value(options: dict) -> None:
    net, k = make(**options), options["label_dim"]
    x, level, cond = inputs(6, k=k)
    null = torch.zeros(6, dtype=x.dtype)
    nan = torch.full((6, k), float("nan"), dtype=x.dtype)
    hidden = net(x, level, {"label": cond["label"], "label_known": null})
    torch.testing.assert_close(net(x, level, {"label": nan, "label_known": null}), hidden)
    torch.testing.assert_close(net(x, level, None), hidden)
    known = net(x, level, {"label": torch.zeros_like(nan), "label_known": null + 1})
    assert (known - hidden).abs().min() > 1e-6, "a label of zero must differ from no label"
    torch.testing.assert_close(net(x, level, {"label": torch.zeros_like(nan)}), known)


def test_a_network_without_labels_ignores_them() -> None:
    net = make(label_dim=0)
    x, level, cond = inputs(4)
    torch.testing.assert_close(net(x, level, cond), net(x, level, None))


def test_the_affine_path_is_affine_in_x_and_label() -> None:
    net = make(label_dim=1, affine=True)
    torch.nn.init.zeros_(net.head.weight)
    x, level, cond = inputs(8)
    level = level[:1].expand(8)
    flag = torch.ones(8, dtype=x.dtype)

    def f(x: Tensor, y: Tensor) -> Tensor:
        return net(x, level, {"label": y, "label_known": flag})

    x2, y, y2 = x.roll(1, 0), cond["label"], 30 * cond["label"].roll(1, 0)
    mixed = f(3 * x - 2 * x2, 3 * y - 2 * y2)
    torch.testing.assert_close(mixed, 3 * f(x, y) - 2 * f(x2, y2))


def test_fourier_labels_are_bounded_and_raw_labels_are_not() -> None:
    x, _, _ = inputs(1)
    far = {"label": torch.tensor([[1e4]], dtype=x.dtype)}
    features = make(label_dim=1, label_features="fourier")
    assert features._label(label_inputs(x, 1, far)).abs().max() <= 1
    assert make(label_dim=1)._label(label_inputs(x, 1, far)).abs().max() == 1e4


def test_dtype_follows_the_input() -> None:
    net = ResidualMLP(dim=5, width=32, depth=1, label_dim=1)
    x, level, cond = inputs(4)
    for dtype in (torch.float32, torch.float64):
        out = net(x.to(dtype), level, cond)
        assert out.dtype == dtype
        out = net.to(dtype)(x.to(dtype), level, cond)
        assert out.dtype == dtype


def test_gradients() -> None:
    net = make(label_dim=1, affine=True)
    x, level, cond = inputs(2)
    x.requires_grad_()
    label = cond["label"].requires_grad_()
    flag = torch.ones(2, dtype=x.dtype)

    def f(x: Tensor, y: Tensor) -> Tensor:
        return net(x, level, {"label": y, "label_known": flag})

    assert torch.autograd.gradcheck(f, (x, label))


def test_dropout_acts_in_training_only() -> None:
    net = make(dropout=0.5)
    x, level, _ = inputs(4)
    assert not torch.equal(net.train()(x, level), net(x, level))
    assert torch.equal(net.eval()(x, level), net(x, level))


def test_arguments_are_plain_values_kept_as_attributes() -> None:
    """A network is saved as JSON by reading its arguments back."""
    net = ResidualMLP(dim=3, width=32, depth=1, label_dim=1, label_features="fourier", affine=True)
    for name, p in inspect.signature(ResidualMLP).parameters.items():
        assert p.annotation in ("int", "float", "str", "bool"), name
        assert type(getattr(net, name)).__name__ == p.annotation, name
    again = ResidualMLP(**{n: getattr(net, n) for n in inspect.signature(ResidualMLP).parameters})
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"label_features": "none"}, "fourier"),
        ({"label_dim": -1}, "label_dim"),
    ],
)
def test_impossible_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ResidualMLP(dim=3, **options)


def test_wrong_shapes_are_named() -> None:
    net = make(label_dim=2)
    x, level, cond = inputs(4, k=2)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        net(x[:, :4], level, cond)
    with pytest.raises(ValueError, match=r"noise_level"):
        net(x, level[:2], cond)
    with pytest.raises(ValueError, match=r"\(4, 1\), expected \(4, 2\)"):
        net(x, level, {"label": cond["label"][:, :1]})
    with pytest.raises(ValueError, match=r"label_known.*\(3,\), expected \(4,\)"):
        net(x, level, {**cond, "label_known": torch.ones(3)})


def test_fourier_features() -> None:
    features = FourierFeatures(4, lowest=1.0, highest=8.0)
    torch.testing.assert_close(features.frequencies, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert features(torch.zeros(3, 2)).shape == (3, 16)
    with pytest.raises(ValueError, match="lowest"):
        FourierFeatures(lowest=2.0, highest=1.0)
