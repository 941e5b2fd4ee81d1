r"""A residual multi-layer perceptron for vectors.

With :math:`e = e(\lambda, y)` an embedding of noise level and label,

.. math::

    h_0 &= W_0 x, \qquad
    h_{l+1} = h_l + W_l' \, \mathrm{silu}\big(W_l [\mathrm{LN}(h_l) \odot g_l(e) + b_l(e)]\big), \\
    F(x, \lambda, y) &= W_L \, \mathrm{LN}(h_L) \; [\, + \, A(x, \lambda, y) \,].

The optional **affine path** is an affine map of (x, y) for every noise level,

.. math:: A(x, \lambda, y) = U \big( g(\lambda, k) \odot P [x, y k, k, 1] \big),

k the known flag of the label. For Gaussian data with a label that is linear in the data the exact
denoiser has this form, :math:`E[x_0 | x_t, y] = m y + K_t (x_t - \alpha_t m y)`, so with it the
layers above only have to learn what is *not* Gaussian. It decides how the network continues
beyond the labels it has seen: affinely, where a plain network does as its activations please.
That is a prior and not a fact about the data, so it is off unless asked for.

On a CPU a network this small is bound by its matrix products as long as everything else is few
and wide: all scales and shifts come out of one product.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from payoff.nets.features import FourierFeatures, label_inputs

LABEL_FEATURES = ("raw", "fourier")


class ResidualMLP(nn.Module):
    r"""Residual MLP, ``net(x, noise_level, cond) -> (B, D)``; see the module for the formula.

    A new network returns zeros, since its last layer starts there. Rows do not see each other. The
    network computes in the dtype of its parameters and answers in the dtype of ``x``.

    Args:
        dim: D, the dimension of x.
        width: width of the hidden layers.
        depth: number of residual blocks, of two layers each.
        label_dim: k, the number of label columns in ``cond["label"]``; 0 = labels are not read.
        dropout: probability with which hidden units are dropped in training mode. The mask comes
            from torch's global generator, as a network has no generator argument.
        label_features: ``"raw"`` reads the label as it is; ``"fourier"`` through sines and cosines
            (angular frequencies 1/16 to 4 per unit of the label), which are bounded.
        affine: add the affine path.

    Shapes:
        x (B, D); noise_level (B,), about log-SNR / 8; cond["label"] (B, k), standardised;
        cond["label_known"] (B,), 0 = the null label. Returns (B, D).

    Raises:
        ValueError: an impossible option, or a shape that does not fit.

    Reference:
        Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2016); scales and shifts
        as in FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).

    Example:
        >>> net = ResidualMLP(dim=3, width=32, depth=2, label_dim=1)
        >>> cond = {"label": torch.ones(5, 1), "label_known": torch.ones(5)}
        >>> net(torch.randn(5, 3), torch.zeros(5), cond).shape
        torch.Size([5, 3])
    """

    noise: FourierFeatures
    label: FourierFeatures | None

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 4,
        label_dim: int = 0,
        dropout: float = 0.0,
        label_features: str = "raw",
        affine: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, width, depth) < 1 or label_dim < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "ResidualMLP needs dim, width, depth >= 1, label_dim >= 0 and 0 <= dropout < 1, "
                f"got {dim=}, {width=}, {depth=}, {label_dim=}, {dropout=}"
            )
        if label_features not in LABEL_FEATURES:
            raise ValueError(f"label_features={label_features!r} is none of {LABEL_FEATURES}")
        self.dim, self.width, self.depth = dim, width, depth
        self.label_dim, self.dropout = label_dim, dropout
        self.label_features, self.affine = label_features, affine
        self.noise = FourierFeatures(8)
        fourier = label_dim > 0 and label_features == "fourier"
        self.label = FourierFeatures(8, lowest=1 / 16, highest=4.0) if fourier else None

        noise_columns = 1 + 2 * self.noise.count
        label_columns = label_dim * (2 * self.label.count if self.label else 1)
        flag_columns = 1 if label_dim else 0
        embed = max(32, width // 4)
        self.embed = nn.Linear(noise_columns + label_columns + flag_columns, embed)
        self.modulate = nn.Linear(embed, 2 * depth * width)
        self.stem = nn.Linear(dim, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        if affine:
            rank = 2 * dim
            self.affine_in = nn.Linear(dim + label_dim + flag_columns, rank)
            self.affine_embed = nn.Linear(noise_columns + flag_columns, 64)
            self.affine_gain = nn.Linear(64, rank)
            self.affine_out = nn.Linear(rank, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero output, scales near one and shifts near zero; the rest is torch's default."""
        with torch.no_grad():
            for layer in (self.head, *((self.affine_out,) if self.affine else ())):
                for parameter in layer.parameters():
                    parameter.zero_()
            self.modulate.weight.mul_(0.5)
            self.modulate.bias.zero_()
            self.modulate.bias[: self.depth * self.width] = 1.0
            if self.affine:
                self.affine_gain.bias.fill_(1.0)

    def forward(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim or noise_level.shape != x.shape[:1]:
            raise ValueError(
                f"ResidualMLP(dim={self.dim}) expects x (B, {self.dim}) and noise_level (B,), "
                f"got {tuple(x.shape)} and {tuple(noise_level.shape)}"
            )
        asked, x = x.dtype, x.to(self.stem.weight.dtype)
        level = noise_level.to(x)
        noise = torch.cat([level.unsqueeze(-1), self.noise(level)], dim=-1)
        label = label_inputs(x, self.label_dim, cond) if self.label_dim else x.new_empty(len(x), 0)

        modulation = self.modulate(F.silu(self.embed(torch.cat([noise, self._label(label)], -1))))
        scales, shifts = modulation.chunk(2, dim=-1)
        gains = zip(scales.chunk(self.depth, -1), shifts.chunk(self.depth, -1), strict=True)
        h = self.stem(x)
        for (scale, shift), inner, outer in zip(gains, self.inner, self.outer, strict=True):
            u = F.silu(inner(torch.addcmul(shift, _normalise(h), scale)))
            u = F.dropout(u, self.dropout, self.training) if self.dropout else u
            h = h + outer(u)
        out = self.head(_normalise(h))
        if self.affine:
            gain = torch.cat([noise, label[:, self.label_dim :]], dim=-1)
            gain = self.affine_gain(F.silu(self.affine_embed(gain)))
            out = out + self.affine_out(self.affine_in(torch.cat([x, label], dim=-1)) * gain)
        return out.to(asked)

    def _label(self, label: Tensor) -> Tensor:
        """Label features; a null label has value features of zero, fourier or not."""
        if self.label is None:
            return label
        value, flag = label[:, : self.label_dim], label[:, self.label_dim :]
        return torch.cat([self.label(value) * flag, flag], dim=-1)


def _normalise(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])
