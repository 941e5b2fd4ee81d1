r"""The objectives of fine-tuning as pure functions of tensors, (B,) each, to be minimised.

Errors are what a denoiser gets wrong about a clean sample at one noise level; surrogates are what a
policy gradient makes of the densities of transitions. None of them knows a trainer or a model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from payoff.predictions import Prediction, TokenPrediction
from payoff.processes import GaussianProcess, MaskProcess, Process
from payoff.spaces import Condition, Scalar, expand_to

MOST_LOG_RATIO = 20.0  # of densities


def denoising_error(
    prediction: Prediction | TokenPrediction,
    x0: Tensor,
    process: Process,
    t: Tensor,
    cond: Condition | None = None,
    sigma_data: float = 1.0,
) -> Tensor:
    r"""What the denoising loss of the library says of a prediction, in the network's units.

    .. math:: \frac{\alpha^2\sigma_d^2+\sigma^2}{\sigma^2\sigma_d^2}\,\|x_0-\hat x_0\|^2/k

    a mean over the k degrees of freedom in which every noise level weighs the same (``edm``). Of
    tokens: the term of the ELBO at t, in nats a token.
    """
    if isinstance(prediction, TokenPrediction):
        return elbo_error(prediction, x0, process, t, cond) / x0.shape[1]
    square = _square(prediction.x0 - x0, process, cond)
    return edm_weight(prediction, sigma_data) * square / process.space.dof(x0, cond)  # type: ignore[attr-defined]


def apart(
    prediction: Prediction | TokenPrediction,
    other: Prediction | TokenPrediction,
    process: Process,
    cond: Condition | None = None,
    sigma_data: float = 1.0,
) -> Tensor:
    r"""How far two predictions at one x_t are apart, (B,), in the units of the denoising error.

    Of tokens: KL(other ‖ prediction) a masked position, in nats.
    """
    if isinstance(prediction, Prediction) and isinstance(other, Prediction):
        weight = edm_weight(prediction, sigma_data)
        square = _square(prediction.x0 - other.x0, process, cond)
        return weight * square / process.space.dof(other.x0, cond)  # type: ignore[attr-defined]
    assert isinstance(prediction, TokenPrediction)
    assert isinstance(other, TokenPrediction)
    gap = torch.where(other.log_probs > -torch.inf, other.log_probs - prediction.log_probs, 0.0)
    return (other.log_probs.exp() * gap).sum((-1, -2)) / prediction.x_t.shape[1]


def controlled_error(
    prediction: Prediction,
    earlier: Prediction,
    x0: Tensor,
    weights: Tensor,
    excess: Tensor,
    process: Process,
    cond: Condition | None = None,
    sigma_data: float = 1.0,
) -> Tensor:
    r"""A weighted denoising error with an earlier model's estimate as control variate, (B,).

    .. math:: w\,\|\hat x-\hat x_{old}\|^2 - 2e\,(\hat x-\hat x_{old})\cdot(x_0-\hat x_{old})

    in the units of :func:`denoising_error`. If :math:`\hat x_{old}` is the posterior mean of the
    law that x0 was drawn from, its gradient has the mean of that of
    :math:`w\|\hat x-x_0\|^2` for every excess e that differs from w by what x_t tells, such as
    w − 1.
    """
    move = process.space.project(prediction.x0 - earlier.x0, cond).flatten(1)  # type: ignore[attr-defined]
    noise = process.space.project(x0 - earlier.x0, cond).flatten(1)  # type: ignore[attr-defined]
    loss = weights * move.square().sum(1) - 2 * excess * (move * noise).sum(1)
    return edm_weight(prediction, sigma_data) * loss / process.space.dof(x0, cond)  # type: ignore[attr-defined]


def edm_weight(prediction: Prediction, sigma_data: float = 1.0) -> Tensor:
    r""":math:`1/c_{out}^2`, from errors of the clean estimate to the network's: () or (B,)."""
    alpha, sigma = torch.as_tensor(prediction.alpha), torch.as_tensor(prediction.sigma)
    signal, d = alpha * sigma_data, sigma_data
    return (signal.square() + sigma.square()) / (sigma * d).square()


def elbo_error(
    prediction: Prediction | TokenPrediction,
    x0: Tensor,
    process: Process,
    t: Tensor,
    cond: Condition | None = None,
) -> Tensor:
    r"""One draw of −ELBO in nats, up to what does not depend on the model.

    For t drawn by :func:`draw_times` its mean over t is :math:`-\log p(x_0)` up to a constant:
    :math:`\tfrac12\Lambda\,\frac{\alpha^2}{\sigma^2}\|x_0-\hat x_0\|^2` with log-SNR uniform over a
    range of length Λ, or :math:`-\frac{k'}{1-k}\sum_{masked}\log p(x_0^\ell|x_t)` for masked
    tokens. Differences of two models at one draw have far less variance than either.

    Reference: Variational Diffusion Models (Kingma, Salimans, Poole, Ho, 2021).
    """
    if isinstance(prediction, TokenPrediction):
        assert isinstance(process, MaskProcess)
        hidden = prediction.x_t == process.space.mask_token
        log_probs = prediction.log_probs.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        weight = _reveal_rate(process, t)
        return -weight * torch.where(hidden, log_probs, 0.0).sum(1)
    assert isinstance(process, GaussianProcess)
    snr = (prediction.alpha / prediction.sigma) ** 2
    square = _square(prediction.x0 - x0, process, cond)
    return 0.5 * _range(process) * expand_to(snr, square) * square


