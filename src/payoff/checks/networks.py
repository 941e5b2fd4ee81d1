"""The laws of a network: net(x, noise_level, cond) gives x's shape, row by row."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from payoff.checks.findings import (
    Budget,
    Law,
    Outcome,
    difference,
    fails,
    holds,
    remark,
    rounding,
    skipped,
    verdict,
)
from payoff.checks.inputs import (
    Cond,
    Inputs,
    find_inputs,
    global_seed,
    random_states,
    take,
    touched,
)
from payoff.checks.modules import Training, saved_and_loaded, shaken, trained, unreached
from payoff.denoisers import NetDenoiser
from payoff.processes import GaussianProcess
from payoff.schedules import SCHEDULES

ROWS = 5


class NetworkSubject:
    """A network, shaken and in eval mode, with inputs that it takes.

    Attributes:
        raw: the network as it was given, never called.
        net: a copy with noise on its parameters, so that a zero start hides nothing.
        label: number of label columns it says to read; 0 for none.
    """

    def __init__(self, part: Any, shape: Any, seed: int, budget: Budget) -> None:
        self.raw, self.seed, self.budget = part, seed, budget
        self.net: Any = shaken(part, seed)
        label = getattr(part, "label_dim", 0)
        self.label = label if isinstance(label, int) else 0
        first = next(iter(part.parameters()), None) if isinstance(part, nn.Module) else None
        self.dtype = torch.float32 if first is None else first.dtype

        def probe(x: Tensor, cond: Cond | None) -> Tensor:
            return self(x, torch.zeros(len(x), dtype=x.dtype), cond)

        self.inputs: Inputs = find_inputs(probe, part, shape, None, seed, self.dtype)
        self.x, self.cond = self.inputs.draw(ROWS, self.dtype)
        self.level = torch.linspace(-1.5, 1.5, ROWS, dtype=self.dtype)
        self.y = torch.empty(0)

    def __call__(self, x: Tensor, level: Tensor, cond: Cond | None = None) -> Tensor:
        self.budget.spend()
        with torch.no_grad():
            return self.net(x, level, cond)


def same_shape(s: NetworkSubject) -> Outcome:
    """Shape and dtype are x's, and the numbers are finite."""
    y: Any = s(s.x, s.level, s.cond)
    if not isinstance(y, Tensor):
        return fails(f"it returned {type(y).__name__}", "return one tensor, shaped like x")
    if y.shape != s.x.shape:
        return fails(
            f"x has shape {tuple(s.x.shape)}, the answer {tuple(y.shape)}",
            "the last layer has as many outputs as x has coordinates",
        )
    if y.dtype != s.x.dtype:
        return fails(f"x is {s.x.dtype}, the answer {y.dtype}", "return out.to(x.dtype)")
    s.y = y
    return verdict(bool(y.isfinite().all()), f"{tuple(y.shape)}, {y.dtype}; {s.inputs}")


def same_twice(s: NetworkSubject) -> Outcome:
    """In eval mode the same input has the same output, and no buffer moves."""
    state = _state(s.net)
    with global_seed(s.seed + 1):
        gap = difference(s(s.x, s.level, s.cond), s.y)
    moved = [k for k, v in _state(s.net).items() if not torch.equal(v, state[k])]
    if moved:
        return fails(f"a call in eval mode changes {', '.join(moved[:3])}")
    return verdict(gap <= rounding(s.y), f"relative difference {gap:.1e}")


def _state(net: Any) -> dict[str, Tensor]:
    if not isinstance(net, nn.Module):
        return {}
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, Tensor)}


def random_state_untouched(s: NetworkSubject) -> Outcome:
    """In eval mode nothing is drawn."""
    before = random_states()
    s(s.x, s.level, s.cond)
    moved = touched(before)
    return verdict(not moved, f"draws from {', '.join(moved)}" if moved else "no draws")


def rows_alone(s: NetworkSubject) -> Outcome:
    """A row has the same output alone and in another order."""
    one = [slice(i, i + 1) for i in range(ROWS)]
    alone = torch.cat([s(s.x[i], s.level[i], take(s.cond, i)) for i in one])
    order = torch.arange(ROWS).flip(0)
    turned = s(s.x[order], s.level[order], take(s.cond, order))[order]
    gaps = difference(alone, s.y), difference(turned, s.y)
    return verdict(
        max(gaps) <= rounding(s.y),
        f"relative difference alone {gaps[0]:.1e}, in another order {gaps[1]:.1e}",
    )


