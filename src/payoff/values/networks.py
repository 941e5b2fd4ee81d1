"""The network of a learned value: which one a base's samples ask for."""

from __future__ import annotations

import torch
from torch import nn

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.nets import ResidualMLP
from payoff.nets.equivariant import Body
from payoff.nets.invariant import InvariantTransformer
from payoff.spaces import Centered

DEPTH = 4  # blocks of a network that values sets: half of a generator's, so half of its time


def not_learnable(base: Denoiser, shape: tuple[int, ...], width: int) -> str:
    """Why no value of this width is learned of samples (N,) or (N, C); empty where one is."""
    if len(shape) == 1:
        return ""
    if len(shape) != 2 or _space(base) is None:
        return f"a value is learned of vectors and of centred sets, not of samples of shape {shape}"
    if width % 8:
        return f"a value of sets needs a width that is a multiple of 8, got {width}"
    return ""


def value_network(
    base: Denoiser, shape: tuple[int, ...], width: int, outputs: int = 1
) -> nn.Module:
    """A network for the value of samples: of vectors (N,), or of centred sets of points (N, C).

    A set is valued by an invariant network. Where the base is an equivariant one without labels
    the value begins with its first blocks, as they are: what they have learned of noisy sets from
    all data, a value need not learn from a few scored samples. ``width`` is that of the others. A
    network of sets has ``outputs``, one of vectors N.

    Raises:
        UserError: see :func:`not_learnable`.
    """
    refused, space = not_learnable(base, shape, width), _space(base)
    if refused:
        raise UserError(refused)
    if len(shape) == 1 or space is None:
        return ResidualMLP(shape[0], width, 2)
    begun = _begun(getattr(base, "net", None), outputs)
    if begun is not None:
        return begun
    pairs = max(8, width // 32 * 8)
    return InvariantTransformer(
        shape[1] - space.coordinates, outputs, width, DEPTH, pair_width=pairs, vectors=16
    )


def _space(base: Denoiser) -> Centered | None:
    space = getattr(base.process, "space", None)
    return space if isinstance(space, Centered) else None


def _begun(body: object, outputs: int) -> InvariantTransformer | None:
    """An invariant network whose first layers and blocks are copies; None where they do not fit."""
    if not isinstance(body, Body) or body.label_dim:
        return None
    depth = min(DEPTH, body.depth)
    widths = body.width, depth, body.heads, body.pair_width, body.vectors
    net, given = InvariantTransformer(body.features, outputs, *widths), body.state_dict()
    if (net.hidden, net.radius, net.bumps) != (body.hidden, body.radius, body.bumps):
        return None
    with torch.no_grad():
        for name, own in net.state_dict().items():
            if name in given:  # the modulation of later blocks is cut off
                own.copy_(given[name][: len(own)])
    return net
