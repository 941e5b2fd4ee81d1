r"""Diffusion-DPO: from pairs of samples of which one is preferred.

.. math:: L = -\log\sigma\Big(\beta\big[\Delta_w - \Delta_l\big]\Big),\qquad
          \Delta = \log\pi_\theta(x_0)-\log p(x_0) \approx e_{base}-e_\theta

e the ELBO error in nats at noise levels that winner and loser, model and base share. If a pair's
winner is drawn with the chance :math:`\sigma((r_1-r_2)/\tau)` (Bradley-Terry), the exact
log-densities give p* at β = 1. The published loss puts one draw of the error inside the logarithm,
an upper bound that is not minimised by p*; more ``draws`` inside bring it closer.

References: Diffusion Model Alignment Using Direct Preference Optimization (Wallace et al., 2023);
Direct Preference Optimization (Rafailov et al., 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.configs import option
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.base import Finetuner
from payoff.finetuning.config import FinetuneConfig
from payoff.finetuning.rollouts import rows_of, shuffled
from payoff.finetuning.run import Run
from payoff.rewards.base import FunctionReward
from payoff.spaces import Condition
from payoff.targets import Target

ROUNDS = 10


@dataclass
class DPO(Finetuner):
    """Direct preference optimisation, from a reward's pairs or from recorded ones."""

    name: ClassVar[str] = "dpo"
    tokens: ClassVar[bool] = True
    least: ClassVar[int] = 2  # designs a round: a pair
    defaults: ClassVar = {
        "per_round": 1000,
        "updates": 100,
        "batch_size": 128,
        "learning_rate": 3e-4,
    }

    strength: float = option(1.0, "β, in units of nats: 1 aims at the target's temperature")
    draws: int = option(8, "noise levels that a log-density gain is the mean of")
    online: bool = option(False, "draw every round's pairs from the model instead of the base")

    def defaults_for(self, calls: int) -> dict[str, Any]:
        # the pairs are the base's whatever the round: ten rounds are enough at any budget
        least = self.defaults["per_round"]
        return {**self.defaults, "per_round": max(least, math.ceil(calls / ROUNDS))}

    def begin(self, run: Run) -> None:
        if self.draws < 1 or self.strength <= 0:
            raise UserError(
                f"dpo: draws must be at least 1 and strength above 0, got {self.draws} and "
                f"{self.strength}"
            )
        if run.per_round < self.least:
            raise UserError("dpo: a round of 1 sample holds no pair: raise calls or per_round")

    def ready(self, run: Run) -> bool:
        return run.remaining >= 2

    def play(self, run: Run) -> None:
        n = run.affordable(2)
        group = 2 if run.cond is not None else 1
        cond = run.conditions(n, group)
        source = run.policy if self.online else run.base
        x0 = run.sampler(source).sample(n, cond, generator=run.generator).clone()
        pairs = preferred(run.score(x0, cond), run.target.temperature, generator=run.generator)
        winners, losers = pairs.unbind(1)
        kept = {} if cond is None else dict(rows_of(cond, winners) or {})
        self._remember(run, x0[winners], x0[losers], kept)
        self._learn(run)

    def fit_pairs(
        self,
        denoiser: Denoiser,
        winners: Tensor,
        losers: Tensor,
        cond: Condition | None = None,
        config: FinetuneConfig | None = None,
        **keywords: Any,
    ) -> Denoiser:
        """Tune from recorded pairs: winners and losers (n, ...), no reward and no samples.

        Each pair shares a row of ``cond`` (n, ...). ``config.calls`` / ``config.per_round`` is the
        number of rounds of ``config.updates`` steps; ``keywords`` as in :meth:`fit`.

        Raises:
            UserError: winners and losers differ in shape, or there are none.
        """
        if winners.shape != losers.shape or len(winners) == 0:
            raise UserError(
                f"winners and losers must be pairs of one shape, got {tuple(winners.shape)} and "
                f"{tuple(losers.shape)}"
            )
        recorded = _Recorded(self.strength, self.draws, self.online)
        recorded.pairs = winners, losers, dict(cond or {})
        nothing = FunctionReward(lambda x, _: torch.zeros(len(x), device=x.device))
        target = Target(denoiser, nothing)
        return recorded.fit(target, config, shape=tuple(winners.shape[1:]), cond=cond, **keywords)

    def _remember(self, run: Run, winners: Tensor, losers: Tensor, cond: dict) -> None:
        kept = run.memory.get("pairs")
        if kept is not None and not self.online:
            winners = torch.cat([kept[0], winners])
            losers = torch.cat([kept[1], losers])
            cond = {k: torch.cat([kept[2][k], v]) for k, v in cond.items()}
        run.memory["pairs"] = [winners, losers, cond]

    def _learn(self, run: Run) -> None:
        winners, losers, cond = run.memory["pairs"]
        for index in shuffled(len(winners), run.batch_size, run.updates, generator=run.generator):
            index = index.to(winners.device)
            rows = rows_of(cond, index) if cond else None
            gains = self._gains(run, winners[index], losers[index], rows)
            run.step(losses.preference(*gains, self.strength))

    def _gains(
        self, run: Run, winners: Tensor, losers: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Tensor]:
        """Log-density gains over the base, (B,) each: the mean of ``draws`` shared draws."""
        process, n, k = run.policy.process, len(winners), self.draws
        t = losses.draw_times(process, n * k, like=winners, generator=run.generator)
        # sorted and dealt: each pair's draws are spread over the whole range
        t = t.sort().values.view(k, n).flatten().repeat(2)
        x0 = torch.cat(
            [
                winners.repeat(k, *(1,) * (winners.ndim - 1)),
                losers.repeat(k, *(1,) * (losers.ndim - 1)),
            ]
        )
        rows = (
            None
            if cond is None
            else {name: v.repeat(2 * k, *(1,) * (v.ndim - 1)) for name, v in cond.items()}
        )
        x_t = self._corrupted(run, x0, t, rows)
        ours = losses.elbo_error(run.policy(x_t, t, rows), x0, process, t, rows)
        with torch.no_grad():
            base = losses.elbo_error(run.base(x_t, t, rows), x0, process, t, rows)
        winner, loser = (base - ours).view(2, k, n).mean(1)
        return winner, loser

    def _corrupted(self, run: Run, x0: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        process = run.policy.process
        if not x0.is_floating_point():
            return process.corrupt(x0, t, cond, generator=run.generator)
        half = len(x0) // 2
        part = None if cond is None else {name: v[:half] for name, v in cond.items()}
        noise = process.space.noise(  # type: ignore[attr-defined]
            (half, *x0.shape[1:]), part, like=x0, generator=run.generator
        )
        both = torch.cat([noise, noise])
        return process.corrupt_with_noise(x0, t, cond, noise=both)[0]  # type: ignore[attr-defined]


class _Recorded(DPO):
    """DPO whose pairs are given: a round spends calls only in name."""

    least: ClassVar[int] = 1
    pairs: tuple[Tensor, Tensor, dict]

    def ready(self, run: Run) -> bool:
        return run.round < run.rounds

    def play(self, run: Run) -> None:
        if "pairs" not in run.memory:
            run.memory["pairs"] = list(self.pairs)
        run.reward.meter.rows += run.affordable()
        self._learn(run)


def preferred(
    rewards: Tensor, temperature: float, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Pairs (m, 2) of row numbers, the winner first, of neighbours in rewards (n,).

    The first of a pair wins with the chance :math:`\sigma((r_1-r_2)/\tau)`; a failed sample loses
    for certain, and two failed ones make no pair.

    Reference: Rank Analysis of Incomplete Block Designs (Bradley, Terry, 1952).
    """
    n = len(rewards) // 2 * 2
    rows = torch.arange(n, device=rewards.device).view(-1, 2)
    first, second = rewards[:n].view(-1, 2).unbind(1)
    chance = torch.sigmoid((first - second) / temperature)
    chance = torch.where(first.isnan(), 0.0, torch.where(second.isnan(), 1.0, chance))
    where = generator.device if generator is not None else rewards.device
    u = torch.rand(len(rows), generator=generator, device=where).to(rewards)
    pairs = torch.where((u < chance).unsqueeze(1), rows, rows.flip(1))
    return pairs[~(first.isnan() & second.isnan())]
