"""How often the networks of a run are evaluated, whatever copies a method makes of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from payoff.denoisers import Corrected, NetDenoiser, TokenDenoiser
from payoff.jobs.records import STATE, RunFolder

NETWORK = f"{STATE}/network.json"


class Evaluations:
    """Counts the rows that a denoiser's network, or a copy of it, is evaluated on.

    Args:
        folder: where the count is kept for a resumed run; None: nowhere.

    Attributes:
        rows: the count, that of an interrupted run included.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder: Any = folder
        kept = folder is not None and (folder.path / NETWORK).exists()
        self.rows = int(folder.read_json(NETWORK)["rows"]) if folder is not None and kept else 0

    def watch(self, denoiser: nn.Module) -> None:
        """Count from now on. A copy of the denoiser takes the counter along."""

        # a function and not a method: copying a module copies its hooks, but functions stay one
        def seen(net: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.rows += len(inputs[0])

        for part in list(denoiser.modules()):
            if isinstance(part, (NetDenoiser, Corrected, TokenDenoiser)):
                part.net.register_forward_pre_hook(seen)

    def keep(self) -> None:
        """Write the count down, for the case that the run is stopped."""
        if self.folder is not None:
            self.folder.write_json(NETWORK, {"rows": self.rows})
