r"""An E(3)-equivariant transformer with pair features, for ragged sets of points with features.

Every node carries scalars :math:`s_i` and vectors :math:`v_i` (three rows, several channels), every
pair a feature :math:`e_{ij}`. One block computes, with :math:`\hat r_{ij}` the direction from i to
j, :math:`a_i` the normalised scalars scaled and shifted by the noise level, and
:math:`\langle\cdot,\cdot\rangle` channel-wise products over the three rows and :math:`\bar A`
the mean of the heads' attention,

.. math::

    u_{ij} &= \mathrm{silu}\big(W_e \mathrm{LN}(e_{ij}) + W_l a_i + W_r a_j
              + W_d \langle P v_i, P v_j\rangle\big), \qquad e_{ij} \mathrel{+}= W_o u_{ij}, \\
    A_{ij} &= \mathrm{softmax}_j\big(q_i\cdot k_j/\sqrt d + W_b u_{ij}\big), \\
    s_i &\mathrel{+}= W_s \big[\textstyle\sum_j A_{ij} z_j,\;
              \sum_j u_{ij}\big], \qquad
    v_i \mathrel{+}= \textstyle\sum_j (W_c u_{ij} \odot \hat r_{ij} + \bar A_{ij} W_v v_j), \\
    [g_i, m_i] &= W_2\, \mathrm{silu}\big(W_1 [a_i', \langle P' v_i, P' v_i\rangle]\big), \qquad
    s_i \mathrel{+}= m_i, \quad v_i \mathrel{+}= g_i \odot W_g v_i .

Distances enter :math:`e_{ij}` at the start through Gaussian bumps. Directions and the products are
all that is ever read of a vector, so rotating or reflecting the points rotates or reflects the
output and leaves its features alone; translations do not matter because the space is centred. The
pair features are what makes it good at bonds and are cheap for few points: all pair operations are
matrix products and one pass over (B, N, N, E).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from payoff.nets.features import FourierFeatures, label_columns, label_inputs

COORDINATES = 3


class Body(nn.Module):
    """The blocks and what leads into them: all that networks of one geometry share.

    A subclass adds its heads in :meth:`add_heads`, which is called last, and a ``forward`` that
    reads out what :meth:`body` returns. Arguments as in :class:`EquivariantTransformer`.
    """

    def __init__(
        self,
        features: int,
        width: int = 192,
        depth: int = 8,
        heads: int = 8,
        pair_width: int = 64,
        vectors: int = 32,
        hidden: int = 2,
        radius: float = 7.0,
        bumps: int = 48,
        label_dim: int = 0,
        label_flags: str = "row",
    ) -> None:
        super().__init__()
        counts = (width, depth, heads, pair_width, vectors, hidden, bumps)
        if (
            min(counts) < 1
            or min(features, label_dim) < 0
            or width % heads
            or pair_width % heads
            or radius <= 0
        ):
            raise ValueError(
                f"{type(self).__name__} needs positive counts and radius, and width and pair_width "
                f"that are multiples of heads, got {features=}, {width=}, {depth=}, {heads=}, "
                f"{pair_width=}, {vectors=}, {hidden=}, {radius=}, {bumps=}, {label_dim=}"
            )
        self.features, self.width, self.depth, self.heads = features, width, depth, heads
        self.pair_width, self.vectors, self.hidden = pair_width, vectors, hidden
        self.radius, self.bumps = radius, bumps
        self.label_dim, self.label_flags = label_dim, label_flags

        self.noise = FourierFeatures(16)
        inputs = 1 + 2 * self.noise.count + label_columns(label_dim, label_flags)
        embed = max(32, width // 3)
        self.embed = nn.Sequential(nn.Linear(inputs, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.modulate = nn.Linear(embed, depth * 4 * width)
        self.stem = nn.Linear(features + 1, width)
        self.level = nn.Linear(embed, width)
        self.frame = nn.Linear(1, vectors, bias=False)
        self.pair_stem = nn.Linear(bumps + 2, pair_width)
        self.pair_ends = nn.Linear(width, 2 * pair_width, bias=False)
        self.blocks = nn.ModuleList(
            _Block(width, heads, pair_width, vectors, hidden) for _ in range(depth)
        )
        self.add_heads()
        self.reset_parameters()

    def add_heads(self) -> None:
        """Make the layers that read out; here there are none."""

    def reset_parameters(self) -> None:
        """Scales near one and shifts near zero; the rest is torch's default."""
        with torch.no_grad():
            self.modulate.weight.mul_(0.5)
            self.modulate.bias.zero_()

    def body(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the blocks make of x, before anything is read out of it.

        Returns:
            scalars (B, N, width), vectors (B, N, 3, vectors), pair features (B, N, N, pair_width),
            directions (B, N, N, 3) and, as numbers, the mask (B, N, 1). Padding is not zero in the
            first three.
        """
        if x.ndim != 3 or x.shape[2] != COORDINATES + self.features:
            raise ValueError(
                f"{type(self).__name__}(features={self.features}) expects x of shape "
                f"(B, N, {COORDINATES + self.features}), got {tuple(x.shape)}"
            )
        x = x.to(self.stem.weight.dtype)
        mask = None if cond is None else cond.get("mask")
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        member = mask.to(x).unsqueeze(-1)
        level = F.silu(self._level(x, noise_level, cond))
        modulation = self.modulate(level).chunk(self.depth, dim=-1)

        x = x * member
        position, feature = x[..., :COORDINATES], x[..., COORDINATES:]
        square = position.square().sum(-1, keepdim=True)
        s = self.stem(torch.cat([feature, square], dim=-1)) + self.level(level).unsqueeze(1)
        v = self.frame(position.unsqueeze(-1))  # (B, N, 3, V)
        direction, e = self._pairs(position, s)
        bias = torch.where(mask, 0.0, -1e9).to(x)[:, None, None, :]
        pair = member.unsqueeze(1) * member.unsqueeze(2)  # (B, N, N, 1)
        direction = direction * pair
        for block, gains in zip(self.blocks, modulation, strict=True):
            s, v, e = block(s, v, e, direction, pair, bias, gains)
        return s, v, e, direction, member

    def _level(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor] | None) -> Tensor:
        noise = noise_level.to(x)
        parts = [noise.unsqueeze(-1), self.noise(noise)]
        if self.label_dim:
            parts.append(label_inputs(x, self.label_dim, cond, self.label_flags))
        return self.embed(torch.cat(parts, dim=-1))

    def _pairs(self, position: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Directions (B, N, N, 3), shorter than one, and the first pair features."""
        gap = position.unsqueeze(1) - position.unsqueeze(2)
        distance = (gap.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        place = torch.linspace(0, 1, self.bumps, device=s.device, dtype=s.dtype)
        # finer where bonds are: the places are spaced evenly in the square root of the distance
        bumps = torch.exp(-0.5 * ((distance / self.radius).sqrt() - place).mul(self.bumps).square())
        inner = (position.unsqueeze(1) * position.unsqueeze(2)).sum(-1, keepdim=True)
        e = self.pair_stem(torch.cat([bumps, distance, inner], dim=-1))
        left, right = self.pair_ends(_normalise(s)).chunk(2, dim=-1)
        return gap / (1 + distance), e + left.unsqueeze(2) + right.unsqueeze(1)


class EquivariantTransformer(Body):
    r"""``net(x, noise_level, cond) -> (B, N, 3 + features)``; see the module for the formula.

    A new network returns zeros. Padding (``cond["mask"]`` false) is never read and comes out zero.

    Args:
        features: number of feature columns after the three of the position.
        width: of the scalars.
        depth: number of blocks.
        heads: of the attention.
        pair_width: E, the width of a pair's feature.
        vectors: number of vector channels of a node.
        hidden: width of the hidden layer of a block's last part, in units of ``width``.
        radius: largest distance the bumps cover, in the units of the network's input.
        bumps: number of Gaussian bumps a distance is spread over.
        label_dim: k, the number of label columns in ``cond["label"]``; 0 = labels are not read.
        label_flags: ``row``: a row's labels are known or unknown together; ``column``: any subset.

    Shapes:
        x (B, N, 3 + features); noise_level (B,), about log-SNR / 8; cond["mask"] (B, N) bool;
        cond["label"] (B, k), standardised; cond["label_known"] (B,), 0 = the null label, or (B, k)
        with flags by column.

    Raises:
        ValueError: an impossible option, or a shape that does not fit.

    References:
        Equivariance by vector channels: Equivariant Message Passing for the Prediction of Tensorial
        Properties (Schütt, Unke, Gastegger, 2021). Attention biased by pairs and a pair state that
        is carried along: Highly Accurate Protein Structure Prediction with AlphaFold (Jumper et
        al., 2021); products of learned coordinates as pair features: Efficient 3D Molecular
        Generation with Flow Matching and Scale Optimal Transport (Irwin et al., 2025).

    Example:
        >>> net = EquivariantTransformer(features=2, width=32, depth=1, heads=4)
        >>> cond = {"mask": torch.tensor([[True, True, False]])}
        >>> net(torch.randn(1, 3, 5), torch.zeros(1), cond).shape
        torch.Size([1, 3, 5])
    """

    def add_heads(self) -> None:
        self.head = nn.Linear(self.width, self.features + 1)
        self.vector_head = nn.Linear(self.vectors, 1, bias=False)
        self.pair_head = nn.Linear(self.pair_width, 1)

    def reset_parameters(self) -> None:
        """Zero output, scales near one and shifts near zero; the rest is torch's default."""
        super().reset_parameters()
        with torch.no_grad():
            for layer in (self.head, self.vector_head, self.pair_head):
                for parameter in layer.parameters():
                    parameter.zero_()

    def forward(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        s, v, e, direction, member = self.body(x, noise_level, cond)
        out, gate = self.head(_normalise(s)).split([self.features, 1], dim=-1)
        push = (self.pair_head(_normalise(e)) * direction).sum(2)
        position = x[..., :COORDINATES].to(member) * member
        move = self.vector_head(_unit_scale(v)).squeeze(-1)
        out = torch.cat([move + push + gate * position, out], dim=-1)
        return (out * member).to(x.dtype)


class _Block(nn.Module):
    """One block: pair update, attention, gated perceptron. See the module's formula."""

    def __init__(self, width: int, heads: int, pair: int, vectors: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.pair, self.vectors = heads, pair, vectors
        products = max(8, vectors // 2)
        self.node_in = nn.Linear(width, 3 * width + 2 * pair, bias=False)
        self.pair_in = nn.Linear(pair, pair)
        self.product_in = nn.Linear(products, pair, bias=False)
        self.vector_in = nn.Linear(vectors, products + vectors, bias=False)
        self.pair_out = nn.Linear(pair, pair + heads + vectors, bias=False)
        self.attended = nn.Linear(width + pair, width)
        self.norms_in = nn.Linear(vectors, vectors, bias=False)
        self.inner = nn.Linear(width + vectors, hidden * width)
        self.outer = nn.Linear(hidden * width, width + vectors)
        self.mix = nn.Linear(vectors, vectors, bias=False)

    def forward(
        self,
        s: Tensor,
        v: Tensor,
        e: Tensor,
        direction: Tensor,
        pair: Tensor,
        bias: Tensor,
        gains: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = s.shape[-1]
        scale, shift, scale2, shift2 = gains.unsqueeze(1).chunk(4, dim=-1)
        a = torch.addcmul(shift, _normalise(s), 1 + scale)
        sizes = [width, width, width, self.pair, self.pair]
        q, k, z, left, right = self.node_in(a).split(sizes, dim=-1)
        products, sent = self.vector_in(_unit_scale(v)).split(
            [self.vector_in.out_features - self.vectors, self.vectors], dim=-1
        )
        dots = (products.unsqueeze(2) * products.unsqueeze(1)).sum(3)  # (B, N, N, P)
        u = self.pair_in(_normalise(e)) + self.product_in(dots)
        u = F.silu(u + left.unsqueeze(2) + right.unsqueeze(1))
        change, logits, push = self.pair_out(u).split([self.pair, self.heads, self.vectors], dim=-1)

        q, k, z = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, z))
        weight = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weight = (weight + logits.permute(0, 3, 1, 2) + bias).softmax(-1)  # (B, H, N, N)
        from_nodes = (weight @ z).transpose(1, 2).flatten(2)
        from_pairs = (u * pair).sum(2)
        s = s + self.attended(torch.cat([from_nodes, from_pairs], dim=-1))
        v = v + direction.transpose(2, 3) @ push
        v = v + (weight.mean(1) @ sent.flatten(2)).unflatten(-1, (COORDINATES, self.vectors))

        a = torch.addcmul(shift2, _normalise(s), 1 + scale2)
        scaled = _unit_scale(v)
        norms = self.norms_in(scaled).square().sum(2)
        out = self.outer(F.silu(self.inner(torch.cat([a, norms], dim=-1))))
        change_s, gate = out.split([width, self.vectors], dim=-1)
        return s + change_s, v + gate.unsqueeze(2) * self.mix(scaled), e + change


def _normalise(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


def _unit_scale(v: Tensor) -> Tensor:
    """Vectors (B, N, 3, V) over their root mean square, which is a number: equivariant."""
    return v * torch.rsqrt(v.square().mean((-1, -2), keepdim=True) + 1e-4)
