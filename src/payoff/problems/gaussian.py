r"""A Gaussian on a random subspace with a linear reward: the world of the RCGDM theory.

:math:`x = Az,\ z\sim\mathcal N(0,\Sigma),\ A\in\mathbb R^{D\times d}` orthonormal,
:math:`r(x)=\theta\cdot x` with :math:`\theta = A\beta`. A label
:math:`y=\theta\cdot x+\nu\xi` gives

.. math::
    z\mid y=a \sim \mathcal N\!\left(\frac{a\Sigma\beta}{s^2},\;
        \Sigma-\frac{\Sigma\beta\beta^\top\Sigma}{s^2}\right),\qquad
    s^2=\beta^\top\Sigma\beta+\nu^2 .

Nothing the exact score does leaves the subspace except the noise it stops at: at time t the
off-support part has :math:`E\|x_\perp\|^2=\sigma_t^2(D-d)`.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), sections 3, 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.predictions import Prediction
from payoff.problems.base import Problem
from payoff.problems.mixture import GaussianMixture
from payoff.problems.quadratic import Quadratic
from payoff.processes import GaussianProcess
from payoff.spaces import Condition, expand_to


class GaussianSubspace(Problem):
    """x = A z with z ~ N(0, Σ), and the reward θ·x with θ = A β.

    Args:
        frame: A, shape (D, d), orthonormal columns.
        direction: β, shape (d,).
        covariance: Σ, shape (d, d); the identity by default.
        temperature: τ.
        process: a Gaussian process on Euclidean space.

    Raises ValueError when A's columns are not orthonormal or a shape does not fit.
    """

    denoiser: GaussianMixture

    def __init__(
        self,
        frame: Tensor,
        direction: Tensor,
        covariance: Tensor | None = None,
        temperature: float = 1.0,
        process: GaussianProcess | None = None,
    ) -> None:
        dim, latent = frame.shape
        if direction.shape != (latent,):
            raise ValueError(
                f"direction has shape {tuple(direction.shape)}, expected {(latent,)} for a frame "
                f"of shape {(dim, latent)}"
            )
        eye = torch.eye(latent).to(frame)
        if not torch.allclose(frame.T @ frame, eye, atol=1e-4):
            raise ValueError("the frame's columns must be orthonormal")
        covariance = eye if covariance is None else covariance
        if covariance.shape != eye.shape:
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, not {tuple(eye.shape)}"
            )
        self.frame, self.direction, self.covariance = frame, direction, covariance
        law = GaussianMixture(
            frame.new_zeros(1, dim), (frame @ covariance @ frame.T).unsqueeze(0), process=process
        )
        super().__init__(law, Quadratic(frame @ direction), temperature)

    @classmethod
    def random(
        cls,
        dim: int = 64,
        latent_dim: int = 16,
        temperature: float = 1.0,
        process: GaussianProcess | None = None,
        *,
        isotropic: bool = True,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> GaussianSubspace:
        """A random frame and a random unit β; Σ = I, or random if not ``isotropic``.

        The defaults are the paper's simulation: D = 64, d = 16, Σ = I, ‖β‖ = 1.
        """
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64)

        frame, beta = torch.linalg.qr(draw(dim, latent_dim))[0], draw(latent_dim)
        factor = draw(latent_dim, latent_dim) / latent_dim**0.5
        eye = torch.eye(latent_dim, dtype=torch.float64)
        covariance = eye if isotropic else factor @ factor.T + 0.1 * eye
        parts = (frame.to(dtype), (beta / beta.norm()).to(dtype), covariance.to(dtype))
        return cls(*parts, temperature, process)

    @property
    def theta(self) -> Tensor:
        """θ = A β, shape (D,)."""
        return self.frame @ self.direction

    def labels(
        self, x: Tensor, noise: float, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Noisy labels y = θ·x + ν ξ of x (B, D), shape (B, 1)."""
        where = generator.device if generator is not None else x.device
        xi = torch.randn(len(x), generator=generator, dtype=x.dtype, device=where)
        return (x @ self.theta.to(x) + noise * xi.to(x.device)).unsqueeze(1)

    def conditional(self, noise: float, theta: Tensor | None = None) -> LabelledGaussian:
        """The exact law of x given a label y = θ·x + ν ξ; ``theta`` may be an estimate (D,)."""
        return LabelledGaussian(self.denoiser, self.theta if theta is None else theta, noise)

    def off_support(self, x: Tensor) -> Tensor:
        """‖(I − AAᵀ) x‖² of each row of x (B, D)."""
        frame = self.frame.to(x)
        return (x - (x @ frame) @ frame.T).square().sum(1)

    def expected_off_support(self, t: Tensor) -> Tensor:
        """σ_t² (D − d): what the exact score leaves outside the support when it stops at t."""
        dim, latent = self.frame.shape
        return self.denoiser.process.schedule(t)[1] ** 2 * (dim - latent)


