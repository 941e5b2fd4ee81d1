"""The few lines of optimisation that values with a network share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

Progress = Callable[[int, float], None]


def descend(
    module: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    rate: float,
    progress: Progress | None = None,
) -> None:
    """Adam on a loss () that draws its own batch, with a cosine rate from ``rate`` to 0.

    ``progress(step, loss)`` is called every 50 steps.
    """
    optimiser = Adam(module.parameters(), rate)
    decay = CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        found = loss()
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        decay.step()
        if progress is not None and step % 50 == 0:
            progress(step, float(found.detach()))
