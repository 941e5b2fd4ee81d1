r"""RGDM on whole samples: the weighted-likelihood reading of the pay-off law (RAML).

Clean data, or their edits within a radius, are drawn with weight :math:`e^{r(x)/\tau}` and learned
with the ordinary loss. Without edits (``radius`` 0 in effect: ``proposal="kernel"``) this is
:math:`p^*`, exactly, in the limit of many data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from payoff.finetuning import neighbourhood as near
from payoff.finetuning.pool import Pool
from payoff.finetuning.rollouts import Samples
from payoff.finetuning.run import Run
from payoff.finetuning.rwr import learn

if TYPE_CHECKING:
    from payoff.finetuning.rgdm import RGDM


def play_sample(method: RGDM, run: Run) -> None:
    """A round: score fresh clean samples, weigh all that were scored, learn.

    The first rounds score the data, each row once; when they are used up, samples of the model,
    tempered as in :mod:`payoff.finetuning.rwr`.
    """
    pool = Pool.of_state(run.memory.get("pool", {}))
    before = pool.inverse
    samples = _fresh(method, run, pool)
    pool.add(samples, 0.0 if run.memory.get("from_data") else pool.inverse)
    pool.advance(1 / run.target.temperature, method.share, run.rounds - run.round)
    run.memory["pool"] = pool.state()
    learn(run, pool, before, method.control)


def _fresh(method: RGDM, run: Run, pool: Pool) -> Samples:
    n, used = run.affordable(), run.memory.get("used", 0)
    data = run.data
    run.memory["from_data"] = data is not None and used < len(data)
    if data is None or used >= len(data):
        return run.samples(n)
    if "order" not in run.memory:
        run.memory["order"] = torch.randperm(len(data), generator=run.generator).to(data.device)
    rows = run.memory["order"][used : used + n]
    run.memory["used"] = used + len(rows)
    x0 = data[rows]
    cond = None if run.cond is None else {k: v[rows] for k, v in run.cond.items()}
    if method.proposal != "kernel":
        space = run.policy.process.space
        move = near.candidates(x0, 2, method.proposal, space, cond, generator=run.generator)[1]  # type: ignore[arg-type]
        x0 = x0 + method.radius * run.sigma_data * move
    return Samples(x0, run.score(x0, cond), cond)
