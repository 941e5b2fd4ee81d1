r"""How scalars (noise levels, labels) enter a network.

A scalar :math:`s` is spread over sines and cosines of geometrically spaced angular frequencies,

.. math:: \phi(s) = [\sin(\omega_1 s), \ldots, \sin(\omega_K s),
                     \cos(\omega_1 s), \ldots, \cos(\omega_K s)],
          \qquad \omega_k = \omega_{\min} (\omega_{\max} / \omega_{\min})^{(k-1)/(K-1)}.

The features are bounded, so a network that reads a label through them *cannot* extrapolate
linearly in that label: it turns down. A raw label has the opposite vice. Which of the two is
wanted is a modelling choice, and `payoff.nets.mlp.ResidualMLP` offers both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

LABEL_FLAGS = ("row", "column")
"""Whether a network reads one flag for all its labels, or one for each."""


class FourierFeatures(nn.Module):
    """Sines and cosines of a batch of scalars, at fixed frequencies.

    Args:
        count: number K of frequencies; the output has 2K columns per scalar.
        lowest, highest: angular frequencies (radians per unit of the input), geometrically spaced.

    Shapes:
        (B,) -> (B, 2K), or (B, k) -> (B, 2kK).

    Reference:
        Attention Is All You Need (Vaswani et al., 2017), section 3.5, for the geometric spacing;
        Fourier Features Let Networks Learn High Frequency Functions (Tancik et al., 2020).

    Example:
        >>> FourierFeatures(count=4)(torch.zeros(3)).shape
        torch.Size([3, 8])
    """

    frequencies: Tensor

    def __init__(self, count: int = 8, lowest: float = 0.5, highest: float = 16.0) -> None:
        super().__init__()
        if count < 1 or not 0 < lowest <= highest:
            raise ValueError(
                f"FourierFeatures needs count >= 1 and 0 < lowest <= highest, "
                f"got count={count}, lowest={lowest}, highest={highest}"
            )
        frequencies = torch.logspace(math.log10(lowest), math.log10(highest), count)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.count, self.lowest, self.highest = count, lowest, highest

    def forward(self, s: Tensor) -> Tensor:
        angles = (s.unsqueeze(-1) * self.frequencies.to(s)).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def label_columns(label_dim: int, flags: str = "row") -> int:
    """How many columns :func:`label_inputs` has: k + 1 with a flag a row, 2k with one a column.

    Raises:
        ValueError: no such kind of flag.
    """
    if flags not in LABEL_FLAGS:
        raise ValueError(f"label_flags={flags!r} is none of {LABEL_FLAGS}")
    if not label_dim:
        return 0
    return label_dim + (1 if flags == "row" else label_dim)


def label_inputs(
    x: Tensor, label_dim: int, cond: Mapping[str, Tensor] | None, flags: str = "row"
) -> Tensor:
    r"""The label part of ``cond`` as network inputs, :math:`[y \odot f, f]` with f the known flags.

    The null label is the flag ``label_known = 0``, never the value ``label = 0``: a label of zero
    is the mean of standardised labels and means something else. Where the flag is 0 the value is
    not read at all, so it may be NaN. Without a label in ``cond`` every row is null; with a label
    and no flag every row is known.

    Args:
        x: (B, ...) network input, for batch size, dtype and device.
        label_dim: k, the number of label columns the network was built for.
        cond: may hold ``"label"`` (B, k) and ``"label_known"``, (B,) for all columns of a row or
            (B, k) for each.
        flags: ``row``: the network has one flag input, so that columns are known together;
            ``column``: it has one for each, and any subset may be known.

    Returns:
        (B, k + 1) or, with flags by column, (B, 2k); the flags last.

    Raises:
        ValueError: a label or flag of the wrong shape.
    """
    batch, columns = x.shape[0], label_columns(label_dim, flags)
    label = None if cond is None else cond.get("label")
    known = None if cond is None else cond.get("label_known")
    if label is None:
        return x.new_zeros(batch, columns)
    if label.shape != (batch, label_dim):
        raise ValueError(
            f'cond["label"] has shape {tuple(label.shape)}, expected {(batch, label_dim)}: '
            f"x has shape {tuple(x.shape)} and the network was built with label_dim={label_dim}"
        )
    if known is None:
        return torch.cat([label.to(x), x.new_ones(batch, columns - label_dim)], dim=-1)
    flag = _flags(known, batch, columns - label_dim).to(x)
    value = torch.where(flag != 0, label.to(x) * flag, 0.0)
    return torch.cat([value, flag], dim=-1)


def _flags(known: Tensor, batch: int, inputs: int) -> Tensor:
    """Flags (B, inputs) from (B,) or (B, inputs)."""
    if known.shape == (batch,):
        return known.unsqueeze(-1).expand(batch, inputs)
    if known.shape != (batch, inputs):
        wanted = "one flag a row" if inputs == 1 else f"or {(batch, inputs)}: one a row, or each"
        hint = '; a network with label_flags="column" reads one for every column'
        raise ValueError(
            f'cond["label_known"] has shape {tuple(known.shape)}, expected {(batch,)}'
            f"{': ' if inputs == 1 else ' '}{wanted}, 1 = known, 0 = null"
            f"{hint if inputs == 1 and known.ndim == 2 else ''}"
        )
    return known