def finite_at_the_ends(s: NetworkSubject) -> Outcome:
    """Finite at the noise levels of both ends of every schedule of the library."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    levels = torch.cat([kind().log_snr(ends) / 8 for kind in SCHEDULES.values()])
    low, high = float(levels.min()), float(levels.max())
    bad = []
    for level in (low, high):
        y = s(s.x, torch.full_like(s.level, level), s.cond)
        bad += [] if bool(y.isfinite().all()) else [f"{level:.3g}"]
    text = f"noise_level {low:.3g} and {high:.3g}"
    return fails(f"not finite at noise_level {', '.join(bad)}") if bad else holds(text)


def reads_the_level(s: NetworkSubject) -> Outcome:
    """The output depends on the noise level."""
    y = s(s.x, -s.level.flip(0) + 0.7, s.cond)
    gap = difference(y, s.y)
    if gap > 0:
        return holds(f"another level changes the output by {gap:.1e}")
    return remark("the noise level changes nothing", "give it to the first or to every layer")


def padding_is_ignored(s: NetworkSubject) -> Outcome:
    """More empty members change nothing, and empty members stay empty."""
    if not s.inputs.masked or s.cond is None:
        return skipped("the input has no mask")
    pad = (0, 0, 0, 3)
    wide = {"mask": nn.functional.pad(s.cond["mask"], (0, 3))}
    members = s.x.shape[1]
    y = s(nn.functional.pad(s.x, pad), s.level, wide)
    gap = difference(y[:, :members], s.y)
    dirt = float(y[~wide["mask"]].abs().max())
    return verdict(
        max(gap, dirt) <= rounding(s.y),
        f"three more empty members change {gap:.1e}; padding holds {dirt:.1e}",
    )


def null_label(s: NetworkSubject) -> Outcome:
    """Where ``label_known`` is 0 the label's value is not read, and may be NaN."""
    if not s.label:
        return skipped("it has no label_dim")
    hidden = {
        **(s.cond or {}),
        "label": torch.full((ROWS, s.label), float("nan"), dtype=s.dtype),
        "label_known": torch.zeros(ROWS, dtype=s.dtype),
    }
    gap = difference(s(s.x, s.level, hidden), s.y)
    return verdict(gap <= rounding(s.y), f"a hidden NaN label changes {gap:.1e}")


def parameters_are_reached(s: NetworkSubject) -> Outcome:
    """There are parameters, and the gradient reaches them."""
    if not isinstance(s.net, nn.Module):
        return fails("it is a function and has no parameters", "write it as a torch.nn.Module")
    s.budget.spend()
    net = copy.deepcopy(s.net).train()
    return unreached(net, net(s.x, s.level, s.cond).square().sum())


def learns(s: NetworkSubject) -> Outcome:
    """Half of the way from no network to the best one on a Gaussian, in 300 steps."""
    if not isinstance(s.raw, nn.Module):
        return skipped("a function has nothing to train")
    denoiser = NetDenoiser(copy.deepcopy(s.raw), GaussianProcess())
    with global_seed(s.seed):  # dropout
        return trained(Training(denoiser, s.inputs, s.budget, s.dtype), 0.5)


def can_be_saved(s: NetworkSubject) -> Outcome:
    """A denoiser with this network survives saving and loading."""
    if not isinstance(s.net, nn.Module):
        return skipped("a function has no weights")

    def evaluate(denoiser: Any) -> Tensor:
        s.budget.spend()
        with torch.no_grad():
            return denoiser(s.x, torch.full((ROWS,), 0.5, dtype=s.dtype), s.cond).x0

    return saved_and_loaded(NetDenoiser(s.net, GaussianProcess()), evaluate)


def follows_device(s: NetworkSubject) -> Outcome:
    """On torch's meta device a tensor that does not follow its input is an error."""
    net = copy.deepcopy(s.net).to("meta") if isinstance(s.net, nn.Module) else s.net
    cond = None if s.cond is None else {k: v.to("meta") for k, v in s.cond.items()}
    s.budget.spend()
    try:
        net(s.x.to("meta"), s.level.to("meta"), cond)
    except Exception as error:
        if "device" not in str(error):
            return skipped(f"cannot be told without a second device: {type(error).__name__}")
        return remark(
            f"tensors on a device of their own: {str(error).splitlines()[0][:100]}",
            "keep constants as buffers (register_buffer), or make them with .to(x)",
        )
    return holds("the answer is where the input is")


TWICE, ALONE = "the same input gives the same output", "a row does not depend on its batch"
LAWS: tuple[Law[NetworkSubject], ...] = (
    Law(
        "the answer has x's shape", same_shape, "give finite numbers for standard input", gate=True
    ),
    Law(TWICE, same_twice, "in eval mode no dropout, no draws, no running statistics"),
    Law(
        "the global random state is left alone",
        random_state_untouched,
        "draw nothing in eval mode: test self.training, or use nn.Dropout",
    ),
    Law(
        ALONE,
        rows_alone,
        "no statistics over the batch axis: LayerNorm or GroupNorm instead of BatchNorm",
        needs=(TWICE,),
    ),
    Law(
        "finite at both ends of the noise",
        finite_at_the_ends,
        "noise_level is log-SNR / 8: do not take its root, logarithm or exp(8 ·)",
    ),
    Law("the noise level is read", reads_the_level, needs=(TWICE,)),
    Law(
        "padding changes nothing",
        padding_is_ignored,
        "multiply by the mask before every sum over members, and at the end",
        needs=(TWICE,),
    ),
    Law(
        "the null label hides its value",
        null_label,
        "read labels through payoff.nets.label_inputs",
        needs=(TWICE,),
    ),
    Law("the parameters can be trained", parameters_are_reached, "give it parameters"),
    Law("it can be saved and loaded", can_be_saved, needs=(TWICE,)),
    Law("the device is followed", follows_device, strict=False),
    # last, since it takes longest
    Law(
        "it learns a Gaussian",
        learns,
        "see that the output depends on x and on the noise level, without bound on its size",
    ),
)
