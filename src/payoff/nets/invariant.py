r"""An E(3)-invariant regressor on the body of the equivariant transformer.

With :math:`s_i, v_i` what the body leaves at the nodes of a set, :math:`r_i` their positions from
the set's centre and n their number,

.. math::
    h_i &= \mathrm{silu}\big(W_h [\mathrm{LN}(s_i), \lVert P v_i\rVert]\big), \qquad
    d = \textstyle\sum_i (W_q h_i \odot r_i + W_d v_i), \\
    y &= W_2\,\mathrm{silu}\big(W_1 [\tfrac1n\textstyle\sum_i h_i,\;
         \tfrac1{16}\sum_i h_i,\; \lVert d\rVert]\big).

The mean serves what does not grow with the set, such as an energy level, the sum what does, such as
a heat capacity, and :math:`\lVert d\rVert` is what a dipole moment is made of: charges times
places, plus dipoles of the atoms. All three are invariant, and so is y.

Reference for the last term: Equivariant Message Passing for the Prediction of Tensorial Properties
(Schütt, Unke, Gastegger, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from payoff.nets.equivariant import COORDINATES, Body

TYPICAL = 16  # nodes: the sum over a typical set is of the size of the mean
SMALL = 1e-6  # under the root of a length, whose slope at zero would be infinite


class InvariantTransformer(Body):
    """``net(x, noise_level, cond) -> (B, outputs)``; see the module for the formula.

    Moving, rotating or reflecting the positions changes nothing, nor does the order of the nodes.

    Args:
        features: number of feature columns after the three of the position.
        outputs: number of values a set.
        width, depth, heads, pair_width, vectors: as in
            :class:`~payoff.nets.equivariant.EquivariantTransformer`.

    Shapes:
        x (B, N, 3 + features); noise_level (B,), None = clean data; cond["mask"] (B, N) bool.

    Raises:
        ValueError: an impossible option, or a shape that does not fit.

    Example:
        >>> net = InvariantTransformer(features=2, outputs=3, width=32, depth=1)
        >>> net(torch.randn(4, 5, 5)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        features: int,
        outputs: int = 1,
        width: int = 128,
        depth: int = 5,
        heads: int = 8,
        pair_width: int = 48,
        vectors: int = 32,
    ) -> None:
        if outputs < 1:
            raise ValueError(f"InvariantTransformer needs outputs >= 1, got {outputs}")
        super().__init__(features, width, depth, heads, pair_width, vectors)
        self.outputs = outputs
        self.node_head = nn.Linear(width + vectors, width)
        self.norms_head = nn.Linear(vectors, vectors, bias=False)
        self.charge_head = nn.Linear(width, vectors, bias=False)
        self.dipole_head = nn.Linear(vectors, vectors, bias=False)
        self.hidden_head = nn.Linear(2 * width + vectors, width)
        self.out = nn.Linear(width, outputs)

    def forward(
        self,
        x: Tensor,
        noise_level: Tensor | None = None,
        cond: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        mask = None if cond is None else cond.get("mask")
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        x = torch.where(mask.unsqueeze(-1), x, 0.0)
        count = mask.sum(1).clamp(min=1).to(x).unsqueeze(-1)
        centre = x[..., :COORDINATES].sum(1) / count
        centred = x[..., :COORDINATES] - centre.unsqueeze(1)
        x = torch.cat([centred, x[..., COORDINATES:]], dim=-1)
        level = x.new_zeros(len(x)) if noise_level is None else noise_level
        s, v, _, _, member = self.body(x, level, cond)

        norms = self.norms_head(v).square().sum(2).add(SMALL).sqrt()
        h = self.node_head(torch.cat([F.layer_norm(s, s.shape[-1:]), norms], dim=-1))
        h = F.silu(h) * member
        charges = self.charge_head(h).unsqueeze(2)  # (B, N, 1, V)
        dipoles = charges * centred.to(s).unsqueeze(-1) + self.dipole_head(v)
        moment = (dipoles * member.unsqueeze(-1)).sum(1).square().sum(1).add(SMALL).sqrt()
        total = h.sum(1)
        pooled = torch.cat([total / count.to(s), total / TYPICAL, moment / TYPICAL], dim=-1)
        return self.out(F.silu(self.hidden_head(pooled))).to(x.dtype)
