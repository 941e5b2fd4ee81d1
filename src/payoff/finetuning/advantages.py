r"""What a reward is worth to a learner: advantages, weights and tempering, as pure functions.

A failed evaluation is NaN. A learner takes it for the worst reward it knows
(:func:`replace_failed`), so that it moves away from failures as from bad designs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from payoff.metrics.weights import effective_sample_size


def replace_failed(rewards: Tensor, share: float = 0.0) -> Tensor:
    """Rewards (n,) with every NaN replaced by a bad one that is known.

    Args:
        rewards: (n,).
        share: of the known rewards that are worse than the one that is taken; 0: the smallest.
            The smallest of many is far out: a regression has to spend its errors on failures then.
    """
    known = rewards[~rewards.isnan()]
    if len(known) == 0:
        raise ValueError("every reward is NaN: there is no worst one")
    bad = known.sort().values[int(share * len(known))]
    return torch.where(rewards.isnan(), bad, rewards)


def standardise(rewards: Tensor, clip: float = 5.0) -> Tensor:
    """(r − mean) / sd of rewards (n,), at most ``clip`` in size (0: no limit); 0 if all are equal.

    Reference: Training Diffusion Models with Reinforcement Learning (Black et al., 2023).
    """
    centred = rewards - rewards.mean()
    spread = centred.square().mean().sqrt()
    advantage = torch.where(spread > _smallest(rewards), centred / spread, 0 * centred)
    return advantage.clamp(-clip, clip) if clip else advantage


def group_advantages(
    rewards: Tensor, size: int, *, scale: str = "group", clip: float = 5.0
) -> Tensor:
    """Rewards (n,) relative to their group: ``size`` neighbours share a condition.

    ``scale`` is what they are divided by: ``group`` (the group's own sd: easy and hard groups
    count alike), ``round`` (the sd of all centred rewards) or ``none``. A group whose rewards are
    all equal gets advantage 0.

    Raises ValueError when n is not a multiple of ``size``: a broken group has another mean.

    Reference: DeepSeekMath (Shao et al., 2024); Flow-GRPO (Liu et al., 2025).
    """
    if size < 2 or len(rewards) % size:
        raise ValueError(
            f"{len(rewards)} samples cannot be split into whole groups of {size}: group advantages "
            "need at least 2 samples a group and no broken group"
        )
    groups = rewards.view(-1, size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        spread = centred.square().mean(1, keepdim=True).sqrt()
    elif scale == "round":
        spread = centred.square().mean().sqrt().expand(len(groups), 1)
    elif scale == "none":
        spread = torch.ones_like(centred[:, :1])
    else:
        raise ValueError(f"unknown scale {scale!r}: group, round or none")
    advantage = torch.where(spread > _smallest(rewards), centred / spread, 0 * centred).flatten()
    return advantage.clamp(-clip, clip) if clip and scale != "none" else advantage


def optimality(advantage: Tensor, clip: float = 5.0) -> Tensor:
    r"""DiffusionNFT's :math:`\mathrm{clip}(A/2A_{max}+\tfrac12, 0, 1)`: advantages (n,) as chances.

    Reference: DiffusionNFT (Zheng et al., 2025).
    """
    return (advantage / (2 * clip) + 0.5).clamp(0, 1)


def next_inverse_temperature(
    rewards: Tensor, log_weights: Tensor, now: float, last: float, share: float
) -> float:
    """The largest β in (now, last] that keeps enough effective samples.

    Samples (n,) with ``log_weights`` for the law at ``now`` are worth at least ``share`` of their
    present effective number after the tilt to β; found by bisection. A sequence of such steps
    reaches a temperature that one step, with nearly all weight on a few samples, cannot.

    Reference: Inference for Lévy-driven stochastic volatility models via adaptive sequential Monte
    Carlo (Jasra, Stephens, Doucet, Tsagaris, 2011).
    """
    enough = share * float(effective_sample_size(log_weights))

    def worth(inverse: float) -> float:
        return float(effective_sample_size(log_weights + (inverse - now) * rewards))

    if worth(last) >= enough:
        return last
    low, high = now, last
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if worth(middle) >= enough else (low, middle)
    return low


def mixture_log_weights(
    rewards: Tensor, inverses: Sequence[float], counts: Sequence[int], inverse: float
) -> Tensor:
    r"""Log-weights (n,) of samples of several tilts of one law, for another tilt of it.

    Round j drew :math:`n_j` samples from :math:`p\,e^{\beta_j r}/Z_j`, one after another in
    ``rewards``. Within its round a sample has the weight :math:`e^{(\beta-\beta_j)r}`, normalised;
    rounds count by their effective number of samples at β. A round drawn at β itself is thus taken
    as it is, whatever the model that drew it has made of its tilt.

    Reference: Optimally Combining Sampling Techniques for Monte Carlo Rendering (Veach, Guibas,
    1995), of which this is the combination by effective size.
    """
    parts, rewards = [], rewards.double()
    for beta, part in zip(inverses, rewards.split(list(counts)), strict=True):
        log_weights = (inverse - beta) * part
        size = effective_sample_size(log_weights).log()
        parts.append(log_weights.log_softmax(0) + size)
    return torch.cat(parts).log_softmax(0)


def _smallest(rewards: Tensor) -> Tensor:
    return 1e-6 * rewards.abs().max().clamp(min=1e-12)