class LabelledGaussian(Denoiser):
    r"""The exact conditional law and denoiser of a centred Gaussian given a noisy linear label.

    Reads ``cond["label"]`` (B, 1), in the label's own units, and ``cond["label_known"]`` (B,),
    where 0 asks for the unconditional law. With x ~ N(0, C), y = θ·x + ν ξ and s² = θᵀCθ + ν²,

    .. math:: x\mid y=a \sim \mathcal N(a\,C\theta/s^2,\; C - C\theta\theta^\top C/s^2) .

    Args:
        base: a one-component, zero-mean mixture.
        theta: θ, shape (D,).
        noise: ν > 0: with ν = 0 the conditional score is singular along θ.
    """

    process: GaussianProcess
    slope: Tensor

    def __init__(self, base: GaussianMixture, theta: Tensor, noise: float) -> None:
        super().__init__()
        if len(base.means) != 1 or bool(base.means.any()):
            raise ValueError(
                "a LabelledGaussian needs a single Gaussian with zero mean as its base"
            )
        if not noise > 0:
            raise ValueError(f"the label noise must be positive, got {noise}")
        self.process, self.base, self.noise, self.shape = base.process, base, noise, base.shape
        covariance = base.covariances()[0]
        gain = covariance @ theta.to(covariance)
        total = theta.to(covariance) @ gain + noise**2
        rest = covariance - torch.outer(gain, gain) / total
        self.rest = GaussianMixture(base.means, rest.unsqueeze(0), process=base.process)
        self.register_buffer("slope", gain / total)

    def forward(self, x_t, t, cond=None):
        free = self.base(x_t, t)
        mean, known = self._mean(x_t, cond)
        if known is None:
            return free
        shifted = x_t - expand_to(free.alpha, x_t) * mean
        x0 = torch.where(known, mean + self.rest(shifted, t).x0, free.x0)
        return Prediction(x0, x_t, free.alpha, free.sigma)

    def log_prob_t(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """The log-density log p_t(x | label), shape (B,)."""
        mean, known = self._mean(x, cond)
        free = self.base.log_prob_t(x, t)
        if known is None:
            return free
        shifted = x - expand_to(self.process.schedule(t)[0], x) * mean
        return torch.where(known[:, 0], self.rest.log_prob_t(shifted, t), free)

    def sample(
        self, n: int, cond: Condition | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Clean draws (n, D) given the labels (n, 1) in ``cond``."""
        x = self.rest.sample(n, generator=generator)
        mean, known = self._mean(x, cond)
        free = self.base.sample(n, generator=generator)
        return free if known is None else torch.where(known, mean + x, free)

    def moments(self, label: float) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of x given y = label."""
        return label * self.slope, self.rest.covariances()[0]

    def _mean(self, x: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor | None]:
        if cond is None or "label" not in cond:
            return torch.zeros_like(x), None
        label = cond["label"]
        if label.shape != (len(x), 1):
            raise ValueError(
                f'cond["label"] has shape {tuple(label.shape)}, expected {(len(x), 1)} for x of '
                f"shape {tuple(x.shape)}"
            )
        known = cond.get("label_known")
        asked = torch.ones_like(label) if known is None else known.reshape(-1, 1)
        return label.to(x) * self.slope, asked > 0
