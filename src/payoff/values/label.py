r"""The log-likelihood of a label under a Gaussian of it given the noisy sample.

With a label y of clean samples, :math:`p(x_t\mid y)\propto p_t(x_t)\,p(y\mid x_t)`, so that
:math:`V_t(x_t)=\log p(y\mid x_t)` is the value whose guidance draws from :math:`p(x\mid y)`: the
soft value of the reward :math:`\log p(y\mid x_0)` at temperature 1. A network gives mean and
variance of each of k labels at every noise level, and

.. math::
    V_t(x_t) = \sum_{j\ \mathrm{known}} \log\mathcal N\big(y_j;\ \mu_j(x_t, t),\ s_j^2(x_t, t)\big)

stands for it. Noise on what is asked for, :math:`y + \nu\xi`, adds :math:`\nu^2` to every
variance. The law of :math:`y\mid x_t` is replaced by the Gaussian that has its first two
moments, and labels are taken as independent given :math:`x_t`. Where :math:`(x_0, y_j)` is jointly
Gaussian and one label is known this is exact up to the fit; in general it is not, and more steps do
not mend it. Towards t = 0 the law becomes narrow and the replacement matters less.

The fit minimises the negative logarithm on noised samples, each label's term times
:math:`s_j^{2\beta}` taken as a constant: at β = 0 that is maximum likelihood, at β = 1 the mean is
fitted by least squares.

References: Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
2021), section 5 and appendix I, for the time-dependent classifier; On the Pitfalls of
Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks (Seitzer, Tavakoli, Antic,
Martius, 2022) for β.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from payoff.processes import GaussianProcess
from payoff.spaces import Condition
from payoff.values.base import Value
from payoff.values.fitting import Progress, descend
from payoff.values.inputs import network_inputs

SMALLEST = 1e-4
"""Variance of a standardised label that is always left: beyond it there is nothing to learn from,
and the gradient of a label that x_0 decides would grow without bound towards t = 0."""

FAR = 4.0
"""Deviations of a label from its mean beyond which the variance is not differentiated. So far out a
larger variance raises the likelihood faster than a nearer mean: the gradient would lead to where
the network knows least, and beyond the data's range to samples that are no use."""


