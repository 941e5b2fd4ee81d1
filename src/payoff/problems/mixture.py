r"""Gaussian mixtures with a linear or quadratic reward.

With components :math:`\mathcal N(m_k, C_k)` of weight :math:`w_k`, the noisy marginal is the
mixture of :math:`\mathcal N(\alpha m_k, \alpha^2C_k+\sigma^2I)`, and the clean estimate averages

.. math:: E[x_0\mid x_t,k] = m_k + \alpha C_k(\alpha^2C_k+\sigma^2I)^{-1}(x_t-\alpha m_k)

over the components' posterior probabilities. Under the tilt by
:math:`r = b\cdot x-\tfrac12x^\top Qx+c`, with :math:`S=C^{1/2}` and :math:`g=(b-Qm)/\tau`,

.. math::
    M = I + SQS/\tau, \quad C^* = SM^{-1}S, \quad m^* = m + C^*g, \quad
    \log Z_k = r(m)/\tau + \tfrac12 g^\top C^*g - \tfrac12\log\det M ,

and :math:`w_k^*\propto w_kZ_k`. Written this way a singular C is allowed (data on a subspace), and
the tilt exists exactly when every M is positive definite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from payoff.predictions import Prediction
from payoff.problems.base import Problem, Tiltable
from payoff.problems.quadratic import Quadratic
from payoff.processes import GaussianProcess
from payoff.rewards.base import Reward
from payoff.spaces import Euclidean, draw_noise


class GaussianMixture(Tiltable):
    r"""The law :math:`\sum_k w_k\,\mathcal N(m_k, C_k)` on :math:`\mathbb R^D`.

    Args:
        means: (K, D).
        covariances: (K, D, D) positive semi-definite; or (K,) variances of isotropic components.
        weights: (K,) positive, normalised here; equal by default.
        process: a Gaussian process on Euclidean space.

    Computes in the dtype of ``means``. Raises ValueError for shapes that do not fit, weights that
    are not positive and covariances with a negative eigenvalue.
    """

    process: GaussianProcess
    means: Tensor
    log_weights: Tensor
    bases: Tensor
    spectra: Tensor

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        process: GaussianProcess | None = None,
    ) -> None:
        super().__init__()
        self.process = process if process is not None else GaussianProcess()
        if not isinstance(self.process, GaussianProcess) or self.process.space != Euclidean():
            raise ValueError("a GaussianMixture needs a GaussianProcess on Euclidean space")
        if means.ndim != 2:
            raise ValueError(f"means must have shape (K, D), got {tuple(means.shape)}")
        k, d = means.shape
        covariances = covariances.to(means)
        if covariances.shape == (k,):
            covariances = covariances[:, None, None] * torch.eye(d).to(means)
        if covariances.shape != (k, d, d):
            raise ValueError(
                f"covariances have shape {tuple(covariances.shape)}, expected {(k, d, d)} or {(k,)}"
            )
        weights = means.new_ones(k) if weights is None else weights.to(means)
        if weights.shape != (k,) or not bool((weights > 0).all()):
            raise ValueError(
                f"weights must be positive and of shape {(k,)}, got {weights.tolist()}"
            )
        parts = torch.linalg.eigh(covariances.double())
        spectra, bases = parts.eigenvalues.to(means), parts.eigenvectors.to(means)
        tolerance = 100 * torch.finfo(means.dtype).eps * spectra.abs().amax()
        if bool((spectra < -tolerance).any()):
            raise ValueError(f"a covariance has a negative eigenvalue: {float(spectra.min()):.3g}")
        self.shape = (d,)
        self.register_buffer("means", means)
        self.register_buffer("log_weights", weights.log() - weights.sum().log())
        self.register_buffer("bases", bases)
        # a direction of no variance has some by rounding, and samples would leave the subspace by
        # its root, a thousand times as much
        negligible = 10 * torch.finfo(means.dtype).eps * spectra.amax()
        self.register_buffer("spectra", spectra.where(spectra > negligible, 0.0))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.process.schedule(t)
        a, y, variance, log_joint = self._parts(x_t, t)
        shrunk = a * self.spectra * y / variance
        clean = self.means + torch.einsum("kde,bke->bkd", self.bases, shrunk)
        x0 = (log_joint.softmax(1).unsqueeze(-1) * clean).sum(1)
        return Prediction(x0, x_t, alpha, sigma)

    def log_prob_t(self, x, t, cond=None):
        return self._parts(x, t)[-1].logsumexp(1)

    def responsibilities(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior probability of each component given x_t: (B, K)."""
        return self._parts(x, t)[-1].softmax(1)

    def sample(self, n, cond=None, *, generator=None):
        where = generator.device if generator is not None else self.means.device
        weights = self.log_weights.exp().to(where)
        k = torch.multinomial(weights, n, replacement=True, generator=generator)
        z = draw_noise((n, *self.shape), self.means, generator=generator)
        k = k.to(self.means.device)
        return self.means[k] + torch.einsum("bde,be->bd", self.bases[k], self.spectra[k].sqrt() * z)

    def tilt(self, reward, temperature):
        means, covariances, log_z = self._tilted_parts(reward, temperature)
        weights = (self.log_weights + log_z).softmax(0)
        # a component that underflows would have weight 0; the smallest number stands for it
        weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)
        return GaussianMixture(means, covariances, weights, self.process)

    def log_partition(self, reward, temperature, cond=None):
        return (self.log_weights + self._tilted_parts(reward, temperature)[-1]).logsumexp(0)

    def expected(self, reward, cond=None):
        reward = self._quadratic(reward)
        at_mean = reward(self.means)
        if reward.curvature is not None:
            q = reward.curvature.to(self.means)
            at_mean = at_mean - 0.5 * (self.covariances() @ q).diagonal(dim1=1, dim2=2).sum(1)
        return (self.log_weights.exp() * at_mean).sum()

    def covariances(self) -> Tensor:
        """The components' covariances (K, D, D)."""
        return torch.einsum("kde,ke,kfe->kdf", self.bases, self.spectra, self.bases)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the whole mixture."""
        w = self.log_weights.exp()
        mean = w @ self.means
        off = self.means - mean
        within = torch.einsum("k,kde->de", w, self.covariances())
        return mean, within + torch.einsum("k,kd,ke->de", w, off, off)

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, x - alpha m in each eigenbasis, its variance, log w_k N_k(x)); K is axis 1."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (B, {self.shape[0]}) for this law"
            )
        alpha, sigma = self.process.schedule(t)
        a, s = (v.reshape(-1, 1, 1) for v in (alpha, sigma))
        y = torch.einsum("kde,bkd->bke", self.bases, x.unsqueeze(1) - a * self.means)
        variance = a**2 * self.spectra + s**2
        log_joint = -0.5 * (y**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return a, y, variance, log_joint + self.log_weights

    def _quadratic(self, reward: Reward) -> Quadratic:
        if not isinstance(reward, Quadratic):
            raise TypeError(f"closed forms need a Quadratic reward, got {type(reward).__name__}")
        return reward

    def _tilted_parts(self, reward: Reward, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """(means, covariances, log Z_k) of the tilted components."""
        reward = self._quadratic(reward)
        b = reward.linear.to(self.means)
        q = torch.diag(torch.zeros_like(b)) if reward.curvature is None else reward.curvature.to(b)
        root = self.bases * self.spectra.sqrt().unsqueeze(1) @ self.bases.mT
        inner = torch.eye(len(b)).to(b) + root @ q @ root / temperature
        lower, failed = torch.linalg.cholesky_ex(inner)
        if bool(failed.any()):
            raise ValueError(
                f"the reward cannot be normalised at temperature {temperature:g}: it grows faster "
                "than the law decays. Raise the temperature or give the reward less negative "
                "curvature"
            )
        half = torch.linalg.solve_triangular(lower, root, upper=False)
        covariances = half.mT @ half
        g = (b - self.means @ q) / temperature
        step = torch.einsum("kde,ke->kd", covariances, g)
        log_det = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
        log_z = reward(self.means) / temperature + 0.5 * (g * step).sum(1) - 0.5 * log_det
        return self.means + step, covariances, log_z


class MixtureProblem(Problem):
    """A Gaussian mixture with a :class:`Quadratic` reward."""

    denoiser: GaussianMixture

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None,
        reward: Quadratic,
        temperature: float = 1.0,
        process: GaussianProcess | None = None,
    ) -> None:
        super().__init__(GaussianMixture(means, covariances, weights, process), reward, temperature)

    @classmethod
    def two_modes(
        cls,
        process: GaussianProcess | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> MixtureProblem:
        """The one-dimensional test on which many methods get the mode weights wrong.

        Base 0.7 N(−2, ½²) + 0.3 N(3, ½²), reward −½·0.35 (x − 0.3)². At temperature 1 the target
        has weights 0.763 and 0.237 at −1.815 and 2.783, standard deviation 0.479 and mean reward
        −0.893: a method can have the right reward and the wrong weights.
        """
        stiffness, centre = 0.35, 0.3
        reward = Quadratic(
            torch.tensor([stiffness * centre], dtype=dtype),
            torch.tensor([[stiffness]], dtype=dtype),
            -0.5 * stiffness * centre**2,
        )
        means = torch.tensor([[-2.0], [3.0]], dtype=dtype)
        variances, weights = torch.full_like(means[:, 0], 0.25), torch.tensor([0.7, 0.3])
        return cls(means, variances, weights, reward, temperature, process)

    @classmethod
    def random(
        cls,
        dim: int,
        components: int = 3,
        process: GaussianProcess | None = None,
        temperature: float = 1.0,
        curvature: float = 0.5,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> MixtureProblem:
        """Random means, full covariances, weights and reward in ``dim`` dimensions."""
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64)

        means, factors = 1.5 * draw(components, dim), 0.6 * draw(components, dim, dim) / dim**0.5
        covariances = factors @ factors.mT + 0.05 * torch.eye(dim, dtype=torch.float64)
        weights = draw(components).mul(0.5).softmax(0)
        bend = draw(dim, dim) / dim**0.5
        reward = Quadratic(draw(dim).to(dtype), (curvature * bend @ bend.T).to(dtype))
        parts = (means.to(dtype), covariances.to(dtype), weights.to(dtype))
        return cls(*parts, reward, temperature, process)
