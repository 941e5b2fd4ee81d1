"""The problems by name, their exact denoiser as a model, and networks for their samples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from payoff.denoisers import Corrected, Denoiser, NetDenoiser, TokenDenoiser
from payoff.domains.closed.kind import PROBLEMS, TEMPERATURE
from payoff.nets import ResidualMLP, label_columns, label_inputs
from payoff.problems import GaussianMixture, GaussianSubspace, MixtureProblem, TokenChain
from payoff.problems.base import Problem

WIDTH, DEPTH, TOKEN_DEPTH = 128, 3, 2


def make_problem(
    name: str, temperature: float = TEMPERATURE, dtype: torch.dtype = torch.float32
) -> Problem:
    """The problem of that name; the same for every seed of a run.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in PROBLEMS:
        raise KeyError(name)
    if name == "mixture":
        return MixtureProblem.two_modes(temperature=temperature, dtype=dtype)
    if name == "subspace":
        return GaussianSubspace.random(dim=16, latent_dim=4, temperature=temperature, dtype=dtype)
    return TokenChain.random(vocabulary=4, length=5, temperature=temperature, dtype=dtype)


class TokenNet(nn.Module):
    """Logits (B, L, V) of partly masked tokens (B, L), zero at the start.

    Args:
        length: L.
        vocabulary: V; the token V is the mask.
        width: of the hidden layers.
        depth: number of hidden layers.
        label_dim: number of label columns in ``cond["label"]``.
    """

    def __init__(
        self,
        length: int,
        vocabulary: int,
        width: int = WIDTH,
        depth: int = TOKEN_DEPTH,
        label_dim: int = 0,
    ) -> None:
        super().__init__()
        if min(length, vocabulary, width, depth) < 1 or label_dim < 0:
            raise ValueError(
                "TokenNet needs length, vocabulary, width, depth >= 1 and label_dim >= 0, got "
                f"{length=}, {vocabulary=}, {width=}, {depth=}, {label_dim=}"
            )
        self.length, self.vocabulary, self.width = length, vocabulary, width
        self.depth, self.label_dim = depth, label_dim
        sizes = [length * (vocabulary + 1) + 1 + label_columns(label_dim), *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, length * vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        seen = nn.functional.one_hot(x, self.vocabulary + 1).flatten(1).to(self.head.weight)
        parts = [seen, noise_level.to(seen).unsqueeze(1)]
        if self.label_dim:
            parts.append(label_inputs(seen, self.label_dim, cond))
        h = self.body(torch.cat(parts, 1))
        return self.head(h).reshape(len(x), self.length, self.vocabulary)


class ExactModel(Corrected):
    """A problem's exact denoiser with a trainable correction, zero at the start.

    Args:
        problem: its name.
        width, depth: of the correction's network; None: the usual ones.
    """

    def __init__(self, problem: str, width: int | None = None, depth: int | None = None) -> None:
        law = make_problem(problem).denoiser
        super().__init__(law, network(law, 0, width, depth))
        self.problem, self.width, self.depth = problem, width, depth


def network(
    law: Any, labels: int = 0, width: int | None = None, depth: int | None = None
) -> nn.Module:
    """A network that starts at zero for samples of a law, with ``labels`` label columns."""
    width = width or WIDTH
    if isinstance(law, GaussianMixture):
        return ResidualMLP(law.shape[0], width, depth or DEPTH, labels)
    length: int = law.shape[0]
    return TokenNet(length, law.vocabulary, width, depth or TOKEN_DEPTH, labels)


def untrained(law: Any, labels: int = 0, **size: Any) -> Denoiser:
    """A denoiser of a law's samples that knows nothing of the law but its scale."""
    net = network(law, labels, **size)
    if not isinstance(law, GaussianMixture):
        return TokenDenoiser(net, law.process)
    spread = float(law.moments()[1].diagonal().mean().sqrt())
    return NetDenoiser(net, law.process, sigma_data=round(spread, 3))