class LabelLikelihood(nn.Module, Value):
    r""":math:`\log p(y\mid x_t)` of the labels in ``cond[key]``; see the module.

    A row's labels are its own. Columns that are not known count nothing, and without labels the
    value is zero. The likelihood is a density: it may be positive.

    Args:
        net: any network ``net(x, noise_level, cond) -> (B, 2k)``: k means, then k numbers whose
            softplus are the variances.
        process: of the noise; its schedule may be another than in training.
        labels: k.
        sigma_data: standard deviation of the data per coordinate, to scale the input.
        beta: β of the loss. Labels are sure where there is little noise and vague where there is
            much; at 0.5 an error counts by its size in deviations of its own level, so that no
            range of levels drowns the others.
        key: ``cond[key]`` (B, k) holds the labels, standardised, ``cond[key + "_known"]`` (B,) or
            (B, k) which are known, 1 or 0; without it all are.
        noise: ν, standard deviation of independent noise on the labels that are asked for. The fit
            has none of it.

    Shapes: x_t (B, ...), t () or (B,) -> (B,).

    Raises:
        ValueError: labels of another number than k, or an impossible option.
    """

    differentiable = True

    def __init__(
        self,
        net: nn.Module,
        process: GaussianProcess,
        labels: int,
        sigma_data: float = 1.0,
        beta: float = 0.5,
        key: str = "label",
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if labels < 1 or not 0 <= beta <= 1 or not 0 <= noise < math.inf:
            raise ValueError(
                "need labels >= 1, beta in [0, 1] and a finite noise >= 0, got "
                f"{labels=}, {beta=}, {noise=}"
            )
        self.net, self.process, self.labels = net, process, labels
        self.sigma_data, self.beta, self.key = sigma_data, beta, key
        self.noise = noise

    def of(
        self, process: GaussianProcess, key: str | None = None, noise: float | None = None
    ) -> LabelLikelihood:
        """The same network for another process, labels under another key or with other noise.

        What it reads is scaled and told its log-SNR, so that a schedule is as good as another.
        """
        key = self.key if key is None else key
        noise = self.noise if noise is None else noise
        settings = (self.sigma_data, self.beta, key, noise)
        return LabelLikelihood(self.net, process, self.labels, *settings)

    def moments(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, k) of the standardised labels given x_t."""
        x, level = network_inputs(self.process, x_t, t, self.sigma_data)
        mean, spread = self.net(x, level, cond).flatten(1).to(x_t.dtype).split(self.labels, dim=1)
        return mean, F.softplus(spread) + SMALLEST

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The log-likelihood (B,) in nats, of standardised labels.

        Its gradient is that of the mean alone where a label is :data:`FAR` deviations off.
        """
        if cond is None or self.key not in cond:
            return x_t.new_zeros(len(x_t))
        label, known = self._told(cond, x_t)
        mean, variance = self.moments(x_t, t, cond)
        variance = variance + self.noise**2
        far = (label - mean).square() > FAR**2 * variance
        variance = torch.where(far, variance.detach(), variance)
        return (known * log_normal(label, mean, variance)).sum(1)

    def _told(self, cond: Condition, like: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and flags (B, k); an unknown label is 0 whatever stands there."""
        label = cond[self.key].to(like)
        if label.shape != (len(like), self.labels):
            raise ValueError(
                f"cond[{self.key!r}] has shape {tuple(label.shape)}, expected "
                f"({len(like)}, {self.labels})"
            )
        known = cond.get(self.key + "_known")
        known = torch.ones_like(label) if known is None else known.to(like)
        known = known.reshape(len(like), -1).expand_as(label)
        return torch.where(known > 0, label, 0.0), known

    def loss(
        self,
        x0: Tensor,
        label: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss (B,), a mean over labels, of clean x0 (B, ...) with labels (B, k) at times t."""
        process = self.process
        x_t, _ = process.corrupt_with_noise(x0, t, cond, noise=noise, generator=generator)
        mean, variance = self.moments(x_t, t, cond)
        weight = variance.detach() ** self.beta
        return -(weight * log_normal(label, mean, variance)).mean(1)

    def fit(
        self,
        x0: Tensor,
        label: Tensor,
        cond: Condition | None = None,
        *,
        steps: int = 1000,
        batch_size: int = 256,
        rate: float = 2e-3,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> LabelLikelihood:
        """Fit to clean samples x0 (n, ...) and their standardised labels (n, k).

        Adam with a cosine rate from ``rate`` to 0, times uniform in [0, 1]. ``progress(step,
        loss)`` is called now and then.

        Raises:
            ValueError: labels of another shape.
        """
        if label.shape != (len(x0), self.labels):
            raise ValueError(
                f"labels have shape {tuple(label.shape)}, expected {(len(x0), self.labels)}"
            )
        where = generator.device if generator is not None else x0.device

        def loss() -> Tensor:
            batch = torch.randint(len(x0), (batch_size,), generator=generator, device=where)
            t = torch.rand(batch_size, generator=generator, device=where).to(x0)
            batch = batch.to(x0.device)
            part = None if cond is None else {k: v[batch] for k, v in cond.items()}
            return self.loss(x0[batch], label[batch], t, part, generator=generator).mean()

        descend(self, loss, steps, rate, progress)
        return self

    def extra_repr(self) -> str:
        return f"labels={self.labels}, beta={self.beta:g}, key={self.key}"


def log_normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The log-density of independent normal y, elementwise."""
    return -0.5 * ((y - mean).square() / variance + variance.log() + math.log(2 * math.pi))
