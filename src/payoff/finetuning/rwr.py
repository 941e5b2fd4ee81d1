r"""RWR: ordinary denoising, with every sample counted by its exponential reward.

.. math:: L = E_{x_0\sim p}\big[w(x_0)\,\|x_0-\hat x_\theta(x_t)\|^2\big],\qquad
          w \propto e^{r(x_0)/\tau}

Weighted by the tilt the posterior mean becomes that of p*, at every noise level, so one round from
the base reaches p* as its samples grow. At low temperatures a few of them carry all the weight.
``tempered`` therefore walks :math:`\beta` from 0 to :math:`1/\tau` in steps that keep enough
effective samples, draws the next round from the model so far, and weighs all rounds together
(:class:`~payoff.finetuning.pool.Pool`); it ends at p* and not beyond. Without it every round tilts
its own samples again, as in the original: after k rounds the target is :math:`p\,e^{kr/\tau}`.

References: Reinforcement Learning by Reward-Weighted Regression (Peters, Schaal, 2007); for
diffusion, the baseline of Training Diffusion Models with Reinforcement Learning (Black et al.,
2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from payoff.configs import option
from payoff.errors import UserError
from payoff.finetuning import losses
from payoff.finetuning.base import Finetuner
from payoff.finetuning.pool import Pool
from payoff.finetuning.rollouts import shuffled
from payoff.finetuning.run import Run


@dataclass
class RWR(Finetuner):
    """Reward-weighted regression on the model's own samples."""

    name: ClassVar[str] = "rwr"
    claims_target: ClassVar[bool] = True
    tokens: ClassVar[bool] = True
    defaults: ClassVar = {
        "per_round": 1000,
        "updates": 200,
        "batch_size": 256,
        "learning_rate": 1e-3,
    }

    tempered: bool = option(True, "approach the temperature in steps and stop there")
    share: float = option(0.5, "share of the effective samples that a step keeps")
    control: bool = option(False, "take the model's own estimate as a control variate")

    def begin(self, run: Run) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"{self.name}: share must lie between 0 and 1, got {self.share}")

    def play(self, run: Run) -> None:
        pool = Pool.of_state(run.memory.get("pool", {}))
        before = pool.inverse
        samples = run.samples(run.affordable())
        last = 1 / run.target.temperature
        if self.tempered:
            pool.add(samples, pool.inverse)
            pool.advance(last, self.share)
        else:
            pool, before = Pool(inverse=last), 0.0
            pool.add(samples, 0.0)
        run.memory["pool"] = pool.state()
        learn(run, pool, before, self.control)


def learn(run: Run, pool: Pool, before: float, control: bool) -> None:
    r"""One round of denoising for the law the pool stands for now; it stood at ``before``.

    Plain: samples drawn by their weight, the ordinary loss. With ``control``, samples of the law at
    ``before``, their weight w of mean 1 in the loss, and the model's own estimate for that law as a
    control variate,

    .. math:: w\,\|\hat x_\theta-\hat x_{old}\|^2
              - 2(w-1)\,(\hat x_\theta-\hat x_{old})\cdot(x_0-\hat x_{old}) ,

    which differs from :math:`w\|\hat x_\theta-x_0\|^2` by a term of mean zero and has a fraction
    :math:`\mathrm{Var}(w)/E[w^2]` of its noise.
    """
    size, process, x = run.batch_size, run.policy.process, pool.x0
    gap = pool.inverse - before
    control = control and gap > 0 and x is not None and x.is_floating_point()
    # drawn once a round and gone through in turn: fewer repeats than drawing every batch afresh
    law = before if control else pool.inverse
    picked = pool.draw(law, max(size * 4, len(pool)), generator=run.generator)
    weights = pool.step_weights(before, gap)[picked] if control else None
    old = run.old_policy() if control else None
    d = run.sigma_data
    for index in shuffled(len(picked), size, run.updates, generator=run.generator):
        index = index.to(picked.device)
        x0, cond = pool.rows(picked[index])
        t, x_t = run.noised(x0, cond)
        prediction = run.policy(x_t, t, cond)
        if old is None or weights is None:
            run.step(losses.denoising_error(prediction, x0, process, t, cond, d))
            continue
        with torch.no_grad():
            earlier = old(x_t, t, cond)
        w = weights[index]
        run.step(losses.controlled_error(prediction, earlier, x0, w, w - 1, process, cond, d))