def draw_times(
    process: Process, n: int, *, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Times (n,), stratified: uniform in log-SNR, or in t for tokens; shuffled."""
    where = generator.device if generator is not None else like.device
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    u = torch.rand(n, generator=generator, device=where, dtype=dtype)
    u = (torch.randperm(n, generator=generator, device=where).to(dtype) + u) / n
    u = u.to(like.device)
    if not isinstance(process, GaussianProcess):
        return u.clamp(1e-4, 1 - 1e-6)
    schedule = process.schedule
    clean, noisy = schedule.log_snr(0 * u), schedule.log_snr(torch.ones_like(u))
    return schedule.time(noisy + u * (clean - noisy)).clamp(0, 1)


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    r""":math:`-A\log\pi_\theta`: its gradient is the score-function estimate (Williams, 1992)."""
    return -advantage * log_prob


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float
) -> Tensor:
    r""":math:`-\min(\rho A,\ \mathrm{clip}(\rho,1\pm\epsilon)A)`, ρ the ratio of densities.

    For A < 0 nothing bounds ρ; beyond e^20 it is taken for e^20, without a gradient, so that one
    row cannot make the loss infinite and every weight NaN.

    Reference: Proximal Policy Optimization Algorithms (Schulman et al., 2017).
    """
    ratio = torch.exp((log_prob - old_log_prob).clamp(max=MOST_LOG_RATIO))
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def kl_masked_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, kl: Tensor, limit: float
) -> Tensor:
    r""":math:`-\rho A`, without gradient where the step has gone far enough.

    ``kl`` is the exact divergence of the old kernel from the new one, :math:`\|\mu_{old}-
    \mu_\theta\|^2/2s^2` for Gaussians. A transition beyond ``limit`` is left out if its gradient
    would push the ratio still further from 1. The clipped ratio does the same from one noisy draw.

    Reference: Flow-DPPO (2025), after Proximal Policy Optimization.
    """
    ratio = torch.exp((log_prob - old_log_prob).clamp(max=MOST_LOG_RATIO))
    outward = (advantage * (ratio - 1)) > 0
    kept = ~((kl > limit) & outward)
    return -torch.where(kept, ratio * advantage, (ratio * advantage).detach())


def mixed_estimates(new: Tensor, old: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    r"""DiffusionNFT's two clean estimates: one towards the new model, one away from it.

    :math:`\hat x^+=\beta\hat x_\theta+(1-\beta)\hat x_{old}` and
    :math:`\hat x^-=(1+\beta)\hat x_{old}-\beta\hat x_\theta`.
    """
    return beta * new + (1 - beta) * old, (1 + beta) * old - beta * new


def preference(winner: Tensor, loser: Tensor, strength: float = 1.0) -> Tensor:
    r""":math:`-\log\sigma(\beta\,[\Delta\ell_w-\Delta\ell_l])` of log-density gains (B,), nats.

    Reference: Direct Preference Optimization (Rafailov et al., 2023).
    """
    return -F.logsigmoid(strength * (winner - loser))


def adjoint_matching(shift: Tensor, std: Scalar, adjoint: Tensor) -> Tensor:
    r""":math:`\|(\mu_\theta-\mu)/s + s\,a\|^2`: the control against its target, summed, (B,).

    shift (B, ...) is μ_θ − μ, adjoint (B, ...) the lean adjoint a at the transition's end, s the
    kernel's standard deviation.

    Reference: Adjoint Matching (Domingo-Enrich, Drozdzal, Karrer, Chen, 2024), equation 34.
    """
    s = expand_to(std, shift)
    return (shift / s + s * adjoint).flatten(1).square().sum(1)


def _square(gap: Tensor, process: Process, cond: Condition | None) -> Tensor:
    return process.space.project(gap, cond).flatten(1).square().sum(1)  # type: ignore[attr-defined]


def _range(process: GaussianProcess) -> float:
    ends = process.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    return float(ends[0] - ends[1])


def _reveal_rate(process: MaskProcess, t: Tensor) -> Tensor:
    with torch.enable_grad():
        time = t.detach().clone().requires_grad_(True)
        keep = process.schedule(time)
        rate = -torch.autograd.grad(keep.sum(), time)[0]
    return rate / (1 - keep.detach()).clamp(min=1e-6)
