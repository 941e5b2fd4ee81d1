r"""The pay-off law on a neighbourhood: where a draft is moved to when reward counts.

Around a draft x, within a feasible set, the pay-off law is
:math:`q(\delta)\propto 1[\delta\in F]\,e^{r(x+\delta)/\tau}`. With K candidates it is a softmax;
for a reward that is linear over the set, slope g (of r/τ), its mean is known:

=============================== ================================================================
feasible set                    mean shift
=============================== ================================================================
ball of radius R                :math:`R\,\frac{I_{k/2+1}(\kappa)}{I_{k/2}(\kappa)}\frac{g}{\|g\|}`
                                with :math:`\kappa=R\|g\|`, k degrees of freedom
Gaussian of deviation R         :math:`R^2 g`
=============================== ================================================================

All are pure functions; x is (B, ...), candidates (K, B, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from payoff.spaces import Condition, Euclidean, Space, expand_to

PROPOSALS, CHOICES = ("kernel", "gaussian", "ball"), ("soft", "sampled", "argmax")
SHIFTS = ("gradient", "candidates", "zeroth-order")


class Options(Protocol):
    """What decides a shift; see :class:`payoff.finetuning.RGDM` for each."""

    radius: float
    proposal: str
    shift: str
    choice: str
    candidates: int


def shift(
    options: Options,
    x: Tensor,
    std: Tensor,
    gradient: Callable[[], Tensor],
    scores: Callable[[Tensor], Tensor],
    space: Space,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The shift (B, ...) of drafts x by the pay-off law around them.

    Args:
        options: the feasible set, and what is taken of the law on it.
        x: (B, ...).
        std: of the step that drew the drafts, (B,): the unit of the radius.
        gradient: makes the slope (B, ...) of r/τ at x; asked for by shift="gradient" alone.
        scores: r/τ (K, B) of candidates (K, B, ...); by the other shifts alone.
        space: where x lives.
        cond: carries the mask of ragged sets.
        generator: of candidates and choices.
    """
    kernel = options.proposal == "kernel"
    radius, limit = (std, std * options.radius) if kernel else (std * options.radius, None)
    law = options.proposal, options.choice, space.dof(x, cond), limit
    if options.shift == "gradient":
        move = mean_shift(gradient(), radius, *law)
        if options.choice == "sampled":
            noise = space.noise(tuple(move.shape), cond, like=move, generator=generator)
            move = move + expand_to(radius, move) * noise
        return move
    moves = candidates(x, options.candidates, options.proposal, space, cond, generator=generator)
    found = scores(x + expand_to(radius, x) * moves)
    if options.shift == "zeroth-order":
        slope = zeroth_order_gradient(moves, found, radius, options.proposal, law[2])
        return mean_shift(slope, radius, *law)
    move = chosen(moves, found, options.choice, generator=generator)
    move = expand_to(radius, move) * move
    return move if limit is None else within(move, limit)


