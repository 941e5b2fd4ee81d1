"""The black box of a run in processes of its own: what each of them has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from payoff.domains.vectors import Codec
from payoff.experiments.design.jobs import Job
from payoff.experiments.finetune.rewards import OnCells, load_judge
from payoff.rewards.pooled import Pooled


@dataclass
class _Columns:
    """As much of a job as finding its reward takes."""

    name: str
    codec: Codec


def black_box(reward: str, table: str, codec: dict[str, Any]) -> OnCells:
    """The reward of cells that :class:`~payoff.experiments.finetune.rewards.BlackBox` asks."""
    found = Codec.from_config(codec)
    return OnCells(found, load_judge(reward, cast(Job, _Columns(table, found))), None)


def pool_of(reward: str, job: Job, workers: int, time_limit: float) -> Pooled:
    """Processes that evaluate the reward of that name; they start at once."""
    place, make = f"{__name__}:{black_box.__name__}", (reward, job.name, job.codec.config())
    return Pooled(place, *make, workers=workers, timeout=time_limit or None)
