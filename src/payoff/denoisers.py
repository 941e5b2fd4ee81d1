r"""Denoisers: (x_t, t, cond) -> Prediction, with the loss that trains them.

Guidance, fine-tuning and subspace encoders all take a Denoiser and return a Denoiser, so they nest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from payoff.predictions import SPELLINGS, Prediction, TokenPrediction
from payoff.processes import GaussianProcess, MaskProcess, Process
from payoff.spaces import Condition, Scalar, expand_to


class Denoiser(nn.Module, ABC):
    """An estimate of the clean sample at every noise level.

    Attributes:
        process: the corruption it reverses.
    """

    process: Process

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Any:
        """The prediction for x_t (B, ...) at times t, () or (B,), under the condition."""

    def loss(
        self,
        x0: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The denoising loss of each clean sample x0 (B, ...) at times t (B,): shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} cannot be trained: it has no loss")

    def extra_repr(self) -> str:
        return f"process={self.process}"


class NetDenoiser(Denoiser):
    r"""A network with its preconditioning.

    With ``spelling="edm"`` (the default) and data of standard deviation :math:`\sigma_d`,

    .. math::
        \hat x_0 = c_{skip}\,x_t + c_{out}\,F(c_{in}\,x_t,\ \lambda_t/8,\ \text{cond}),\qquad
        c_{in}^{-2} = \alpha^2\sigma_d^2+\sigma^2,\quad
        c_{skip} = \alpha\sigma_d^2 c_{in}^2,\quad c_{out} = \sigma\sigma_d c_{in},

    which is Karras et al.'s preconditioning carried to any (α, σ); for a variance-preserving
    schedule and :math:`\sigma_d = 1` it is velocity prediction. The loss is the squared error of F
    against its target, a mean over degrees of freedom: every noise level weighs the same. With any
    other spelling (``x0``, ``noise``, ``velocity``, ``flow``, ``score``) F is that quantity.

    Args:
        net: called as ``net(x (B, ...), noise_level (B,), cond)``; returns x's shape.
        process: a :class:`GaussianProcess`.
        spelling: what the network's output means.
        sigma_data: standard deviation of the data per coordinate, in the data's units.

    Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras, Aittala,
    Aila, Laine, 2022), table 1.
    """

    process: GaussianProcess

    def __init__(
        self,
        net: nn.Module,
        process: GaussianProcess,
        spelling: str = "edm",
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        if spelling != "edm" and spelling not in SPELLINGS:
            raise ValueError(
                f"unknown spelling {spelling!r}: expected one of edm, {', '.join(SPELLINGS)}"
            )
        self.net, self.process = net, process
        self.spelling, self.sigma_data = spelling, sigma_data

    def forward(self, x_t, t, cond=None):
        alpha, sigma, log_snr = self.process.schedule.levels(t)
        if self.spelling != "edm":
            out = self.process.space.project(self._call(x_t, log_snr, cond), cond)
            return Prediction.of(self.spelling, out, x_t, alpha, sigma)
        c_in, c_skip, c_out = self._gains(alpha, sigma, x_t)
        out = self.process.space.project(self._call(c_in * x_t, log_snr, cond), cond)
        return Prediction.of("x0", c_skip * x_t + c_out * out, x_t, alpha, sigma)

    def loss(self, x0, t, cond=None, *, generator=None, noise=None):
        x_t, noise = self.process.corrupt_with_noise(x0, t, cond, noise=noise, generator=generator)
        alpha, sigma, log_snr = self.process.schedule.levels(t)
        if self.spelling == "edm":
            c_in, c_skip, c_out = self._gains(alpha, sigma, x_t)
            out, target = self._call(c_in * x_t, log_snr, cond), (x0 - c_skip * x_t) / c_out
        else:
            out = self._call(x_t, log_snr, cond)
            clean = Prediction(x0, x_t, alpha, sigma)
            target = noise if self.spelling == "noise" else getattr(clean, self.spelling)
            if self.spelling == "score":  # weight σ², the usual one: otherwise t = 0 dominates
                out, target = out * expand_to(sigma, x0), -noise
        error = self.process.space.project(out - target, cond).flatten(1).square().sum(1)
        return error / self.process.space.dof(x0, cond)

    def _call(self, x: Tensor, log_snr: Scalar, cond: Condition | None) -> Tensor:
        level = torch.as_tensor(log_snr / 8, device=x.device)
        return self.net(x, level.to(x.dtype).expand(x.shape[0]), cond)

    def _gains(self, alpha: Scalar, sigma: Scalar, x: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        alpha, sigma, d = expand_to(alpha, x), expand_to(sigma, x), self.sigma_data
        signal = alpha if d == 1 else alpha * d
        c_in = (signal * signal + sigma * sigma) ** -0.5
        c_skip, c_out = signal * c_in * c_in, sigma * c_in
        return (c_in, c_skip, c_out) if d == 1 else (c_in, c_skip * d, c_out * d)


class Subspace(Denoiser):
    r"""Encoder, denoiser in few dimensions, decoder: the score class of RCGDM.

    .. math:: \hat x_0(x_t) = V\,\hat z_0(V^\top x_t,\, t,\, \text{cond}),\qquad V^\top V = I_d ,

    equivalently the score :math:`\tfrac1{\sigma^2}(\alpha V\hat z_0(V^\top x) - x)`: a linear
    encoder :math:`V^\top`, a linear decoder :math:`V` and the skip connection
    :math:`-x/\sigma^2`. For data on a subspace this form is exact, and whatever the inner network
    does, samples end within the noise of t = 0 of span(V). V starts at a random orthonormal frame,
    or at ``frame``, and stays orthonormal by construction.

    Args:
        inner: a denoiser of d-dimensional samples, with the same schedule.
        dim: the ambient dimension D.
        latent_dim: d, the dimension of the inner denoiser's samples.
        frame: optional start for V, shape (D, d).

    Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), section 3;
    the class is that of Score Approximation, Estimation and Distribution Recovery of Diffusion
    Models on Low-Dimensional Data (Chen, Huang, Zhao, Wang, 2023).
    """

    process: GaussianProcess

    def __init__(
        self, inner: Denoiser, dim: int, latent_dim: int, frame: Tensor | None = None
    ) -> None:
        super().__init__()
        if not 0 < latent_dim <= dim:
            raise ValueError(f"need 0 < latent_dim <= dim, got {latent_dim} and {dim}")
        assert isinstance(inner.process, GaussianProcess)
        self.inner, self.dim, self.latent_dim = inner, dim, latent_dim
        self.process = inner.process
        start = torch.randn(dim, latent_dim) if frame is None else frame
        self.columns = nn.Parameter(_orthonormal(start.detach().clone()))

    @property
    def frame(self) -> Tensor:
        """V, shape (D, d), with orthonormal columns: Gram-Schmidt on the free parameter."""
        return _orthonormal(self.columns)

    def forward(self, x_t, t, cond=None):
        alpha, sigma, _ = self.process.schedule.levels(t)
        frame = self.frame
        z = self.inner(x_t @ frame, t, cond)
        return Prediction(z.x0 @ frame.T, x_t, alpha, sigma)

    def loss(self, x0, t, cond=None, *, generator=None):
        r"""Weighted :math:`\|x_0-\hat x_0\|^2/D` with the inner denoiser's EDM weight.

        The weight is :math:`1/c_{out}^2 = (\alpha^2\sigma_d^2+\sigma^2)/(\sigma\sigma_d)^2`, capped
        at 100: close to t = 0 the part of x0 outside span(V) would swamp everything else.
        """
        x_t, _ = self.process.corrupt_with_noise(x0, t, cond, generator=generator)
        alpha, sigma = self.process.schedule(t)
        sigma_data = getattr(self.inner, "sigma_data", 1.0)
        weight = ((alpha * sigma_data) ** 2 + sigma**2) / (sigma * sigma_data) ** 2
        error = (x0 - self(x_t, t, cond).x0).flatten(1).square().mean(1)
        return weight.clamp(max=100.0) * error


class Corrected(Denoiser):
    r"""A frozen denoiser plus a trainable correction of its clean estimate.

    .. math::
        \hat x_0 = \hat x_0^{base} + \frac{v_t}{\sigma_d}\,
        F(c_{in}\,x_t,\ \lambda_t/8,\ \text{cond}),\qquad
        v_t = \frac{\sigma^2\sigma_d^2}{\alpha^2\sigma_d^2+\sigma^2}

    with :math:`c_{in}` of :class:`NetDenoiser`. A tilt moves the clean estimate by the posterior
    variance times a slope, :math:`\hat x_0^* - \hat x_0 \approx v_t\,\nabla r/\tau`, so F has the
    size of a slope at every noise level; the gain of a plain network, :math:`\sqrt{v_t}`, would ask
    for outputs that vanish with the noise. For isotropic normal data and a linear reward F is
    constant. For masked tokens the network's logits are added to the base's log-probabilities. A
    network whose last layer starts at zero leaves the base as it is, so fine-tuning starts where it
    should: for a model too large to train, or one that has nothing to train, such as the exact law
    of a problem.

    Args:
        base: any denoiser; it is frozen.
        net: called as ``net(x (B, ...), noise_level (B,), cond)``, shape of x; for tokens
            (B, L, V) logits from x_t (B, L).
        sigma_data: standard deviation of the data per coordinate.
    """

    def __init__(self, base: Denoiser, net: nn.Module, sigma_data: float = 1.0) -> None:
        super().__init__()
        self.base, self.net, self.sigma_data = base.requires_grad_(False), net, sigma_data
        self.process = base.process

    def forward(self, x_t, t, cond=None):
        before = self.base(x_t, t, cond)
        if isinstance(before, TokenPrediction):
            process = cast(MaskProcess, self.process)
            level = process.schedule(t).expand(x_t.shape[0])
            logits = before.log_probs.clamp(min=-30.0) + self.net(x_t, level, cond)
            return TokenPrediction.of_logits(logits, x_t, process.space.mask_token)
        alpha, sigma, log_snr = cast(GaussianProcess, self.process).schedule.levels(t)
        a, s, d = expand_to(alpha, x_t), expand_to(sigma, x_t), self.sigma_data
        c_in = (a * a * d * d + s * s) ** -0.5
        level = torch.as_tensor(log_snr / 8, device=x_t.device).to(x_t.dtype)
        out = self.net(c_in * x_t, level.expand(x_t.shape[0]), cond)
        x0 = before.x0 + (s * c_in) ** 2 * d * self.process.space.project(out, cond)  # v_t / σ_d
        return Prediction(x0, x_t, alpha, sigma)


class Counted(Denoiser):
    """A denoiser that counts what is asked of it: network calls are compared like reward calls.

    Attributes:
        rows: samples it has been evaluated on.
        backward: samples through which a gradient has flowed back to their input.
    """

    def __init__(self, base: Denoiser) -> None:
        super().__init__()
        self.base, self.process = base, base.process
        self.rows = self.backward = 0
        if hasattr(base, "shape"):
            self.shape = base.shape

    def forward(self, x_t, t, cond=None):
        self.rows += len(x_t)
        if x_t.is_floating_point() and torch.is_grad_enabled() and x_t.requires_grad:
            # a view of its own: the hook must not outlive this call, nor count another's gradient
            x_t = x_t.view_as(x_t)
            x_t.register_hook(self._went_back)
        return self.base(x_t, t, cond)

    def loss(self, x0, t, cond=None, *, generator=None):
        self.rows += len(x0)
        return self.base.loss(x0, t, cond, generator=generator)

    def _went_back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


def _orthonormal(columns: Tensor) -> Tensor:
    # The signs make the factorisation unique, hence continuous; the scale of the columns is free,
    # so weight decay cannot shrink V.
    q, r = torch.linalg.qr(columns)
    return q * torch.sign(r.diagonal())


class TokenDenoiser(Denoiser):
    r"""A network over partly masked tokens.

    ``net(x_t (B, L), noise_level (B,), cond)`` returns logits (B, L, V). The loss is the negative
    ELBO of absorbing diffusion in nats per token, with keep probability k,
    :math:`\frac{k'_t}{1-k_t}\,\frac1L\sum_{\ell\,masked}\log p(x_0^\ell\mid x_t)`.

    Reference: Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), eq. 10.
    """

    process: MaskProcess

    def __init__(self, net: nn.Module, process: MaskProcess) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x_t, t, cond=None):
        level = self.process.schedule(t).expand(x_t.shape[0])
        logits = self.net(x_t, level, cond)
        return TokenPrediction.of_logits(logits, x_t, self.process.space.mask_token)

    def loss(self, x0, t, cond=None, *, generator=None):
        x_t = self.process.corrupt(x0, t, cond, generator=generator)
        log_probs = self(x_t, t, cond).log_probs.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        with torch.enable_grad():
            time = t.detach().clone().requires_grad_(True)
            keep = self.process.schedule(time)
            rate = -torch.autograd.grad(keep.sum(), time)[0]
        weight = rate / (1 - keep.detach()).clamp(min=1e-6)
        hidden = x_t == self.process.space.mask_token
        return -weight * (log_probs * hidden).sum(1) / x0.shape[1]
