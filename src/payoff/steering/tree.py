r"""Tree sampling (DTS) and tree search (DTS*): roll-outs that branch where earlier ones did well.

A node is a noisy state, its children are draws of a state further on, and a leaf is a clean sample.
With :math:`n(v)` children each, values are backed up by the soft Bellman equation

.. math:: \hat V(v) = \log\frac1{n(v)}\sum_{c}e^{\hat V(c)},\qquad \hat V(\text{leaf}) = r/\tau ,

and a roll-out branches off at a node of its level drawn in proportion to
:math:`\beta_v e^{\hat V(v)}`, :math:`\beta_v` what the node stands for under the base (a share
``explore`` of them in proportion to :math:`\beta_v` alone). Only clean samples are scored, so no
value is plugged in.

**The law of the leaves.** Published (``corrected`` off): walk down from the root by
:math:`P(c)\propto e^{\hat V(c)}`, which arrives at a leaf with probability
:math:`\propto e^{r/\tau}/\prod n(v)` over its ancestors. It tends to p*, but slowly: a node whose
first leaf was poor is not visited again, one whose first was lucky is and turns out to be ordinary,
so that every :math:`\hat V` is biased down, and the more so the more levels there are. Here a
branch from a node that was drawn with probability :math:`q_v` stands for
:math:`\beta=\beta_v/(m q_v)`, m the nodes of the level, and a leaf is drawn with probability
:math:`\propto\beta e^{r/\tau}`. Given the tree so far each new leaf is then an unbiased draw of the
base, whatever the rewards made of q: the mean of :math:`\beta e^{r/\tau}` is an unbiased estimate
of Z, and the law tends to p* as that of an importance sampler. ``explore`` keeps q from missing
what looks poor.

``search="best"`` (DTS*) branches at the most valuable node and returns the best leaf: a search for
reward, not a sampler of p*.

The published tree branches where a node has fewer children than its visits allow (progressive
widening) [M]. Here the level is fixed beforehand: round i branches at level i mod ``levels``, level
0 being new noise. All trees of a batch are at the same level at the same time, so that each network
call is one full batch, and the cost is known in advance.

Reference: Diffusion Tree Sampling: Scalable Inference-Time Alignment of Diffusion Models (Jain,
Sareen, Pedramfar, Ravanbakhsh, 2025).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.errors import UserError
from payoff.steering.base import CALLER, Cost, Degenerate
from payoff.steering.search import Search, choose, effective, indexed, known_or_nothing

SEARCHES = ("sample", "best")


@dataclass(eq=False)
class Tree(Search):
    """One tree a sample. ``exact`` holds for ``search="sample"`` only.

    Memory holds up to ``rollouts`` states at each level of each tree. ``summary``: ``ess``, what
    the leaves of a tree are worth under their final law; ``log_z`` with its error, of an estimate
    of Z that is unbiased before the logarithm where ``corrected``.
    """

    name: ClassVar[str] = "tree"
    exact: ClassVar[bool] = True
    size: ClassVar[str] = "rollouts"

    rollouts: int = option(64, "clean samples a tree is made of, all of them scored")
    search: str = option("sample", "sample (DTS, draws from p*) or best (DTS*, the best leaf)")
    levels: int = option(8, "states a roll-out may branch at: noise, and evenly spaced steps")
    explore: float = option(0.3, "share of branches that do not look at the values")
    corrected: bool = option(True, "weigh leaves by how they were found; off: the published law")
    together: int = option(1, "roll-outs of a round, before values are backed up again")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search != "sample":
            self.exact = False  # type: ignore[misc]

    @property
    def rows(self) -> int:
        """Leaves of one tree."""
        return self.rollouts

    @property
    def plan(self) -> list[tuple[int, int]]:
        """(level to branch at, how many roll-outs there), in order."""
        found: list[tuple[int, int]] = []
        left = self.rollouts
        while left:
            k = min(self.together, left)
            found.append((len(found) % self._depth, k))
            left -= k
        return found

    def cost(self) -> Cost:
        marks = self._marks
        network = sum(k * (self.steps - marks[level]) for level, k in self.plan)
        return Cost(self.rollouts, network)

    def draw(self, n, cond=None, *, generator=None) -> Tensor:
        forest = Forest(n, self._depth)
        grid = self.time_grid(self.start(0))
        for level, k in self.plan:
            self._grow(forest, level, k, grid, cond, generator)
        logits = forest.base(self._depth, self.corrected) + forest.values[-1]
        best = self.search == "best"
        where = forest.values[-1].argmax(1) if best else choose(logits, generator=generator)
        leaves = forest.states[-1]
        found = leaves[torch.arange(n, device=leaves.device), where]
        self.note_failures(forest.values[-1].isneginf().all(1), {"x": leaves})
        self.note(ess=effective(logits).sum())
        if not best:
            self.log_z.append(logits.logsumexp(1))
        return found

    def _grow(self, forest, level, k, grid, cond, generator) -> None:  # type: ignore[no-untyped-def]
        """``k`` roll-outs a tree, each from a node of ``level``."""
        n, marks = forest.trees, self._marks
        rows = torch.arange(n).repeat_interleave(k)
        part = indexed(cond, rows)
        if level == 0:
            x = self.start(n * k, part, generator=generator)
            parents = torch.zeros(n, k, dtype=torch.long, device=x.device)
            weight = torch.zeros(n, k, dtype=torch.float64, device=x.device)
        else:
            parents, weight = self._branch(forest, level, k, generator)
            states = forest.states[level]
            x = states[rows.to(states.device), parents.flatten()]
        path = forest.ancestors(level, parents)
        for i in range(level, self._depth):
            x = self.advance(x, grid[marks[i] : marks[i + 1] + 1], part, generator)
            parents = forest.add(i + 1, x.view(n, k, *self.shape), parents, weight)
        score = known_or_nothing(self.score(x, part)).double().view(n, k)
        forest.back_up(level, path, score)

    def _branch(self, forest, level, k, generator) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """The node of ``level`` each of k roll-outs a tree branches at, and its weight, (n, k)."""
        value, base = forest.values[level], forest.base(level, self.corrected)
        if self.search == "best":
            nodes = value.argmax(1, keepdim=True).expand(-1, k)
            return nodes, torch.zeros_like(base.gather(1, nodes))
        plain = base.log_softmax(1)
        tilted = (base + value).log_softmax(1)
        e = self.explore
        log_q = torch.logaddexp(plain + _log(e), tilted + _log(1 - e))
        # a tree in which everything failed so far branches anywhere
        log_q = torch.where(tilted.isnan(), plain, log_q)
        nodes = choose(log_q.unsqueeze(1).expand(-1, k, -1), generator=generator)
        return nodes, (base - log_q).gather(1, nodes)

    @property
    def _depth(self) -> int:
        return min(self.levels, self.steps)

    @property
    def _marks(self) -> list[int]:
        """Steps taken at each level; level 0 is noise, the last the clean sample."""
        return [round(i * self.steps / self._depth) for i in range(self._depth + 1)]

    def report(self) -> dict[str, Any]:
        found = super().report()
        if self.search == "sample" and found["ess"] < min(2.0, 0.5 * self.rollouts):
            warnings.warn(
                f"tree: the {self.rollouts} leaves of a tree are worth {found['ess']:.2g} on "
                "average (effective sample size): the samples are nearly its best leaves and not "
                "yet those of the target. Raise rollouts or the temperature",
                Degenerate,
                stacklevel=CALLER + 1,
            )
        return found

    def _check(self) -> None:
        super()._check()
        if self.search not in SEARCHES:
            raise UserError(f"tree: search is sample or best, not {self.search!r}")
        if self.levels < 1 or self.together < 1 or not 0 <= self.explore <= 1:
            raise UserError(
                "tree: levels and together must be at least 1 and explore lie in [0, 1], got "
                f"{self.levels}, {self.together} and {self.explore:g}"
            )


class Forest:
    """Independent trees of one shape, level by level; what belongs to a node shares its index.

    Attributes:
        states: by level, (trees, nodes, ...); none at level 0, the root.
        values: by level, (trees, nodes), the soft value backed up so far.
        parents: by level, (trees, nodes), the index of the parent one level up.
        children: by level, (trees, nodes), how many there are.
        weights: by level, (trees, nodes), the log β of the roll-out that made the node.
    """

    def __init__(self, trees: int, depth: int) -> None:
        self.trees = trees
        self.states: list[Any] = [None] * (depth + 1)
        self.parents: list[Any] = [None] * (depth + 1)
        self.weights: list[Any] = [None] * (depth + 1)
        self.values: list[Any] = [None] * (depth + 1)
        self.children: list[Any] = [None] * (depth + 1)

    def add(self, level: int, x: Tensor, parents: Tensor, weight: Tensor) -> Tensor:
        """Append nodes x (trees, k, ...) with parents and log β (trees, k); their indices."""
        k, where = x.shape[1], x.device
        if self.children[0] is None:
            self.children[0] = torch.zeros(self.trees, 1, dtype=torch.long, device=where)
            self.values[0] = _nothing(self.trees, 1, where)
        first = 0 if self.states[level] is None else self.states[level].shape[1]
        fresh = {
            "states": x,
            "parents": parents,
            "weights": weight,
            "values": _nothing(self.trees, k, where),
            "children": torch.zeros(self.trees, k, dtype=torch.long, device=where),
        }
        for name, new in fresh.items():
            kept = getattr(self, name)
            kept[level] = new if kept[level] is None else torch.cat([kept[level], new], 1)
        self.children[level - 1].scatter_add_(1, parents, torch.ones_like(parents))
        return torch.arange(first, first + k, device=where).expand(self.trees, k)

    def ancestors(self, level: int, nodes: Tensor) -> list[Tensor]:
        """The nodes (trees, k) of ``level`` and their ancestors, from the root down."""
        path = [nodes]
        for i in range(level, 0, -1):
            path.insert(0, self.parents[i].gather(1, path[0]))
        return path

    def back_up(self, level: int, path: list[Tensor], score: Tensor) -> None:
        """Give the newest k nodes below ``level`` the score (trees, k) and redo their ancestors."""
        k = score.shape[1]
        for i in range(level + 1, len(self.values)):
            self.values[i][:, -k:] = score
        for i in range(level, -1, -1):
            mine = self.parents[i + 1].unsqueeze(1) == path[i].unsqueeze(2)
            below = torch.where(mine, self.values[i + 1].unsqueeze(1), -math.inf).logsumexp(2)
            self.values[i].scatter_(1, path[i], below - mine.sum(2).log())

    def base(self, level: int, corrected: bool) -> Tensor:
        """The log of what every node of a level stands for under the base, (trees, nodes).

        log β − log of their number, or −Σ log n over a node's ancestors.
        """
        if corrected:
            return self.weights[level] - math.log(self.weights[level].shape[1])
        log = torch.zeros_like(self.values[0])
        for i in range(1, level + 1):
            log = (log - self.children[i - 1].log()).gather(1, self.parents[i])
        return log


def _nothing(trees: int, nodes: int, where: torch.device) -> Tensor:
    return torch.full((trees, nodes), -math.inf, dtype=torch.float64, device=where)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