def candidates(
    like: Tensor,
    count: int,
    proposal: str,
    space: Space | None = None,
    cond: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``count`` moves (K, B, ...) of unit radius: 0 first, then draws in the space.

    ``ball``: uniform in the unit ball of the degrees of freedom; otherwise standard normal.
    """
    space = Euclidean() if space is None else space
    moves = [torch.zeros_like(like)]
    for _ in range(count - 1):
        draw = space.noise(tuple(like.shape), cond, like=like, generator=generator)
        if proposal == "ball":
            where = generator.device if generator is not None else like.device
            u = torch.rand(len(like), generator=generator, device=where).to(like)
            length = u ** (1 / space.dof(like, cond)) / draw.flatten(1).norm(dim=1)
            draw = draw * expand_to(length, draw)
        moves.append(draw)
    return torch.stack(moves)


def chosen(
    moves: Tensor, scores: Tensor, choice: str, *, generator: torch.Generator | None = None
) -> Tensor:
    """The move (B, ...) of the pay-off law over candidates (K, B, ...) with scores r/τ (K, B).

    ``soft``: its mean; ``sampled``: a draw from it; ``argmax``: its limit at zero temperature.
    Failed candidates (NaN) have no share; where all failed nothing moves.
    """
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    lost = scores.isinf().all(0)
    scores = torch.where(
        lost & (torch.arange(len(scores)).view(-1, 1).to(lost.device) == 0), 0.0, scores
    )
    weights = scores.softmax(0)
    if choice == "argmax":
        weights = torch.nn.functional.one_hot(weights.argmax(0), len(weights)).T.to(weights)
    elif choice == "sampled":
        where = generator.device if generator is not None else weights.device
        picked = torch.multinomial(weights.T.to(where), 1, generator=generator)[:, 0]
        weights = torch.nn.functional.one_hot(picked, len(weights)).T.to(moves)
    shape = (*weights.shape, *(1,) * (moves.ndim - 2))
    return (weights.to(moves).view(shape) * moves).sum(0)


def zeroth_order_gradient(
    moves: Tensor, scores: Tensor, radius: Tensor, proposal: str, dof: Tensor
) -> Tensor:
    r"""The slope (B, ...) of scores (K, B) over candidates ``radius`` · moves, from values alone.

    :math:`\hat g = \frac{c}{R\,(m-1)}\sum_k (r_k-\bar r)\,u_k` over the m = K − 1 moves
    that are not 0, with c = 1 for normal ones and dof + 2 for uniform ones in the ball: exact on
    average where the reward is linear.

    Reference: Random Gradient-Free Minimization of Convex Functions (Nesterov, Spokoiny, 2017).
    """
    scores = torch.where(scores.isnan(), scores.nanmean(0, keepdim=True), scores).nan_to_num(0.0)
    moved, values = moves[1:], scores[1:]
    centred = values - values.mean(0)
    scale = (dof + 2 if proposal == "ball" else torch.ones_like(dof)) / radius
    shape = (*centred.shape, *(1,) * (moves.ndim - 2))
    mean = (centred.view(shape) * moved).sum(0) / (len(values) - 1)
    return expand_to(scale, mean) * mean


def mean_shift(
    gradient: Tensor,
    radius: Tensor,
    proposal: str,
    choice: str,
    dof: Tensor,
    limit: Tensor | None = None,
) -> Tensor:
    """The shift (B, ...) of the pay-off law for a reward of slope ``gradient`` (of r/τ).

    Args:
        gradient: (B, ...).
        radius: (B,), of the ball or the deviation of the Gaussian.
        proposal: ``ball``, or a Gaussian (``gaussian``, ``kernel``).
        choice: ``argmax`` moves by the whole radius; ``soft`` by the mean of the law.
        dof: degrees of freedom (B,).
        limit: (B,) longest shift; a longer one is projected onto the ball.
    """
    norm = gradient.flatten(1).norm(dim=1)
    if choice == "argmax":
        length = radius * (norm > 0)
    elif proposal == "ball":
        length = radius * bessel_ratio(0.5 * dof, radius * norm)
    else:
        length = radius.square() * norm
    if limit is not None:
        length = torch.minimum(length, limit)
    unit = gradient / expand_to(norm.clamp(min=torch.finfo(norm.dtype).tiny), gradient)
    return expand_to(length, unit) * unit


def within(move: Tensor, limit: Tensor) -> Tensor:
    """Moves (B, ...), the longer ones shortened to ``limit`` (B,)."""
    norm = move.flatten(1).norm(dim=1)
    share = (limit / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
    return expand_to(share, move) * move


def bessel_ratio(order: Tensor, x: Tensor, terms: int = 200) -> Tensor:
    r""":math:`I_{\nu+1}(x)/I_\nu(x)` for ν, x ≥ 0, from 0 at x = 0 towards 1, elementwise.

    By its continued fraction :math:`R_\nu = x/(2(\nu+1) + x R_{\nu+1})`, from far below upwards.

    Reference: Computation of Modified Bessel Functions and Their Ratios (Amos, 1974).
    """
    kind, order, x = x.dtype, order.double(), x.double()
    far = order + terms
    # Amos's bound closes the fraction, so that a large x needs no more terms than a small one
    ratio = x / (far + 0.5 + torch.sqrt((far + 1.5).square() + x.square()))
    for k in range(terms, 0, -1):
        ratio = x / (2 * (order + k) + x * ratio)
    return ratio.to(kind)
